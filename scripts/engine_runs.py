"""Runs of the example engine, for the scripts that show one: a process each, its report, and its logits.

`demo.py` and `two_hosts.py` import this. A report is what the program prints, with `logit_bytes` beside it.
"""

import argparse
import json
import os
import pathlib
import subprocess

from hostkv_daemon import Failure, default_daemon, end_with_parent

CHUNK_TOKENS = 256
RUN_SECONDS = 3600

HEADINGS = f"{'process':38} {'tokens':>6} {'KV MiB':>8} {'hit chunks':>10} {'prefill s':>10} {'restore s':>10} {'save s':>8} {'first token s':>13}"


def parser_of(description):
    """The arguments that every such script takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--program", required=True, help="hostkv-llama")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--daemon", default=default_daemon())
    parser.add_argument("--tokens", type=int, default=2049)
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--pool-gib", type=float, default=1)
    return parser


def chunks_of(tokens):
    """Whole chunks of a prompt of this length; the last token is always computed."""
    return (tokens - 1) // CHUNK_TOKENS


class Runs:
    """Engine processes on one model and prompt length, and the reports of them by name."""

    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.folder = pathlib.Path(folder)
        self.reports = {}

    def run(self, name, note, socket, *options, before=()):
        """One process, at the pool of this socket, run by the command `before`; prints and gives its report."""
        logits = self.folder / f"logits-{name}"
        command = [
            *before, self.arguments.program, "--model", self.arguments.model, "--tokens", self.arguments.tokens,
            "--threads", self.arguments.threads, "--socket", socket, "--logits", logits, *options,
        ]
        # OpenMP's threads otherwise spin while they wait, and take the processor from each other.
        environment = dict(os.environ, OMP_WAIT_POLICY="passive")
        try:
            done = subprocess.run(
                [str(word) for word in command], env=environment, capture_output=True, text=True,
                timeout=RUN_SECONDS, preexec_fn=end_with_parent, check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failure(f"process {name} ({note}): {error}") from error
        if done.returncode != 0 or done.stderr:
            # A cache that fails is only a note to the engine; here it is what must not happen.
            said = done.stderr.strip() or "nothing on standard error"
            raise Failure(f"process {name} ({note}) ended with exit code {done.returncode} and said: {said}")
        report = dict(json.loads(done.stdout), note=note, logit_bytes=logits.read_bytes())
        self.reports[name] = report
        print(_row(name, report), flush=True)
        return report

    def expect_chunks(self, name, hit_chunks, saved_chunks):
        report = self.reports[name]
        if (report["hit_chunks"], report["saved_chunks"]) != (hit_chunks, saved_chunks):
            raise Failure(
                f"process {name} ({report['note']}) restored {report['hit_chunks']} and stored {report['saved_chunks']} "
                f"of {report['total_chunks']} chunks, expected {hit_chunks} and {saved_chunks}"
            )

    def expect_same_logits(self, name, reference):
        mine, other = self.reports[name], self.reports[reference]
        if not mine["logit_bytes"] or mine["logit_bytes"] != other["logit_bytes"]:
            raise Failure(f"the logits of process {name} differ from those of process {reference}, which used no cache")
        if mine["generated"] != other["generated"]:
            raise Failure(f"process {name} generated other tokens than process {reference}, which used no cache")


def _row(name, report):
    hit = f"{report['hit_chunks']}/{report['total_chunks']}"
    return (
        f"{name + '  ' + report['note']:38} {report['tokens']:6} {report['kv_bytes'] / 2**20:8.2f} {hit:>10} "
        f"{report['prefill_s']:10.4f} {report['restore_s']:10.4f} {report['save_s']:8.4f} {report['first_token_s']:13.4f}"
    )
