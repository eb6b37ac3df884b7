"""Runs the shell blocks of a page, in its order, beside a hostkvd of its own.

Each page gets a scratch folder that looks like the repository (its entries are links, so that nothing is written into
the tree) and a daemon at the default socket in it. Paths and addresses that belong to a host are replaced by those of
the scratch folder; `hostkvd` and `hostkv` are the programs in bin/, which run the real ones within bounds (see there).

What can't run in a test is in SKIPPED, one line a kind with its reason. A line with such a command is left out and
counted; its other words are checked as far as they are ours: flags of hostkvd and hostkv, targets of the Makefile,
files of the repository, units.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import tomllib

from facts import flags_of, help_of
from pages import ROOT

HERE = pathlib.Path(__file__).resolve().parent

# Commands that this test never runs, as they stand in the pages, and why. The first that fits counts.
SKIPPED = [
    (r"\b(ssh|scp|rsync)\b", "needs other hosts"),
    (r"\b(docker|podman)\b", "needs a container engine"),
    (r"\b(kubectl|helm|kind|minikube)\b", "needs a cluster"),
    (r"\b(systemctl|systemd-sysusers|systemd-tmpfiles|journalctl)\b", "needs systemd as the first process, and root"),
    (r"\b(sudo|apt-get|apt|dpkg|usermod|useradd|groupadd|sysctl|mount)\b", "changes the host"),
    (r"\bgit (clone|push|rebase|commit|config)\b", "needs another repository"),
    (r"\b(pkill|killall|kill)\b", "ends processes"),
    (r"\bmake (demo|test|torture|bench|deb|build|lint|format|install)\b|\bcargo (build|test|clippy|bench|fmt)\b", "is a step of its own of make test, or takes minutes"),
    (r"\bscripts/(test(?!\.sh --list)|torture|demo|bench|fuzz|models|abi|build-llama|build-plasma|newcomer|test-[a-z-]+)\.(sh|py)\b|build-example\.sh llama", "is a step of its own of make test, or takes minutes"),
    (r"\bhostkv-llama\b|\$program\"|make_model\.py", "needs llama.cpp; the step demo runs it"),
    (r"\bprometheus --config", "the step prometheus runs it"),
]

UNITS = {"hostkvd", "hostkvd.service", "hostkvd.socket", "hostkvd@NAME", "hostkvd@NAME.service", "hostkvd@NAME.socket"}


def logical_lines(text):
    """Commands with what belongs to them: continued lines, here-documents, and the lines of a compound command."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        taken = [lines[at]]
        here = re.search(r"<<-?\s*'?\"?(\w+)", lines[at])
        while taken[-1].endswith("\\") and at + 1 < len(lines):
            at += 1
            taken.append(lines[at])
        while here and taken[-1].strip() != here[1] and at + 1 < len(lines):
            at += 1
            taken.append(lines[at])
        at += 1
        if taken[0].strip() and not taken[0].lstrip().startswith("#"):
            yield "\n".join(taken)


def reason_to_skip(command):
    words = re.sub(r"#.*", "", command) if "<<" not in command else command.splitlines()[0]
    for pattern, reason in SKIPPED:
        if re.search(pattern, words):
            return reason
    first = re.match(r"\s*(?:\w+=\S*\s+)*([\w./+-]+)", words)
    builtins = {"cd", "export", "for", "if", "while", "test", "set", "printf", "echo", "wait", "true"}
    if first and first[1] not in builtins and "=" not in words.split()[0] and not first[1].startswith(("./", "scripts/", "target/")):
        if not shutil.which(first[1]) and first[1] not in ("hostkvd", "hostkv"):
            return f"{first[1]} is not installed"
    return None


class Runner:
    """Runs the blocks of all pages and counts them."""

    def __init__(self, hostkvd, hostkv, prefix, shows=False):
        self.hostkvd, self.hostkv, self.prefix = hostkvd, hostkv, prefix
        self.shows = shows
        self.run_count = 0
        self.output = ""
        self.skips = {}
        self.flags = {flag for _, flag, _, _ in flags_of(help_of(hostkvd))}

    def run(self, page):
        shells = [block for block in page.blocks if block["language"] in ("sh", "bash")]
        wants_daemon = any(not reason_to_skip(command) for block in shells for command in logical_lines(block["text"]))
        with tempfile.TemporaryDirectory(prefix="hostkv-docs-") as folder:
            for block in page.blocks:
                self._check_data(page, block, folder)
            if not wants_daemon:
                for block in shells:
                    self._run_block(page, block, None)
                return
            with Scratch(folder, self.hostkvd, self.hostkv, self.prefix) as scratch:
                for block in page.blocks:
                    if block in shells:
                        self._run_block(page, block, scratch)
                    elif block["quote"] == "output":
                        self._check_output(page, block)
            for failure in scratch.failures:
                page.problem(1, failure)

    def _run_block(self, page, block, scratch):
        runnable = []
        for command in logical_lines(block["text"]):
            reason = reason_to_skip(command)
            if reason:
                self.skips.setdefault(reason, []).append(f"{page.name}:{block['line']}: {command.splitlines()[0].strip()}")
                self._check_words(page, block, command)
            else:
                runnable.append(command)
        if not runnable:
            return
        self.run_count += len(runnable)
        code, output = scratch.run("\n".join(runnable))
        self.output = output
        if self.shows:
            print(f"-- {page.name}:{block['line']}")
            for prefix, lines in (("$ ", runnable), ("  ", output.splitlines())):
                print("\n".join(prefix + line for text in lines for line in text.splitlines()))
        if code != 0:
            tail = "\n".join(f"      {line}" for line in output.splitlines()[-12:])
            page.problem(block["line"], f"the block ends with exit code {code}:\n{tail}")

    def _check_output(self, page, block):
        lines = iter(self.output.splitlines())
        for wanted in block["text"].splitlines():
            if not any(line.rstrip() == wanted for line in lines):
                page.problem(block["line"], f"the block before it does not print, in this place: {wanted}")
                return

    def _check_words(self, page, block, command):
        """Of a command that is not run, what can be looked up."""
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in re.findall(r"\bmake ((?:[a-z]+ ?)+)", re.sub(r"#.*", "", command)):
            for name in target.split():
                if not re.search(rf"^{name}:", makefile, re.M):
                    page.problem(block["line"], f"the Makefile has no target {name}")
        for path in re.findall(r"\b(?:scripts|examples|packaging|tests)/[\w./-]+\w", command):
            if not (ROOT / path).exists():
                page.problem(block["line"], f"there is no {path}")
        for name in re.findall(r"\bhostkvd(?:@\w+)?(?:\.(?:service|socket))?\b", command if "systemctl" in command else ""):
            if re.sub(r"@\w+", "@NAME", name) not in UNITS:
                page.problem(block["line"], f"there is no unit {name}")
        # Of a container engine's command those behind the image are ours.
        program = r"\bhostkvd:\S+(.*)" if re.match(r"\s*(docker|podman)\b", command) else r"\bhostkvd(?: |$)(.*)"
        daemon = re.search(program, command.replace("\\\n", " "))
        for flag in re.findall(r"(?<!\S)--[a-z][a-z0-9-]+", daemon[1] if daemon and "systemctl" not in command else ""):
            if flag not in self.flags:
                page.problem(block["line"], f"hostkvd has no flag {flag}")

    def _check_data(self, page, block, folder):
        """Blocks that are no commands: they must be what their language says, and a configuration must be accepted."""
        language, text = block["language"], block["text"]
        try:
            if language == "json":
                for line in text.splitlines() if text.count("\n{") else [text]:
                    json.loads(line)
            elif language == "toml":
                tomllib.loads(text)
                file = pathlib.Path(folder) / "page.toml"
                file.write_text(text, encoding="utf-8")
                done = subprocess.run(
                    [self.hostkvd, "--config", file, "--socket", "/tmp/x", "--print-config"], capture_output=True, text=True, timeout=20, check=False
                )
                if done.returncode != 0 and "group" not in done.stderr:
                    raise ValueError(done.stderr.strip())
            elif language in ("yaml", "yml"):
                import yaml  # here, because a host without it has pages without YAML to read

                list(yaml.safe_load_all(text))
            elif language == "cmake":
                self._build_by_cmake(text, pathlib.Path(folder) / "cmake")
            elif language not in ("sh", "bash", "c", "cpp", "text", "ini", "dockerfile", ""):
                raise ValueError(f"nothing here checks a block of language {language}")
        except ImportError:
            self.skips.setdefault("python3-yaml is not installed", []).append(f"{page.name}:{block['line']}")
        except Exception as error:  # what a parser throws is its own affair
            page.problem(block["line"], f"the block is no {language} that would work: {error}")

    def _build_by_cmake(self, text, folder):
        """The lines are those of a target named engine, beside an installed hostkv."""
        if not shutil.which("cmake"):
            self.skips.setdefault("cmake is not installed", []).append(text.splitlines()[0])
            return
        folder.mkdir()
        begin = f"cmake_minimum_required(VERSION 3.16)\nproject(page C)\nadd_executable(engine {ROOT}/examples/roundtrip.c)\n"
        (folder / "CMakeLists.txt").write_text(begin + text, encoding="utf-8")
        for command in (["cmake", "-S", ".", "-B", "build", f"-DCMAKE_PREFIX_PATH={self.prefix}"], ["cmake", "--build", "build"]):
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False)
            if done.returncode != 0:
                raise ValueError(done.stdout[-600:])


def install(prefix):
    """What `make install` puts in place, for the commands that want it installed."""
    subprocess.run(
        ["scripts/install-files.sh", "install"],
        cwd=ROOT,
        env=dict(os.environ, PREFIX=str(prefix), DESTDIR=""),
        check=True,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )


class Scratch:
    """A folder that looks like the repository, a daemon at the default socket, and a shell in it."""

    def __init__(self, folder, hostkvd, hostkv, prefix, **variables):
        self.folder = pathlib.Path(folder)
        self.failures = []
        self.tree = self.folder / "hostkv"
        self.runtime = self.folder / "runtime"
        for made in (self.tree, self.runtime / "hostkv", self.folder / "run", self.folder / "etc", self.folder / "log", self.folder / "other"):
            made.mkdir(parents=True)
        for entry in ROOT.iterdir():
            if entry.name not in (".git", "target"):
                (self.tree / entry.name).symlink_to(entry)
        (self.tree / "target").symlink_to(hostkvd.parent.parent)
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HOSTKV_", "LISTEN_", "NOTIFY_")) and name not in ("LMCACHE_LOG_LEVEL", "RUNTIME_DIRECTORY")
        }
        self.environment |= {
            "PATH": f"{HERE / 'bin'}:{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "HOSTKV_DOCS_HOSTKVD": str(hostkvd),
            "HOSTKV_DOCS_HOSTKV": str(hostkv),
            "HOSTKV_DOCS_FOLDER": str(self.folder),
            "PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig"),
            "CMAKE_PREFIX_PATH": str(prefix),
            "TERM": "xterm-256color",
            **variables,
        }

    def __enter__(self):
        code, output = self.run("hostkvd &")
        if code != 0:
            raise RuntimeError(f"no daemon for the page: {output}")
        log = (self.folder / "daemons/1.log").read_text(encoding="utf-8")
        self.metrics = re.search(r"metrics available at http://(\S+)/metrics", log)[1]
        return self

    def __exit__(self, *_):
        """Ends the daemons, which are children of this process since the shells that started them have ended."""
        for file in (self.folder / "daemons").glob("*.pid"):
            pid = int(file.read_text())
            code = None
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGTERM)
                deadline = time.monotonic() + 30
                while time.monotonic() < deadline:
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        code = os.waitstatus_to_exitcode(status)
                        break
                    time.sleep(0.01)
                else:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            if code != 0:
                self.failures.append(f"a daemon that the page starts ended with {code} at SIGTERM")

    def run(self, text):
        """(exit code, what it said) of a block."""
        for path, there in (("/run/hostkv", "run"), ("/etc/hostkv", "etc"), ("/var/log/hostkv", "log"), ("/tmp/kv", "run")):
            text = re.sub(rf"(?<![\w.]){path}\b", str(self.folder / there), text)
        if hasattr(self, "metrics"):
            text = re.sub(r"(?:127\.0\.0\.1|localhost):9090", self.metrics, text)
        # Started in the background, a daemon is ready when the line is done, and ends with the page.
        text = re.sub(r"^(\s*)(?:\S*/)?hostkvd\b(.*?)\s*&\s*(#.*)?$", r"\1hostkvd-in-background\2", text, flags=re.M)
        text = re.sub(r"(?<!\S)target/release/(hostkvd?)\b", r"\1", text)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.tree,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")
