#!/usr/bin/env python3
"""The demonstration itself; scripts/demo.sh builds what it needs and calls it.

Starts a daemon and five engine processes, one after the other:

    0  without the cache                             the reference
    1  with the empty cache: computes, stores        logits as 0
    2  the same prompt: restores, does not prefill   logits as 0
    r  half of the prompt is other, no cache         the reference for 3
    3  that prompt: restores the half that is shared logits as r

and with --rounds N a sixth, which restores and stores the first prompt N times and copies the same bytes as often.

Logits are compared bit for bit, and the daemon's counters with what the processes say they did. The last
line is `demo: ok: …`; any failure is one sentence on standard error and exit code 1.
"""

import sys

from engine_runs import CHUNK_TOKENS, HEADINGS, Runs, chunks_of, parser_of
from hostkv_daemon import Daemon, Failure, stop_on_signals


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
    chunks = chunks_of(arguments.tokens)
    half = chunks // 2
    other_half = ("--vary-from", str(half * CHUNK_TOKENS))
    with Daemon(arguments.daemon, arguments.pool_gib) as daemon:
        print(f"hostkvd serves a pool of {arguments.pool_gib:g} GiB; metrics at {daemon.metrics_url}\n\n{HEADINGS}")
        before = daemon.metrics()
        runs = Runs(arguments, daemon.folder.name)
        cold = runs.run("0", "no cache", daemon.socket, "--no-cache")
        runs.run("1", "computes and stores", daemon.socket)
        runs.expect_chunks("1", 0, chunks)
        runs.expect_same_logits("1", "0")
        warm = runs.run("2", "same prompt, restores", daemon.socket)
        runs.expect_chunks("2", chunks, 0)
        runs.expect_same_logits("2", "0")
        runs.run("r", "half of it is other, no cache", daemon.socket, "--no-cache", *other_half)
        runs.run("3", "half of it is other, restores", daemon.socket, *other_half)
        runs.expect_chunks("3", half, chunks - half)
        runs.expect_same_logits("3", "r")
        if runs.reports["r"]["logit_bytes"] == cold["logit_bytes"]:
            raise Failure("the two prompts have the same logits, so comparing them proves nothing")
        expected = {
            "lmcache_mp:sm_read_succeed_keys_total": chunks + half,
            "lmcache_mp:l1_read_keys_total": chunks + half,
            "lmcache_mp:l1_write_keys_total": chunks + chunks - half,
            "lmcache_mp:l1_evicted_keys_total": 0,
        }
        show_and_check_counters(before, daemon.metrics(), expected)
        if arguments.rounds > 0:
            rounds = runs.run("m", f"{arguments.rounds} rounds", daemon.socket, "--rounds", arguments.rounds)["rounds"]
            print(f"\nmedians of {arguments.rounds} rounds, in seconds")
            for direction in ("restore", "save"):
                print(
                    f"  {direction:8} {rounds[f'{direction}_s']:.6f}  memcpy {rounds[f'{direction}_memcpy_s']:.6f}"
                    f"  hostkv_copy {rounds[f'{direction}_copy_s']:.6f}"
                )
    return cold["first_token_s"], warm["first_token_s"]


def main():
    parser = parser_of("Shows a prefix cache between engine processes.")
    parser.add_argument("--rounds", type=int, default=0)
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
