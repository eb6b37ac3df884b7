#!/usr/bin/env python3
"""Checks the shipped Prometheus and Grafana files, alone and against a real Prometheus that scrapes a real hostkvd.

Started by scripts/test-prometheus.sh, in a network of its own where that is possible: so the daemon has the very
port that packaging/prometheus/prometheus.yml names, and the file is used as it stands.

    rules, dashboard ── promtool, json ──> well-formed, each alert tested firing and not firing
    workload ──> hostkvd :9090 <── scrapes ── Prometheus :9091 <── HTTP API ── the nine, each query, each name

The last line is `N passed, N failed, N skipped`; the exit code is 1 if one failed or none passed.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.dont_write_bytecode = True

import promql
from hostkv_daemon import Daemon, Failure, default_daemon, stop_on_signals
from server import Prometheus
from workload import NINE, POOL_MIB, Worker, Workload

PACKAGING = ROOT / "packaging" / "prometheus"
DASHBOARD = ROOT / "packaging" / "grafana" / "hostkv.json"
DAEMON_PORT = 9090
PROMETHEUS_PORT = 9091
# In an index of this size the histograms of ages look at every object and not at a sample.
DAEMON_FLAGS = ("--prometheus-port", str(DAEMON_PORT), "--max-objects", "16384")
# The names that the rules' tests give their tiers.
TIERS = ("disk", "redis")
SCRAPE_SECONDS = 5
LOAD_SECONDS = 22
COLON = "lmcache_mp:"
# What Grafana would put in: four scrape intervals, and a time shown that is about that of the load.
VARIABLES = {"$instance": ".+", "$__rate_interval": "20s", "$__range": "30s"}


class Tally:
    """What passed, failed and was skipped, said as it happens."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def check(self, name, claim):
        """Runs a check; a failure of it is said and counted, and the next one runs all the same."""
        try:
            claim()
        except Failure as failure:
            self.failed += 1
            print(f"FAILED  {name}: {failure}", flush=True)
        else:
            self.passed += 1
            print(f"ok      {name}", flush=True)

    def skip(self, name, why):
        self.skipped += 1
        print(f"SKIPPED {name}: {why}", flush=True)


def must(claim, sentence):
    if not claim:
        raise Failure(sentence)


# --- the files alone


def promtool(*arguments):
    result = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    must(result.returncode == 0, f"promtool {arguments[0]} {arguments[1]} says\n{result.stdout}{result.stderr}")


def dashboard():
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries():
    """(panel's title, expression) of each query of the dashboard, its variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            must("$" not in expression, f"'{panel['title']}' uses a variable that the dashboard does not have: {expression}")
            yield panel["title"], expression


def dashboard_is_well_formed():
    whole = dashboard()
    must(whole["uid"] == "hostkv" and whole["title"] == "hostkv", "its uid or its title is not hostkv")
    numbers = [panel["id"] for panel in whole["panels"]]
    must(len(set(numbers)) == len(numbers), "two panels have one id")
    cells = set()
    for panel in panels():
        title = panel["title"]
        must(panel.get("description", "").endswith("."), f"'{title}' does not say how to read it")
        must(panel["targets"], f"'{title}' has no query")
        must(panel["datasource"]["uid"] == "${datasource}", f"'{title}' is tied to one data source")
        letters = [target["refId"] for target in panel["targets"]]
        must(len(set(letters)) == len(letters), f"'{title}' has two queries of one letter")
        at = panel["gridPos"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            must(cell not in cells and cell[0] < 24, f"'{title}' lies on another panel or over the edge")
            cells.add(cell)


def each_alert_is_tested_both_ways():
    alerts = re.findall(r"^\s*- alert: (\w+)$", (PACKAGING / "alerts.rules.yml").read_text(), re.MULTILINE)
    tests = (PACKAGING / "tests" / "alerts.test.yml").read_text()
    shown = re.findall(r"alertname: (\w+)\n\s+eval_time: \w+\n\s+exp_alerts:( \[\])?", tests)
    must(alerts, "there are no alerts")
    unknown = {alert for alert, _ in shown} - set(alerts)
    must(not unknown, f"the tests name alerts that are none: {', '.join(sorted(unknown))}")
    for alert in alerts:
        must((alert, "") in shown, f"no test shows {alert} firing")
        must((alert, " []") in shown, f"no test shows {alert} not firing")


def readmes_show_the_shipped_configuration():
    shipped = (PACKAGING / "prometheus.yml").read_text(encoding="utf-8")
    blocks = []
    for readme in (ROOT / "README.md", PACKAGING / "README.md"):
        fenced = re.findall(r"^```yaml\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        blocks += [block for block in fenced if "scrape_configs:" in block]
    must(blocks, "no README shows a scrape configuration")
    for block in blocks:
        must(block in shipped, f"a README shows a scrape configuration that is not that of prometheus.yml:\n{block}")


def check_files(tally):
    tally.check("the dashboard is well-formed", dashboard_is_well_formed)
    tally.check("each alert has a test that shows it firing and one that shows it not", each_alert_is_tested_both_ways)
    tally.check("the scrape configuration that the READMEs show is the shipped one", readmes_show_the_shipped_configuration)
    if shutil.which("promtool") is None:
        tally.skip("rules, configuration and their tests", "promtool is not installed (Debian package prometheus)")
        return
    rules = sorted(PACKAGING.glob("*.rules.yml"))
    tally.check("promtool accepts the scrape configuration", lambda: promtool("check", "config", PACKAGING / "prometheus.yml"))
    tally.check("promtool accepts the rules", lambda: promtool("check", "rules", "--lint-fatal", *rules))
    for file in sorted((PACKAGING / "tests").glob("*.test.yml")):
        tally.check(f"promtool test rules {file.name}", lambda file=file: promtool("test", "rules", file))


# --- against a real Prometheus


def run_load(daemon, worker_program):
    """The workload in rounds, in the middle of which a process dies with what it holds."""
    begin = time.monotonic()
    with Worker(worker_program, daemon.socket) as worker, Worker(worker_program, daemon.socket) as victim:
        load = Workload(worker)
        load.begin()
        number = 0
        while time.monotonic() < begin + LOAD_SECONDS:
            load.round(number)
            number += 1
            if number == 15:
                load.die_with_a_lease(victim)
            time.sleep(0.4)
    must(number > 15, f"the load came to {number} rounds only; this machine is too slow for it")
    return load


def await_last_figures(server, end):
    """Until the daemon was scraped after the workload's end, and the rules evaluated after that scrape."""

    def is_later():
        scraped = server.value(f"timestamp({COLON}l1_write_keys_total)")
        copied = server.value("timestamp(lmcache_mp_l1_write_keys_total)")
        return scraped is not None and copied is not None and copied > scraped > end

    server.wait("a scrape and an evaluation after the workload", 4 * SCRAPE_SECONDS, is_later)


def equals(server, series, expected):
    value = server.value(series)
    must(value == expected, f"Prometheus has {value} where the workload says {expected}")


def check_rules_load(server):
    groups = server.api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    must(len(rules) == 9 + 11, f"Prometheus has {len(rules)} rules instead of 9 that record and 11 that alert")
    for rule in rules:
        must(rule["health"] == "ok", f"{rule['name']} is {rule['health']}: {rule.get('lastError')}")


def known_series(server):
    """Metric names, and (name, label, value), of what was really scraped or recorded."""
    names, values = set(), set()
    for series in server.api("series", **{"match[]": '{job="hostkv"}'}):
        name = series.pop("__name__")
        names.add(name)
        values.update((name, label, value) for label, value in series.items())
    return names, values


def names_exist(server, expressions):
    names, values = known_series(server)
    for expression in expressions:
        for name in promql.metric_names(expression):
            must(name in names, f"no scrape has {name}, which is in: {expression}")
        for used in promql.label_values(expression):
            must(used in values, f"no scrape has {used[0]} with {used[1]}=\"{used[2]}\", which is in: {expression}")


def rule_expressions(server):
    return [rule["query"] for group in server.api("rules")["groups"] for rule in group["rules"]]


def test_inputs():
    """The series that the rules' tests make up."""
    for file in (PACKAGING / "tests").glob("*.test.yml"):
        for series in re.findall(r"- series: '([^']+)'", file.read_text()):
            # Another job's series are there to be left alone.
            if 'job="hostkv"' in series:
                yield series


def variable_query_has_data(server):
    query = next(each for each in dashboard()["templating"]["list"] if each["name"] == "instance")["definition"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
    must(server.api(f"label/{label}/values", **{"match[]": metric}), f"{query} finds no value")


def check_live(tally, worker_program):
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hostkv-tiers-"))
        tiers = [json.dumps({"type": "fs", "name": name, "base_path": f"{folder}/{name}"}) for name in TIERS]
        flags = (*DAEMON_FLAGS, *(word for tier in tiers for word in ("--l2-adapter", tier)))
        daemon = stack.enter_context(Daemon(default_daemon(), POOL_MIB / 1024, flags))
        server = stack.enter_context(Prometheus(PACKAGING / "prometheus.yml", PROMETHEUS_PORT))
        server.wait("the first scrape", 3 * SCRAPE_SECONDS, lambda: server.value('up{job="hostkv"}') == 1)
        begin = time.time()
        load = run_load(daemon, worker_program)
        end = time.time()
        await_last_figures(server, end)

        for name in NINE:
            expected = load.counters[name]
            must(expected > 0, f"the workload does not move {name}")
            tally.check(f"lmcache_mp:{name} is {expected}", lambda s=COLON + name, e=expected: equals(server, s, e))
        for name in NINE:
            copy = f"lmcache_mp_{name}"
            tally.check(f"{copy} is the same", lambda s=copy, e=load.counters[name]: equals(server, s, e))
        for series, expected in load.beside.items():
            tally.check(f"{series} is {expected}", lambda s=series, e=expected: equals(server, s, e))

        tally.check("the rules load and evaluate without an error", lambda: check_rules_load(server))
        for title, query in queries():
            tally.check(
                f"'{title}' shows data: {query}",
                lambda q=query: must(server.finite_values(q, begin, end + SCRAPE_SECONDS) > 0, "no data"),
            )
        tally.check("the dashboard's list of daemons has data", lambda: variable_query_has_data(server))
        for what, expressions in [
            ("the dashboard", [query for _, query in queries()]),
            ("the rules", rule_expressions(server)),
            ("the tests of the rules", test_inputs()),
        ]:
            tally.check(f"each metric and label value of {what} is in a real scrape", lambda e=expressions: names_exist(server, e))


def raise_loopback():
    """A new network has a loopback interface that is down."""
    set_flags, is_up = 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", is_up))


def why_not_live(worker_program):
    """Why there can be no real scrape here, or None."""
    if shutil.which("prometheus") is None:
        return "prometheus is not installed (Debian package prometheus)"
    for port in (DAEMON_PORT, PROMETHEUS_PORT):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return f"port {port} is in use, and this user can't make a network of its own"
    for program in (default_daemon(), worker_program):
        must(program.exists(), f"{program} is missing: cargo build --release -p hostkv-daemon -p hostkv-tests")
    return None


def main():
    stop_on_signals()
    tally = Tally()
    worker_program = default_daemon().with_name("hostkv-test-worker")
    try:
        if os.environ.get("HOSTKV_TEST_OWN_NETWORK"):
            raise_loopback()
        check_files(tally)
        why_not = why_not_live(worker_program)
        if why_not is None:
            check_live(tally, worker_program)
        else:
            tally.skip("a real Prometheus scrapes a real hostkvd", why_not)
    except Failure as failure:
        tally.failed += 1
        print(f"FAILED  {failure}", flush=True)
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return 0 if tally.failed == 0 and tally.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
