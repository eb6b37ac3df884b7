#!/usr/bin/env python3
"""Two hosts that know nothing of each other share one store: what the engine of one computed, that of the other restores.

    two_hosts.py --program hostkv-llama --model FILE [--daemon FILE] [--tokens N]

Each host is a network namespace with a hostkvd of its own; a redis-server listens on the address of the first. Needs root.

    namespace a 10.123.0.1                       namespace b 10.123.0.2
    engine 1 --> hostkvd --store--> redis-server <--prefetch-- hostkvd <-- engine 2
    computes                                                               restores, does not prefill

Logits are compared bit for bit with those of a run without a cache. The last line is `two_hosts: ok: ...`; exit code 77
where this user can't make a namespace or there is no redis-server.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from hostkv_daemon import Failure, default_daemon, end_with_parent, stop_on_signals

CHUNK_TOKENS = 256
WAIT_SECONDS = 120
ADDRESSES = {"a": "10.123.0.1", "b": "10.123.0.2"}
REDIS_PORT = 6399
METRICS_PORT = 9190
# Runs in the namespace, where the endpoint's loopback is.
SCRAPE = "import sys, urllib.request as u; sys.stdout.write(u.build_opener(u.ProxyHandler({})).open(sys.argv[1], timeout=10).read().decode())"


class Skipped(Exception):
    """Why this can't be shown here."""


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Hosts:
    """Two namespaces with a cable between them; removed at the end of `with`."""

    def __init__(self):
        self.names = {host: f"hostkv-{os.getpid()}-{host}" for host in ADDRESSES}
        self.processes = []

    def __enter__(self):
        if shutil.which("ip") is None or shutil.which("redis-server") is None:
            raise Skipped("ip (Debian package iproute2) or redis-server is not installed")
        try:
            for name in self.names.values():
                ip("netns", "add", name)
        except Failure as failure:
            self.__exit__()
            raise Skipped(f"this user can't make a network namespace: {failure}") from failure
        try:
            a, b = self.names["a"], self.names["b"]
            ip("link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b)
            for host, address in ADDRESSES.items():
                name = self.names[host]
                ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
                ip("-n", name, "link", "set", "cable", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def inside(self, host, *words):
        return ["ip", "netns", "exec", self.names[host], *map(str, words)]

    def start(self, host, log_path, *words):
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                self.inside(host, *words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent
            )
        self.processes.append(process)
        return process


def wait_for(what, claim):
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if claim():
            return
        time.sleep(0.05)
    raise Failure(f"{what} did not happen within {WAIT_SECONDS} s")


class Pool:
    """A hostkvd on one of the hosts, with the shared store behind it."""

    def __init__(self, hosts, host, folder, arguments):
        self.hosts, self.host = hosts, host
        self.socket = folder / f"{host}.sock"
        self.log_path = folder / f"{host}.log"
        tier = json.dumps({"type": "resp", "name": "shared", "host": ADDRESSES["a"], "port": REDIS_PORT, "prefix": "demo:"})
        self.process = hosts.start(
            host, self.log_path, arguments.daemon, "--socket", self.socket, "--l1-size-gb", arguments.pool_gib,
            "--prometheus-port", METRICS_PORT, "--l2-adapter", tier,
        )
        wait_for(f"the start of hostkvd on host {host}", self._is_ready)

    def _is_ready(self):
        if self.process.poll() is not None:
            raise Failure(f"hostkvd on host {self.host} ended at its start: {self.log_path.read_text(errors='replace')[-500:]}")
        return self.socket.exists()

    def figure(self, name):
        """The sample of the tier."""
        url = f"http://127.0.0.1:{METRICS_PORT}/metrics"
        done = subprocess.run(
            self.hosts.inside(self.host, sys.executable, "-c", SCRAPE, url), capture_output=True, text=True, check=False
        )
        for line in done.stdout.splitlines():
            if line.startswith(f'{name}{{l2_name="shared"}} '):
                return float(line.rsplit(" ", 1)[1])
        return 0.0


def engine(hosts, pool, name, folder, arguments, *options):
    """One request of the engine on the pool's host; its report, with the logits."""
    logits = folder / f"logits-{name}"
    command = hosts.inside(
        pool.host, arguments.program, "--model", arguments.model, "--tokens", arguments.tokens,
        "--threads", arguments.threads, "--socket", pool.socket, "--logits", logits, *options,
    )
    environment = dict(os.environ, OMP_WAIT_POLICY="passive")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600, preexec_fn=end_with_parent, check=False)
    if done.returncode != 0 or done.stderr:
        raise Failure(f"engine {name} on host {pool.host} ended with exit code {done.returncode} and said: {done.stderr.strip()}")
    report = json.loads(done.stdout)
    report["logit_bytes"] = logits.read_bytes()
    print(
        f"  host {pool.host}  {name:22} hit {report['hit_chunks']}/{report['total_chunks']} chunks, prefill {report['prefill_s']:.3f} s, "
        f"restore {report['restore_s']:.3f} s, first token {report['first_token_s']:.3f} s",
        flush=True,
    )
    return report


def show(arguments):
    chunks = (arguments.tokens - 1) // CHUNK_TOKENS
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostkv-hosts-")))
        hosts = stack.enter_context(Hosts())
        hosts.start(
            "a", folder / "redis.log", "redis-server", "--bind", ADDRESSES["a"], "--port", REDIS_PORT, "--save", "", "--appendonly",
            "no", "--protected-mode", "no", "--dir", folder,
        )
        wait_for("the start of redis-server", lambda: "Ready to accept" in (folder / "redis.log").read_text(errors="replace"))
        first = Pool(hosts, "a", folder, arguments)
        second = Pool(hosts, "b", folder, arguments)
        cold = engine(hosts, first, "no cache", folder, arguments, "--no-cache")
        stored = engine(hosts, first, "computes and stores", folder, arguments)
        wait_for("the store of all chunks", lambda: first.figure("hostkv_l2_stored_keys_total") >= chunks)
        alone = engine(hosts, second, "does not prefetch", folder, arguments, "--generate", "1", "--no-cache")
        warm = engine(hosts, second, "prefetches, restores", folder, arguments, "--prefetch", "60000")
        if (stored["hit_chunks"], warm["hit_chunks"], warm["saved_chunks"]) != (0, chunks, 0):
            raise Failure(f"host b restored {warm['hit_chunks']} of {chunks} chunks and stored {warm['saved_chunks']}")
        if second.figure("hostkv_l2_loaded_keys_total") != chunks:
            raise Failure("the daemon of host b did not load each chunk once")
        for report in (stored, alone, warm):
            if not report["logit_bytes"] or report["logit_bytes"] != cold["logit_bytes"]:
                raise Failure("the logits of two runs differ")
        return cold["first_token_s"], warm["first_token_s"]


def main():
    parser = argparse.ArgumentParser(description="Shows two hosts that share one store.")
    parser.add_argument("--program", required=True, help="hostkv-llama")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--daemon", default=default_daemon())
    parser.add_argument("--tokens", type=int, default=2049)
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--pool-gib", type=float, default=1)
    arguments = parser.parse_args()
    stop_on_signals()
    try:
        cold, warm = show(arguments)
    except Skipped as why:
        print(f"SKIPPED: {why}")
        return 77
    except (Failure, OSError, subprocess.SubprocessError) as failure:
        print(f"two_hosts: failed: {str(failure).rstrip('.')}.", file=sys.stderr)
        return 1
    print(f"two_hosts: ok: first token {cold:.3g} s -> {warm:.2g} s on the other host, logits identical")
    return 0


if __name__ == "__main__":
    sys.exit(main())
