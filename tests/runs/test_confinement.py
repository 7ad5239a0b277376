"""Whole runs, confined: what operations cannot do, what they still can, and what is said about it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import operations_confined as ops
import psutil
import pytest
from confinement_harness import (
    NAMESPACES,
    audit_lines,
    carry_out,
    marked,
    needs_namespaces,
    python,
    report,
    shell,
    supervise,
)
from engine_harness import wait_until
from places import SUPPORT

from sage_actors.actors.confinement.plan import resolve_tier
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.messages.errors import DefinitionError, SandboxUnavailable, UsageError
from sage_actors.sandbox import landlock
from sage_actors.sandbox.probe import probe
from sage_actors.supervisor.api import load
from sage_actors.supervisor.definitions.workflow import Workflow

pytestmark = [
    pytest.mark.usefixtures("confined"),
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(probe().tier == "none", reason=f"this machine confines nothing: {probe().reason}"),
]


# ---------------------------------------------------------------------- files


def test_operations_of_every_kind_stay_inside_the_project(project: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("the secret")
    outcome = carry_out(
        project,
        python("reads", "read", path=str(outside / "secret")),
        python("alone", "read", {"limits": {"processes": 50}}, path=str(outside / "secret")),
        python("etc", "read", path="/etc/shadow"),
        python("system", "write", path="/usr/lib/planted"),
        python("waits", "write_async", path="/usr/lib/planted-too"),
        shell("cat", f"cat {outside}/secret; cat /etc/shadow; echo planted > {outside}/planted"),
        python("inside", "write", path="docs/inside.txt")
        if NAMESPACES
        else python("inside", "value", number=1),
    )
    failed = {node: error["type"] for node, error in outcome.errors.items()}
    assert failed.keys() == {"reads", "alone", "etc", "system", "waits"}
    # a file in the private /tmp that is not there is an ordinary missing file
    assert set(failed.values()) <= {"SandboxViolation", "FileNotFoundError"}
    assert (failed["etc"], failed["system"], failed["waits"]) == ("SandboxViolation",) * 3
    assert 'add read = ["' in outcome.errors["etc"]["message"]
    assert outcome["cat"]["stdout"] == ""
    assert sorted(outside.iterdir()) == [outside / "secret"]


@pytest.mark.parametrize(
    "path",
    [".sage/state/planted", ".sage/config.toml", ".git/hooks/pre-commit", ".git/config", ".mcp.json", ".claude/x",
     ".venv/bin/python", ".sage/templates/x.json"],
)  # fmt: skip
def test_what_others_execute_is_never_written(project: Path, path: str) -> None:
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "pyvenv.cfg").touch()
    before = (project / ".git" / "config").read_bytes()
    outcome = carry_out(project, python("plant", "write", path=path), shell("shell", f"echo x > {path}"))
    assert outcome.errors["plant"]["type"] in ("SandboxViolation", "FileExistsError", "IsADirectoryError")
    assert outcome["shell"]["exit_code"] != 0
    assert (project / ".git" / "config").read_bytes() == before
    assert path == ".git/config" or not (project / path).exists()


@needs_namespaces
def test_an_operation_sees_no_state_and_so_can_hold_no_lock_of_it(project: Path) -> None:
    script = "flock -n .sage/state/locks/.audit.lock true || find .sage/state"
    outcome = carry_out(project, shell("look", script))
    assert outcome["look"]["stdout"].split() == [".sage/state"]
    assert (project / ".sage/state/locks/.audit.lock").exists()


@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
def test_an_agent_writes_its_worktree_and_not_the_checkout(
    project: Path, tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text("[core]\n\tabbrev = 9\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if tier == "landlock":
        monkeypatch.setattr("sage_actors.sandbox.probe.probe", lambda: report("landlock"))
    elif not NAMESPACES:
        pytest.skip("needs namespaces")
    (project / "app.py").write_text("x = 1\n")
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    for words in (["init", "-q"], ["add", "app.py"], [*identity, "commit", "-q", "-m", "First"]):
        subprocess.run(["git", "-C", str(project), *words], check=True)
    script = f"echo x >> {project}/app.py; echo x > {project}/planted; cat {project}/app.py; echo 'y = 2' >> app.py"
    agent = {
        "id": "agent",
        "type": "agent",
        "prompt": "Add y.",
        "command": ["sh", "-c", f"cat > /dev/null; {script}"],
    }
    outcome = carry_out(project, agent)
    assert not outcome.errors
    assert (project / "app.py").read_text() == "x = 1\n"
    assert not (project / "planted").exists()
    assert outcome["agent"]["text"] == "x = 1"  # it may read all
    assert [each["path"] for each in outcome["agent"]["files"]] == ["app.py"]


def test_moving_the_parent_away_does_not_help(project: Path) -> None:
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    outcome = carry_out(
        project, shell("shell", "mv .git moved && mkdir -p .git/hooks && echo x > .git/hooks/pre-commit")
    )
    assert outcome["shell"]["exit_code"] != 0
    assert not (project / "moved").exists()
    assert not (project / ".git" / "hooks" / "pre-commit").exists()


@needs_namespaces
def test_nothing_is_left_in_the_project_that_was_not_written(project: Path) -> None:
    carry_out(project, shell("shell", "touch made; echo x > /tmp/private"))
    assert {each.name for each in project.iterdir()} == {"flow.json", "made", ".sage"}
    assert {each.name for each in (project / ".sage").iterdir()} <= {
        "state",
        ".gitignore",
        "audit.jsonl",
        "audit",
    }
    assert not Path("/tmp/private").exists()


def test_paths_that_the_caller_names_may_be_read(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "text").write_text("shown")
    flow = {
        "name": "flow",
        "inputs": {"path": {}},
        "nodes": [
            {"id": "n", "type": "shell", "command": ["cat", "${inputs.path}/text"]},
            {
                "id": "w",
                "type": "shell",
                "command": "touch ${inputs.path}/made",
                "check": False,
                "needs": ["n"],
            },
        ],
    }
    (project / "flow.json").write_text(json.dumps(flow))
    with supervise(project, reads=[other]) as supervisor:
        run = supervisor.run(load(project / "flow.json"), run_id="r", inputs={"path": str(other)}, timeout=60)
    assert run["n"]["stdout"] == "shown"
    assert run["w"]["exit_code"] != 0


# ---------------------------------------------------------------------- variables


def test_variables_of_the_user_are_not_those_of_operations(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("CLOUD_TOKEN", "GRANTED_VARIABLE", "SAGE_STATE_KEY_OLD", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, f"value-of-{name}")
    settings = tmp_path / "configuration" / "sage-actors"
    settings.mkdir(parents=True)
    (settings / "config.toml").write_text('[sandbox]\nenv = ["GRANTED_VARIABLE"]\n')
    outcome = carry_out(
        project,
        python("environment", "environment"),
        python("first", "first_environment"),
        shell("shell", "env; cat /proc/self/environ; cat /proc/1/environ; cat /proc/*/environ"),
    )
    seen = json.dumps(dict(outcome.results))
    assert "value-of-GRANTED_VARIABLE" in seen
    for name in ("CLOUD_TOKEN", "SAGE_STATE_KEY_OLD", "ANTHROPIC_API_KEY"):
        assert f"value-of-{name}" not in seen


# ---------------------------------------------------------------------- network


@needs_namespaces
def test_only_approved_hosts_are_reached_by_any_program(project: Path, web: int) -> None:
    outcome = carry_out(
        project,
        {"id": "literal", "type": "http", "url": f"http://127.0.0.1:{web}/"},
        python("direct", "connect", port=web),
        python("library", "fetch", url=f"http://127.0.0.1:{web}/"),
        python("own", "serve_itself"),
        shell(
            "curl", f"curl -sS -m 5 https://example.com/; curl -sS -m 5 --noproxy '*' http://127.0.0.1:{web}/"
        ),
    )
    assert outcome["literal"]["body"] == "hello"
    assert outcome["own"] == "hello"
    assert outcome.errors.keys() == {"direct", "library"}
    assert "hello" not in outcome["curl"]["stdout"]
    decisions = {
        (each["decision"], each.get("host")) for each in audit_lines(project) if each["event"] == "egress"
    }
    assert {("allow", "127.0.0.1"), ("deny", "example.com")} <= decisions


@needs_namespaces
@pytest.mark.parametrize("grants", [True, False])
def test_an_address_that_an_input_spells_out_is_granted_by_who_gives_it(
    project: Path, web: int, grants: bool
) -> None:
    nodes = [
        {"id": "made", "type": "python", "call": "operations_confined:value", "arguments": {"number": web}},
        {"id": "given", "type": "http", "url": "${inputs.base}/x", "on_failure": "continue"},
        {"id": "literal", "type": "http", "url": f"http://127.0.0.1:{web}/${{made}}"},
        {"id": "result", "type": "http", "url": "http://127.0.0.1:${made}/", "on_failure": "continue"},
    ]
    flow = {"name": "flow", "inputs": {"base": {}}, "nodes": nodes}
    (project / "flow.json").write_text(json.dumps(flow))
    with supervise(project, grants_inputs=grants) as supervisor:
        base = f"http://127.0.0.1:{web}"
        run = supervisor.run(load(project / "flow.json"), run_id="r", inputs={"base": base}, timeout=60)
    refused = {node: error["type"] for node, error in run.errors.items()}
    assert refused == dict.fromkeys({"result"} if grants else {"given", "result"}, "SandboxViolation")
    assert run["literal"]["body"] == "hello"


@needs_namespaces
def test_a_refused_host_is_a_line_of_the_nodes_log_with_what_would_grant_it(project: Path) -> None:
    (project / "flow.json").write_text(
        json.dumps(
            {"name": "flow", "nodes": [shell("curl", "curl -sS -m 5 https://example.com/; sleep 0.3")]}
        )
    )
    with supervise(project) as supervisor:
        run = supervisor.start(load(project / "flow.json"), run_id="r")
        texts = [each.data["text"] for each in run.events() if each.event == "node_log"]
    assert any("sandbox: example.com:443 is refused" in text for text in texts)


@needs_namespaces
def test_a_granted_host_is_reached_by_all_and_narrowed_by_one(
    project: Path, web: int, tmp_path: Path
) -> None:
    settings = tmp_path / "configuration" / "sage-actors"
    settings.mkdir(parents=True)
    (settings / "config.toml").write_text(
        f'[sandbox]\nnetwork = [{{host = "127.0.0.1", port = {web}, private = true}}]\n'
    )
    outcome = carry_out(
        project,
        python("library", "fetch", url=f"http://127.0.0.1:{web}/"),
        shell("curl", f"curl -sS -m 5 http://127.0.0.1:{web}/"),
        shell("narrowed", f"curl -sS -m 5 http://127.0.0.1:{web}/", sandbox={"network": []}),
    )
    assert (outcome["library"], outcome["curl"]["stdout"]) == ("hello", "hello")
    assert outcome["narrowed"]["stdout"] == ""


# ---------------------------------------------------------------------- narrower, never wider


@needs_namespaces
def test_an_operation_can_narrow_what_it_may_write(project: Path) -> None:
    (project / "out").mkdir()
    own = {"sandbox": {"write": ["out"]}}
    outcome = carry_out(
        project,
        python("there", "write", own, path="out/x"),
        python("beside", "write", own, path="beside"),
    )
    assert (project / "out" / "x").exists()
    assert outcome.errors["beside"]["type"] == "SandboxViolation"
    assert not (project / "beside").exists()


@pytest.mark.parametrize(
    "own",
    [{"read": ["/etc"]}, {"write": ["/usr"]}, {"network": ["example.com:443"]}, {"reed": []}, "trusted"],
)
def test_no_operation_can_widen_it(project: Path, own: Any) -> None:
    with pytest.raises(DefinitionError, match="wider"):
        carry_out(project, python("wider", "write", {"sandbox": own}, path="made"))
    assert not (project / "made").exists()


def test_what_the_user_trusts_is_not_confined_and_others_still_are(project: Path, tmp_path: Path) -> None:
    settings = tmp_path / "configuration" / "sage-actors"
    settings.mkdir(parents=True)
    (settings / "config.toml").write_text('[sandbox]\ntrusted = ["operations_confined:write"]\n')
    outcome = carry_out(
        project,
        python("free", "write", {"sandbox": "trusted"}, path=str(tmp_path / "free")),
        python("confined", "write", path="/usr/lib/confined"),
    )
    assert (tmp_path / "free").read_text() == "written"
    assert [each["node"] for each in audit_lines(project) if each["event"] == "trusted"] == ["free"]
    assert outcome.errors["confined"]["type"] == "SandboxViolation"


def test_what_a_repository_widens_counts_after_consent_only(project: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data").write_text("data")
    (project / ".sage").mkdir()
    (project / ".sage" / "config.toml").write_text(f'[sandbox]\nread = ["{outside}"]\nhide = ["hidden"]\n')
    (project / "hidden").write_text("hidden")
    outcome = carry_out(
        project,
        python("reads", "read", path=str(outside / "data")),
        python("hidden", "read", path="hidden"),
    )
    assert "data" not in str(dict(outcome.results))
    assert "hidden" not in str(dict(outcome.results).get("hidden"))


# ---------------------------------------------------------------------- nothing survives


@needs_namespaces
@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
@pytest.mark.parametrize("victim", ["supervisor", "keeper", "worker", "supervisor and keeper"])
def test_nothing_survives_a_kill(project: Path, victim: str, tier: str) -> None:
    """A daemon that a shared worker started, and one of a worker of one task. Without a scope of signals nobody finds
    the first if supervisor and keeper die at once: only what has a process namespace is promised then."""
    if landlock.abi() < 6 and (tier == "landlock" or victim == "supervisor and keeper"):
        pytest.skip("Landlock has no scopes here")
    marks = [f"mark-{os.getpid()}-{victim}-{kind}" for kind in ("shared", "alone")]
    nodes = [
        python("shared", "linger", mark=marks[0], started=str(project / "one")),
        python(
            "alone", "linger", {"limits": {"processes": 100}}, mark=marks[1], started=str(project / "two")
        ),
    ]
    (project / "flow.json").write_text(json.dumps({"name": "flow", "nodes": nodes}))
    (project / "one").touch()  # with Landlock alone nothing new can be made beside them
    (project / "two").touch()
    code = (
        "from sage_actors import Supervisor, load\n"
        "import sage_actors.sandbox.probe as probe\n"
        f"probe.probe = lambda: probe.Report({tier!r}, (), ())\n"
        f"with Supervisor('.', search_paths=[{str(SUPPORT)!r}], durability='none') as supervisor:\n"
        "    supervisor.run(load('flow.json'))\n"
    )
    (project / "carry_out.py").write_text(
        f"if __name__ == '__main__':\n    {code.replace(chr(10), chr(10) + '    ')}"
    )
    process = subprocess.Popen([sys.executable, "carry_out.py"], cwd=project, stderr=subprocess.DEVNULL)
    theirs = {project / each for each in (".git", ".mcp.json", ".claude", ".agents")}
    try:
        wait_until(lambda: all((project / each).read_text() for each in ("one", "two")))
        if tier == "namespaces":
            assert theirs <= set(project.iterdir())  # kept by placeholders, while it runs
        keeper = psutil.Process(process.pid).children()[0]
        if victim == "worker":
            for worker in keeper.children():
                worker.kill()
        if "supervisor" in victim:
            os.kill(process.pid, signal.SIGSTOP)
        if "keeper" in victim:
            keeper.kill()
        if "supervisor" in victim:
            os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not marked(marks[1]), what="the daemon of a worker of one task", timeout_s=5)
        wait_until(lambda: not marked(marks[0]), what="the daemon of a shared worker", timeout_s=5)
        if "supervisor" in victim:  # the keeper takes them along, or who guards it
            wait_until(lambda: theirs.isdisjoint(project.iterdir()), what="the placeholders", timeout_s=5)
    finally:
        process.kill()
        process.wait()
        for mark in marks:
            for left in marked(mark):
                left.kill()


def test_a_killed_supervisor_leaves_no_temporary_folder(project: Path) -> None:
    """In the tier without a root of its own that lies in the machine's /tmp: the keeper takes it along."""
    if probe().tier == "none":
        pytest.skip("nothing confines here")
    (project / "carry_out.py").write_text(
        "import sage_actors.sandbox.probe as probe\n"
        "from sage_actors import Supervisor, Workflow\n"
        "if __name__ == '__main__':\n"
        "    probe.probe = lambda: probe.Report('landlock', (), ('a gap',))\n"
        "    flow = Workflow('flow')\n"
        "    flow.add('shell', id='a', command='echo $TMPDIR > docs/specs/said; sleep 600')\n"
        "    with Supervisor('.', durability='none') as supervisor:\n"
        "        supervisor.run(flow)\n"
    )
    said = project / "docs" / "specs" / "said"  # in the top folder nothing new can be made
    process = subprocess.Popen([sys.executable, "carry_out.py"], cwd=project)
    try:
        wait_until(lambda: said.exists() and said.read_text().endswith("\n"))
        folder = Path(said.read_text().strip())
        assert folder.is_dir()
        assert folder.name.startswith("sage-tmp-")
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not folder.exists(), timeout_s=5)


@needs_namespaces
def test_a_daemon_does_not_outlive_its_operation(project: Path) -> None:
    mark = f"mark-{os.getpid()}-ended"
    outcome = carry_out(project, python("alone", "leave_a_daemon", {"limits": {"processes": 100}}, mark=mark))
    assert outcome["alone"] == mark
    assert not marked(mark)


@needs_namespaces
@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGABRT])
def test_an_operation_in_a_process_of_its_own_can_kill_it(project: Path, which: signal.Signals) -> None:
    """The first process of a process namespace could not: signals of its own pass it by."""
    policies = {"limits": {"processes": 100}}
    outcome = carry_out(project, python("alone", "kill_itself", policies, number=int(which)))
    error = outcome.errors["alone"]
    assert error["type"] == "PoisonedError"
    assert f"signal {int(which)}" in error["message"]


# ---------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("function", "limits", "arguments", "kind"),
    [
        ("take_memory", {"memory": "100MB"}, {"megabytes": 60, "children": 4}, "memory"),
        ("large", {"result": "1MB"}, {"megabytes": 4}, "result"),
        pytest.param("fill_temporary", {"tmp": "4MB"}, {"megabytes": 16}, "tmp", marks=needs_namespaces),
    ],
)
def test_a_limit_ends_that_node_alone(
    project: Path, function: str, limits: dict[str, Any], arguments: dict[str, Any], kind: str
) -> None:
    outcome = carry_out(
        project,
        python("greedy", function, {"limits": limits}, **arguments),
        *(python(f"n{i}", "value", number=i) for i in range(3)),
    )
    assert [outcome[f"n{i}"] for i in range(3)] == [0, 1, 2]
    error = outcome.errors["greedy"]
    assert error["type"] == "LimitExceeded"
    assert error["details"]["kind"] == kind or error["details"].get("limit", {}).get("kind") == kind


# ---------------------------------------------------------------------- tiers and modes


def test_without_a_tier_nothing_runs_unless_the_user_says_so() -> None:
    none = report("none", "unshare", "landlock")
    with pytest.raises(SandboxUnavailable, match=r"unshare: EPERM.*degrade") as refused:
        resolve_tier("enforce", "landlock", none)
    assert refused.value.exit_code == 2
    with pytest.raises(SandboxUnavailable):
        resolve_tier("enforce", "namespaces", report("landlock", "unshare"))
    assert resolve_tier("enforce", "landlock", report("landlock", "unshare"))[0] == "landlock"
    assert resolve_tier("degrade", "namespaces", none) == ("none", ("a gap",))
    assert resolve_tier("off", "namespaces", none)[0] == "none"


def test_a_machine_that_confines_nothing_runs_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_actors.sandbox.probe.probe", lambda: report("none", "platform"))
    with pytest.raises(SandboxUnavailable):
        supervise(project)
    with supervise(project, sandbox="degrade") as supervisor:
        flow = Workflow("flow")
        flow.add(ops.value, number=1)
        run = supervisor.start(flow, run_id="r")
        assert any("not confined here: a gap" in notice for notice in run.notices)


def test_degraded_each_result_says_what_did_not_confine_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sage_actors.supervisor.cli.main import main

    monkeypatch.setattr("sage_actors.sandbox.probe.probe", lambda: report("none", "namespaces", "landlock"))
    missing = {"tier": "none", "gaps": ["a gap"]}
    flow = Workflow("flow")
    first = flow.add(ops.value, number=1)
    flow.add(ops.value, id="second", number=2, after=[first])
    with supervise(project, sandbox="degrade", keys=None) as supervisor:
        run = supervisor.start(flow, run_id="r")
        said = {
            each.node: each.data.get("sandbox") for each in run.events() if each.event == "node_succeeded"
        }
        assert run.result(30)["second"] == 2
    assert said == {"value": missing, "second": missing}

    def printed(*command: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*command, "--project", str(project)])
        assert ended.value.code == 0
        return capsys.readouterr().out

    status, show = (json.loads(printed(command, "r", "--json")) for command in ("status", "show"))
    history = map(json.loads, printed("history", "r", "--json").splitlines())
    assert [each["sandbox"] for each in status["nodes"]] == [missing, missing]
    assert show["sandbox"] == {"second": missing}
    done = [row for each in history if each["record"] == "nodes_succeeded" for row in each["nodes"]]
    assert [row["usage"]["sandbox"] for row in done] == [missing, missing]
    with pytest.raises(SystemExit):
        main(["show", "r", "second", "--project", str(project)])
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("2\n", "second was not confined: a gap\n")


def test_degraded_each_failure_says_so_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_actors.sandbox.probe.probe", lambda: report("none", "namespaces", "landlock"))
    flow = Workflow("flow")
    flow.add("shell", id="fails", command="exit 3", retry=2)
    inner = Workflow("inner")
    inner.add("shell", id="fails", command="exit 3")
    flow.add("workflow", id="sub", definition=inner.to_dict(), fallback=None)
    with supervise(project, sandbox="degrade") as supervisor:
        run = supervisor.start(flow, run_id="r")
        failures = [each for each in run.events() if each.event == "node_failed"]
        assert run.result(30).status == "failed"
    assert sorted(str(each.node) for each in failures) == ["fails", "fails", "sub", "sub/fails"]
    assert [each.data["sandbox"] for each in failures] == [{"tier": "none", "gaps": ["a gap"]}] * 4


def test_a_result_says_nothing_of_gaps_that_its_user_was_not_promised_away(project: Path) -> None:
    for mode in ("enforce", "off"):
        flow = Workflow("flow")
        flow.add(ops.value, number=1)
        with supervise(project, sandbox=mode) as supervisor:
            run = supervisor.start(flow, run_id=mode)
            assert not [each for each in run.events() if "sandbox" in each.data and each.node]


def test_with_landlock_alone_files_are_kept_and_there_is_no_network(
    project: Path, monkeypatch: pytest.MonkeyPatch, web: int, tmp_path: Path
) -> None:
    monkeypatch.setattr("sage_actors.sandbox.probe.probe", lambda: report("landlock", "namespaces"))
    (project / "out").mkdir()
    outcome = carry_out(
        project,
        python("inside", "write", path="out/x"),
        python("temporary", "fill_temporary", megabytes=1),
        python("outside", "write", path=str(tmp_path / "planted")),
        python("state", "write", path=".sage/state/planted"),
        python("network", "connect", port=web),
        {"id": "http", "type": "http", "url": f"http://127.0.0.1:{web}/"},
        shell("shell", f"echo x > out/y; curl -sS -m 5 http://127.0.0.1:{web}/"),
    )
    assert outcome.errors.keys() == {"outside", "state", "network"}
    assert outcome["http"]["body"] == "hello"
    assert (project / "out" / "x").exists()
    assert (project / "out" / "y").exists()
    assert "hello" not in outcome["shell"]["stdout"]
    assert not list(Path("/tmp").glob("sage-tmp-*/fill"))


def test_every_run_says_how_it_is_confined(project: Path) -> None:
    flow = Workflow("flow")
    flow.add(ops.value, number=1)
    with supervise(project) as supervisor:
        events = list(supervisor.start(flow, run_id="r").events())
    said = events[0].data["sandbox"]
    assert (said["mode"], said["tier"]) == ("enforce", probe().tier)
    assert said["gaps"] == list(probe().gaps)
    records = [each["sandbox"] for each in audit_lines(project) if "sandbox" in each]
    records += [
        change["sandbox"]
        for each in audit_lines(project)
        for change in each.get("changes", ())
        if "sandbox" in change
    ]
    assert records
    assert records[0]["tier"] == probe().tier


def test_switched_off_it_says_so(project: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("read")
    flow = Workflow("flow")
    flow.add(ops.read, path=str(tmp_path / "outside"))
    with supervise(project, sandbox="off") as supervisor:
        run = supervisor.start(flow, run_id="r")
        events = list(run.events())
        assert run.result(30)["read"] == "read"
    assert events[0].data["sandbox"]["tier"] == "none"
    with pytest.raises(UsageError, match="mode"):
        supervise(project, sandbox="none")


def test_the_state_stays_readable_for_its_owner_alone(project: Path) -> None:
    carry_out(project, shell("shell", "cat .sage/state/r/* | wc -c"))
    directory = StateDirectory(project).run_dir("r")
    assert all(each.stat().st_mode & 0o077 == 0 for each in directory.iterdir())


def test_supervisors_leave_no_descriptor_and_no_folder_behind(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ran, and in the tier without a root one that never did."""
    flow = Workflow("flow")
    flow.add(ops.value, number=1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with supervise(project, durability="none") as supervisor:
            supervisor.run(flow, timeout=60)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
    monkeypatch.setattr("sage_actors.sandbox.probe.probe", lambda: report("landlock", "namespaces"))
    kept = set(Path("/tmp").glob("sage-tmp-*"))
    supervise(project).close()
    assert set(Path("/tmp").glob("sage-tmp-*")) <= kept
    assert not list(project.iterdir())
