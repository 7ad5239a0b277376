"""A workflow file that is wrong, with all that is wrong with it and where: what only a worker can find out, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import DefinitionError, Problem, SageError

__all__ = ["load_checked", "told_in_place"]

_MOST_DEEP = 20  # sub-workflows in sub-workflows


def load_checked(path: Path, project: Path, warn: Callable[[Problem], None]) -> WorkflowSpec:
    """As `load_workflow`. Where that refuses the file, what is wrong with its Python calls is named as well.

    Those of a file that is well otherwise are looked at by whoever starts it, in workers that it needs anyway.
    """
    from sage_actors.supervisor.templates.library import load_workflow

    try:
        return load_workflow(path, warn=warn, project=project)
    except DefinitionError as error:
        if more := _call_problems(path, project, known={each.place for each in error.problems}):
            _raise([*error.problems, *more], path)
        raise


@contextmanager
def told_in_place(path: Path) -> Iterator[None]:
    """Problems that a supervisor finds name nodes by their ids: adds where those are in the file."""
    try:
        yield
    except DefinitionError as error:
        try:
            placed = _File(path).placed(error.problems)
        except SageError:  # it cannot be read any more
            raise error from None
        if placed == [*error.problems]:
            raise
        _raise(placed, path)


def _raise(problems: Sequence[Problem], path: Path) -> None:
    from sage_actors.supervisor.definitions.validation import raise_problems

    raise_problems(sorted(problems, key=lambda each: each.line or 0), str(path))


def _call_problems(path: Path, project: Path, known: set[str]) -> list[Problem]:
    """Known: places of which something is said already."""
    from sage_actors.supervisor.api import Supervisor
    from sage_actors.supervisor.callables import call_problems

    try:
        file = _File(path)
        nodes = [
            (place, node)
            for _, (place, node) in file.all_nodes
            if node.get("type") == "python" and isinstance(node.get("call"), str)
            if isinstance(node.get("arguments", {}), dict)
        ]
        calls = {node["call"] for place, node in nodes if f"{place}.call" not in known}
        if not calls:
            return []
        with Supervisor(project, workers=1, durability="none", search_paths=[path.resolve().parent]) as one:
            infos = one.inspect_calls(calls)
    except SageError:  # it cannot be read, or nothing can be confined here: what was found is said without
        return []
    found = [
        problem
        for place, node in nodes
        if f"{place}.call" not in known
        for problem in call_problems(place, infos[node["call"]], node.get("arguments", {}))
    ]
    return [file.with_line(each) for each in found if each.place not in known]


class _File:
    """A workflow file as it was read, whatever is wrong with it: the lines where its nodes are."""

    def __init__(self, path: Path) -> None:
        from sage_actors.supervisor.definitions.loading import read_file

        self._path = path
        data, self._line_of = read_file(path)
        self.all_nodes = list(_nodes(data))
        self._nodes = dict(reversed(self.all_nodes))
        self._others: dict[str, _File] = {}

    def placed(self, problems: Sequence[Problem], depth: int = _MOST_DEEP) -> list[Problem]:
        """The same problems where their nodes stand; what names no node of this file stays as it is."""
        return [self._placed(each, depth) for each in problems]

    def with_line(self, problem: Problem) -> Problem:
        return Problem(problem.place, problem.message, problem.hint, self._line_of(problem.place))

    def _placed(self, problem: Problem, depth: int) -> Problem:
        name, dot, field = problem.place.partition(".")
        if name in self._nodes:
            return self.with_line(
                Problem(f"{self._nodes[name][0]}{dot}{field}", problem.message, problem.hint)
            )
        parts = name.split("/")
        for cut in range(len(parts) - 1, 0, -1):
            place, node = self._nodes.get("/".join(parts[:cut]), ("", {}))
            file = node.get("workflow")
            if isinstance(file, str) and depth:
                within = Problem(f"{'/'.join(parts[cut:])}{dot}{field}", problem.message)
                inner = self._other(file).placed([within], depth - 1)[0]
                return self.with_line(
                    Problem(f"{place}.workflow", f"{self._path.parent / file}: {inner}", problem.hint)
                )
        return problem

    def _other(self, name: str) -> _File:
        if name not in self._others:
            self._others[name] = _File(self._path.parent / name)
        return self._others[name]


def _nodes(
    data: object, place: str = "", owner: str = "", depth: int = _MOST_DEEP
) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """Id, place and fields of each node of a definition, and of those that it embeds."""
    if not isinstance(data, dict) or not depth:
        return
    groups = [(owner, f"{place}nodes", data.get("nodes"))]
    phases = data.get("phases")
    for number, phase in enumerate(phases if isinstance(phases, list) else ()):
        if isinstance(phase, dict):
            groups.append(
                (f"{owner}{phase.get('id')}/", f"{place}phases[{number}].operations", phase.get("operations"))
            )
    for prefix, name, nodes in groups:
        for number, node in enumerate(nodes if isinstance(nodes, list) else ()):
            if isinstance(node, dict):
                here, node_id = f"{name}[{number}]", f"{prefix}{node.get('id')}"
                yield node_id, (here, node)
                yield from _nodes(node.get("definition"), f"{here}.definition.", f"{node_id}/", depth - 1)
