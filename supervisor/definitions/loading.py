"""Workflow files: read, checked in full, and made into a WorkflowSpec that stands on its own.

    text -> plain data with lines (source) -> shape (messages.schema, pydantic) -> spec (specs)
         -> meaning (validation); sub-workflow files are read on the way and embedded.

All problems of all stages are reported at once: what has the wrong shape is left out of the later stages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import DefinitionError, Problem
from sage_actors.supervisor.definitions.edges import edges_of
from sage_actors.supervisor.definitions.in_project import project_problems
from sage_actors.supervisor.definitions.inputs import default_run_id, resolve_inputs
from sage_actors.supervisor.definitions.shape import check_shape, repair_shape, unstorable
from sage_actors.supervisor.definitions.source import MAX_FILE_BYTES, MAX_LEVELS, parse_json, parse_yaml
from sage_actors.supervisor.definitions.specs import spec_from_dict
from sage_actors.supervisor.definitions.validation import (
    AVAILABLE_TYPES,
    Places,
    raise_problems,
    validate_spec,
)

__all__ = [
    "AVAILABLE_TYPES",
    "default_run_id",
    "edges_of",
    "json_schema",
    "load_dict",
    "load_file",
    "read_file",
    "resolve_inputs",
    "spec_from_dict",
    "validate_spec",
]

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"
_MAX_NESTING = 20  # workflows inside workflows

LineOf = Callable[[str], int | None]
Warn = Callable[[Problem], None]


def load_file(
    path: str | Path, *, known_types: Collection[str] = AVAILABLE_TYPES, warn: Warn | None = None
) -> WorkflowSpec:
    """The workflow in a .json, .yaml or .yml file; sub-workflows are read relative to it and embedded.

    warn: called with each warning, such as that a flat graph has several parts.

    Raises:
        DefinitionError: all problems, each with place and line (CycleError if a cycle is among them); also
            for a file that cannot be read.
    """
    return _Loader(known_types, warn).file(Path(path))


def load_dict(
    data: Any,
    *,
    source: str = "",
    lines: LineOf | None = None,
    base: Path | None = None,
    known_types: Collection[str] = AVAILABLE_TYPES,
    warn: Warn | None = None,
    file: Path | None = None,
    project: Path | None = None,
) -> WorkflowSpec:
    """The workflow that `data` says in the file format.

    source: what to call it in errors. lines: the line of a place. base: the folder that paths of
    sub-workflows are relative to; without one they are refused. file: where `data` was read, so that a
    sub-workflow which leads back there is refused. project: where the servers and skills that it names must be;
    without one that is not asked. Raises DefinitionError as `load_file`.
    """
    chain = () if file is None else (file.resolve(),)
    return _Loader(known_types, warn, chain, project=project).data(
        data, source=source, lines=lines, base=base
    )


def read_file(path: Path) -> tuple[Any, LineOf]:
    """What a .json, .yaml or .yml file holds, and the line of each place in it.

    Raises:
        DefinitionError: it cannot be read, or is neither.
    """
    source = str(path)
    try:
        path.resolve()
        text = _read(path)
        return (parse_yaml if path.suffix.lower() in (".yaml", ".yml") else parse_json)(text)
    except DefinitionError as error:
        raise DefinitionError(error.problems, source=source) from error
    except (OSError, ValueError, RuntimeError) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise DefinitionError([Problem("", f"cannot be read: {reason}")], source=source) from cause


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of workflow files, for editors."""
    from sage_actors.messages.schema import WorkflowDefinition

    schema = WorkflowDefinition.model_json_schema(by_alias=True)
    schema["oneOf"] = [{"required": ["phases"]}, {"required": ["nodes"]}]
    return {"$schema": SCHEMA_ID, **schema, "title": "sage-actors workflow"}


class _Loader:
    """One loading; `chain` holds the files that led to the one being read."""

    def __init__(
        self,
        known_types: Collection[str],
        warn: Warn | None,
        chain: tuple[Path, ...] = (),
        depth: int = 0,
        project: Path | None = None,
    ) -> None:
        self._known_types = known_types
        self._warn = warn
        self._chain = chain
        self._depth = depth
        self._project = project  # of the outermost: it looks into sub-workflows itself

    def file(self, path: Path) -> WorkflowSpec:
        data, lines = read_file(path)
        inner = _Loader(self._known_types, self._warn, (*self._chain, path.resolve()), self._depth)
        return inner.data(data, source=str(path), lines=lines, base=path.parent)

    def data(self, data: Any, *, source: str, lines: LineOf | None, base: Path | None) -> WorkflowSpec:
        problems, warnings, spec = self._examine(data, base)
        if problems:
            _raise(problems, source, lines)
        for warning in warnings:
            if self._warn is not None:
                self._warn(_with_line(warning, lines))
        assert spec is not None
        return spec

    def _examine(
        self, data: Any, base: Path | None
    ) -> tuple[list[Problem], list[Problem], WorkflowSpec | None]:
        if not isinstance(data, dict):
            return [Problem("", "a workflow is a map with `name` and `phases` or `nodes`")], [], None
        if problem := _first_excess(data):
            return [problem], [], None
        problems, faults = check_shape(data)
        problems += unstorable(data)
        usable: Any = data
        places = None
        if faults or problems:
            usable, places = repair_shape(data, faults)
        usable, found = self._embed(usable, base, places)
        problems += found
        spec = spec_from_dict(usable)
        errors, warnings = validate_spec(spec, known_types=self._known_types, places=places)
        said = {(each.place, each.message) for each in problems}
        lost = bool(problems) and not spec.nodes and not spec.phases  # the shape says it already
        problems += [
            each
            for each in errors
            if (each.place, each.message) not in said and not (lost and not each.place)
        ]
        if self._project is not None:
            problems += project_problems(spec, self._project, places=places)
        return problems, warnings, spec

    def _embed(
        self, data: Mapping[str, Any], base: Path | None, places: Places | None
    ) -> tuple[Mapping[str, Any], list[Problem]]:
        """`data` with the definition of each sub-workflow in place; what is wrong with those."""
        problems: list[Problem] = []
        number = 0

        def operations(items: list[Any], prefix: str) -> list[Any]:
            nonlocal number
            made = []
            for at, item in enumerate(items):
                place = places.nodes[number] if places is not None else f"{prefix}[{at}]"
                number += 1
                is_sub = item.get("type") == "workflow"
                made.append(self._embed_one(item, base, place, problems) if is_sub else item)
            return made

        out = dict(data)
        if data.get("nodes"):
            out["nodes"] = operations(data["nodes"], "nodes")
        if data.get("phases"):
            out["phases"] = [
                {**phase, "operations": operations(phase["operations"], f"phases[{at}].operations")}
                for at, phase in enumerate(data["phases"])
            ]
        return out, problems

    def _embed_one(self, item: dict[str, Any], base: Path | None, place: str, problems: list[Problem]) -> Any:
        try:
            spec = self._sub_workflow(item, base)
        except DefinitionError as error:
            field = "definition" if item.get("definition") is not None else "workflow"
            name = f"{error.source}: " if error.source else ""
            problems.extend(
                Problem(f"{place}.{field}", f"{name}{_inner(each)}", each.hint) for each in error.problems
            )
            return {name: value for name, value in item.items() if name != "definition"}
        return item if spec is None else {**item, "definition": spec.to_dict()}

    def _sub_workflow(self, item: Mapping[str, Any], base: Path | None) -> WorkflowSpec | None:
        inner = _Loader(self._known_types, None, self._chain, self._depth + 1)
        if self._depth >= _MAX_NESTING:
            raise DefinitionError(f"workflows nested more than {_MAX_NESTING} deep")
        if item.get("definition") is not None:
            return inner.data(item["definition"], source="", lines=None, base=base)
        name = item.get("workflow")
        if not isinstance(name, str):
            return None
        if base is None:
            raise DefinitionError([Problem("", f"{name!r} is relative to a file, and there is none")])
        path = base / name
        if "\0" not in name and path.resolve() in self._chain:
            chain = " -> ".join(each.name for each in (*self._chain, path))
            raise DefinitionError([Problem("", f"workflows contain each other: {chain}", "break the circle")])
        return inner.file(path)


def _read(path: Path) -> str:
    if not path.is_file():
        raise DefinitionError(
            [Problem("", "there is no such file" if not path.exists() else "this is no file")]
        )
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise DefinitionError([Problem("", f"{size} bytes; the limit is {MAX_FILE_BYTES}")])
    return path.read_text(encoding="utf-8-sig")


def _raise(problems: list[Problem], source: str, lines: LineOf | None) -> None:
    located = [_with_line(problem, lines) for problem in problems]
    located.sort(key=lambda problem: problem.line or 0)
    raise_problems(located, source)


def _with_line(problem: Problem, lines: LineOf | None) -> Problem:
    if problem.line is not None or lines is None:
        return problem
    try:
        line = lines(problem.place)
    except RecursionError:
        line = None
    return Problem(problem.place, problem.message, problem.hint, line)


def _inner(problem: Problem) -> str:
    return str(Problem(problem.place, problem.message, "", problem.line))


def _first_excess(data: Any) -> Problem | None:
    """Where `data` is nested deeper than anything here is made for; walks level by level."""
    level: list[Any] = [data]
    for _ in range(MAX_LEVELS):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list, tuple)) and inner
        ]
        if not level:
            return None
    return Problem("", f"nested more than {MAX_LEVELS} levels deep", "flatten it")
