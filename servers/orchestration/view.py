"""Runs as the orchestration server shows them: found by topic or id, and read from their journals.

The journal is the one source, whoever carries a run out: this process, another one, or nobody any more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sage_actors.actors.keys.provider import load_keys
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal_reader import segment_numbers
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import SageError
from sage_actors.servers.orchestration.errors import ToolRefused, error_of_node, error_of_run
from sage_actors.servers.orchestration.models import (
    Digests,
    Execution,
    Metrics,
    Phase,
    PhaseState,
    Progress,
    Results,
    RunState,
    Status,
    WorkflowError,
    WorkflowRow,
)
from sage_actors.supervisor.definitions.inputs import default_run_id
from sage_actors.supervisor.json_text import abbreviate, to_line
from sage_actors.supervisor.recovery.history import History, NodeView, open_history
from sage_actors.supervisor.recovery.summaries import Summaries

__all__ = ["Runbook", "artifact_uri", "describe", "execution_of", "feature_of", "state_of"]

_ENDED = ("succeeded", "failed", "skipped")
_STATES: dict[str, RunState] = {
    "running": "running",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "paused": "paused",
    "interrupted": "paused",
}
_MOST_ERRORS = 20
_MOST_ARTIFACTS = 100
_MOST_SHOWN = 50


class Runbook:
    """The runs of a project, for reading."""

    def __init__(self, project: Path) -> None:
        self.state = StateDirectory(project)

    def read(self, run_id: str) -> History:
        """A run as it stands. Raises NoCheckpointError, StateCorruptedError, WrongKeyError."""
        return open_history(self.state, load_keys(create=False), run_id)

    def run_ids(self) -> list[str]:
        """All runs, those last written to first."""
        return sorted(self.state.run_ids(), key=lambda run_id: self._written_at(run_id), reverse=True)

    def find(self, feature: str, otherwise: str = "WORKFLOW_NOT_FOUND") -> str:
        """The id of the run that `feature` names: an id, or a topic (of its runs, the one last written to).

        Raises:
            ToolRefused: there is none; with the code `otherwise`.
        """
        known = self.run_ids()
        if feature in known:
            return feature
        part = _topic_part(feature)
        for run_id in known:
            if part and f"-{part}-" in f"{run_id}-" and self._has_topic(run_id, feature):
                return run_id
        shown = ", ".join(known[:5]) or "none"
        raise ToolRefused(
            otherwise,
            f"there is no run for {feature!r} in this project; the latest runs are: {shown}. "
            "Begin one with sage_workflow_execute, or see all with sage_workflow_list",
        )

    def rows(self) -> Generator[WorkflowRow]:
        """A line for each run, those last written to first; what was read is kept for the next list."""
        try:
            keys = load_keys(create=False)
        except SageError as error:
            yield from (_unreadable(run_id, error) for run_id in self.run_ids())
            return
        summaries = Summaries(self.state, keys, kind="workflows", shape=2, summary=_row_of)
        try:
            for run_id in summaries.run_ids():
                yield self._row(summaries, run_id)
        finally:
            summaries.keep()

    def _row(self, summaries: Summaries, run_id: str) -> WorkflowRow:
        """One that cannot be read must not hide the others."""
        try:
            return WorkflowRow(workflow_id=run_id, **summaries.of(run_id))
        except (SageError, OSError, ValueError) as error:
            return _unreadable(run_id, error)

    def _has_topic(self, run_id: str, topic: str) -> bool:
        try:
            said = self.read(run_id).inputs.get("topic")
        except (SageError, OSError, ValueError):
            return True  # who asks for it shall learn what is wrong with it
        return said is None or said == topic

    def _written_at(self, run_id: str) -> float:
        directory = self.state.run_dir(run_id)
        newest = max(segment_numbers(directory), default=0)
        try:
            return os.stat(directory / f"journal-{newest:06d}.sage").st_mtime
        except OSError:
            return 0.0


def _unreadable(run_id: str, error: Exception) -> WorkflowRow:
    return WorkflowRow(feature=run_id, workflow_id=run_id, status="unreadable", progress=0, reason=str(error))


def _row_of(past: History) -> dict[str, Any]:
    nodes = past.nodes()
    return {
        "feature": feature_of(past),
        "template": past.workflow,
        "phase": _current(phases_of(past, nodes)),
        "status": state_of(past),
        "started_at": _iso(past.started_at),
        "progress": _progress(past, nodes).percentage,
        "reason": past.reason or None,
    }


def feature_of(past: History) -> str:
    """What the run is for: its topic, or its id."""
    topic = past.inputs.get("topic")
    return topic if isinstance(topic, str) and topic else past.run_id


def state_of(past: History) -> RunState:
    """The run's status in upstream's words. Nobody carries out a run that is paused."""
    return _STATES[past.status]


def describe(past: History) -> Status:
    """Everything that there is to say about a run."""
    nodes = past.nodes()
    phases = phases_of(past, nodes)
    people = _people(past, nodes)
    state: RunState = "paused" if people else state_of(past)
    return Status(
        success=True,
        feature=feature_of(past),
        workflow_id=past.run_id,
        template=past.workflow,
        phase=_current(phases),
        status=state,
        reason=f"waiting for a person: {', '.join(people)}" if people else past.reason or None,
        message=_next_step(past, people),
        started_at=_iso(past.started_at),
        last_updated_at=_iso(_last_update(past, nodes)),
        progress=_progress(past, nodes),
        running=[node.id for node in nodes if node.state == "running"][:_MOST_SHOWN],
        waiting={
            each.id: each.reason or each.state for each in nodes if each.state in ("waiting", "in_doubt")
        },
        phases=phases if state == "running" else None,  # else they are among the results
        metrics=_metrics(past, nodes),
        results=None if state == "running" else _results(past, nodes, phases),
        errors=_errors(past, nodes),
    )


def execution_of(past: History, *, resumed_from: str | None = None) -> Execution:
    """The result of `sage_workflow_execute` for a run as it stands."""
    status = describe(past)
    return Execution(
        success=status.status in ("running", "completed"),
        workflow_id=past.run_id,
        resumed_from=resumed_from,
        **{
            name: getattr(status, name)
            for name in ("feature", "status", "reason", "message", "results", "errors")
        },
    )


def artifact_uri(run_id: str, node_id: str) -> str:
    """Where the whole result of an operation can be read."""
    return f"workflow://{run_id}/artifacts/{quote(node_id, safe='/')}"


def phases_of(past: History, nodes: list[NodeView]) -> list[Phase]:
    """The phases in the order of the definition."""
    counted = _counted(past)
    members: dict[str, list[NodeView]] = {each.id: [] for each in past.definition.phases}
    for node in nodes:
        if node.phase in members:
            members[node.phase].append(node)
    return [
        Phase(
            id=name,
            status=_phase_state(each, is_running=past.status == "running"),
            completed=sum(node.state in counted for node in each),
            total=len(each),
            seconds=round(sum(node.seconds for node in each), 3),
        )
        for name, each in members.items()
    ]


def _phase_state(nodes: list[NodeView], *, is_running: bool) -> PhaseState:
    states = {node.state for node in nodes}
    if states & {"running", "expanded"}:
        return "running"
    if states & {"waiting", "in_doubt", "interrupted"}:
        return "paused"
    if states <= {"skipped"}:
        return "skipped" if states else "completed"
    if "failed" in states:
        return "failed"
    if states <= {"succeeded", "skipped"}:
        return "completed"
    if "succeeded" not in states:
        return "pending"
    return "running" if is_running else "paused"


def _current(phases: list[Phase]) -> str | None:
    """The first phase that has not ended; the last one of a run that is through."""
    for phase in phases:
        if phase.status not in ("completed", "skipped"):
            return phase.id
    return phases[-1].id if phases else None


def _counted(past: History) -> tuple[str, ...]:
    """Which states are progress: of a run that stopped before its end only what a resume does not do again."""
    return _ENDED if past.status in ("running", "succeeded") else ("succeeded",)


def _progress(past: History, nodes: list[NodeView]) -> Progress:
    counted = _counted(past)
    done, total = sum(node.state in counted for node in nodes), len(nodes)
    return Progress(completed=done, total=total, percentage=100 * done // total if total else 100)


def _metrics(past: History, nodes: list[NodeView]) -> Metrics:
    busy = sum(node.seconds for node in nodes)
    measured = past.status != "running" and past.seconds > 0
    return Metrics(
        seconds=round(past.seconds, 3),
        busy_seconds=round(busy, 3),
        speedup=round(busy / past.seconds, 2) if measured else None,
        tokens={name: value for name, value in past.tokens.items() if isinstance(value, (int, float))},
        digests=_digests(past.measured),
        saved_tokens=past.measured.get("saved_tokens"),
        server_starts=past.server_starts,
        context_reloads=past.context_reloads,
    )


def _digests(measured: Mapping[str, Any]) -> Digests | None:
    sizes = {name: measured[name] for name in Digests.model_fields if name in measured}
    return Digests(**sizes) if len(sizes) == len(Digests.model_fields) else None


def _results(past: History, nodes: list[NodeView], phases: list[Phase]) -> Results:
    kept = [node.id for node in nodes if node.state == "succeeded"]
    return Results(
        phases=phases,
        metrics=_metrics(past, nodes),
        outputs=json.loads(to_line(abbreviate(_outputs(past)))),
        artifacts=[artifact_uri(past.run_id, each) for each in kept[:_MOST_ARTIFACTS]],
        files=_files(past, kept[:_MOST_ARTIFACTS]),
    )


def _files(past: History, nodes: list[str]) -> list[str]:
    """The files that results say they wrote: their `path`, where it names a document."""
    values = (past.value(node) for node in nodes)
    paths = (value.get("path") for value in values if isinstance(value, dict))
    return list(dict.fromkeys(path for path in paths if isinstance(path, str) and path not in ("", ".")))


def _outputs(past: History) -> Mapping[str, Any]:
    results = past.results()
    shown = list(results)[:_MOST_SHOWN]
    return {name: abbreviate(results[name]) for name in shown if results[name] is not None}


def _errors(past: History, nodes: list[NodeView]) -> list[WorkflowError] | None:
    found = [error_of_node(node.id, node.error) for node in nodes if node.error and node.state == "failed"]
    found = found[:_MOST_ERRORS] or error_of_run(past.status, past.reason)
    return found or None


def _people(past: History, nodes: list[NodeView]) -> list[str]:
    """The operations that wait for a person, of a live run that can do nothing else meanwhile."""
    waiting = [node for node in nodes if node.state in ("waiting", "in_doubt")]
    if past.status != "running" or any(node.state == "running" for node in nodes):
        return []
    asks = [each.id for each in waiting if each.state == "in_doubt" or each.reason == "approval"]
    return asks if len(asks) == len(waiting) else []


def _next_step(past: History, people: list[str]) -> str | None:
    if people:
        return f"A person must answer: `sage-actors approve {past.run_id} {people[0]}`; the run goes on by itself."
    if past.status == "running":
        return None
    if past.status == "succeeded":
        return "Outputs are abbreviated; the artifacts are whole."
    return "Continue with sage_workflow_resume; what has succeeded does not run again."


def _last_update(past: History, nodes: list[NodeView]) -> float | None:
    moments = [past.started_at, past.ended_at]
    moments += [moment for node in nodes for moment in (node.started_at, node.ended_at)]
    return max((each for each in moments if each is not None), default=None)


def _topic_part(topic: str) -> str:
    """What every run id that was made from `topic` contains (see `default_run_id`)."""
    return default_run_id(WorkflowSpec(name="x", nodes=[]), {}, topic).partition("-")[2]


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
