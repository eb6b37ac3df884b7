#!/usr/bin/env python3
"""Runs a command beside a hostkvd of its own, for the demo and the tests.

    hostkv_daemon.py [--daemon FILE] [--pool-gib N] -- COMMAND [ARGUMENT ...]

The daemon gets a temporary folder for its socket and a free port for its metrics. The command finds them in
HOSTKV_SOCKET and HOSTKV_METRICS_URL. Afterwards the daemon is stopped by SIGTERM, and must end by itself
with exit code 0. The exit code is the command's, or 1 with a sentence when the daemon failed.

Other scripts import `Daemon`, which is the same as a context manager. Whatever ends the script, even
SIGKILL, ends the daemon: the kernel kills it with its parent.
"""

import argparse
import contextlib
import ctypes
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
START_SECONDS = 120
STOP_SECONDS = 60


class Failure(Exception):
    """What went wrong, in one sentence for the user."""


def default_daemon():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "hostkvd"


def end_with_parent():
    """Runs in a child before its program starts."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def stop_on_signals():
    """Turns SIGTERM and SIGHUP into an exception, so that `with` and `finally` do their work."""

    def stop(number, _frame):
        raise Failure(f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


class Daemon:
    """A running hostkvd: `socket`, `metrics_url`, `metrics()`; stopped, and judged, at the end of `with`."""

    def __init__(self, program, pool_gib, flags=("--prometheus-port", "0")):
        self.program = program
        self.pool_gib = pool_gib
        self.flags = flags
        self.process = None
        self.metrics_url = None

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="hostkv-")
        self.socket = os.path.join(self.folder.name, "hostkv.sock")
        self.log_path = os.path.join(self.folder.name, "hostkvd.log")
        # The caller's own settings must not change what is started here.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HOSTKV_", "LISTEN_", "NOTIFY_")) and name != "LMCACHE_LOG_LEVEL"
        }
        try:
            with open(self.log_path, "wb") as log:
                self.process = subprocess.Popen(
                    [
                        str(self.program),
                        *("--socket", self.socket),
                        *("--l1-size-gb", str(self.pool_gib)),
                        *self.flags,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    preexec_fn=end_with_parent,
                )
            self._wait_until_ready()
        except OSError as error:
            self._remove()
            raise Failure(f"cannot start {self.program}: {error}") from error
        except BaseException:
            self._show_log()
            self._remove()
            raise
        return self

    def __exit__(self, kind, _value, _traceback):
        try:
            if kind is None:
                self._stop()
        except BaseException as error:
            kind = type(error)
            raise
        finally:
            if kind is Failure:
                self._show_log()
            self._remove()

    def metrics(self):
        """All samples of the endpoint: name with labels -> number."""
        samples = {}
        for line in self._get(self.metrics_url).splitlines():
            if line and not line.startswith("#"):
                name, number = line.rsplit(" ", 1)
                samples[name] = float(number)
        return samples

    def _log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def _show_log(self):
        for line in self._log().splitlines()[-15:]:
            print(f"  hostkvd | {line}", file=sys.stderr)

    def _wait_until_ready(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"hostkvd ended at its start with exit code {self.process.returncode}")
            found = re.search(r"Prometheus metrics available at (http://\S+/metrics)", self._log())
            if found:
                self.metrics_url = found.group(1)
                with contextlib.suppress(urllib.error.URLError, Failure):
                    self._get(self.metrics_url.removesuffix("/metrics") + "/healthz")
                    if os.path.exists(self.socket):
                        return
            time.sleep(0.02)
        raise Failure(f"hostkvd was not ready after {START_SECONDS} s")

    @staticmethod
    def _get(url):
        # Directly, whatever proxy the environment names: the daemon is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=10) as answer:
                return answer.read().decode()
        except TimeoutError as error:
            raise Failure(f"{url} did not answer within 10 s") from error

    def _stop(self):
        code = self.process.poll()
        if code is not None:
            raise Failure(f"hostkvd ended on its own with exit code {code}")
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"hostkvd did not end within {STOP_SECONDS} s of SIGTERM") from error
        if code != 0:
            raise Failure(f"hostkvd ended with exit code {code} on SIGTERM")

    def _remove(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


def main():
    parser = argparse.ArgumentParser(description="Runs a command beside a hostkvd of its own.")
    parser.add_argument("--daemon", default=default_daemon())
    parser.add_argument("--pool-gib", type=float, default=0.125)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    stop_on_signals()
    try:
        with Daemon(arguments.daemon, arguments.pool_gib) as daemon:
            environment = dict(os.environ, HOSTKV_SOCKET=daemon.socket, HOSTKV_METRICS_URL=daemon.metrics_url)
            try:
                code = subprocess.run(arguments.command, env=environment, preexec_fn=end_with_parent, check=False).returncode
            except OSError as error:
                raise Failure(f"cannot run {arguments.command[0]}: {error}") from error
    except Failure as failure:
        print(f"hostkv_daemon: {failure}.", file=sys.stderr)
        return 1
    # A command that a signal ended gives the number a shell would give.
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
