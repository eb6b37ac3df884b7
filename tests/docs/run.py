#!/usr/bin/env python3
"""Checks every page of the repository against the built tree: see scripts/test-docs.sh.

    run.py [--update] [--list-skips] [--show] [PAGE...]

Prints a line for each problem, what was left out by kind, and the counts; exit code 1 if there is a problem.
"""

import argparse
import ctypes
import json
import os
import pathlib
import sys
import tempfile
import urllib.request


import commands
import facts
import pages as documents

ROOT = documents.ROOT
sys.path.insert(0, str(ROOT / "scripts"))
from hostkv_daemon import stop_on_signals  # noqa: E402


def metrics_page(hostkvd, hostkv):
    with tempfile.TemporaryDirectory(prefix="hostkv-docs-") as folder:
        # With a tier, because its families are there only then.
        tier = json.dumps({"type": "fs", "base_path": f"{folder}/tier", "max_capacity_gb": 1})
        with commands.Scratch(folder, hostkvd, hostkv, pathlib.Path(folder), HOSTKV_L2_ADAPTER=tier) as scratch:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{scratch.metrics}/metrics", timeout=10) as answer:
                return answer.read().decode()


def main():
    parser = argparse.ArgumentParser(description="Checks every page of the repository against the built tree.")
    parser.add_argument("--update", action="store_true", help="write quotes and the table of flags anew, and end")
    parser.add_argument("--list-skips", action="store_true", help="show each command that was left out")
    parser.add_argument("--show", action="store_true", help="show each block that is run, and what it says")
    parser.add_argument("pages", nargs="*", help="run the commands of these pages only, as docs/operations.md")
    arguments = parser.parse_args()
    stop_on_signals()
    # Whose parent has ended becomes a child of this process, which then can wait for it.
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)

    built = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "release"
    hostkvd, hostkv = built / "hostkvd", built / "hostkv"
    all_pages = documents.all_pages()
    if arguments.update:
        documents.fence(all_pages)
        all_pages = documents.all_pages()
    documents.check_quotes(all_pages, arguments.update)
    facts.check_flags(all_pages, hostkvd, arguments.update)
    if arguments.update:
        return 0
    documents.check_links(all_pages)
    facts.check_start_errors(all_pages)
    facts.check_alerts(all_pages)
    facts.check_statuses(all_pages)
    facts.check_reloadable(all_pages)
    facts.check_steps(all_pages)
    facts.check_names(all_pages, hostkvd, hostkv, metrics_page(hostkvd, hostkv))

    with tempfile.TemporaryDirectory(prefix="hostkv-docs-") as prefix:
        commands.install(prefix)
        runner = commands.Runner(hostkvd, hostkv, pathlib.Path(prefix), arguments.show)
        for page in all_pages:
            if not arguments.pages or page.name in arguments.pages:
                runner.run(page)

    problems = [problem for page in all_pages for problem in page.problems]
    for problem in problems:
        print(problem)
    skipped = sum(map(len, runner.skips.values()))
    for reason, lines in sorted(runner.skips.items()):
        print(f"SKIPPED {len(lines)} commands: {reason}")
        for line in lines if arguments.list_skips else []:
            print(f"          {line}")
    print(f"{len(all_pages)} pages, {runner.run_count} commands run, {skipped} skipped, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
