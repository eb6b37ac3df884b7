"""A Prometheus server of the test's own, run with the shipped configuration as it stands, and its HTTP API.

Called by run.py. The server listens on loopback, keeps its data in a temporary folder, and ends with this process.
"""

import json
import math
import pathlib
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from hostkv_daemon import Failure, end_with_parent

# Directly, whatever proxy the environment names: the server is on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Prometheus:
    """A running server: a context manager."""

    def __init__(self, config, port):
        self.config = config
        self.url = f"http://127.0.0.1:{port}"
        self.process = None

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="hostkv-prometheus-")
        self.log_path = pathlib.Path(self.folder.name) / "log"
        command = [
            "prometheus",
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.folder.name}/data",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        try:
            with self.log_path.open("wb") as log:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent
                )
            self.wait("Prometheus is ready", 20, self._is_ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.folder.cleanup()

    def wait(self, what, seconds, claim):
        """Asks until the claim is true; it fails when that takes longer."""
        deadline = time.monotonic() + seconds
        while not claim():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-10:])
                raise Failure(f"it does not happen within {seconds} s: {what}. Prometheus says:\n{log}")
            time.sleep(0.1)

    def _is_ready(self):
        try:
            with _OPENER.open(f"{self.url}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def api(self, path, **parameters):
        """The data of an answer of /api/v1."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with _OPENER.open(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Failure(f"Prometheus refuses {parameters}: {error.read().decode(errors='replace')}") from error

    def value(self, query):
        """The value of a query with one sample, None when it has none."""
        result = self.api("query", query=query)["result"]
        if len(result) > 1:
            raise Failure(f"{query} has {len(result)} samples where one is expected")
        return float(result[0]["value"][1]) if result else None

    def finite_values(self, query, begin, end):
        """How many samples of the query between these times are numbers, steps of a second."""
        series = self.api("query_range", query=query, start=begin, end=end, step=1)["result"]
        return sum(math.isfinite(float(value)) for each in series for _, value in each["values"])
