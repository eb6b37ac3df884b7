"""What the pages say about the programs, compared with the programs: flags, start-up errors, alerts, statuses, names."""

import pathlib
import re
import subprocess

from pages import ROOT

OPERATIONS = ROOT / "docs/operations.md"
INTEGRATION = ROOT / "docs/integration.md"

# The files whose errors end a start of the daemon.
START_ERRORS = [
    "daemon/src/error.rs",
    "daemon/src/config/error.rs",
    "daemon/src/segment/error.rs",
    "daemon/src/metrics/http.rs",
    "daemon/src/systemd/listen.rs",
    "daemon/src/telemetry/mod.rs",
    "daemon/src/specs/mod.rs",
    "daemon/src/specs/fields.rs",
    "daemon/src/tiers/mod.rs",
    "daemon/src/tiers/spec.rs",
    "daemon/src/telemetry/processors/jsonl.rs",
]

# Of those files, what is said in the log while the daemon serves.
WHILE_SERVING = ("writing to {target}", "rotating {path", "making a line of an event")


# Flags of others' programs that a page talks about.
FOREIGN_FLAGS = {"--group-add", "--ipc", "--memory", "--memory-swap", "--pid", "--shm-size", "--userns"}


def help_of(program, *words):
    # Wide, so that no sentence is broken.
    return subprocess.run(
        [program, *words, "--help"], check=True, stdout=subprocess.PIPE, text=True, env={"COLUMNS": "100"}, timeout=20
    ).stdout


def flags_of(text):
    """(heading, flag, placeholder, sentence) of a help text, in its order."""
    found = []
    heading = ""
    for line in text.splitlines():
        named = re.match(r"^(\S.*):$", line)
        flag = re.match(r"^ +(?:-\w, )?(--[a-z0-9-]+)(?: <(\S+?)>)?(?:\.\.\.)?(?: {2,}(.*))?$", line)
        if named:
            heading = named[1]
        elif flag:
            found.append([heading, flag[1], flag[2] or "", flag[3] or ""])
        elif found and re.match(r"^ {10,}\S", line):
            found[-1][3] = f"{found[-1][3]} {line.strip()}".strip()
        elif line.strip():
            heading = ""
    return found


def flags_table(hostkvd):
    """The Markdown table of every flag, as it stands behind <!-- flags --> in the operator's guide."""
    rows = ["| flag | what | default |", "|---|---|---|"]
    last = None
    for heading, flag, placeholder, sentence in flags_of(help_of(hostkvd)):
        if heading != last:
            rows.append(f"| **{heading}** | | |")
            last = heading
        default = re.search(r" \[default: (.*)\]$", sentence)
        what = sentence[: default.start()] if default else sentence
        shown = f"{flag} {placeholder}".strip().replace("|", "\\|")
        rows.append(f"| `{shown}` | {what.replace('|', chr(92) + '|')} | {default[1] if default else ''} |")
    return rows


def check_flags(pages, hostkvd, update):
    page = next(page for page in pages if page.path == OPERATIONS)
    try:
        at = page.lines.index("<!-- flags -->") + 1
    except ValueError:
        page.problem(1, "no <!-- flags -->, behind which the table of flags stands")
        return
    end = at
    while end < len(page.lines) and (page.lines[end].startswith("|") or (end == at and not page.lines[end])):
        end += 1
    wanted = ["", *flags_table(hostkvd)]
    if page.lines[at:end] != wanted:
        if update:
            page.lines[at:end] = wanted
            page.path.write_text("\n".join(page.lines) + "\n", encoding="utf-8")
        else:
            page.problem(at, "the table differs from hostkvd --help; scripts/test-docs.sh --update writes it anew")


def with_holes(template):
    """The template as a page writes it, `…` for each thing that differs."""
    return re.sub("…+", "…", re.sub(r"\{[^{}]*\}", "…", template))


def start_errors():
    """(file, template) of each sentence with which a start can end."""
    for file in START_ERRORS:
        source = (ROOT / file).read_text(encoding="utf-8")
        source = re.split(r"#\[cfg\(test\)\]\s*mod tests \{", source)[0]
        for template in re.findall(r'#\[error\(\s*"((?:[^"\\]|\\.)*)"', source, re.S):
            template = re.sub(r"\\\n\s*", "", template).replace('\\"', '"')
            if len(re.findall(r"\w\w", with_holes(template))) > 0 and not template.startswith(WHILE_SERVING):
                yield file, template


def check_start_errors(pages):
    """Each has a row whose first cell begins the sentence, in code font, and each row is one of them."""
    page = next(page for page in pages if page.path == OPERATIONS)
    codes = dict(rows_of_errors(page))
    rows = set(codes)
    wanted = list(start_errors())
    if len(wanted) < 55:
        page.problem(1, f"only {len(wanted)} start-up errors were found in the sources; tests/docs/facts.py looks in the wrong places")
    used = set()
    for file, template in wanted:
        matching = {row for row in rows if with_holes(template).startswith(row)}
        # As ConfigError::exit_code and StartError::code have it.
        is_written = file.endswith(("config/error.rs", "specs/mod.rs", "specs/fields.rs", "tiers/spec.rs")) and not template.startswith("there is no folder")
        if any(codes[row] != (2 if is_written else 1) for row in matching):
            page.problem(1, f"the row for {with_holes(template)} is under the wrong exit code")
        if not matching:
            page.problem(1, f"no row for the start-up error of {file}: {with_holes(template)}")
        used |= matching
    for row in sorted(rows - used):
        page.problem(1, f"the row `{row}` is no start-up error of this version")


def rows_of_errors(page):
    """(first cell, exit code of its table)"""
    code = None
    for line in page.prose:
        if line.startswith("#"):
            heading = re.match(r"### Start-up errors with exit code (\d)", line)
            code = int(heading[1]) if heading else None
        elif code:
            for row in re.findall(r"^\| `([^`]*)` \|", line):
                yield row, code


def check_alerts(pages):
    page = next(page for page in pages if page.path == OPERATIONS)
    rules = (ROOT / "packaging/prometheus/alerts.rules.yml").read_text(encoding="utf-8")
    text = "\n".join(page.prose)
    for name in re.findall(r"- alert: (\w+)", rules):
        if f"| `{name}` |" not in text:
            page.problem(1, f"no row for the alert {name}")


def check_statuses(pages):
    page = next(page for page in pages if page.path == INTEGRATION)
    header = (ROOT / "include/hostkv.h").read_text(encoding="utf-8")
    text = "\n".join(page.prose)
    for name in re.findall(r"^    HOSTKV_STATUS_(\w+) = ", header, re.M):
        if name != "OK" and f"| `{name}` |" not in text:
            page.problem(1, f"no row that says what to do on {name}")


def check_steps(pages):
    page = next(page for page in pages if page.name == "CONTRIBUTING.md")
    steps = re.search(r"^steps=\((.*?)\)", (ROOT / "scripts/test.sh").read_text(encoding="utf-8"), re.M | re.S)[1].split()
    said = [step for cell in re.findall(r"^\| ([a-z0-9_, ]+) \|", "\n".join(page.prose), re.M) for step in cell.split(", ")]
    if sorted(steps) != sorted(step for step in said if step != "step"):
        page.problem(1, f"the table of steps has {said}, scripts/test.sh {steps}")


def check_reloadable(pages):
    page = next(page for page in pages if page.path == OPERATIONS)
    source = (ROOT / "daemon/src/config/setting.rs").read_text(encoding="utf-8")
    # The item ends at the first semicolon that ends a line.
    wanted = {
        name.replace("-", "_")
        for name, rest in re.findall(r'pub\(super\) static \w+: Setting = Setting::new\(\s*"([a-z0-9-]+)"(.*?);\n', source, re.S)
        if ".reloadable()" in rest
    }
    sentence = re.search(r"^A reload applies (.*?)\. ", "\n".join(page.prose), re.M | re.S)
    said = set(re.findall(r"`(\w+)`", sentence[1] if sentence else ""))
    if said != wanted:
        page.problem(1, f"what a reload applies: the page lacks {sorted(wanted - said)} and has {sorted(said - wanted)} too many")


def check_names(pages, hostkvd, hostkv, metrics):
    """Flags, functions, constants, variables and metrics in code font exist."""
    flags = {flag for _, flag, _, _ in flags_of(help_of(hostkvd))}
    commands = re.findall(r"^  (\w+)  ", help_of(hostkv).split("Options:")[0], re.M)
    for command in ["", *[command for command in commands if command != "help"]]:
        flags |= {flag for _, flag, _, _ in flags_of(help_of(hostkv, *command.split()))}
    variables = {f"HOSTKV_{flag[2:].upper().replace('-', '_')}" for flag in flags}
    header = "".join((ROOT / "include" / name).read_text(encoding="utf-8") for name in ("hostkv.h", "hostkv.hpp"))
    known = set(re.findall(r"\bHOSTKV_\w+|\bhostkv_\w+", header)) | variables | {"HOSTKV_SALT"}
    families = set(re.findall(r"^# TYPE (\S+)", metrics, re.M))
    known |= families | {f"{name}_{suffix}" for name in families for suffix in ("bucket", "count", "sum")}
    scripts = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("scripts/*"), ROOT / "Makefile"] if path.is_file())
    for page in pages:
        if page.path.parent not in (ROOT, ROOT / "docs"):
            continue
        for number, line in enumerate(page.prose, 1):
            for code in re.findall(r"`([^`]+)`", line):
                for name in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code):
                    if name not in flags | FOREIGN_FLAGS and name not in scripts:
                        page.problem(number, f"{name} is a flag of no program here")
                for name in re.findall(r"(?<!:)\b(?:hostkv|HOSTKV)_\w+", code):
                    if name not in known and not name.endswith("_") and name not in scripts:
                        page.problem(number, f"{name} is no function, constant, variable or metric")
                for name in re.findall(r"lmcache_mp:\w+", code):
                    if name not in families:
                        page.problem(number, f"{name} is no metric")
