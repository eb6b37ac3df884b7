#!/usr/bin/env python3
"""Compares the system calls that a traced hostkvd made with those that its unit allows.

    system_calls.py UNIT TRACE

TRACE is what `strace -f -o` wrote. The sets are expanded by `systemd-analyze syscall-filter`. Ends with exit code 1
and the names when a call was made that the unit's SystemCallFilter= lines would refuse.
"""

import re
import subprocess
import sys


def known_sets():
    text = subprocess.run(["systemd-analyze", "syscall-filter"], check=True, capture_output=True, text=True).stdout
    sets, current = {}, None
    for line in text.splitlines():
        name = line.strip()
        if line.startswith("@"):
            current = sets.setdefault(name, set())
        elif current is not None and line.startswith(" ") and name and not name.startswith("#"):
            current.add(name)
        elif not line.strip():
            current = None
    return sets


def expand(name, sets):
    if not name.startswith("@"):
        return {name}
    return set().union(*(expand(member, sets) for member in sets[name]))


def allowed_by(unit, sets):
    """Lines apply in their order: names are added, and taken away behind a ~. @default is always allowed."""
    allowed = set()
    lines = [line.removeprefix("SystemCallFilter=") for line in unit if line.startswith("SystemCallFilter=")]
    if not lines or lines[0].startswith("~"):
        sys.exit("system_calls: the unit has no list of allowed calls")
    for line in lines:
        takes_away = line.startswith("~")
        for name in line.removeprefix("~").split():
            members = expand(name, sets)
            allowed = allowed - members if takes_away else allowed | members
    return allowed | expand("@default", sets)


def main():
    unit, trace = sys.argv[1:]
    with open(unit, encoding="utf-8") as file:
        allowed = allowed_by([line.strip() for line in file], known_sets())
    with open(trace, encoding="utf-8", errors="replace") as file:
        found = (re.match(r"\d+ +(?:<\.\.\. )?([a-z_0-9]+)(?:\(| resumed)", line) for line in file)
        made = {match[1] for match in found if match}
    if not {"memfd_create", "epoll_wait", "sendmsg"} <= made:
        sys.exit(f"system_calls: this is not the trace of a daemon that served: {sorted(made)}")
    refused = sorted(made - allowed)
    if refused:
        sys.exit(f"system_calls: the unit refuses what the daemon does: {', '.join(refused)}")
    print(f"{len(made)} different system calls, all within the unit's filter")


main()
