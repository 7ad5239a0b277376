"""What the audit log says of runs: every change, exactly once, whatever died; and never any of their data."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from engine_harness import KEYS, Script, history, journal_bytes, lines, make_supervisor, wait_until
from places import SUPPORT

from sage_actors.actors import faults
from sage_actors.actors.audit import check as audit_check
from sage_actors.actors.audit.check import Verified, verify_audit
from sage_actors.actors.audit.format import Head
from sage_actors.actors.audit.log import AuditLog
from sage_actors.actors.audit.verify import verify_chain
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal_format import HEADER_BYTES
from sage_actors.actors.state.journal_reader import segment_path
from sage_actors.messages.errors import AuditError, StorageError
from sage_actors.messages.records import AuditNoted, decode_records
from sage_actors.supervisor.definitions.workflow import Workflow
from sage_actors.supervisor.recovery.acting import act_on_run

pytestmark = [pytest.mark.requirement("ORCH-016"), pytest.mark.requirement("ORCH-023")]

SECRET = "a-text-that-only-the-data-holds"


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    faults.disarm()


def changes(project: Path, run_id: str = "r") -> list[dict[str, Any]]:
    """What happened to the run, by a log that proves itself."""
    found: list[dict[str, Any]] = []
    verify_chain(
        StateDirectory(project),
        KEYS,
        watch=lambda each: found.extend(each.get("changes", ()) if each["run"] == run_id else ()),
    )
    return found


def verified(project: Path, run_id: str | None = None) -> Verified:
    return verify_audit(StateDirectory(project), KEYS, run_id=run_id)


def of_node(found: list[dict[str, Any]], node: str) -> list[tuple[str, str, str, int]]:
    """(event, before, after, attempt) of each change of a node."""
    return [
        (each["event"], each["old"], each["new"], each.get("attempt", 0))
        for each in found
        if node in each.get("nodes", ()) and "new" in each
    ]


def transitions(found: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """How often each node had each event."""
    return Counter((each["event"], node) for each in found for node in each.get("nodes", ()))


def journaled(project: Path, run_id: str = "r") -> Counter[tuple[str, str]]:
    """The same, by the journal's own reader."""
    out: Counter[tuple[str, str]] = Counter()
    names = {
        "nodes_started": "node_started",
        "nodes_succeeded": "node_succeeded",
        "decision_taken": "decision",
    }
    for each in history(project, run_id).records():
        name = names.get(each["record"]) or str(each["record"])
        if name.startswith("node_") and "nodes" in each:
            out.update((name, row["node"]) for row in each["nodes"])
        elif (name.startswith("node_") or name == "decision") and each.get("node"):
            out[name, each["node"]] += 1
    return out


def eventful() -> Workflow:
    """A retry, a failure that is skipped over, an expansion, and nodes that pass data on."""
    flow = Workflow("eventful", inputs={"topic": SECRET})
    first = flow.add(ops.echo, id="first", value="${inputs.topic}")
    numbers = flow.add(ops.numbers, id="numbers", count=3)
    flow.add(ops.echo, id="each", value="${item}", foreach=numbers)
    flow.add(ops.boom, id="bad", retry={"max_attempts": 2, "backoff": 0.01}, on_failure="continue")
    flow.add(ops.boom, id="worse")
    flow.add(ops.echo, id="last", value=first)
    return flow


# ------------------------------------------------------------------ what is in it


def test_every_change_of_every_node_is_there_once_with_before_and_after(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(eventful(), run_id="r", timeout=30)
    found = changes(tmp_path)
    assert of_node(found, "first") == [
        ("node_started", "pending", "running", 1),
        ("node_succeeded", "running", "succeeded", 1),
    ]
    assert of_node(found, "each") == [
        ("node_expanded", "pending", "expanded", 0),
        ("node_succeeded", "expanded", "succeeded", 1),
    ]
    assert of_node(found, "bad") == [
        ("node_started", "pending", "running", 1),
        ("node_failed", "running", "waiting", 1),
        ("node_started", "waiting", "running", 2),
        ("node_failed", "running", "failed", 2),
    ]
    assert transitions(found) == journaled(tmp_path)
    assert [each["event"] for each in found if "nodes" not in each] == [
        "run_admitted",
        "run_started",
        "run_finished",
    ]
    assert found[0] | {"at": 0} == {
        "at": 0,
        "count": 6,
        "event": "run_admitted",
        "old": None,
        "new": "admitted",
        "workflow": "eventful",
    }
    assert (found[-1]["old"], found[-1]["counts"]["succeeded"]) == ("running", 4 + 3)
    assert verified(tmp_path).runs == 1


def test_no_result_input_argument_output_or_text_of_an_error_is_in_it(tmp_path: Path) -> None:
    flow = eventful()
    flow.add(ops.say, id="say", text=SECRET)
    flow.add(ops.boom, id="fail", text=SECRET)
    flow.add("approval", id="asked", message=SECRET)
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(flow, run_id="r")
        wait_until(lambda: handle.status().waiting)
        handle.approve("asked", data={"said": SECRET}, by="ann")
        handle.result(30)
    text = (tmp_path / ".sage" / "audit.jsonl").read_text()
    assert SECRET not in text
    assert '"error":"ValueError"' in text
    assert {each.get("by") for each in changes(tmp_path) if each["event"] == "decision"} == {"ann"}


def test_a_run_that_writes_nothing_is_not_recorded(tmp_path: Path) -> None:
    with make_supervisor(tmp_path, durability="none") as supervisor:
        assert supervisor.run(eventful(), run_id="r", timeout=30).status == "failed"
        supervisor.audit.record("egress", "r", host="a")
    assert not (tmp_path / ".sage").exists()


def test_the_sandbox_of_a_run_stands_in_its_first_record(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.audit.sandbox = {"tier": "landlock", "gaps": ["network"]}
        supervisor.run(eventful(), run_id="r", timeout=30)
    (opened,) = [each for each in changes(tmp_path) if each["event"] == "run_started"]
    assert opened["sandbox"] == {"tier": "landlock", "gaps": ["network"]}


def test_the_end_of_a_run_names_the_record_that_it_is_in(tmp_path: Path) -> None:
    seen: list[Any] = []
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(eventful(), run_id="r", timeout=30, on_event=seen.append)
        wait_until(lambda: seen and seen[-1].event == "run_finished")
    head = verify_chain(StateDirectory(tmp_path), KEYS).head
    assert head is not None
    assert seen[-1].data["audit"] == {"seq": head.seq, "mac": head.mac}


def test_what_others_record_is_in_the_chain_and_equal_events_are_counted(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        for _ in range(500):
            supervisor.audit.record("egress", "r", host="evil.example", decision="denied")
        supervisor.audit.record_now("consent", None, item="skill:x")
        found: list[dict[str, Any]] = []
        verify_chain(supervisor.state, KEYS, watch=found.append)
    denied = [each for each in found if each["event"] == "egress"]
    assert sum(each.get("times", 1) for each in denied) == 500
    assert len(denied) < 10
    assert found[-1]["item"] == "skill:x"


# ------------------------------------------------------------------ the journal and the log name each other's end


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two runs that ended."""
    project = tmp_path_factory.mktemp("finished")
    with make_supervisor(project) as supervisor:
        for run_id in ("r", "other"):
            assert supervisor.run(eventful(), run_id=run_id, timeout=30).status == "failed"
    return project


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copied")
    return tmp_path / "copied"


def _cut_journal(project: Path, frames: int) -> None:
    """Cut whole frames off the end: the journal itself cannot know that."""
    from sage_actors.actors.state.journal import read_journal

    state = StateDirectory(project)
    offsets = [location.offset for location, _ in read_journal(state.run_dir("r"), KEYS).frames]
    assert offsets[0] == HEADER_BYTES
    os.truncate(segment_path(state.run_dir("r"), 1), offsets[-frames])


def test_a_whole_journal_and_a_whole_log_agree(copied: Path) -> None:
    found = verified(copied)
    assert (found.runs, found.notices) == (2, [])
    assert verified(copied, "r").runs == 1


def test_frames_cut_off_a_journal_are_found_by_the_log(copied: Path) -> None:
    _cut_journal(copied, 1)  # only what the journal says of the log
    verified(copied)
    _cut_journal(copied, 2)
    with pytest.raises(AuditError, match="run r: its journal was cut"):
        verified(copied)


def test_records_cut_off_the_log_are_found_by_the_journals(copied: Path) -> None:
    path = copied / ".sage" / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    verify_chain(StateDirectory(copied), KEYS)
    with pytest.raises(AuditError, match="journal of run other noted of it: it was cut or rolled back"):
        verified(copied)


def test_a_log_that_was_made_anew_is_found_by_the_journals(copied: Path) -> None:
    (copied / ".sage" / "audit.jsonl").unlink()
    with make_supervisor(copied) as supervisor:
        supervisor.run(eventful(), run_id="third", timeout=30)
        supervisor.resume("r").result(30)
    with pytest.raises(AuditError, match=r"another one than was there|cut or rolled back"):
        verified(copied)


def test_a_head_that_is_found_in_the_last_look_at_a_growing_log_is_enough(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDirectory(copied)
    chains: list[Any] = []
    whole = verify_chain(state, KEYS)

    def look(*_: Any) -> Any:
        chains.append(replace(whole, macs=[]) if len(chains) < 2 else whole)
        return chains[-1]

    monkeypatch.setattr("sage_actors.actors.audit.check.verify_chain", look)
    noted = [("r", Head(whole.first, whole.macs[0].hex()))]
    audit_check._check_noted(state, KEYS, look(), noted)
    assert len(chains) == 3


def test_a_journal_of_another_time_in_its_place_is_found(copied: Path, tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(eventful(), run_id="r", timeout=30)
    state = StateDirectory(copied)
    shutil.rmtree(state.run_dir("r"))
    shutil.copytree(StateDirectory(tmp_path).run_dir("r"), state.run_dir("r"))
    with pytest.raises(AuditError, match="is not the one that record"):
        verified(copied)


def test_a_journal_under_another_id_is_found(copied: Path) -> None:
    """It has succeeded, or not, as whoever copied it wished; a look at it enters it into the log."""
    state = StateDirectory(copied)
    shutil.copytree(state.run_dir("r"), state.run_dir("copy"))
    with pytest.raises(AuditError, match="run copy: in its place lies the journal of run r"):
        verified(copied)
    with make_supervisor(copied) as supervisor:
        run = supervisor.resume("copy")
        run.result(30)
    assert "this is the state of run r, which somebody copied or moved here" in run.notices
    with pytest.raises(AuditError, match="run copy: in its place lies the journal of run r"):
        verified(copied)  # after it was entered into the log, too


def test_a_run_of_another_project_that_was_put_there_is_found(copied: Path, tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(eventful(), run_id="brought", timeout=30)
    state = StateDirectory(copied)
    shutil.copytree(StateDirectory(tmp_path).run_dir("brought"), state.run_dir("brought"))
    with pytest.raises(AuditError, match="does not have what the journal of run brought noted of it"):
        verified(copied)


def test_a_run_that_is_gone_must_have_been_removed_by_a_command(copied: Path) -> None:
    state = StateDirectory(copied)
    shutil.move(state.run_dir("r"), copied / "aside")
    with pytest.raises(AuditError, match="no record of their removal"):
        verified(copied)
    log = AuditLog(state, KEYS)
    log.record("run_deleted", "r")
    log.close()
    assert verified(copied).runs == 1


def test_a_fresh_start_archives_what_was_there_on_the_record(copied: Path) -> None:
    with make_supervisor(copied) as supervisor:
        supervisor.run(eventful(), run_id="r", fresh=True, timeout=30)
    found: list[dict[str, Any]] = []
    verify_chain(StateDirectory(copied), KEYS, watch=found.append)
    assert [each["run"] for each in found if each["event"] == "run_archived"] == ["r"]
    assert verified(copied).runs == 2


def test_a_journal_that_lost_its_end_before_a_resume_is_told_of(copied: Path) -> None:
    _cut_journal(copied, 3)
    with make_supervisor(copied) as supervisor:
        handle = supervisor.resume("r")
        handle.result(30)
        assert any("the audit log knew frame" in each for each in handle.notices)
    assert [each for each in verified(copied).notices if "run r: its journal was shorter" in each]


def test_the_journal_notes_where_the_log_was(copied: Path) -> None:
    from sage_actors.actors.state.journal import read_journal

    image = read_journal(StateDirectory(copied).run_dir("other"), KEYS)
    noted = [
        each for _, frame in image.frames for each in decode_records(frame) if isinstance(each, AuditNoted)
    ]
    head = verify_chain(StateDirectory(copied), KEYS).head
    assert head is not None
    assert (noted[-1].number, noted[-1].digest.hex()) == (head.seq, head.mac)


# ------------------------------------------------------------------ death


KILLED = """
    flow = Workflow("killed")
    for each in range(40):
        flow.add(ops.mark, id=f"n{each}", path="%(directory)s/calls")
    with Supervisor("%(project)s", workers=2, search_paths=["%(here)s"], sandbox="off") as supervisor:
        supervisor.run(flow, run_id="r")
"""


@pytest.mark.parametrize("fault", ["audit.before_write:2", "audit.after_write:2", "run.committed:3"])
def test_what_a_killed_supervisor_had_not_recorded_the_next_one_records_first(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = KILLED % {"directory": tmp_path, "project": tmp_path, "here": SUPPORT}
    monkeypatch.setenv("SAGE_FAULT", f"{fault}:kill")
    with Script(tmp_path, body) as script:
        code, _, err = script.finish()
    assert code == -9, err
    monkeypatch.delenv("SAGE_FAULT")
    verified(tmp_path)
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.resume("r").result(30).status == "succeeded"
    found = changes(tmp_path)
    assert transitions(found) == journaled(tmp_path)
    assert verified(tmp_path).notices == []
    succeeded = [node for (event, node), _ in transitions(found).items() if event == "node_succeeded"]
    assert sorted(succeeded) == sorted(f"n{each}" for each in range(40))


# ------------------------------------------------------------------ a log that cannot be written


@pytest.mark.parametrize("error", ["enospc", "eio"])
@pytest.mark.parametrize("point", ["audit.before_write", "audit.before_fsync"])
def test_a_run_that_cannot_be_recorded_pauses_and_goes_on_later(
    tmp_path: Path, point: str, error: str
) -> None:
    flow = Workflow("slow")
    last = flow.add(ops.echo, id="n0", value=1)
    for each in range(1, 4):
        flow.add("wait", id=f"wait{each}", seconds=0.08, after=[last])
        last = flow.add(ops.echo, id=f"n{each}", value=1, after=[f"wait{each}"])
    with make_supervisor(tmp_path) as supervisor:
        faults.arm(f"{point}:2:{error}+" if point.endswith("write") else f"{point}:1:{error}+")
        outcome = supervisor.run(flow, run_id="r", timeout=30)
        faults.disarm()
        if point.endswith("write"):
            assert (outcome.status, outcome.reason.startswith("storage: ")) == ("paused", True)
            assert "audit.jsonl" in outcome.reason
        assert supervisor.start(flow, run_id="r").result(30).status == "succeeded"
    assert transitions(changes(tmp_path)) == journaled(tmp_path)
    assert verified(tmp_path).notices == []


def test_a_run_that_cannot_be_recorded_does_not_begin(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.create()
    (tmp_path / ".sage" / "audit.jsonl").write_bytes(b"forged\n")
    (tmp_path / ".sage" / "audit.jsonl").chmod(0o600)
    with make_supervisor(tmp_path) as supervisor:
        with pytest.raises(AuditError, match="not genuine"):
            supervisor.run(eventful(), run_id="r", timeout=30)
        assert not state.exists("r")


def test_a_decision_that_cannot_be_recorded_is_not_taken(tmp_path: Path) -> None:
    flow = Workflow("asks")
    flow.add("approval", id="asked")
    flow.add(ops.mark, id="after", path=str(tmp_path / "ran"), after=["asked"])
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(flow, run_id="r")
        wait_until(lambda: handle.status().waiting)
        faults.arm("audit.before_write:1:enospc+")
        with pytest.raises(StorageError, match=r"audit\.jsonl"):
            handle.approve("asked", by="ann")
        assert handle.result(30).status == "paused"
        faults.disarm()
        assert lines(tmp_path / "ran") == 0
        assert supervisor.start(flow, run_id="r").result(30).status in ("succeeded", "paused")
    verified(tmp_path)


def test_a_decision_of_nobody_s_run_is_recorded_by_who_takes_it(tmp_path: Path) -> None:
    flow = Workflow("asks")
    flow.add("approval", id="asked")
    with make_supervisor(tmp_path, waits_for_people=False) as supervisor:
        assert supervisor.run(flow, run_id="r", timeout=30).status == "paused"
    act_on_run(tmp_path, KEYS, "r", {"action": "approve", "node": "asked"}, by="ann")
    (decision,) = [each for each in changes(tmp_path) if each["event"] == "decision"]
    assert (decision["kind"], decision["by"], decision["nodes"]) == ("approve", "ann", ["asked"])
    assert of_node(changes(tmp_path), "asked")[-1][:3] == ("node_succeeded", "waiting", "succeeded")
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.run(flow, run_id="r", timeout=30).status == "succeeded"
    assert transitions(changes(tmp_path)) == journaled(tmp_path)
    verified(tmp_path)


def test_nothing_is_decided_where_the_log_was_tampered_with(tmp_path: Path) -> None:
    flow = Workflow("asks")
    flow.add("approval", id="asked")
    with make_supervisor(tmp_path, waits_for_people=False) as supervisor:
        supervisor.run(flow, run_id="r", timeout=30)
    path = tmp_path / ".sage" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"run":"r"', b'"run":"q"'))
    before = journal_bytes(tmp_path, "r")
    with pytest.raises(AuditError):
        act_on_run(tmp_path, KEYS, "r", {"action": "approve", "node": "asked"}, by="ann")
    assert journal_bytes(tmp_path, "r") == before


def test_a_run_without_a_log_of_old_is_recorded_when_it_is_continued(copied: Path) -> None:
    """As state that an earlier version left: a journal, and no audit log."""
    state = StateDirectory(copied)
    (copied / ".sage" / "audit.jsonl").unlink()
    with make_supervisor(copied) as supervisor:
        supervisor.resume("r").result(30)
    assert transitions(changes(copied)) == journaled(copied)
    assert json.loads((state.root.parent / "audit.jsonl").read_text().splitlines()[1])["late"] is True


def test_nothing_goes_out_while_that_cannot_be_recorded_and_the_record_comes_later(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.audit.record_now("egress", "r", host="a")
        supervisor.audit.check()
        faults.arm("audit.before_write:1:enospc+")
        supervisor.audit.record("egress", "r", host="b")
        wait_until(lambda: supervisor.audit.failing)
        with pytest.raises(StorageError, match="No space left"):
            supervisor.audit.check()
        faults.disarm()
        supervisor.audit.record_now("egress", "r", host="c")
        supervisor.audit.check()
        found: list[dict[str, Any]] = []
        verify_chain(supervisor.state, KEYS, watch=found.append)
    assert [each["host"] for each in found[1:]] == ["a", "b", "c"]


def test_a_run_that_was_forked_from_another_is_recorded_whole(copied: Path) -> None:
    with make_supervisor(copied) as supervisor:
        run = supervisor.resume("r", from_node="last")
        run.result(30)
    found = changes(copied, run.run_id)
    assert transitions(found) == journaled(copied, run.run_id)
    assert ("node_started", "last") in transitions(found)
    assert verified(copied, run.run_id).runs == 1


def test_an_edited_definition_is_recorded_under_the_ids_of_its_time(tmp_path: Path) -> None:
    def flow(*ids: str) -> Workflow:
        made = Workflow("edited")
        for each in ids:
            made.add(ops.echo, id=each, value=1)
        made.add(ops.boom, id="worse")
        return made

    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(flow("a", "b"), run_id="r", timeout=30)
        supervisor.run(flow("x", "b", "y"), run_id="r", timeout=30, accept_changes=True)
    found = changes(tmp_path)
    assert [each["event"] for each in found].count("definition_changed") == 1
    succeeded = [each["nodes"] for each in found if each["event"] == "node_succeeded"]
    assert sorted(node for nodes in succeeded for node in nodes) == ["a", "b", "x", "y"]
    assert verified(tmp_path).notices == []
