#!/usr/bin/env python3
"""Shows the promises of docs/integration.md on its own programs, against real daemons.

    integration.py FOLDER      where scripts/build-example.sh put serve, ranks and gpu

A second process finds what the first one stored; prompts with one beginning share it; the answer never depends on
the cache: with no daemon, with one that is killed between two prompts, with the next one; two ranks find only chunks
that both have; a tenant with another salt finds nothing; gathered and scattered blocks are equal on the stand-in
for CUDA. And scripts/size-pool.py says of a trace what a real daemon does with it. Each answer is compared with that of an engine without a cache.
"""

import importlib.util
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from hostkv_daemon import Daemon, default_daemon, end_with_parent, stop_on_signals  # noqa: E402

RANKS_MODEL = "toy/demo-7b-tp2"


def beside(socket, **more):
    return dict(os.environ, HOSTKV_SOCKET=socket, **more)


class Serve:
    """A running engine: `ask(seed)` gives (loaded, stored, computed, digest)."""

    def __init__(self, programs, socket, **environment):
        self.process = subprocess.Popen(
            [f"{programs}/serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=beside(socket, **environment),
            preexec_fn=end_with_parent,
        )

    def ask(self, seed):
        self.process.stdin.write(f"{seed}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        found = re.fullmatch(r"loaded (\d+) of 16 chunks, stored (\d+), computed (\d+) tokens, digest (\w+)\n", line)
        if not found:
            sys.exit(f"integration: serve said {line!r}")
        return int(found[1]), int(found[2]), int(found[3]), found[4]

    def end(self):
        self.process.stdin.close()
        expect("serve ends by itself", self.process.wait(10), 0)


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"integration: {what}: {got}, not {wanted}")
    print(f"ok      {what}")


def show_sharing(programs, truth):
    with Daemon(default_daemon(), 0.125) as daemon:
        first = Serve(programs, daemon.socket)
        expect("in a cold pool all is computed, and stored", first.ask(1), (0, 16, 1025, truth[1]))
        second = Serve(programs, daemon.socket)
        expect("another process loads it, with the same answer", second.ask(1), (16, 0, 1, truth[1]))
        expect("a prompt with the same first half loads that half", second.ask(2), (8, 8, 513, truth[2]))
        tenant = Serve(programs, daemon.socket, ENGINE_CACHE_SALT="other-tenant")
        expect("a tenant with a salt of its own finds nothing", tenant.ask(1), (0, 16, 1025, truth[1]))
        for engine in (first, second, tenant):
            engine.end()
        show_ranks(programs, daemon)
        subprocess.run([f"{programs}/gpu"], env=beside(daemon.socket), check=True, timeout=30)


def show_ranks(programs, daemon):
    def ask(*seeds):
        text = subprocess.run(
            [f"{programs}/ranks"],
            input="".join(f"{seed}\n" for seed in seeds),
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            env=beside(daemon.socket),
            check=True,
        ).stdout
        return re.findall(r"2 ranks: loaded (\d+) of 16 chunks, stored (\d+) objects, digest (\w+)", text)

    def tool(*arguments):
        command = [str(default_daemon().with_name("hostkv")), "--socket", daemon.socket, *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=30).stdout

    cold, warm, half = ask(1, 1, 2)
    expect("two ranks: in a cold pool both store", cold[:2], ("0", "32"))
    expect("two ranks: both load what both have, with the same answer", warm, ("16", "0", cold[2]))
    expect("two ranks: a prompt with the same first half loads that half", half[:2], ("8", "16"))
    keys = re.findall(rf"{RANKS_MODEL}/1/0/[0-9a-f]+", tool("ls", "--keyspace", RANKS_MODEL))
    expect("two ranks: rank 1 has its share of both prompts", len(keys), 24)
    tool("rm", *keys)
    expect("two ranks: what rank 1 lost is no hit for rank 0 either", ask(1)[0], ("0", "16", cold[2]))


def show_a_daemon_that_dies(programs, truth):
    with tempfile.TemporaryDirectory(prefix="hostkv-") as folder:
        socket = os.path.join(folder, "hostkv.sock")

        def start():
            with open(os.path.join(folder, "log"), "ab") as log:
                flags = ["--socket", socket, "--l1-size-gb", "0.0625", "--disable-prometheus"]
                return subprocess.Popen([default_daemon(), *flags], stdout=log, stderr=log, preexec_fn=end_with_parent)

        def ask_until_warm(engine):
            deadline = time.monotonic() + 60
            while True:
                answer = engine.ask(1)
                if answer[3] != truth[1] or time.monotonic() > deadline:
                    sys.exit(f"integration: {answer} while a daemon starts; the digest is {truth[1]}")
                if answer[0] == 16:
                    return answer
                time.sleep(0.05)

        engine = Serve(programs, socket)
        expect("without a daemon the engine answers all the same", engine.ask(1), (0, 0, 1025, truth[1]))
        daemon = start()
        expect("an engine that was there first finds the daemon", ask_until_warm(engine), (16, 0, 1, truth[1]))
        daemon.kill()
        daemon.wait()
        expect("a daemon that is killed is a miss, with the same answer", engine.ask(1), (0, 0, 1025, truth[1]))
        daemon = start()
        expect("the next daemon is found by itself", ask_until_warm(engine), (16, 0, 1, truth[1]))
        engine.end()
        daemon.terminate()
        expect("the daemon ends by itself", daemon.wait(30), 0)


def show_that_the_replay_is_right(programs):
    """scripts/size-pool.py says of a trace what a real engine and a real daemon then do, within a few points."""
    spec = importlib.util.spec_from_file_location("size_pool", ROOT / "scripts/size-pool.py")
    size_pool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(size_pool)
    chance = random.Random(7)
    gib, prompt_count = 1 / 64, 120
    # Some prompts are asked often, the others in turn; all share their first half.
    seeds = [chance.randint(1, prompt_count if chance.random() < 0.7 else 5) for _ in range(600)]
    chunks = [[*(f"common-{at}" for at in range(8)), *(f"{seed}-{at}" for at in range(8))] for seed in seeds]
    with Daemon(default_daemon(), gib) as daemon:
        engine = Serve(programs, daemon.socket)
        real = sum(engine.ask(seed)[0] for seed in seeds) / (16 * len(seeds))
        engine.end()
    replayed = size_pool.replay(chunks, gib * 2**30 / 32768, 0.8, 0.2)[0] / (16 * len(seeds))
    if abs(real - replayed) > 0.06 or not 0.5 < real < 0.95:
        sys.exit(f"integration: of the chunks {real:.3f} were found, and the replay says {replayed:.3f}")
    print(f"ok      the replay of a trace says {replayed:.1%} found, and a real daemon finds {real:.1%}")


def main():
    (programs,) = sys.argv[1:]
    stop_on_signals()
    alone = Serve(programs, "/nonexistent/hostkv.sock")
    truth = {seed: alone.ask(seed)[3] for seed in (1, 2)}
    alone.end()
    show_sharing(programs, truth)
    show_a_daemon_that_dies(programs, truth)
    show_that_the_replay_is_right(programs)


if __name__ == "__main__":
    main()
