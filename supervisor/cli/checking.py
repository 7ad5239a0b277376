"""A workflow file that is wrong, with all that is wrong with it: what only a worker can find out, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import DefinitionError, Problem, SageError

__all__ = ["load_checked"]

_MOST_DEEP = 20  # sub-workflows in sub-workflows


def load_checked(path: Path, project: Path, warn: Callable[[Problem], None]) -> WorkflowSpec:
    """As `load_workflow`. Where that refuses the file, Python calls that cannot be imported are named as well.

    Those of a file that is well otherwise are looked at by whoever starts it, in workers that it needs anyway.
    """
    from sage_actors.supervisor.definitions.validation import raise_problems
    from sage_actors.supervisor.templates.library import load_workflow

    try:
        return load_workflow(path, warn=warn, project=project)
    except DefinitionError as error:
        if more := _unusable_calls(path, project, known={each.place for each in error.problems}):
            both = sorted([*error.problems, *more], key=lambda each: each.line or 0)
            raise_problems(both, error.source)
        raise


def _unusable_calls(path: Path, project: Path, known: set[str]) -> list[Problem]:
    """Known: places of which something is said already."""
    from sage_actors.supervisor.api import Supervisor
    from sage_actors.supervisor.callables import unusable
    from sage_actors.supervisor.definitions.loading import read_file

    try:
        data, lines = read_file(path)
        places = {place: call for place, call in _calls(data) if place not in known}
        if not places:
            return []
        with Supervisor(project, workers=1, durability="none", search_paths=[path.resolve().parent]) as one:
            bad = one._unusable(sorted(set(places.values())))
    except SageError:  # it cannot be read, or nothing can be confined here: what was found is said without
        return []
    return [unusable(place, bad[call], lines(place)) for place, call in places.items() if call in bad]


def _calls(data: object, before: str = "", depth: int = _MOST_DEEP) -> Iterator[tuple[str, str]]:
    """Places of Python calls in a definition, whatever else is wrong with it, and what they call."""
    if not isinstance(data, dict) or not depth:
        return
    groups = [("nodes", data.get("nodes"))]
    phases = data.get("phases")
    for number, phase in enumerate(phases if isinstance(phases, list) else ()):
        if isinstance(phase, dict):
            groups.append((f"phases[{number}].operations", phase.get("operations")))
    for name, nodes in groups:
        for number, node in enumerate(nodes if isinstance(nodes, list) else ()):
            if not isinstance(node, dict):
                continue
            place, call = f"{before}{name}[{number}]", node.get("call")
            if node.get("type") == "python" and isinstance(call, str):
                yield f"{place}.call", call
            yield from _calls(node.get("definition"), f"{place}.definition.", depth - 1)
