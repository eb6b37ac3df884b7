"""A known workload on a small pool: it says of each of its calls what each of the nine counters must show for it.

Called by run.py. The calls go through hostkv-test-worker, a process with a session that takes one order a line. The
account is kept here, from what the calls mean and never from what the daemon counts; each answer of the worker is
checked against it, so that the workload is proven to be the one it claims.

    hot       eight keys that each round reads; never evicted, for they are the warmest
    cold<n>   four keys that round n stores and nobody reads: they fill the pool until eviction takes the oldest
    gone      two keys that each round stores and removes
    missing   keys that nobody ever stores
"""

import math
import subprocess
import time

from hostkv_daemon import Failure, end_with_parent

MIB = 1 << 20
POOL_MIB = 32
# The daemon's defaults, which the workload relies on.
WATERMARK = 0.8
EVICTION_RATIO = 0.2
RESERVE_QUOTA_MIB = 4
# Keys that each round stores under names of its own.
COLD_KEYS = 4

NINE = (
    "sm_read_requests_total",
    "sm_read_succeed_keys_total",
    "sm_read_failed_keys_total",
    "sm_write_requests_total",
    "sm_write_succeed_keys_total",
    "sm_write_failed_keys_total",
    "l1_read_keys_total",
    "l1_write_keys_total",
    "l1_evicted_keys_total",
)


class Worker:
    """A worker process with an open session; ended, or killed, at the end of `with`."""

    def __init__(self, program, socket):
        self.process = subprocess.Popen(
            [program, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent
        )

    def __enter__(self):
        self.must("open")
        return self

    def __exit__(self, *_):
        self.kill()

    def must(self, order, expected=None):
        """Gives an order; it must be answered by OK, and by what is expected."""
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        status, _, rest = self.process.stdout.readline().strip().partition(" ")
        if status != "OK" or expected not in (None, rest):
            raise Failure(f"the worker answers '{order}' with '{status} {rest}' instead of 'OK {expected or ''}'")
        return rest

    def kill(self):
        """Ends it by SIGKILL, with whatever it holds."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Workload:
    """The account: `counters` is what the nine must show, `beside` what others must."""

    def __init__(self, worker):
        self.worker = worker
        self.counters = dict.fromkeys(NINE, 0)
        self.beside = {
            "hostkv_read_keys_total": 0,
            "hostkv_write_keys_total": 0,
            "hostkv_removed_keys_total": 0,
            'hostkv_write_failures_total{reason="exists"}': 0,
            'hostkv_write_failures_total{reason="quota"}': 0,
        }
        self.object_count = 0

    def begin(self):
        """What happens once: the first eight keys, and each kind of call that the rounds have not."""
        self.store("hot", 4)
        self.store("hot", 8, exists=4)
        # One key more than a session may reserve at a time.
        self._reserve("unwanted", RESERVE_QUOTA_MIB + 1, granted=RESERVE_QUOTA_MIB, reason="quota")
        self.worker.must("abort")
        self._reserve("gone", 1, granted=1)
        self.worker.must("fill")
        self.worker.must("commit-and-acquire")
        self._add(l1_write_keys_total=1)
        self.worker.must("release")
        self._add(l1_read_keys_total=1)
        self.object_count += 1
        self.remove("gone", 1)

    def round(self, number):
        """One round of reads that hit, reads that miss, and stores."""
        self.read("hot", asked=8, found=8)
        self.read("hot", asked=11, found=8)
        self.read("missing", asked=3, found=0)
        self.prefetch("missing", 1)
        # So many rounds ago that the pool has evicted it, whatever it holds.
        if number >= POOL_MIB // COLD_KEYS:
            self.prefetch(f"cold{number - POOL_MIB // COLD_KEYS}", 1)
        self.store(f"cold{number}", COLD_KEYS)
        self.store("gone", 2)
        self.remove("gone", 2)
        self.store("hot", 2, exists=2)

    def read(self, family, asked, found):
        """Acquires, looks at every byte, releases."""
        self.worker.must(f"acquire {family} {asked}", str(found))
        self._account_read(asked, found)
        self.worker.must("verify", str(found))
        self.worker.must("release")
        self._add(l1_read_keys_total=found)

    def prefetch(self, family, count):
        """Has the tiers asked for keys that the pool does not have; it is no read request."""
        self.worker.must(f"prefetch {family} {count}")
        loaded = int(self.worker.must("prefetched"))
        self.worker.must("end-prefetch")
        self._add(l1_write_keys_total=loaded)
        self.object_count += loaded
        self._await_eviction()

    def die_with_a_lease(self, victim):
        """Another process pins keys and is killed: they are asked for and found, and never released."""
        victim.must("acquire hot 8", "8")
        self._account_read(8, 8)
        victim.must("reserve lost 1 4096", "OK")
        self._add(sm_write_requests_total=1, sm_write_succeed_keys_total=1)
        self.beside["hostkv_write_keys_total"] += 1
        victim.kill()

    def store(self, family, count, exists=0):
        """Reserves, writes and commits keys of which the first ones are there already."""
        self._reserve(family, count, granted=count - exists, exists=exists)
        self.worker.must("fill")
        self.worker.must("commit")
        self._add(l1_write_keys_total=count - exists)
        self.object_count += count - exists
        self._await_eviction()

    def remove(self, family, count):
        """Removes keys that are there."""
        self.worker.must(f"remove {family} {count}")
        self.beside["hostkv_removed_keys_total"] += count
        self.object_count -= count

    def _reserve(self, family, count, granted, exists=0, reason="exists"):
        failed = count - granted
        statuses = ["EXISTS"] * exists + ["OK"] * granted + [reason.upper()] * (failed - exists)
        self.worker.must(f"reserve {family} {count} {MIB}", ",".join(statuses))
        self._add(sm_write_requests_total=1, sm_write_succeed_keys_total=granted, sm_write_failed_keys_total=failed)
        self.beside["hostkv_write_keys_total"] += count
        self.beside[f'hostkv_write_failures_total{{reason="{reason}"}}'] += failed

    def _account_read(self, asked, found):
        self._add(
            sm_read_requests_total=1, sm_read_succeed_keys_total=found, sm_read_failed_keys_total=asked - found
        )
        self.beside["hostkv_read_keys_total"] += asked

    def _await_eviction(self):
        """Above the watermark one pass frees its share of what is used, in whole objects of a MiB."""
        if self.object_count > WATERMARK * POOL_MIB:
            evicted = math.ceil(EVICTION_RATIO * self.object_count)
            self.object_count -= evicted
            self._add(l1_evicted_keys_total=evicted)
        deadline = time.monotonic() + 5
        while (left := int(self.worker.must("figures"))) != self.object_count:
            if time.monotonic() > deadline:
                raise Failure(f"the pool holds {left} objects where the workload leaves {self.object_count}")
            time.sleep(0.005)

    def _add(self, **by):
        for name, count in by.items():
            self.counters[name] += count
