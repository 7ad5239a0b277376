"""Secrets through whole runs: absent from `.sage`, events, errors and what the command line prints."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import operations_secrets as ops
import pytest
from cli_harness import CommandLine
from engine_harness import history, journal_bytes, lines, make_supervisor, wait_until
from secret_samples import Draw, sample

from sage_actors import Workflow
from sage_actors.messages.errors import DefinitionError, SecretInStateError, UsageError
from sage_actors.supervisor.definitions.loading import load_dict
from sage_actors.supervisor.stored_values import read_secret

pytestmark = pytest.mark.requirement("ORCH-016")
TOKEN = Draw(41).word(32)


def everything(project: Path, run_id: str) -> str:
    """All that the journal holds, opened, and the bytes of every file under `.sage`."""
    records = "".join(map(repr, history(project, run_id).records()))
    files = b"".join(path.read_bytes() for path in sorted((project / ".sage").rglob("*")) if path.is_file())
    return records + files.decode("latin-1")


def forms(secret: str) -> list[str]:
    raw = secret.encode()
    return [
        secret,
        raw.hex(),
        base64.b64encode(raw).decode().rstrip("="),
        base64.b64encode(b"user:" + raw).decode()[8:-4],
    ]


def assert_absent(secret: str, told: str) -> None:
    assert [form for form in forms(secret) if form in told] == []


def run(project: Path, flow: Workflow, **options: Any) -> tuple[Any, str]:
    """The outcome, and all events as text."""
    environ = {"PATH": "/usr/bin:/bin", "TOKEN": TOKEN} | options.pop("environ", {})
    with make_supervisor(project, environ=environ, **options) as supervisor:
        handle = supervisor.start(flow, run_id="r")
        told = "".join(map(repr, handle.events()))
        return handle.result(60), told


def test_what_an_operation_says_of_a_secret_is_redacted_wherever_it_says_it(tmp_path: Path) -> None:
    flow = Workflow("leaks")
    flow.add(ops.leak, id="leak", secret="${env.TOKEN}")
    flow.add(ops.leak_async, id="later", secret="${env.TOKEN}")
    flow.add(ops.fail_with, id="fails", secret="Bearer ${env.TOKEN}", on_failure="continue")
    flow.add(
        "shell",
        id="shell",
        command=["sh", "-c", "echo it is $T; echo it is $T >&2"],
        env={"T": "${env.TOKEN}"},
    )
    outcome, told = run(tmp_path, flow)
    assert outcome.status == "succeeded", outcome.reason
    assert outcome["leak"]["plain"] == "[redacted:env.TOKEN]"
    assert outcome["leak"]["list"] == ["Bearer [redacted:env.TOKEN]"]
    assert outcome["shell"]["stdout"] == "it is [redacted:env.TOKEN]\n"
    assert "refused: Bearer [redacted:env.TOKEN]" in outcome.errors["fails"]["message"]
    assert "[redacted:env.TOKEN]" in outcome.errors["fails"]["traceback"]
    assert "raw [redacted:env.TOKEN]" in told
    assert "working with [redacted:env.TOKEN]" in told
    assert "'redacted': [['env.TOKEN', '$.plain']" in told
    audited = [json.loads(line) for line in (tmp_path / ".sage" / "audit.jsonl").read_text().splitlines()]
    noted = [each for entry in audited for each in entry.get("changes", ()) if each["event"] == "redacted"]
    assert {node for each in noted for node in each["nodes"]} == {"leak", "later", "fails", "shell"}
    assert all(each["rules"].keys() == {"env.TOKEN"} for each in noted)
    assert_absent(
        TOKEN, told + repr(dict(outcome.results)) + repr(outcome.errors) + everything(tmp_path, "r")
    )


def test_a_secret_variable_of_a_worker_is_known_though_nobody_refers_to_it(tmp_path: Path) -> None:
    flow = Workflow("variables")
    flow.add(
        "shell", id="fails", command="echo $DB_PASSWORD; echo $DB_PASSWORD >&2; exit 3", on_failure="continue"
    )
    flow.add("shell", id="prints", command="echo $DB_PASSWORD; echo $DB_USER")
    environ = {"SAGE_SANDBOX": "off", "DB_PASSWORD": TOKEN, "DB_USER": "somebody"}
    outcome, told = run(tmp_path, flow, environ=environ)
    assert outcome["prints"]["stdout"] == "[redacted:env.DB_PASSWORD]\nsomebody\n"
    assert_absent(TOKEN, told + everything(tmp_path, "r"))


def test_a_secret_at_the_place_where_an_error_is_cut_leaves_no_half(tmp_path: Path) -> None:
    flow = Workflow("leaks")
    flow.add(ops.fail_far_with, id="fails", secret="${env.TOKEN}", before=10_000 - 20)
    outcome, _ = run(tmp_path, flow)
    assert TOKEN[:8] not in repr(outcome.errors) + everything(tmp_path, "r")


def test_who_was_not_told_of_a_secret_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"token={TOKEN}")
    flow = Workflow("leaks")
    first = flow.add(ops.digest_of, id="first", token="${env.TOKEN}")
    flow.add(ops.read, id="second", path=str(tmp_path / "file"), after=[first])
    outcome, told = run(tmp_path, flow, workers=2)
    assert outcome["second"] == "token=[redacted:env.TOKEN]"
    assert_absent(TOKEN, told + everything(tmp_path, "r"))


def test_last_words_of_a_worker_are_redacted(tmp_path: Path) -> None:
    flow = Workflow("leaks")
    flow.add(ops.die_with, id="dies", secret="${env.TOKEN}", max_crashes=1)
    outcome, told = run(tmp_path, flow)
    assert outcome.status == "failed"
    assert_absent(TOKEN, told + outcome.reason + repr(outcome.errors) + everything(tmp_path, "r"))


def test_a_token_that_nobody_knew_is_redacted_by_its_form(tmp_path: Path) -> None:
    text, secret = sample("github-token", 9)
    flow = Workflow("leaks")
    made = flow.add(ops.invent, id="made", value=f"{text[:3]}|{text[3:]}")
    flow.add(ops.digest_of, id="used", token=made)
    outcome, told = run(tmp_path, flow)
    assert outcome["made"] == "[redacted:github-token]"
    assert_absent(secret, told + everything(tmp_path, "r"))


def test_a_result_with_a_secret_fails_its_node_where_the_user_wants_that(
    tmp_path: Path, private_home: Path
) -> None:
    config = private_home / "config" / "sage-actors" / "config.toml"
    config.parent.mkdir(mode=0o700, exist_ok=True)
    config.write_text('[secrets]\non_output = "reject"\n')
    text, secret = sample("github-token", 9)
    flow = Workflow("leaks")
    flow.add(ops.invent, id="made", value=f"{text[:3]}|{text[3:]}", retry=3)
    environ = {"XDG_CONFIG_HOME": str(private_home / "config")}
    outcome, told = run(tmp_path, flow, environ=environ)
    assert outcome.errors["made"]["type"] == "SecretInStateError"
    assert "the result of node 'made'" in outcome.errors["made"]["message"]
    assert told.count("node_failed") == 1  # trying again does not help
    assert_absent(secret, told + everything(tmp_path, "r"))


def test_a_model_with_secrets_is_never_saved_as_asterisks(tmp_path: Path) -> None:
    flow = Workflow("models")
    flow.add(ops.model, id="model")
    outcome, told = run(tmp_path, flow)
    assert outcome.errors["model"]["type"] == "ResultError"
    assert "value['password'] is a secret (pydantic.types.SecretStr)" in outcome.errors["model"]["message"]
    assert "***" not in told + everything(tmp_path, "r")
    assert "tr0ub4dor" not in told + everything(tmp_path, "r")


# ---------------------------------------------------------------------- secret outputs


def minting(project: Path) -> Workflow:
    """`mint` makes a secret; `one` and then `two` use it; `two` waits for the gate."""
    flow = Workflow("minting")
    token = flow.add(ops.mint, id="mint", path=str(project / "minted"), secret_outputs=True)
    one = flow.add(ops.say_token, id="one", token="${mint | token}", after=[token])
    flow.add(
        ops.digest_and_wait,
        id="two",
        token="${mint | token}",
        path=str(project / "began"),
        gate=str(project / "gate"),
        after=[one],
    )
    return flow


def test_a_secret_output_reaches_its_dependents_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    outcome, told = run(tmp_path, minting(tmp_path))
    assert outcome.status == "succeeded", outcome.reason
    assert outcome["mint"] == "[secret output]"
    assert outcome["one"] == "used [redacted:mint]"
    assert len(outcome["two"]) == 64
    assert "minted-" not in told + everything(tmp_path, "r")
    assert lines(tmp_path / "minted") == 1


def test_a_resume_makes_a_secret_output_again_for_who_still_needs_it(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(minting(tmp_path), run_id="r")
        wait_until(lambda: (tmp_path / "began").exists())
        supervisor.abort()
        assert handle.result(30).status == "paused"
    assert lines(tmp_path / "minted") == 1
    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.resume("r")
        started = [event.node for event in handle.events() if event.event == "node_started"]
        outcome = handle.result(30)
    assert outcome.status == "succeeded", outcome.reason
    assert started == ["mint", "two"]  # and not `one`, which is done
    assert lines(tmp_path / "minted") == 2
    assert b"minted-" not in journal_bytes(tmp_path, "r")


def test_a_resume_leaves_a_secret_output_alone_that_nobody_needs(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    flow = minting(tmp_path)
    flow.add(ops.fail_with, id="fails", secret="x", after=["two"])
    run(tmp_path, flow)
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.resume("r")
        started = [event.node for event in handle.events() if event.event == "node_started"]
    assert started == ["fails"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"effect": "once"}, "cannot be combined with effect: once"),
        ({"cache": True}, "cannot be combined with cache"),
        ({"digest": {"top": 3}}, "cannot be combined with digest"),
        ({"foreach": [1, 2]}, "cannot be combined with foreach"),
    ],
)
def test_a_secret_output_is_refused_where_it_would_be_written(extra: dict[str, Any], message: str) -> None:
    node = {"id": "a", "type": "python", "call": "m:f", "secret_outputs": True}
    with pytest.raises(DefinitionError, match=message):
        load_dict({"name": "w", "nodes": [node | extra]})


@pytest.mark.parametrize(
    "user",
    [
        {"type": "python", "call": "m:f", "foreach": "${a}"},
        {"type": "python", "call": "m:f", "fallback": "${a}"},
        {"type": "approval", "message": "${a}"},
        {"type": "wait", "seconds": "${a}"},
    ],
)
def test_nothing_that_the_engine_writes_down_may_refer_to_a_secret_output(user: dict[str, Any]) -> None:
    nodes = [{"id": "a", "type": "python", "call": "m:f", "secret_outputs": True}, {"id": "b", **user}]
    with pytest.raises(DefinitionError, match="the output of 'a' is secret"):
        load_dict({"name": "w", "nodes": nodes})


@pytest.mark.parametrize("reference", ["${env.TOKEN}", "${keyring.db/app}"])
def test_secrets_are_refused_in_what_the_engine_writes_down(reference: str) -> None:
    inner = {"name": "i", "inputs": {"x": {}}, "nodes": [{"id": "n", "type": "python", "call": "m:f"}]}
    nodes: list[dict[str, Any]] = [
        {"id": "a", "type": "approval", "message": f"use {reference}?"},
        {"id": "b", "type": "workflow", "definition": inner, "inputs": {"x": reference}},
    ]
    with pytest.raises(DefinitionError) as refused:
        load_dict({"name": "w", "nodes": nodes})
    assert [problem.place for problem in refused.value.problems] == ["nodes[0].message", "nodes[1].inputs.x"]


@pytest.mark.parametrize("name", ["state-key", "sage-actors/state-key"])
def test_the_key_in_the_keychain_is_no_secret_that_an_operation_may_ask_for(name: str) -> None:
    with pytest.raises(UsageError, match="which no operation gets"):
        read_secret("keyring", name)


def test_a_sub_workflow_keeps_its_secret_output_to_itself(tmp_path: Path) -> None:
    nodes = [
        {"id": "mint", "type": "python", "call": "operations_secrets:mint", "secret_outputs": True}
        | {"arguments": {"path": str(tmp_path / "minted")}},
        {"id": "say", "type": "python", "call": "operations_secrets:say_token"}
        | {"arguments": {"token": "${mint | token}"}},
    ]
    outer = [
        {"id": "inner", "type": "workflow", "definition": {"name": "i", "nodes": nodes}},
        {"id": "after", "type": "python", "call": "operations_engine:echo"}
        | {"arguments": {"value": "${inner}"}},
    ]
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(load_dict({"name": "o", "nodes": outer}, base=tmp_path), run_id="r")
    assert outcome.status == "succeeded", outcome.reason
    assert outcome["after"] == {"say": "used [redacted:inner/mint]"}
    assert "minted-" not in everything(tmp_path, "r")


# ---------------------------------------------------------------------- literals


def test_a_literal_secret_in_a_definition_is_refused_with_its_place() -> None:
    text, secret = sample("stripe-key", 2)
    nodes = [
        {"id": "a", "type": "python", "call": "m:f", "arguments": {"key": text}},
        {"id": "b", "type": "http", "url": "https://example.org", "headers": {"X": text}},
        {"id": "c", "type": "shell", "command": ["x"], "env": {"DB_PASSWORD": "tr0ub4dor&3"}},
    ]
    with pytest.raises(SecretInStateError) as refused:
        load_dict({"name": "w", "nodes": nodes})
    assert {each.place for each in refused.value.problems} == {
        "nodes[0].arguments.key",
        "nodes[1].headers.X",
        "nodes[2].env.DB_PASSWORD",
    }
    assert secret not in str(refused.value)
    assert "tr0ub4dor" not in str(refused.value)


def test_a_literal_secret_starts_nothing_and_writes_nothing(tmp_path: Path) -> None:
    text, secret = sample("stripe-key", 2)
    flow = Workflow("literal", inputs={"topic": "x"})
    flow.add(ops.digest_of, id="a", token="${inputs.topic}")
    with make_supervisor(tmp_path) as supervisor:
        with pytest.raises(SecretInStateError, match=r"inputs\.topic") as refused:
            supervisor.start(flow, inputs={"topic": text})
        flow.add(ops.digest_of, id="b", token=text)
        with pytest.raises(SecretInStateError, match=r"b\.arguments\.token"):
            supervisor.start(flow)
    assert secret not in str(refused.value)
    assert not list((tmp_path / ".sage").rglob("journal-*"))


def test_a_person_cannot_write_a_secret_down_either(tmp_path: Path) -> None:
    text, _ = sample("stripe-key", 2)
    flow = Workflow("asks")
    flow.add("approval", id="ask", message="go on?")
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(flow, run_id="r")
        wait_until(lambda: handle.status().waiting)
        with pytest.raises(SecretInStateError, match="the given data"):
            handle.approve("ask", data={"key": text})
        handle.approve("ask", data={"key": "fine"})
        assert handle.result(30).status == "succeeded"


# ---------------------------------------------------------------------- the command line


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    line = CommandLine(tmp_path)
    yield line
    line.close()


def test_the_command_line_shows_no_secret_and_validates_against_them(sage: CommandLine) -> None:
    nodes = [
        {"id": "a", "type": "shell", "command": ["sh", "-c", "echo it is $T"], "env": {"T": "${env.TOKEN}"}}
    ]
    (sage.project / "w.json").write_text(json.dumps({"name": "w", "nodes": nodes}))
    done = sage("run", "w.json", "--run-id", "r", environ={"TOKEN": TOKEN})
    told = done.stdout + done.stderr
    for command in (["show", "r", "a"], ["logs", "r"], ["status", "r"], ["show", "r", "a", "--json"]):
        shown = sage(*command, code=None)
        told += shown.stdout + shown.stderr
    assert "[redacted:env.TOKEN]" in told
    files = b"".join(path.read_bytes() for path in (sage.project / ".sage").rglob("*") if path.is_file())
    assert_absent(TOKEN, told + files.decode("latin-1"))
    text, secret = sample("stripe-key", 2)
    nodes[0]["env"] = {"T": text}
    (sage.project / "w.json").write_text(json.dumps({"name": "w", "nodes": nodes}, indent=1))
    refused = sage("validate", "w.json", code=2)
    assert "nodes[0].env.T: holds a secret itself (stripe-key)" in refused.stdout + refused.stderr
    assert secret not in refused.stdout + refused.stderr
