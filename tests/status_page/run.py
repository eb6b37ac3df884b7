"""Looks at hostkvd's status page in a real browser, headless Chromium, while a worker loads the pool.

Called by scripts/test-status-page.sh. Chromium comes through a small recorder in front of the metrics listener, which
notes every path that it asks for.

    hostkv-test-worker ──> hostkvd <── / ── recorder <── Chromium: the page as text, light and dark pictures

    run.py                            ten seconds of load, then the checks
    run.py --keep FILE --seconds N    also leaves the light picture in FILE: for the README, after N seconds of load
"""

import argparse
import http.server
import math
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "prometheus")]

from hostkv_daemon import Daemon, Failure, default_daemon, end_with_parent, stop_on_signals  # noqa: E402
from workload import Worker  # noqa: E402

SKIPPED = 77
BROWSER_SECONDS = 60
POOL_MIB = 64
PREFERRED_COLOUR = {"dark": "0", "light": "1"}


def must(claim, sentence):
    if not claim:
        raise Failure(sentence)


class Recorder(http.server.ThreadingHTTPServer):
    """Hands each request on to the daemon, and keeps its path."""

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.paths = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.server.upstream + self.path, timeout=10) as answer:
            body = answer.read()
            self.send_response(answer.status)
            for name in ("Content-Type", "Content-Security-Policy"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        """The paths are kept; nothing is printed."""


class Browser:
    """Headless Chromium, one run a question."""

    def __init__(self, program, folder):
        self.program = program
        self.folder = folder

    def ask(self, url, *flags, colour="light"):
        command = [
            self.program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--no-proxy-server",
            f"--user-data-dir={tempfile.mkdtemp(dir=self.folder)}",
            f"--blink-settings=preferredColorScheme={PREFERRED_COLOUR[colour]}",
            *flags,
            url,
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=BROWSER_SECONDS, check=False, preexec_fn=end_with_parent
            )
        except subprocess.TimeoutExpired as error:
            raise Failure(f"Chromium did not end within {BROWSER_SECONDS} s") from error
        must(done.returncode == 0, f"Chromium ended with exit code {done.returncode}: {done.stderr[-500:]}")
        return done.stdout

    def text(self, url):
        return self.ask(url, "--dump-dom")

    def picture(self, url, file, colour, size="1100,1060"):
        self.ask(url, f"--screenshot={file}", f"--window-size={size}", colour=colour)
        return file


def corner(png):
    """Brightness, 0 to 255, of the first pixel of a PNG file of 8 bits a channel."""
    data = pathlib.Path(png).read_bytes()
    must(data[:8] == b"\x89PNG\r\n\x1a\n", f"{png} is no PNG file")
    depth, kind = struct.unpack(">BB", data[24:26])
    must(depth == 8 and kind in (2, 6), f"{png} has {depth} bits a channel and colour type {kind}")
    at, packed = 8, b""
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if name == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    # The first pixel of the first line has no neighbour: every filter leaves it as it is.
    red, green, blue = zlib.decompressobj().decompress(packed, 64)[1:4]
    return (red + green + blue) / 3


def load(worker, seconds):
    """A day of a pool in `seconds`: requests with shared and with new prefixes, until eviction has begun."""
    chance = random.Random(1)
    began = time.monotonic()
    number = 0
    worker.must("reserve shared 8 65536")
    worker.must("fill")
    worker.must("commit")
    while (passed := time.monotonic() - began) < seconds or number < 20:
        wave = 0.5 + 0.4 * math.sin(2 * math.pi * passed / max(seconds / 2, 10))
        if chance.random() < wave:
            worker.must(f"acquire shared {chance.randint(6, 10)}")
        else:
            worker.must(f"acquire new{number} 3")
        worker.must("release")
        if chance.random() < 0.5:
            worker.must(f"reserve new{number} 3 {2 ** chance.randint(14, 18)}")
            worker.must("fill")
            worker.must("commit")
        number += 1
        time.sleep(0.01 + 0.02 * chance.random())


def check_text(page, metrics):
    must(re.search(r"<h1>hostkvd \d+\.\d+\.\d+</h1>", page), "the page does not say its version")
    must("serving" in page, "the page does not say that the daemon serves")
    for heading in ("L1", "Usage", "Hit rate", "Throughput", "Now", "Memory", "Since the start"):
        must(f"<h2>{heading}</h2>" in page, f"the page has no part '{heading}'")
    must(page.count("<svg") == 4, f"the page has {page.count('<svg')} pictures instead of 4")
    must(re.search(r'<path class="first" d="M[^"]*L', page), "no plot has a line")
    ratio = re.search(r'<div class="big">([\d.]+) % ', page)
    must(ratio, "the page does not say how much of L1 is in use")
    expected = 100 * metrics["hostkv_l1_usage_ratio"]
    must(abs(float(ratio[1]) - expected) < 0.06, f"the page says {ratio[1]} % in use, the metrics {expected:.1f} %")
    sessions = re.search(r"<dt>Sessions</dt><dd>(\d+)</dd>", page)
    must(sessions and int(sessions[1]) == metrics["hostkv_sessions"], "the page and the metrics differ in the sessions")
    for secret in ("shared", "new1", "model"):
        must(secret not in page, f"the page shows '{secret}', a name of a client's")


def check(browser, recorder, daemon, folder, keep):
    page = browser.text(recorder.url)
    check_text(page, daemon.metrics())
    print("ok  the page shows in a browser what the metrics say, and no name of a client's")
    must(set(recorder.paths) == {"/"}, f"the browser asked for {sorted(set(recorder.paths))} instead of / alone")
    print("ok  the browser asks for nothing but the page itself")
    light = browser.picture(recorder.url, keep or folder / "light.png", "light")
    dark = browser.picture(recorder.url, folder / "dark.png", "dark")
    must(corner(light) > 200, f"the light page has a ground of brightness {corner(light):.0f}")
    must(corner(dark) < 60, f"the dark page has a ground of brightness {corner(dark):.0f}")
    print("ok  the page is light or dark as the reader's system is")
    if keep:
        browser.picture(recorder.url, keep.with_stem(keep.stem + "-dark"), "dark")
        browser.picture(recorder.url, folder / "narrow.png", "light", size="500,1600")
        shutil.copy(folder / "narrow.png", keep.with_stem(keep.stem + "-narrow"))


def main():
    parser = argparse.ArgumentParser(description="Checks the status page in headless Chromium.")
    parser.add_argument("--seconds", type=float, default=12, help="of load before the page is looked at")
    parser.add_argument("--keep", type=pathlib.Path, help="leave the pictures here")
    arguments = parser.parse_args()
    stop_on_signals()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        print("SKIPPED: there is no Chromium (Debian package chromium)")
        return SKIPPED
    worker_program = default_daemon().with_name("hostkv-test-worker")
    try:
        must(worker_program.exists(), f"{worker_program} is missing: cargo build --release -p hostkv-tests")
        with (
            tempfile.TemporaryDirectory(prefix="hostkv-page-") as folder,
            Daemon(default_daemon(), POOL_MIB / 1024) as daemon,
            Worker(worker_program, daemon.socket) as worker,
        ):
            recorder = Recorder(daemon.metrics_url.removesuffix("/metrics"))
            stop = threading.Event()

            def look():
                # As a Prometheus would: each scrape is also a point of the plots.
                while not stop.wait(5):
                    daemon.metrics()

            looking = threading.Thread(target=look, daemon=True)
            looking.start()
            load(worker, arguments.seconds)
            stop.set()
            looking.join()
            check(Browser(program, folder), recorder, daemon, pathlib.Path(folder), arguments.keep)
            recorder.shutdown()
    except Failure as failure:
        print(f"FAILED  {failure}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
