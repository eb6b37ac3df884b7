#!/usr/bin/env python3
"""Compares the files for containers with the daemon that they start, without any engine for containers.

    test-containers.py       the release build of the daemon comes first

Each manifest is parsed; the daemon itself reads the flags that it gives (--print-config), and what it then says must fit
the rest of the manifest: folder and variable of the socket, port and path of the probes, memory against the pool. What the
image copies must be what the installation puts there. Every flag and file that docs/containers.md names must exist. Then the same
is tried with a mistake of each kind, which must be found. The last line is `N passed, N failed`; exit code 77 without
PyYAML.
"""

import grp
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

try:
    import yaml
except ImportError:
    print("SKIPPED: there is no PyYAML to read the manifests with")
    sys.exit(77)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from hostkv_daemon import Daemon  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
DAEMON = TARGET / "release" / "hostkvd"
PAGE = ROOT / "docs" / "containers.md"
MIB = 1 << 20
# Flags of docker and systemctl that the page names.
DOCKER_FLAGS = {"--shm-size", "--ipc", "--pid", "--group-add", "--memory", "--memory-swap", "--mount", "--name", "--user",
                "--detach", "--now", "--read-only", "--cap-drop", "--publish", "--env", "--userns"}


# The commands by which manifests and image ask whether the daemon is alive.
ALIVE = set()


class Wrong(Exception):
    """What does not fit, in one sentence."""


def expect(is_true, sentence):
    if not is_true:
        raise Wrong(sentence)


def read(path):
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def settings_of(arguments):
    """What the daemon makes of these arguments."""
    arguments = [str(argument) for argument in arguments]
    if "--socket-group" in arguments:
        # The image has this group; this machine may not.
        place = arguments.index("--socket-group") + 1
        expect(arguments[place] == "hostkv", f"--socket-group is {arguments[place]}, and the image has the group hostkv")
        arguments[place] = grp.getgrgid(os.getgid()).gr_name
    environment = {"PATH": os.environ["PATH"], "HOSTKV_SOCKET": "/run/hostkv/hostkv.sock"}
    told = subprocess.run([DAEMON, "--print-config", *arguments], env=environment, capture_output=True, text=True, timeout=20,
                          check=False)
    expect(told.returncode == 0, f"hostkvd refuses {arguments}: {told.stderr.strip()}")
    return tomllib.loads(told.stdout)


def bytes_of(text):
    units = {"Ki": 1 << 10, "Mi": MIB, "Gi": 1 << 30, "m": MIB, "g": 1 << 30}
    number, unit = re.fullmatch(r"([0-9]+)([A-Za-z]+)", str(text)).groups()
    return int(number) * units[unit]


def expect_room(settings, limit, where):
    """A pool, a 64th of it for the index, 128 MiB for sessions and the program: as the page says."""
    pool = settings["l1_size_gb"] * (1 << 30)
    least = int(pool + pool / 64) + 128 * MIB
    expect(bytes_of(limit) >= least, f"{where}: the limit {limit} is below {least // MIB} MiB, which the pool takes")


def pods(documents):
    for document in documents:
        if document["kind"] == "Pod":
            yield document["spec"]
        elif document["kind"] in ("DaemonSet", "Deployment"):
            labels = document["spec"]["template"]["metadata"]["labels"].items()
            selected = document["spec"]["selector"]["matchLabels"].items()
            expect(selected <= labels, f"the selector of {document['metadata']['name']} does not match its pods")
            yield document["spec"]["template"]["spec"]


def check_daemon(container, mounts):
    name = container["name"]
    settings = settings_of(container["args"])
    expect_room(settings, container["resources"]["limits"]["memory"], name)
    expect(container["resources"]["limits"] == container["resources"]["requests"], f"{name}: limits are not the requests")
    expect(os.path.dirname(settings["socket"]) in mounts.values(), f"{name}: the socket's folder is no mount")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    expect(settings["prometheus_host"] == "0.0.0.0", f"{name}: a probe comes from outside, and the port is loopback's")
    probes = [probe for probe in ("startupProbe", "livenessProbe", "readinessProbe") if probe in container]
    expect({"startupProbe", "livenessProbe"} <= set(probes), f"{name} has no probe for start and life")
    ALIVE.add(tuple(container["livenessProbe"]["exec"]["command"]))
    expect(container["livenessProbe"]["timeoutSeconds"] == 5, f"{name}: the command of the livenessProbe takes up to 4 s")
    for probe in probes:
        if probe == "livenessProbe":
            continue
        get = container[probe]["httpGet"]
        expect(get["path"] == "/healthz", f"{name}: {probe} asks {get['path']}")
        expect(ports.get(get["port"]) == settings["prometheus_port"], f"{name}: {probe} asks another port")
    start = container["startupProbe"]
    expect(start["periodSeconds"] * start["failureThreshold"] >= 300, f"{name} has less than five minutes to start")
    expect(container["securityContext"]["runAsUser"] == 10001, f"{name} is not the image's user")


def check_engine(container, mounts, groups):
    name = container["name"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    expect(os.path.dirname(variables["HOSTKV_SOCKET"]) in mounts.values(), f"{name}: the socket's folder is no mount")
    expect(10001 in groups, f"{name} is not in the socket's group")


def check_manifest(documents):
    found = 0
    for pod in pods(documents):
        context = pod.get("securityContext", {})
        groups = {context.get("fsGroup"), *context.get("supplementalGroups", [])}
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod.get("initContainers", []) + pod["containers"]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            expect(mounts.keys() <= volumes, f"{container['name']} mounts a volume that is not there")
            if "args" in container:
                check_daemon(container, mounts)
            elif "env" in container:
                check_engine(container, mounts, groups)
            found += 1
    expect(found, "no container is in it")


def check_compose(documents):
    services = documents[0]["services"]
    daemon, engine = services["hostkvd"], services["engine"]
    settings = settings_of(daemon["command"])
    expect_room(settings, daemon["mem_limit"], "hostkvd")
    places = [dict(zip(("volume", "path", "mode"), volume.split(":"))) for volume in daemon["volumes"] + engine["volumes"]]
    expect({place["volume"] for place in places} <= documents[0]["volumes"].keys(), "a volume is not declared")
    expect({place["path"] for place in places} == {os.path.dirname(settings["socket"])}, "the folders differ")
    expect(engine["environment"]["HOSTKV_SOCKET"] == settings["socket"], "the engine looks elsewhere for the socket")
    expect("10001" in engine["group_add"], "the engine is not in the socket's group")
    expect(daemon["ports"] == [f"127.0.0.1:{settings['prometheus_port']}:{settings['prometheus_port']}"], "another port")
    dockerfile = ROOT / "packaging/docker" / daemon["build"]["context"] / daemon["build"]["dockerfile"]
    expect(dockerfile.resolve().is_file(), f"there is no {dockerfile}")


def check_dockerfile(text, installed):
    for sources in re.findall(r"^COPY --from=build (.*)$", text, re.M):
        for source in sources.split()[:-1]:
            path = installed / source.removeprefix("/out/")
            expect(path.is_file(), f"the installation has no {source}")
    expect('ENTRYPOINT ["/usr/bin/hostkvd"]' in text, "the image does not start hostkvd")
    toolchain = re.search(r"^FROM rust:([0-9.]+)-", text, re.M)[1]
    needed = re.search(r'^rust-version = "(.*)"', (ROOT / "Cargo.toml").read_text(encoding="utf-8"), re.M)[1]
    expect([int(n) for n in toolchain.split(".")] >= [int(n) for n in needed.split(".")], f"Rust {toolchain} is too old")
    ALIVE.add(("sh", "-c", re.search(r"^HEALTHCHECK .*CMD (.*)$", text, re.M)[1]))


def check_alive(commands):
    """The commands that ask whether a daemon is alive, at one that serves, is full, hangs, and is not there."""
    expect(len(commands) > 0, "there is none")

    def is_alive(command, socket):
        environment = {**os.environ, "PATH": f"{DAEMON.parent}:{os.environ['PATH']}", "HOSTKV_SOCKET": str(socket)}
        return subprocess.run(command, env=environment, capture_output=True, timeout=20, check=False).returncode == 0

    flags = ("--prometheus-port", "0", "--max-sessions", "1")
    with Daemon(DAEMON, 0.0625, flags) as daemon:
        for command in commands:
            expect(is_alive(command, daemon.socket), f"{command} ends a daemon that serves")
        holder = subprocess.Popen([DAEMON.with_name("hostkv"), "--socket", daemon.socket, "status", "--watch"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while daemon.metrics()["hostkv_sessions"] < 1:
                expect(time.monotonic() < deadline, "nobody takes the one session")
                time.sleep(0.05)
            for command in commands:
                expect(is_alive(command, daemon.socket), f"{command} ends a daemon whose sessions are all taken")
        finally:
            holder.kill()
            holder.wait()
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            for command in commands:
                expect(not is_alive(command, daemon.socket), f"{command} does not see that the daemon hangs")
        finally:
            daemon.process.send_signal(signal.SIGCONT)
    for command in commands:
        expect(not is_alive(command, "/nonexistent/hostkv.sock"), f"{command} does not see that there is no daemon")


def check_page(text):
    known = set(re.findall(r"--[a-z0-9-]+", subprocess.run([DAEMON, "--help"], capture_output=True, text=True, timeout=20,
                                                          check=True).stdout))
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)):
        expect(flag in known | DOCKER_FLAGS, f"the page names {flag}, which is no flag of hostkvd, docker or systemctl")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        expect((PAGE.parent / link).resolve().exists(), f"the page links to {link}, which is not there")
    for rule in ("a 64th", "128 MiB", "/healthz", "group 10001"):
        expect(rule in text, f"the page does not say {rule!r}")
    commands = re.findall(r"^docker run (?:.*\\\n)*.*hostkvd:0\.1(.*)$", text, re.M)
    expect(len(commands) > 0, "the page starts no daemon")
    for command in commands:
        settings = settings_of(command.split())
        block = next(block for block in text.split("\n\n") if command in block and "docker run" in block)
        expect_room(settings, re.search(r"--memory (\S+)", block)[1], "docker run")


def main():
    for program in (DAEMON, TARGET / "release" / "hostkv-pages"):
        if not program.exists():
            sys.exit(f"test-containers: {program} is missing; run 'make build' first")
    passed, failed = 0, 0

    def case(name, check, *arguments, part=None):
        """Passes without a complaint, or, for a planted mistake, with one that has this part."""
        nonlocal passed, failed
        try:
            check(*arguments)
            said = None
        except Wrong as wrong:
            said = str(wrong)
        is_right = said is None if part is None else said is not None and part in said
        passed, failed = passed + is_right, failed + (not is_right)
        print(f"{'ok     ' if is_right else 'FAILED '} {name}{': ' + said if said else ''}")

    manifests = ROOT / "packaging" / "kubernetes"
    for path in sorted(manifests.glob("*.yaml")):
        case(f"{path.name} fits the daemon", check_manifest, read(path))
    compose = ROOT / "packaging/docker/compose.yaml"
    case("compose.yaml fits the daemon", check_compose, read(compose))
    dockerfile = (ROOT / "packaging/docker/Dockerfile").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([ROOT / "scripts/install-files.sh", "install"], env={**os.environ, "DESTDIR": folder, "PREFIX": "/usr"},
                       check=True)
        case("the image copies what is installed", check_dockerfile, dockerfile, pathlib.Path(folder))
        case("planted: a file that is not installed", check_dockerfile, dockerfile.replace("/out/usr/bin/hostkv ", "/out/usr/bin/kv "),
             pathlib.Path(folder), part="has no /out/usr/bin/kv")
    case("what asks whether the daemon is alive can tell", check_alive, ALIVE)
    case("planted: a question that any code answers", check_alive, {("sh", "-c", "hostkv ping; true")}, part="hangs")
    case("planted: one that a full daemon does not pass", check_alive, {("hostkv", "ping")}, part="all taken")
    page = PAGE.read_text(encoding="utf-8")
    case("the page names only what exists", check_page, page)
    case("planted: a flag that is none", check_page, page + "--l1-size", part="--l1-size")

    text = (manifests / "daemonset.yaml").read_text(encoding="utf-8")
    for name, old, new, part in (
        ("a flag that is none", "--l1-size-gb", "--l1-size", "hostkvd refuses"),
        ("a pool above the limit", '"8"', '"9"', "is below"),
        ("a probe of another path", "/healthz", "/health", "asks /health"),
        ("another port", "containerPort: 9090", "containerPort: 9091", "asks another port"),
        ("metrics on loopback", "0.0.0.0", "127.0.0.1", "loopback"),
        ("another folder", "mountPath: /run/hostkv", "mountPath: /run/kv", "is no mount"),
        ("a selector of others", "matchLabels:\n      app.kubernetes.io/name: hostkvd", "matchLabels:\n      app: x", "selector"),
    ):
        assert old in text, old
        case(f"planted: {name}", check_manifest, list(yaml.safe_load_all(text.replace(old, new))), part=part)
    print(f"{passed} passed, {failed} failed")
    sys.exit(0 if failed == 0 and passed > 0 else 1)


if __name__ == "__main__":
    main()
