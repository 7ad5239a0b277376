"""A stdio server is confined for itself: it reaches neither the worker that started it nor another server."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from confinement_harness import (
    NAMESPACES,
    audit_lines,
    carry_out,
    needs_namespaces,
    report,
    supervise,
)
from engine_harness import history
from mcp_harness import SERVERS
from npm_servers import NAMES
from places import SUPPORT

from sage_actors.actors.confinement.settings import SandboxSettings
from sage_actors.actors.egress.proxy import EgressProxy
from sage_actors.actors.mcp.config import load_servers
from sage_actors.actors.trust.consents import TrustStore
from sage_actors.actors.user_config import load_user_config
from sage_actors.messages.codec import FrameReader
from sage_actors.sandbox.probe import probe
from sage_actors.supervisor.api import load
from sage_actors.supervisor.handle import Outcome
from sage_actors.supervisor.sandboxing import make_confinement

pytestmark = [
    pytest.mark.usefixtures("confined"),
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(probe().tier == "none", reason=f"this machine confines nothing: {probe().reason}"),
]
SECRET = "-".join(("of", "the", "other", "1234"))  # in one piece the scan of this repository would find it


def configure(place: Path, settings: str = "", **servers: dict[str, Any]) -> None:
    """Servers of the project that the user consented to, each obedient; and the user's [sandbox]."""
    (place / "obedient.py").write_bytes((SERVERS / "obedient.py").read_bytes())
    entries = {
        name: {"command": sys.executable, "args": ["obedient.py"], **said} for name, said in servers.items()
    }
    (place / ".mcp.json").write_text(json.dumps({"mcpServers": entries}))
    TrustStore().consent(place, [entry.trust_item() for entry in load_servers(place).values()])
    own = Path(os.environ["XDG_CONFIG_HOME"], "sage-actors")
    own.mkdir(parents=True, exist_ok=True)
    (own / "config.toml").write_text(f"[sandbox]\n{settings}\n")


def told(server: str, node: str, code: str, **policies: Any) -> dict[str, Any]:
    arguments = {"code": code}
    return {
        "id": node,
        "type": "mcp",
        "server": server,
        "tool": "run",
        "arguments": arguments,
        "on_failure": "continue",
        **policies,
    }


def found(outcome: Outcome, node: str) -> Any:
    assert node in outcome.results, outcome.errors
    value = outcome[node]
    return json.loads(value) if isinstance(value, str) else value


ENVIRONMENTS = """
import os
found = ""
for pid in os.listdir("/proc"):
    for name in ("environ", "cmdline"):
        try:
            found += open(f"/proc/{pid}/{name}", errors="replace").read() if pid.isdigit() else ""
        except OSError as error:
            found += f"[{error.errno}]"
"""
DESCRIPTORS = """
import os
found = {}
for name in os.listdir("/proc/self/fd"):
    try:
        found[name] = os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        pass
"""
SIGNALS = """
import os, signal
found = []
for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
    if pid != os.getpid():
        try:
            os.kill(pid, 0)
            found.append(pid)
        except PermissionError:
            pass
"""


def test_a_hostile_server_reaches_neither_its_worker_nor_another_server(project: Path) -> None:
    configure(project, 'hide = [".env"]', hostile={}, other={"env": {"TOKEN": SECRET}})
    (project / ".env").write_text("hidden")
    (project / "data.txt").write_text("data")
    after = {"needs": ["other"]}
    outcome = carry_out(
        project,
        told(
            "other", "other", "import os; found = [os.environ['TOKEN'], os.environ['TMPDIR'], os.getppid()]"
        ),
        told("hostile", "own", "open('mine.txt', 'w').write(open('data.txt').read())"),
        told("hostile", "protected", "open('.git/hooks/pre-commit', 'w')"),
        told("hostile", "config", "open('.mcp.json', 'a').write('x')"),
        told("hostile", "hidden", "found = open('.env').read()"),
        told("hostile", "outside", f"open({str(SUPPORT)!r} + '/planted', 'w')"),
        told("hostile", "key", "found = open(__import__('os').environ['HOME'] + '/x', 'w').write('x')"),
        told("hostile", "environments", ENVIRONMENTS, **after),
        told("hostile", "descriptors", DESCRIPTORS),
        told("hostile", "signals", SIGNALS, **after),
        told(
            "hostile", "tmp", "import os; found = os.listdir(os.path.dirname(os.environ['TMPDIR']) + '/..')"
        ),
    )
    secret, tmp, _ = found(outcome, "other")
    assert secret == SECRET
    assert found(outcome, "own") is None, outcome.errors
    assert (project / "mine.txt").read_text() == "data"
    for node in ("protected", "config", "outside", "tmp"):
        assert "Error" in str(found(outcome, node)), node
    assert found(outcome, "hidden") != "hidden"
    assert found(outcome, "key") == 1  # in a home of its own
    seen = found(outcome, "environments")
    assert "[13]" in seen
    assert SECRET not in seen
    assert set(found(outcome, "descriptors")) <= {"0", "1", "2", "3"}  # 3: the listing itself
    assert found(outcome, "signals") == []
    assert tmp.startswith("/tmp/sage-")


def test_a_server_gets_the_harmless_variables_and_those_of_its_entry(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MINE", "OF_OTHER", "OF_OPERATIONS", "OF_NOBODY"):
        monkeypatch.setenv(name, f"value-of-{name}")
    servers: dict[str, Any] = {
        "one": {"env": {"GIVEN": "${MINE}"}},
        "other": {"env": {"GIVEN": "${OF_OTHER}"}},
    }
    configure(project, 'env = ["OF_OPERATIONS"]', **servers)
    outcome = carry_out(project, told("one", "environment", "import os; found = sorted(os.environ)"))
    names = set(found(outcome, "environment"))
    assert {"GIVEN", "PATH", "HOME", "TMPDIR"} <= names
    assert names.isdisjoint({"MINE", "OF_OTHER", "OF_OPERATIONS", "OF_NOBODY", "XDG_CONFIG_HOME"})
    assert not [name for name in names if name.startswith("SAGE_")]


FETCH = """
import urllib.request
try:
    found = urllib.request.urlopen("http://127.0.0.1:{port}/", timeout=5).read().decode()
except OSError as error:
    found = f"no: {{error}}"
"""


@needs_namespaces
def test_a_server_goes_out_where_the_policy_grants_it_and_by_a_right_of_its_own(
    project: Path,
    web: int,
) -> None:
    rule = f'network = [{{host = "127.0.0.1", port = {web}, private = true}}]'
    configure(project, rule, granted={}, narrowed={"sandbox": {"network": []}})
    fetch = FETCH.format(port=web)
    token = "import os; found = os.environ.get('HTTPS_PROXY')"
    connect = "import socket; socket.create_connection(('127.0.0.1', %d), 2)"
    outcome = carry_out(
        project,
        told("granted", "granted", fetch),
        told("granted", "direct", connect % 9),
        told("narrowed", "narrowed", fetch),
        told("narrowed", "token", token),
        told("narrowed", "socket", connect % 3128),
    )
    assert found(outcome, "granted") == "hello"
    assert "Permission denied" in found(outcome, "direct")  # nothing but the proxy
    assert "no: " in found(outcome, "narrowed")
    assert found(outcome, "token") is None
    assert "not permitted" in found(outcome, "socket")
    decisions = [each for each in audit_lines(project) if each["event"] == "egress"]
    assert {each["label"] for each in decisions if each["decision"] == "allow"} == {"mcp/granted"}


@needs_namespaces
def test_a_host_that_only_operations_of_others_need_is_none_of_a_servers(
    project: Path,
    web: int,
) -> None:
    """The worker may go to the address of the remote server; the local server next to it may not."""
    configure(project, "", local={}, remote={"type": "http", "url": f"http://127.0.0.1:{web}/"})
    outcome = carry_out(project, told("local", "local", FETCH.format(port=web)))
    assert "no: " in found(outcome, "local")


def test_a_server_can_narrow_what_it_may_write_and_never_widen_it(project: Path) -> None:
    (project / "out").mkdir()
    configure(project, "", narrow={"sandbox": {"write": ["out"]}}, wide={"sandbox": {"read": ["/etc"]}})
    outcome = carry_out(
        project,
        told("narrow", "there", "open('out/x', 'w')"),
        told("narrow", "beside", "open('beside', 'w')"),
        told("wide", "wide", "found = 1"),
    )
    assert found(outcome, "there") is None
    assert "Permission" in found(outcome, "beside")
    assert (project / "out/x").exists()
    assert outcome.errors["wide"]["type"] == "UsageError"
    assert "only narrower" in outcome.errors["wide"]["message"]


def test_a_server_that_came_later_has_no_network_says_so_and_is_never_wider_than_it_asked(
    project: Path,
) -> None:
    servers: dict[str, dict[str, Any]] = {"first": {}, "later": {}, "narrow": {"sandbox": {"write": []}}}
    configure(project, 'network = ["example.com:443"]', **servers)
    entries = project / ".mcp.json"
    whole = json.loads(entries.read_text())["mcpServers"]
    file = project / "flow.json"
    with supervise(project) as supervisor:

        def asked(run_id: str, *names: str) -> Outcome:
            entries.write_text(json.dumps({"mcpServers": {name: whole[name] for name in names}}))
            nodes = [told(name, name, "import os; found = 'HTTPS_PROXY' in os.environ") for name in names]
            file.write_text(json.dumps({"name": "flow", "nodes": nodes}))
            return supervisor.run(load(file), run_id=run_id, timeout=60)

        assert found(asked("before", "first"), "first") is True
        outcome = asked("after", *servers)
        assert (found(outcome, "first"), found(outcome, "later")) == (True, False)
        assert "can be heeded in a later run only" in str(outcome.errors["narrow"])
    said = "".join(text for *_, text in history(project, "after").logs("later"))
    assert "it has no network and none of your variables" in said


def test_a_server_that_its_user_trusts_shares_the_sandbox_of_its_worker(project: Path) -> None:
    configure(project, 'trusted = ["mcp:friend"]', friend={}, stranger={})
    shared = "import os; found = [os.environ['HOME'], open('/proc/%d/environ' % os.getppid()).read() != '']"
    outcome = carry_out(project, told("friend", "friend", shared), told("stranger", "stranger", shared))
    assert found(outcome, "friend") == [os.path.expanduser("~"), True]
    assert "Permission denied" in found(outcome, "stranger")


def test_with_landlock_alone_a_server_is_apart_as_well_and_has_no_network(
    project: Path,
    web: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sage_actors.sandbox.probe.probe", lambda: report("landlock", "namespaces"))
    rule = f'network = [{{host = "127.0.0.1", port = {web}, private = true}}]'
    configure(project, rule, hostile={}, other={"env": {"TOKEN": SECRET}})
    outcome = carry_out(
        project,
        told("other", "other", "found = 1"),
        told("hostile", "environments", ENVIRONMENTS, needs=["other"]),
        told("hostile", "fetch", FETCH.format(port=web)),
        told("hostile", "own", "import os; open(os.environ['TMPDIR'] + '/x', 'w'); found = 1"),
        told("hostile", "protected", "open('.sage/state/x', 'w')"),
    )
    assert SECRET not in found(outcome, "environments")
    assert "[13]" in found(outcome, "environments")
    assert "no: " in found(outcome, "fetch")
    assert found(outcome, "own") == 1
    assert "Error" in found(outcome, "protected")
    assert not list(Path("/tmp").glob("sage-tmp-*/sage-server-*"))


def test_a_program_that_is_missing_is_said_at_once(project: Path) -> None:
    configure(project, "", gone={"command": "no-such-program"})
    outcome = carry_out(project, told("gone", "gone", ""))
    error = outcome.errors["gone"]
    assert error["type"] == "ServerStartFailed"
    assert "No such file" in error["message"]
    assert not NAMESPACES or error["retryable"] is False


@needs_namespaces
@pytest.mark.slow
def test_servers_that_nobody_here_wrote_work_confined(
    project: Path,
    installed: Path,
) -> None:
    (project / "shown").mkdir()
    (project / "shown/a.txt").write_text("content")
    commands = {name: str(installed / f"mcp-server-{name}") for name in NAMES}
    configure(
        project,
        "",
        everything={"command": commands["everything"], "args": []},
        filesystem={"command": commands["filesystem"], "args": ["shown"]},
        memory={
            "command": commands["memory"],
            "args": [],
            "env": {"MEMORY_FILE_PATH": str(project / "graph")},
        },
    )

    def call(server: str, tool: str, **arguments: Any) -> dict[str, Any]:
        return {"id": server, "type": "mcp", "server": server, "tool": tool, "arguments": arguments}

    entity = {"name": "sage", "entityType": "herb", "observations": ["green"]}
    outcome = carry_out(
        project,
        call("everything", "echo", message="hello"),
        call("filesystem", "read_text_file", path=str(project / "shown/a.txt")),
        call("memory", "create_entities", entities=[entity]),
    )
    assert outcome.errors == {}
    assert "hello" in str(outcome["everything"])
    assert "content" in str(outcome["filesystem"])
    assert "green" in (project / "graph").read_text()


def test_the_right_of_a_server_ends_with_the_worker_that_could_start_it(project: Path) -> None:
    configure(project, 'network = ["example.com:443"]', one={}, two={}, narrowed={"sandbox": {"network": []}})
    opened: list[EgressProxy] = []

    def make_proxy() -> EgressProxy:
        opened.append(EgressProxy(lambda decision: None))
        return opened[0]

    confinement = make_confinement(
        project, SandboxSettings(), user=load_user_config(), environ=os.environ, make_proxy=make_proxy
    )
    words = confinement.first_words("mcp")
    ((_, said),) = FrameReader().feed(words.data)
    tokens = [each["environ"].get("HTTPS_PROXY", "").partition(":")[2] for each in said["servers"].values()]
    tokens = [each.partition("@")[0].removeprefix("//sage:") for each in tokens if each]
    assert len(set(tokens)) == 2  # of the two that may go out; neither is the worker's
    assert words.token not in tokens
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        confinement.knocked(listener.dup())

        def answers() -> list[int]:
            return [answer_to(address, each) for each in tokens]

        assert 407 not in answers()
        confinement.released(words.token)
        assert answers() == [407, 407]
    confinement.close()


def answer_to(address: tuple[str, int], token: str) -> int:
    """The status with which the proxy answers whoever asks for a host that nobody granted."""
    right = base64.b64encode(f"sage:{token}".encode()).decode()
    with socket.create_connection(address, 5) as sock:
        head = f"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test\r\nProxy-Authorization: Basic {right}"
        sock.sendall(f"{head}\r\n\r\n".encode())
        return int(sock.recv(64).split()[1])
