#!/usr/bin/env python3
"""The demonstration itself; scripts/demo.sh builds what it needs and calls it.

Starts a daemon and five engine processes, one after the other:

    0  without the cache                             the reference
    1  with the empty cache: computes, stores        logits as 0
    2  the same prompt: restores, does not prefill   logits as 0
    r  half of the prompt is other, no cache         the reference for 3
    3  that prompt: restores the half that is shared logits as r

Logits are compared bit for bit, and the daemon's counters with what the processes say they did. The last
line is `demo: ok: …`; any failure is one sentence on standard error and exit code 1.
"""

import argparse
import json
import os
import subprocess
import sys

from hostkv_daemon import Daemon, Failure, default_daemon, end_with_parent, stop_on_signals

CHUNK_TOKENS = 256
RUN_SECONDS = 3600


class Runs:
    """Engine processes on one model and prompt length, and the logits that each of them wrote."""

    def __init__(self, daemon, arguments):
        self.daemon = daemon
        self.arguments = arguments
        self.results = {}

    def run(self, name, note, *options):
        logits = os.path.join(self.daemon.folder.name, f"logits-{name}")
        command = [
            self.arguments.program, "--model", self.arguments.model, "--tokens", str(self.arguments.tokens),
            "--threads", str(self.arguments.threads), "--socket", self.daemon.socket, "--logits", logits, *options,
        ]
        # OpenMP's threads otherwise spin while they wait, and take the processor from each other.
        environment = dict(os.environ, OMP_WAIT_POLICY="passive")
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                timeout=RUN_SECONDS, preexec_fn=end_with_parent, check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failure(f"process {name} ({note}): {error}") from error
        if done.returncode != 0 or done.stderr:
            # A cache that fails is only a note to the engine; here it is what must not happen.
            said = done.stderr.strip() or "nothing on standard error"
            raise Failure(f"process {name} ({note}) ended with exit code {done.returncode} and said: {said}")
        result = json.loads(done.stdout)
        with open(logits, "rb") as file:
            result["logit_bytes"] = file.read()
        self.results[name] = dict(result, note=note)
        print(row(name, self.results[name]), flush=True)
        return self.results[name]

    def expect_chunks(self, name, hit_chunks, saved_chunks):
        result = self.results[name]
        if (result["hit_chunks"], result["saved_chunks"]) != (hit_chunks, saved_chunks):
            raise Failure(
                f"process {name} ({result['note']}) restored {result['hit_chunks']} and stored {result['saved_chunks']} "
                f"of {result['total_chunks']} chunks, expected {hit_chunks} and {saved_chunks}"
            )

    def expect_same_logits(self, name, reference):
        mine, other = self.results[name], self.results[reference]
        if not mine["logit_bytes"] or mine["logit_bytes"] != other["logit_bytes"]:
            raise Failure(f"the logits of process {name} differ from those of process {reference}, which used no cache")
        if mine["generated"] != other["generated"]:
            raise Failure(f"process {name} generated other tokens than process {reference}, which used no cache")


HEADINGS = f"{'process':38} {'tokens':>6} {'KV MiB':>8} {'hit chunks':>10} {'prefill s':>10} {'restore s':>10} {'save s':>8} {'first token s':>13}"


def row(name, result):
    hit = f"{result['hit_chunks']}/{result['total_chunks']}"
    return (
        f"{name + '  ' + result['note']:38} {result['tokens']:6} {result['kv_bytes'] / 2**20:8.2f} {hit:>10} "
        f"{result['prefill_s']:10.4f} {result['restore_s']:10.4f} {result['save_s']:8.4f} {result['first_token_s']:13.4f}"
    )


def show_and_check_counters(before, after, expected):
    print("\ncounters that changed")
    changed = {name: after[name] - before.get(name, 0) for name in after if name.startswith("lmcache_mp:")}
    for name, growth in changed.items():
        if growth:
            print(f"  {name:45} +{growth:g}")
    for name, growth in expected.items():
        if changed.get(name) != growth:
            raise Failure(f"the counter {name} grew by {changed.get(name)}, expected {growth}")


def demonstrate(arguments):
    chunks = (arguments.tokens - 1) // CHUNK_TOKENS
    half = chunks // 2
    other_half = ("--vary-from", str(half * CHUNK_TOKENS))
    with Daemon(arguments.daemon, arguments.pool_gib) as daemon:
        print(f"hostkvd serves a pool of {arguments.pool_gib:g} GiB; metrics at {daemon.metrics_url}\n\n{HEADINGS}")
        before = daemon.metrics()
        runs = Runs(daemon, arguments)
        cold = runs.run("0", "no cache", "--no-cache")
        runs.run("1", "computes and stores")
        runs.expect_chunks("1", 0, chunks)
        runs.expect_same_logits("1", "0")
        warm = runs.run("2", "same prompt, restores")
        runs.expect_chunks("2", chunks, 0)
        runs.expect_same_logits("2", "0")
        runs.run("r", "half of it is other, no cache", "--no-cache", *other_half)
        runs.run("3", "half of it is other, restores", *other_half)
        runs.expect_chunks("3", half, chunks - half)
        runs.expect_same_logits("3", "r")
        if runs.results["r"]["logit_bytes"] == cold["logit_bytes"]:
            raise Failure("the two prompts have the same logits, so comparing them proves nothing")
        expected = {
            "lmcache_mp:sm_read_succeed_keys_total": chunks + half,
            "lmcache_mp:l1_read_keys_total": chunks + half,
            "lmcache_mp:l1_write_keys_total": chunks + chunks - half,
            "lmcache_mp:l1_evicted_keys_total": 0,
        }
        show_and_check_counters(before, daemon.metrics(), expected)
    return cold["first_token_s"], warm["first_token_s"]


def main():
    parser = argparse.ArgumentParser(description="Shows a prefix cache between engine processes.")
    parser.add_argument("--program", required=True, help="hostkv-llama")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--daemon", default=default_daemon())
    parser.add_argument("--tokens", type=int, default=2049)
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--pool-gib", type=float, default=1)
    arguments = parser.parse_args()
    stop_on_signals()
    try:
        if arguments.tokens < 2 * CHUNK_TOKENS + 1:
            raise Failure(f"{arguments.tokens} tokens are too few: two chunks and one token are {2 * CHUNK_TOKENS + 1}")
        cold, warm = demonstrate(arguments)
    except (Failure, OSError) as failure:
        print(f"demo: failed: {str(failure).rstrip('.')}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: failed: interrupted.", file=sys.stderr)
        return 1
    print(f"\ndemo: ok: first token {cold:.3g} s -> {warm:.2g} s ({cold / warm:.0f} times faster), logits identical")
    return 0


if __name__ == "__main__":
    sys.exit(main())
