#!/usr/bin/env python3
"""Two hosts that know nothing of each other share one store: what the engine of one computed, that of the other restores.

    two_hosts.py --program hostkv-llama --model FILE [--daemon FILE] [--tokens N] [--s3-server FILE]

Each host is a network namespace with a hostkvd of its own; the store listens on the address of the first: a redis-server,
or with --s3-server the S3 server of that name (moto's), with one bucket. Needs root.

    namespace a 10.123.0.1                        namespace b 10.123.0.2
    engine 1 --> hostkvd --store--> Redis or S3 <--prefetch-- hostkvd <-- engine 2
    computes                                                              restores, does not prefill

Logits are compared bit for bit with those of a run without a cache. The last line is `two_hosts: ok: ...`; exit code 77
where this user can't make a namespace or there is no redis-server.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from engine_runs import HEADINGS, Runs, chunks_of, parser_of
from hostkv_daemon import Failure, end_with_parent, stop_on_signals

WAIT_SECONDS = 120
ADDRESSES = {"a": "10.123.0.1", "b": "10.123.0.2"}
STORE_PORT = 6399
BUCKET = "kv-cache"
METRICS_PORT = 9190
# Runs in the namespace, where the addresses are, and asks directly, whatever proxy the environment names. moto reads from
# the header which service is meant, and takes any signature.
ASK = """
import sys, urllib.request as u
signed = "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=any"
request = u.Request(sys.argv[2], method=sys.argv[1], headers={"Authorization": signed})
sys.stdout.write(u.build_opener(u.ProxyHandler({})).open(request, timeout=10).read().decode())
"""


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
        if shutil.which("ip") is None:
            raise Skipped("ip (Debian package iproute2) is not installed")
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

    def ask(self, host, method, url):
        """The answer to a request from this host; None without one."""
        command = self.inside(host, sys.executable, "-c", ASK, method, url)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else None


def wait_for(what, claim):
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if claim():
            return
        time.sleep(0.05)
    raise Failure(f"{what} did not happen within {WAIT_SECONDS} s")


def start_redis(hosts, folder):
    """A Redis on host a; the fields of the tier."""
    if shutil.which("redis-server") is None:
        raise Skipped("redis-server is not installed")
    hosts.start(
        "a", folder / "redis.log", "redis-server", "--bind", ADDRESSES["a"], "--port", STORE_PORT, "--save", "", "--appendonly",
        "no", "--protected-mode", "no", "--dir", folder,
    )
    wait_for("the start of redis-server", lambda: "Ready to accept" in (folder / "redis.log").read_text(errors="replace"))
    return {"type": "resp", "host": ADDRESSES["a"], "port": STORE_PORT}


def start_s3(hosts, folder, program):
    """An S3 server with one bucket on host a; the fields of the tier."""
    hosts.start("a", folder / "s3.log", program, "-H", ADDRESSES["a"], "-p", STORE_PORT)
    endpoint = f"http://{ADDRESSES['a']}:{STORE_PORT}"
    wait_for("the start of the S3 server", lambda: hosts.ask("a", "PUT", f"{endpoint}/{BUCKET}") is not None)
    secret = folder / "secret"
    secret.write_text("any\n")
    return {
        "type": "s3", "endpoint": endpoint, "region": "us-east-1", "bucket": BUCKET, "access_key_id": "any",
        "secret_access_key_file": str(secret), "timeout_ms": 30000,
    }


class Pool:
    """A hostkvd on one of the hosts, with the shared store behind it."""

    def __init__(self, hosts, host, folder, tier, arguments):
        self.hosts, self.host = hosts, host
        self.socket = folder / f"{host}.sock"
        self.log_path = folder / f"{host}.log"
        self.process = hosts.start(
            host, self.log_path, arguments.daemon, "--socket", self.socket, "--l1-size-gb", arguments.pool_gib,
            "--prometheus-port", METRICS_PORT, "--l2-adapter", json.dumps(tier),
        )
        wait_for(f"the start of hostkvd on host {host}", self._is_ready)

    def _is_ready(self):
        if self.process.poll() is not None:
            raise Failure(f"hostkvd on host {self.host} ended at its start: {self.log_path.read_text(errors='replace')[-500:]}")
        return self.socket.exists()

    def figure(self, name):
        """The sample of the tier."""
        page = self.hosts.ask(self.host, "GET", f"http://127.0.0.1:{METRICS_PORT}/metrics") or ""
        for line in page.splitlines():
            if line.startswith(f'{name}{{l2_name="shared"}} '):
                return float(line.rsplit(" ", 1)[1])
        return 0.0


def show(arguments):
    chunks = chunks_of(arguments.tokens)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostkv-hosts-")))
        hosts = stack.enter_context(Hosts())
        store = start_s3(hosts, folder, arguments.s3_server) if arguments.s3_server else start_redis(hosts, folder)
        tier = {"name": "shared", "prefix": "demo/", **store}
        first, second = (Pool(hosts, host, folder, tier, arguments) for host in ADDRESSES)
        runs = Runs(arguments, folder)

        def run(name, pool, note, *options):
            return runs.run(name, f"host {pool.host}, {note}", pool.socket, *options, before=hosts.inside(pool.host))

        print(HEADINGS)
        cold = run("0", first, "no cache", "--no-cache")
        run("1", first, "computes and stores")
        runs.expect_chunks("1", 0, chunks)
        wait_for("the store of all chunks", lambda: first.figure("hostkv_l2_stored_keys_total") >= chunks)
        run("2", second, "no cache", "--no-cache")
        warm = run("3", second, "prefetches, restores", "--prefetch", "60000")
        runs.expect_chunks("3", chunks, 0)
        if second.figure("hostkv_l2_loaded_keys_total") != chunks:
            raise Failure("the daemon of host b did not load each chunk once")
        for name in "123":
            runs.expect_same_logits(name, "0")
        return store["type"], cold["first_token_s"], warm["first_token_s"]


def main():
    parser = parser_of("Shows two hosts that share one store.")
    parser.add_argument("--s3-server", help="moto_server; without it the store is a Redis")
    arguments = parser.parse_args()
    stop_on_signals()
    try:
        store, cold, warm = show(arguments)
    except Skipped as why:
        print(f"SKIPPED: {why}")
        return 77
    except (Failure, OSError, subprocess.SubprocessError) as failure:
        print(f"two_hosts: failed: {str(failure).rstrip('.')}.", file=sys.stderr)
        return 1
    print(f"two_hosts: ok: first token {cold:.3g} s -> {warm:.2g} s on the other host through {store}, logits identical")
    return 0


if __name__ == "__main__":
    sys.exit(main())
