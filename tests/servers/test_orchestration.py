"""The orchestration server's tools, resources and prompt, with a real client and real worker processes."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_harness import CommandLine, wait_until
from mcp import MCPError
from orchestration_harness import (
    Answer,
    Talk,
    in_process,
    lines,
    operation,
    phases,
    trusted_template,
    write_template,
)
from secret_samples import sample

from sage_actors.messages.errors import RunLockedError
from sage_actors.servers.orchestration.models import Options
from sage_actors.servers.orchestration.server import INSTRUCTIONS, Orchestration, create_orchestration_server
from sage_actors.supervisor.control.client import ControlClient

TWO_PHASES = phases(
    [operation("one", "echo once >> ran-one; echo hello"), operation("two", "true")],
    [operation("three", "echo once >> ran-three; echo ${inputs.topic}")],
)
ENDLESS = phases([operation("one", "echo once >> ran-one; exec sleep 60")])


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Orchestration]:
    made = Orchestration(tmp_path)
    yield made
    made.runs.close()


def talk(core: Orchestration, say: Any) -> Any:
    return in_process(create_orchestration_server(core.project, core), say)


@pytest.mark.requirement("ORCH-013")
def test_a_run_is_begun_followed_and_read_to_its_end(core: Orchestration) -> None:
    trusted_template(core.project, "two", TWO_PHASES)

    async def say(client: Talk) -> None:
        handle = await client.call("execute", feature="Rate limits", template="two")
        assert (handle["success"], handle["workflowId"]) == (True, "two-rate-limits")
        end = await client.end_of("Rate limits")
        assert (end["status"], end["template"], end["phase"]) == ("completed", "two", "p2")
        assert end["progress"] == {"completed": 3, "total": 3, "percentage": 100}
        assert end["results"]["outputs"]["p2/three"]["stdout"] == "Rate limits\n"
        assert [phase["status"] for phase in end["results"]["phases"]] == ["completed", "completed"]
        assert end["metrics"]["seconds"] > 0
        run = handle["workflowId"]
        assert f"workflow://{run}/artifacts/p1/one" in end["results"]["artifacts"]
        assert (await client.call("status", feature=run))["feature"] == "Rate limits"

    talk(core, say)


def test_a_run_that_another_process_is_just_admitting_is_waited_for(
    core: Orchestration, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted_template(core.project, "two", TWO_PHASES)
    core.execute("Another", "two", Options(), {})  # makes the key
    other = Orchestration(core.project)

    def locked(*_: object) -> list[str]:
        begin = threading.Timer(0.2, other.execute, ("Rate limits", "two", Options(), {}))
        begin.start()
        raise RunLockedError("another process carries it out")

    monkeypatch.setattr(core.runs, "start", locked)
    try:
        answer = core.execute("Rate limits", "two", Options(), {})
    finally:
        other.runs.close()
    assert (answer.success, answer.workflow_id) == (True, "two-rate-limits")
    assert "running already" in str(answer.message)


def test_the_progress_of_a_run_that_stopped_early_is_what_a_resume_keeps(core: Orchestration) -> None:
    early = phases(
        [operation("a", "true"), operation("b", "exit 3")], [operation("c", "true")], [operation("d", "true")]
    )
    trusted_template(core.project, "early", early)

    async def say(client: Talk) -> None:
        end = await client.call("execute", feature="x", template="early", wait=True)
        assert end["status"] == "failed"
        status = await client.call("status", feature="x")
        assert status["progress"] == {"completed": 1, "total": 4, "percentage": 25}
        assert [each["completed"] for each in end["results"]["phases"]] == [1, 0, 0]

    talk(core, say)


def test_metrics_tell_of_digests_and_of_servers(core: Orchestration) -> None:
    asked = {
        "id": "asked",
        "type": "mcp",
        "server": "sage-research",
        "tool": "research_stats",
        "arguments": {},
    }
    long = operation("long", "seq 1 3000", digest={"max_bytes": 400})
    trusted_template(core.project, "measured", phases([asked, long], [operation("last", "true")]))

    async def say(client: Talk) -> None:
        end = await client.call("execute", feature="x", template="measured", wait=True)
        metrics = end["results"]["metrics"]
        digests = metrics["digests"]
        assert digests["rawBytes"] > 10_000 > 1_000 > digests["keptBytes"]
        assert digests["rawTokens"] > digests["keptTokens"] > 0
        assert digests["tokenizer"]
        assert (metrics["serverStarts"], metrics["contextReloads"]) == ({"sage-research": 1}, 0)
        status = await client.call("status", feature="x")
        assert status["metrics"] == metrics

    talk(core, say)


def test_the_same_feature_again_is_the_same_run(core: Orchestration) -> None:
    trusted_template(core.project, "two", TWO_PHASES)
    trusted_template(core.project, "endless", ENDLESS)

    async def say(client: Talk) -> None:
        first = await client.call("execute", feature="x", template="two", wait=True)
        again = await client.call("execute", feature="x", template="two")
        assert first["status"] == again["status"] == "completed"
        assert again["results"]["outputs"] == first["results"]["outputs"]
        assert lines(core.project / "ran-one") == 1
        await client.call("execute", feature="y", template="endless")
        running = await client.call("execute", feature="y", template="endless")
        assert (running["success"], running["status"]) == (True, "running")
        assert "already" in running["message"]
        await client.call("cancel", feature="y")

    talk(core, say)


@pytest.mark.requirement("ORCH-017")
def test_a_failed_run_tells_where_and_goes_on_from_there(core: Orchestration) -> None:
    flow = phases(
        [operation("one", "echo once >> ran-one")],
        [operation("two", "test -e mended", retry={"max_attempts": 1})],
    )
    trusted_template(core.project, "flow", flow)

    async def say(client: Talk) -> None:
        failed = await client.call("execute", feature="x", template="flow", wait=True)
        assert (failed["success"], failed["status"], failed.is_error) == (False, "failed", False)
        assert (failed.code, failed["errors"][0]["node"]) == ("OPERATION_ERROR", "p2/two")
        (core.project / "mended").touch()
        resumed = await client.call("resume", feature="x")
        assert resumed["resumedFrom"] == "p2"
        assert (await client.end_of("x"))["status"] == "completed"
        assert lines(core.project / "ran-one") == 1

    talk(core, say)


def test_who_waits_is_told_how_much_of_all_has_ended(core: Orchestration) -> None:
    steps = [[operation(name, f"sleep 0.4; : {name}")] for name in ("one", "two", "three")]
    trusted_template(core.project, "steps", phases(*steps))
    told: list[tuple[float, float | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total))

    async def say(client: Talk) -> None:
        arguments = {"feature": "x", "template": "steps", "wait": True}
        await client.client.call_tool("sage_workflow_execute", arguments, progress_callback=note)

    talk(core, say)
    assert told
    assert sorted(told) == told
    assert {total for _, total in told} == {3.0}


@pytest.mark.requirement("ORCH-017")
def test_from_a_phase_a_new_run_repeats_that_phase_and_what_follows(core: Orchestration) -> None:
    flow = phases(
        [operation("zero", "echo once >> ran-zero")],
        [operation("one", "echo once >> ran-one"), operation("two", "echo once >> ran-two")],
        [operation("three", "echo once >> ran-three")],
    )
    trusted_template(core.project, "flow", flow)

    async def say(client: Talk) -> None:
        first = await client.call("execute", feature="x", template="flow", wait=True)
        answer = await client.call("resume", feature="x", fromPhase="p2")
        assert (answer["resumedFrom"], answer["workflowId"]) == ("p2", f"{first['workflowId']}-from-p2")
        assert (await client.end_of(answer["workflowId"]))["status"] == "completed"
        ran = {name: lines(core.project / f"ran-{name}") for name in ("zero", "one", "two", "three")}
        assert ran == {"zero": 1, "one": 2, "two": 2, "three": 2}
        known = [row["workflowId"] for row in (await client.call("list"))["workflows"]]
        assert known == [answer["workflowId"], first["workflowId"]]
        unknown = await client.call("resume", feature=first["workflowId"], fromPhase="p9")
        assert (unknown.is_error, unknown.code) == (True, "INVALID_PHASE")

    talk(core, say)


def test_no_phase_is_begun_again_while_a_run_of_the_same_work_goes_on(core: Orchestration) -> None:
    flow = phases(
        [operation("one", "true")], [operation("two", "echo once >> ran-two; test -e end || sleep 60")]
    )
    trusted_template(core.project, "flow", flow)

    async def say(client: Talk) -> None:
        async def again(feature: str) -> Answer:
            return await client.call("resume", feature=feature, fromPhase="p2")

        first = (await client.call("execute", feature="x", template="flow"))["workflowId"]
        refused = await again("x")
        assert (refused.is_error, refused.code) == (True, "RUN_LOCKED")
        assert "sage_workflow_cancel" in refused["errors"][0]["message"]
        await client.call("cancel", feature=first)
        answers = await asyncio.gather(again(first), again(first))
        begun = [each["workflowId"] for each in answers if each["success"]]
        assert begun == [f"{first}-from-p2"]
        assert (await again(first)).code == "RUN_LOCKED"
        other = await client.call("execute", feature="y", template="flow")
        await client.call("cancel", feature=begun[0])
        (core.project / "end").touch()
        third = await again(first)
        assert third["workflowId"] == f"{first}-from-p2-2"
        assert (await client.end_of(third["workflowId"]))["status"] == "completed"
        await client.call("cancel", feature=other["workflowId"])

    talk(core, say)


def test_options_are_obeyed(core: Orchestration) -> None:
    both = [operation(name, f"echo + >> log; sleep 0.2; echo - >> log; : {name}") for name in "ab"]
    trusted_template(core.project, "both", phases(both))
    trusted_template(core.project, "endless", ENDLESS)

    async def say(client: Talk) -> None:
        done = await client.call(
            "execute", feature="x", template="both", wait=True, options={"parallel": False, "caching": False}
        )
        assert done["status"] == "completed"
        assert (core.project / "log").read_text().split() == ["+", "-", "+", "-"]
        late = await client.call(
            "execute", feature="x", template="endless", wait=True, options={"timeout": 300}
        )
        assert (late["success"], late.code) == (False, "TIMEOUT_EXCEEDED")

    talk(core, say)


@pytest.mark.requirement("ORCH-023")
def test_what_a_project_brings_runs_only_with_consent_to_its_present_content(core: Orchestration) -> None:
    path = write_template(core.project, "evil", phases([operation("one", "touch owned")]))

    async def say(client: Talk) -> None:
        refused = await client.call("execute", feature="x", template="evil")
        assert (refused.is_error, refused["success"], refused.code) == (True, False, "CONSENT_REQUIRED")
        assert "touch owned" in refused["errors"][0]["message"]
        assert "sage-actors mcp trust evil" in refused["errors"][0]["message"]
        trusted_template(core.project, "evil", phases([operation("one", "true")]))
        assert (await client.call("execute", feature="x", template="evil", wait=True))["success"]
        path.write_text(path.read_text().replace('"true"', '"touch owned"'))
        assert (await client.call("execute", feature="y", template="evil")).code == "CONSENT_REQUIRED"
        assert not (core.project / "owned").exists()

    talk(core, say)


def test_every_refusal_is_a_result_with_a_code(core: Orchestration) -> None:
    trusted_template(core.project, "flow", phases([operation("one", "true")]))
    write_template(
        core.project, "cycle", {"nodes": [operation("a", "x", needs=["b"]), operation("b", "x", needs=["a"])]}
    )
    (core.project / "outside.json").write_text("{}")

    async def say(client: Talk) -> None:
        async def code(tool: str, **arguments: Any) -> str:
            answer = await client.call(tool, **arguments)
            assert answer.is_error
            assert answer["success"] is False
            assert "Traceback" not in json.dumps(answer.map)
            return answer.code

        assert await code("execute", feature="x", template="flo") == "WORKFLOW_VALIDATION_ERROR"
        assert await code("execute", feature="x", template="outside.json") == "WORKFLOW_VALIDATION_ERROR"
        assert await code("execute", feature="x", template="../../etc/passwd") == "WORKFLOW_VALIDATION_ERROR"
        assert await code("execute", feature="x", template="cycle") == "CYCLE_DETECTED"
        assert (
            await code("execute", feature="x", template="flow", inputs={"y": 1})
            == "WORKFLOW_VALIDATION_ERROR"
        )
        assert await code("status", feature="x") == "WORKFLOW_NOT_FOUND"
        assert await code("status", feature="../x", wait_seconds=1) == "WORKFLOW_NOT_FOUND"
        assert await code("resume", feature="x") == "NO_CHECKPOINT_FOUND"
        assert await code("cancel", feature="x") == "WORKFLOW_NOT_FOUND"
        await client.call("execute", feature="x", template="flow", wait=True)
        assert await code("cancel", feature="x") == "WORKFLOW_NOT_RUNNING"

    talk(core, say)


def test_a_place_that_cannot_be_written_to_is_a_result_too(core: Orchestration) -> None:
    trusted_template(core.project, "flow", phases([operation("one", "true")]))
    (core.project / ".sage" / "state").write_text("in the way")

    async def say(client: Talk) -> None:
        assert (await client.call("execute", feature="x", template="flow")).code == "FILESYSTEM_ERROR"
        assert (await client.call("list"))["workflows"] == []

    talk(core, say)


@pytest.mark.requirement("ORCH-021")
def test_twelve_workflows_go_on_at_once(core: Orchestration) -> None:
    """Each waits for all others to have begun, so that they end only if none waits for another's end."""
    together = "touch here-${inputs.topic}; while [ $(ls here-* | wc -l) -lt 12 ]; do sleep 0.05; done"
    trusted_template(core.project, "many", phases([operation("one", together)]))
    core.runs.workers = 12

    async def say(client: Talk) -> None:
        calls = (client.call("execute", feature=str(n), template="many", wait=True) for n in range(12))
        assert {answer["status"] for answer in await asyncio.gather(*calls)} == {"completed"}

    talk(core, say)


def test_arguments_are_checked_before_anything_runs(core: Orchestration) -> None:
    async def say(client: Talk) -> None:
        for arguments, field in (
            ({}, "feature"),
            ({"feature": ""}, "feature"),
            ({"feature": "  "}, "feature"),
            ({"feature": "x", "options": {"timeout": -1}}, "options.timeout"),
        ):
            for tool in (
                ("execute", "status", "resume", "cancel") if "options" not in arguments else ("execute",)
            ):
                result: Any = await client.client.call_tool(f"sage_workflow_{tool}", arguments)
                assert result.is_error
                assert result.structured_content["success"] is False
                (error,) = result.structured_content["errors"]
                assert (error["code"], error["field"]) == ("WORKFLOW_VALIDATION_ERROR", field)
                assert "pydantic" not in result.content[0].text
        listed: Any = await client.client.call_tool("sage_workflow_list", {"limit": 0})
        assert (listed.structured_content["success"], listed.structured_content["workflows"]) == (False, [])
        mistaken: list[tuple[str, dict[str, Any], str]] = [
            ("resume", {"feature": "x", "from_phase": "p1"}, "did you mean 'fromPhase'?"),
            ("status", {"feature": "x", "waitSeconds": 5}, "did you mean 'wait_seconds'?"),
            ("list", {"state": "running"}, "there are filter, limit"),
            ("execute", {"topic": "x"}, "feature: is missing"),
            ("execute", {"feature": "x", "options": {"fast": True}}, "options.fast: there is no such field"),
        ]
        for tool, given, said in mistaken:
            unknown: Any = await client.client.call_tool(f"sage_workflow_{tool}", given)
            assert unknown.is_error
            assert said in " ".join(each["message"] for each in unknown.structured_content["errors"])
        assert not core.book.run_ids()
        verdict: Any = await client.client.call_tool("sage_workflow_validate", {"template": 5})
        assert not verdict.is_error
        assert verdict.structured_content["valid"] is False
        (issue,) = verdict.structured_content["errors"]
        assert issue["field"] == "template"
        assert issue["message"].endswith("not 5")

    talk(core, say)


def test_what_a_definition_names_and_is_not_there_is_told(core: Orchestration) -> None:
    nodes = [{"id": "a", "type": "mcp", "server": "sage-reserch", "tool": "x"}, {"id": "b", **_SKILL}]
    trusted_template(core.project, "flow", phases([operation("one", "true")]))
    write_template(core.project, "absent", {"nodes": nodes})

    async def say(client: Talk) -> None:
        for named in ("absent", {"name": "absent", "nodes": nodes}):
            answer = await client.call("validate", template=named)
            assert not answer["valid"]
            assert [each["field"] for each in answer["errors"]] == ["nodes[0].server", "nodes[1].skill"]
        assert (await client.call("validate", template="flow"))["valid"]
        begun = await client.call("execute", feature="x", template="absent")
        assert begun.code == "WORKFLOW_VALIDATION_ERROR"

    talk(core, say)


_SKILL = {"type": "skill", "skill": "nothere"}


def test_damaged_state_is_named_and_hides_no_other_run(core: Orchestration) -> None:
    trusted_template(core.project, "flow", phases([operation("one", "true")]))

    async def say(client: Talk) -> None:
        bad = await client.call("execute", feature="bad", template="flow", wait=True)
        await client.call("execute", feature="good", template="flow", wait=True)
        (journal, *_) = sorted((core.project / ".sage/state" / bad["workflowId"]).glob("journal-*"))
        data = bytearray(journal.read_bytes())
        data[len(data) // 2] ^= 0xFF
        journal.write_bytes(data)
        assert (await client.call("status", feature="bad")).code == "STATE_CORRUPTED"
        assert (await client.call("resume", feature="bad")).code == "STATE_CORRUPTED"
        rows = {row["feature"]: row["status"] for row in (await client.call("list"))["workflows"]}
        assert rows == {"good": "completed", bad["workflowId"]: "unreadable"}

    talk(core, say)


def test_a_run_is_cancelled_kept_and_put_away(core: Orchestration) -> None:
    trusted_template(core.project, "endless", ENDLESS)

    async def say(client: Talk) -> None:
        begun = await client.call("execute", feature="x", template="endless")
        wait_until(lambda: lines(core.project / "ran-one"))
        answer = await client.call("cancel", feature="x")
        assert (answer["success"], answer["checkpointSaved"]) == (True, True)
        status = await client.call("status", feature="x")
        assert status["status"] == "cancelled"
        assert {phase["status"] for phase in status["results"]["phases"]} <= {
            "completed",
            "paused",
            "pending",
        }
        assert [row["feature"] for row in (await client.call("list", filter="cancelled"))["workflows"]] == [
            "x"
        ]
        assert not (await client.call("list", filter="running"))["workflows"]
        await client.call("resume", feature="x")
        away = await client.call("cancel", feature=begun["workflowId"], saveCheckpoint=False)
        assert (away["success"], away["checkpointSaved"]) == (True, False)
        assert (await client.call("status", feature="x")).code == "WORKFLOW_NOT_FOUND"
        assert len(list((core.project / ".sage/state/archive").iterdir())) == 1

    talk(core, say)


def test_a_wait_ends_with_the_news_since_the_last_answer_or_at_its_time(core: Orchestration) -> None:
    trusted_template(
        core.project,
        "gate",
        phases(
            [operation("one", "while [ ! -e go ]; do sleep 0.02; done")],
            [operation("b", "echo yes >> moved; exec sleep 60")],
        ),
    )

    async def say(client: Talk) -> None:
        await client.call("execute", feature="x", template="gate")
        still = await client.call("status", feature="x", wait_seconds=0.3)
        assert (still["status"], still["phase"], still["running"]) == ("running", "p1", ["p1/one"])
        (core.project / "go").touch()
        wait_until(lambda: lines(core.project / "moved"))  # before the wait begins
        moved = await client.call("status", feature="x", wait_seconds=60)
        assert (moved["status"], moved["phase"], moved["progress"]["percentage"]) == ("running", "p2", 50)
        await client.call("cancel", feature="x")

    talk(core, say)


def test_a_person_is_waited_for_by_name(core: Orchestration) -> None:
    ask = {"id": "ask", "type": "approval"}
    trusted_template(core.project, "asking", phases([operation("one", "true"), ask]))

    async def say(client: Talk) -> None:
        begun = await client.call("execute", feature="x", template="asking")
        status = await client.end_of("x")
        assert (status["status"], status["waiting"]) == ("paused", {"p1/ask": "approval"})
        assert f"sage-actors approve {begun['workflowId']} p1/ask" in status["message"]
        ControlClient(core.project, begun["workflowId"]).request("approve", node="p1/ask", by="me")
        assert (await client.end_of("x"))["status"] == "completed"

    talk(core, say)


@pytest.mark.parametrize("topic", ["größe des caches", "テスト", "a/b: c?", "x" * 2000, "résumé\n"])
def test_a_topic_in_any_script_finds_its_run(core: Orchestration, topic: str) -> None:
    trusted_template(core.project, "flow", phases([operation("one", "true")]))

    async def say(client: Talk) -> None:
        done = await client.call("execute", feature=topic, template="flow", wait=True)
        assert (done["status"], done["feature"]) == ("completed", topic)
        assert (await client.call("status", feature=topic))["workflowId"] == done["workflowId"]

    talk(core, say)


def test_a_topic_of_two_templates_means_the_run_last_written_to(core: Orchestration) -> None:
    for name in ("one", "two"):
        trusted_template(core.project, name, phases([operation("a", "true")]))

    async def say(client: Talk) -> None:
        for template in ("one", "two"):
            await client.call("execute", feature="x", template=template, wait=True)
        assert (await client.call("status", feature="x"))["template"] == "two"
        await client.call("execute", feature="x y", template="one", wait=True)
        assert (await client.call("status", feature="x"))["workflowId"] == "two-x"

    talk(core, say)


def test_a_definition_is_judged_with_all_its_problems(core: Orchestration) -> None:
    write_template(core.project, "mine", TWO_PHASES)

    async def say(client: Talk) -> None:
        nodes = [operation("a", "x", needs=["b"]), operation("b", "x", needs=["a"])]
        cyclic = await client.call("validate", template={"name": "x", "nodes": nodes})
        assert (cyclic.is_error, cyclic["valid"]) == (False, False)
        assert cyclic["errors"][0]["code"] == "CYCLE_DETECTED"
        secret = sample("github-token", 1)[0]
        nodes += [operation("c", "x", needs=["nobody"]), operation("d", f"echo {secret}")]
        many = await client.call("validate", template={"name": "x", "nodes": nodes})
        assert {each["field"]: each["code"] for each in many["errors"]} == {
            "nodes[0]": "CYCLE_DETECTED",
            "nodes[2].needs[0]": "WORKFLOW_VALIDATION_ERROR",
            "nodes[3].command": "SECRET_IN_STATE",
        }
        empty = await client.call("validate", template={})
        assert empty["errors"][0]["severity"] == "error"
        good = await client.call("validate", template={"name": "x", **TWO_PHASES})
        assert (good["valid"], good["graph"]) == (True, {"nodes": 3, "edges": 2, "depth": 2})
        assert (await client.call("validate", template="mine"))["valid"]
        unknown = await client.call("validate", template="nope" * 10_000)
        assert (unknown.is_error, unknown["valid"]) == (False, False)
        assert "there are: bugfix, enhancement, feature, mine" in unknown["errors"][0]["message"]
        assert len(unknown["errors"][0]["message"]) < 500

    talk(core, say)


def test_state_log_and_artifacts_are_resources(core: Orchestration, tmp_path_factory: Any) -> None:
    secret = tmp_path_factory.mktemp("outside") / "secret"
    secret.write_text("secret")
    (core.project / "leak").symlink_to(secret)
    (core.project / "ops.py").write_text(
        "def write():\n    open('spec.md', 'w').write('# Spec')\n    return {'path': 'spec.md'}\n"
        "def leak():\n    return {'path': 'leak'}\n"
    )
    python = [{"id": name, "type": "python", "call": f"ops:{name}"} for name in ("write", "leak")]
    trusted_template(core.project, "flow", phases([operation("one", "echo hello"), *python]))

    async def say(client: Talk) -> None:
        done = await client.call("execute", feature="big topic", template="flow", wait=True)
        run = done["workflowId"]
        assert sorted(done["results"]["files"]) == ["leak", "spec.md"]
        state = json.loads(await client.text("workflow://big%20topic/state"))
        assert (state["status"], {each["id"] for each in state["operations"]}) == (
            "completed",
            {"p1/one", "p1/write", "p1/leak"},
        )
        assert "p1/one stdout: hello" in await client.text(f"workflow://{run}/log")
        assert json.loads(await client.text(f"workflow://{run}/artifacts/p1/one"))["stdout"] == "hello\n"
        assert await client.text(f"workflow://{run}/artifacts/spec.md") == "# Spec"
        for name in ("leak", "secret", "../spec.md", "%2e%2e/spec.md", "nope"):
            with pytest.raises(MCPError):
                await client.text(f"workflow://{run}/artifacts/{name}")
        with pytest.raises(MCPError, match="no run"):
            await client.text("workflow://nothing/state")
        listed = {each.uri for each in (await client.client.list_resources()).resources}
        assert {f"workflow://{run}/state", f"workflow://{run}/log"} <= listed

    talk(core, say)


def test_clients_are_told_enough_and_not_too_much(core: Orchestration) -> None:
    async def say(client: Talk) -> None:
        assert client.client.instructions == INSTRUCTIONS
        assert len(INSTRUCTIONS.encode()) < 2048
        tools = {tool.name: tool for tool in (await client.client.list_tools()).tools}
        names = {
            f"sage_workflow_{name}" for name in ("execute", "resume", "list", "status", "cancel", "validate")
        }
        assert set(tools) == names
        for tool in tools.values():
            assert tool.description
            assert len(tool.description.encode()) < 2048
            assert tool.output_schema
            assert tool.annotations
        status, cancel = tools["sage_workflow_status"].annotations, tools["sage_workflow_cancel"].annotations
        assert status is not None
        assert status.read_only_hint
        assert cancel is not None
        assert cancel.destructive_hint
        prompt: Any = await client.client.get_prompt("sage_workflow", {"feature": "x", "template": "bugfix"})
        assert "`bugfix` for: x" in prompt.messages[0].content.text
        with pytest.raises(MCPError, match="the prompt 'sage_workflow' needs feature"):
            await client.client.get_prompt("sage_workflow", {})
        with pytest.raises(MCPError, match="there is no prompt 'nope'; there are sage_workflow"):
            await client.client.get_prompt("nope", {})
        with pytest.raises(MCPError, match="has no argument 'topic'; there are feature, template"):
            await client.client.get_prompt("sage_workflow", {"feature": "x", "topic": "y"})

    talk(core, say)


def test_a_run_of_another_process_is_seen_and_cancelled(tmp_path: Path) -> None:
    sage = CommandLine(tmp_path)
    core = Orchestration(sage.project)
    sage.environ |= {name: os.environ[name] for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")}
    sage.flow(operation("one", "echo once >> ran-one; exec sleep 60"))
    process = sage.start("run", "flow.json", "--run-id", "theirs")
    try:
        wait_until(lambda: sage.count("ran-one"))

        async def say(client: Talk) -> None:
            status = await client.call("status", feature="theirs")
            assert (status["status"], status["running"]) == ("running", ["one"])
            taken = await client.call("resume", feature="theirs")
            assert taken["status"] == "running"
            assert str(process.pid) in taken["message"]
            assert (await client.call("cancel", feature="theirs"))["success"]
            assert (await client.call("status", feature="theirs"))["status"] == "cancelled"

        talk(core, say)
        process.communicate(timeout=20)
        assert process.returncode == 1
    finally:
        process.kill()
        process.communicate()
        core.runs.close()
        sage.close()
