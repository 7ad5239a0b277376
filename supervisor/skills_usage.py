"""How often runs made use of skills, read from their journals: nothing is counted twice.

    offered   a search found the skill for the run's topic (the tool `skills_search` gave it to the run)
    used      an operation executed it or handed its instructions on, or the result of a later step names it
              (a task of the plan that it helps with, or its file as evidence)

The reuse rate is the share of runs that used a skill among those that were offered one or used one. Runs that were
deleted are gone from it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_actors.messages.errors import SageError
from sage_actors.supervisor.definitions.edges import edges_of

if TYPE_CHECKING:
    from sage_actors.messages.definition import NodeSpec
    from sage_actors.supervisor.recovery.history import History

__all__ = ["RunSkills", "SkillStatistics", "skills_of_project", "skills_of_run"]

SEARCH_TOOL = "skills_search"


@dataclass(frozen=True, slots=True)
class RunSkills:
    """What one run did with skills; names."""

    offered: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()


@dataclass(slots=True)
class SkillStatistics:
    """Of all readable runs: runs that looked for or executed skills, those that got some, those that used some.

    by_skill: name -> (runs that were offered it, runs that used it). unreadable: runs that could not be read.
    """

    runs: int = 0
    offered: int = 0
    used: int = 0
    unreadable: int = 0
    by_skill: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def rate(self) -> float | None:
        """The reuse rate, 0 to 1; None before a run was offered a skill."""
        return self.used / self.offered if self.offered else None


def skills_of_project(project: Path) -> SkillStatistics:
    """The statistics over all runs in the project's state. A run that cannot be read does not hide the others."""
    from sage_actors.actors.keys.provider import load_keys
    from sage_actors.actors.state.directory import StateDirectory
    from sage_actors.supervisor.recovery.summaries import Summaries

    state = StateDirectory(project)
    run_ids = state.run_ids()
    found = SkillStatistics()
    if not run_ids:
        return found
    summaries = Summaries(state, load_keys(create=False), kind="skills", shape=1, summary=_said_of)
    offered: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for run_id in summaries.run_ids():
        try:
            run = summaries.of(run_id)
        except (SageError, OSError):
            found.unreadable += 1
            continue
        if not run:
            continue
        found.runs += 1
        found.offered += bool(run["offered"] or run["used"])
        found.used += bool(run["used"])
        offered.update(run["offered"])
        used.update(run["used"])
    summaries.keep()
    found.by_skill = {name: (offered[name], used[name]) for name in sorted({*offered, *used})}
    return found


def _said_of(past: History) -> dict[str, Any]:
    run = skills_of_run(past)
    return {} if run is None else {"offered": sorted(run.offered), "used": sorted(run.used)}


def skills_of_run(past: History) -> RunSkills | None:
    """What the run did with skills; None if its definition has nothing to do with them."""
    nodes = {node.id: node for node in past.definition.nodes}
    if not any(_is_search(node) or node.operation.type == "skill" for node in nodes.values()):
        return None
    succeeded = {view.id for view in past.nodes() if view.state == "succeeded"}
    places: dict[str, str] = {}
    used: set[str] = set()
    for node_id in succeeded & nodes.keys():
        if _is_search(nodes[node_id]):
            places |= dict(_named(past.value(node_id)))
        elif nodes[node_id].operation.type == "skill":
            used |= {name for each in _each(past.value(node_id)) if (name := _name(each.get("skill")))}
    later = _later(past, succeeded & nodes.keys())
    for node_id in later:
        used |= _cited(past.value(node_id), places)
    return RunSkills(frozenset(places), frozenset(used))


def _later(past: History, succeeded: set[str]) -> set[str]:
    """Steps that succeeded and were given what a search found."""
    searches = {node.id for node in past.definition.nodes if _is_search(node)}
    return {
        node for node, needed in edges_of(past.definition) if needed in searches and node in succeeded
    } - searches


def _is_search(node: NodeSpec) -> bool:
    operation = node.operation
    return operation.type == "mcp" and operation.config.get("tool") == SEARCH_TOOL


def _each(value: Any) -> Iterator[Mapping[str, Any]]:
    """The results of a node: one, or those of a `foreach`."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict):
            yield each


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """(name, file) of each skill that a search found."""
    for result in _each(value):
        skills = result.get("skills")
        for skill in skills if isinstance(skills, list) else ():
            if isinstance(skill, dict) and (name := _name(skill.get("name"))):
                yield name, _name(skill.get("path"))


def _name(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _cited(value: Any, places: Mapping[str, str]) -> set[str]:
    """Skills that a result names in a field `skill` or `skills`, or whose file it names anywhere."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    by_file = {
        name
        for name, place in places.items()
        if place and json.dumps(place, ensure_ascii=False)[1:-1] in text
    }
    return by_file | (_said(value) & places.keys())


def _said(value: Any) -> set[str]:
    """Names in fields `skill` and `skills`, wherever they stand."""
    found: set[str] = set()
    open_ = [value]
    while open_:
        each = open_.pop()
        if isinstance(each, list):
            open_ += each
        elif isinstance(each, dict):
            open_ += each.values()
            for key in ("skill", "skills"):
                named = each.get(key)
                for one in named if isinstance(named, list) else [named]:
                    found.add(_name(one.get("name") if isinstance(one, dict) else one))
    return found - {""}
