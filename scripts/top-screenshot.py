#!/usr/bin/env python3
"""Makes docs/images/top.svg: what `hostkv top` shows of a daemon under load, in a terminal of tmux.

    top-screenshot.py [--profile release|debug]

Needs tmux, and hostkvd and hostkv built with that profile.
"""

import argparse
import html
import os
import pathlib
import re
import subprocess
import sys
import time

import hostkv_daemon

COLUMNS, ROWS = 100, 26
CELL_WIDTH, CELL_HEIGHT = 8.4, 17
COLOURS = {31: "#f85149", 32: "#3fb950", 33: "#d29922"}
LOAD_SECONDS = 20


def styled_runs(line):
    """The line as (text, weight, colour, opacity), from the escape sequences that tmux writes."""
    bold, dim, colour = False, False, None
    for text, codes in re.findall(r"([^\x1b]+)|\x1b\[([0-9;]*)m", line):
        if text:
            yield text, bold, dim, colour
            continue
        # Colour 2 of the palette is the green of code 32.
        codes = re.sub(r"38;5;([0-7])\b", lambda found: f"3{found.group(1)}", codes)
        for code in (int(part or 0) for part in codes.split(";")):
            if code == 0:
                bold, dim, colour = False, False, None
            elif code == 1:
                bold = True
            elif code == 2:
                dim = True
            elif code in COLOURS:
                colour = COLOURS[code]
            elif code == 39:
                colour = None


def svg(screen):
    width, height = COLUMNS * CELL_WIDTH + 24, ROWS * CELL_HEIGHT + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        'font-family="monospace" font-size="14">',
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#0d1117"/>',
    ]
    for row, line in enumerate(screen.splitlines()[:ROWS]):
        column = 0
        for text, bold, dim, colour in styled_runs(line):
            if text.strip():
                start = column + len(text) - len(text.lstrip(" "))
                shown = text.strip(" ")
                style = f' font-weight="{"bold" if bold else "normal"}" opacity="{0.6 if dim else 1}"'
                lines.append(
                    f'<text x="{12 + start * CELL_WIDTH:.1f}" y="{12 + (row + 0.75) * CELL_HEIGHT:.1f}" '
                    f'fill="{colour or "#e6edf3"}"{style} textLength="{len(shown) * CELL_WIDTH:.1f}" '
                    f'xml:space="preserve">{html.escape(shown)}</text>'
                )
            column += len(text)
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=("release", "debug"), default="release")
    programs = hostkv_daemon.default_daemon().parent.parent / parser.parse_args().profile
    tool = str(programs / "hostkv")
    tmux = ["tmux", "-L", f"hostkv-screenshot-{os.getpid()}"]
    with hostkv_daemon.Daemon(programs / "hostkvd", 0.25) as daemon:
        environment = {**os.environ, "HOSTKV_SOCKET": daemon.socket, "TERM": "xterm-256color"}
        for number in range(30):
            subprocess.run(
                [tool, "put", f"llama-3-8b/0/0/{number:04x}", "-"],
                input=os.urandom(4 << 20),
                env=environment,
                check=True,
            )
        load = [
            subprocess.Popen(
                [tool, "bench", "--seconds", str(LOAD_SECONDS), "--object-bytes", "65536"],
                env=environment,
                stdout=subprocess.DEVNULL,
            )
            for _ in range(2)
        ]
        try:
            size = ["-x", str(COLUMNS), "-y", str(ROWS)]
            subprocess.run([*tmux, "-f", "/dev/null", "new-session", "-d", *size, tool, "top"], env=environment, check=True)
            time.sleep(LOAD_SECONDS * 0.55)
            screen = subprocess.run(
                [*tmux, "capture-pane", "-p", "-e"], capture_output=True, text=True, check=True
            ).stdout
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)
            for process in load:
                process.wait()
    # The folder of this run means nothing to a reader.
    screen = screen.replace(daemon.socket, "/run/hostkv/hostkv.sock")
    target = pathlib.Path(hostkv_daemon.ROOT) / "docs" / "images" / "top.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(svg(screen), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
