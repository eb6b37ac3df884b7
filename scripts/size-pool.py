#!/usr/bin/env python3
"""How large a pool does a workload want? Replays a trace of requests through pools of several sizes.

    size-pool.py --object-bytes N [--sizes-gb 1,2,4,...] [--watermark 0.8] [--ratio 0.2] TRACE

TRACE has one request a line as JSON, with the keys of its chunks in order under `hash_ids`: any names or numbers that
are equal when a chunk and all before it are equal. `-` is standard input. Each request finds the longest run of leading
chunks and then stores the others, each from the tail on, as hostkv does; a pool that is fuller than the watermark evicts
the least recently used until --ratio of what is used is free. What is replayed is one request after the other:
no pins, no reservations, no alignment.

Prints a line for each size: the share of chunks that were found, and of requests that found something.
"""

import argparse
import collections
import json
import sys


def replay(requests, capacity, watermark, ratio):
    """(found chunks, requests that found something) in a pool for `capacity` objects."""
    pool = collections.OrderedDict()
    found_chunks = hits = 0
    for chunks in requests:
        found = 0
        while found < len(chunks) and chunks[found] in pool:
            found += 1
        found_chunks += found
        hits += found > 0
        # First the lease on what was found is released, then the others are committed; each from its tail on.
        for chunk in [*reversed(chunks[:found]), *reversed(chunks[found:])]:
            pool.pop(chunk, None)
            pool[chunk] = None
            if len(pool) > watermark * capacity:
                for _ in range(max(1, int(ratio * len(pool)))):
                    pool.popitem(last=False)
    return found_chunks, hits


def main():
    parser = argparse.ArgumentParser(description="Replays a trace of requests through pools of several sizes.")
    parser.add_argument("trace", metavar="TRACE")
    parser.add_argument("--object-bytes", type=int, required=True, help="bytes of one chunk, of all ranks together")
    parser.add_argument("--sizes-gb", default="1,2,4,8,16,32,64,128,256,512", help="GiB, as --l1-size-gb")
    parser.add_argument("--watermark", type=float, default=0.8, help="as --eviction-trigger-watermark")
    parser.add_argument("--ratio", type=float, default=0.2, help="as --eviction-ratio")
    arguments = parser.parse_args()
    if arguments.object_bytes < 1:
        parser.error(f"--object-bytes is {arguments.object_bytes}; allowed is 1 or more")
    try:
        sizes = [float(size) for size in arguments.sizes_gb.split(",")]
        with sys.stdin if arguments.trace == "-" else open(arguments.trace, encoding="utf-8") as lines:
            requests = [json.loads(line)["hash_ids"] for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"size-pool: {arguments.trace}: {error!r}; wanted is one JSON object with hash_ids a line.")
    asked = sum(map(len, requests))
    if not asked:
        sys.exit(f"size-pool: {arguments.trace} has no chunks.")
    distinct = len({chunk for chunks in requests for chunk in chunks})
    print(f"{len(requests)} requests, {asked} chunks, {distinct} distinct: {distinct * arguments.object_bytes / 2**30:.2f} GiB")
    print(f"{'GiB':>8}  {'chunks found':>12}  {'requests with a hit':>19}")
    for size in sizes:
        capacity = size * 2**30 / arguments.object_bytes
        found, hits = replay(requests, capacity, arguments.watermark, arguments.ratio)
        print(f"{size:>8g}  {found / asked:>12.1%}  {hits / len(requests):>19.1%}")


if __name__ == "__main__":
    main()
