"""Workflow templates: those of the package, and a project's own in `.sage/templates/`, which take their place.

A template is a workflow file that is called by its name: `sage-actors run feature "rate limiting"`. Besides the
file format both of upstream's shapes are read. A link of the project that leads out of it is not followed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sage_actors.actors.state.disk import replace_shared_file
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import DefinitionError, Problem, StorageError, UsageError
from sage_actors.supervisor.definitions.loading import LineOf, load_dict, read_file

if TYPE_CHECKING:
    from sage_actors.supervisor.templates.upstream import Normalised

__all__ = [
    "SUFFIXES",
    "Checked",
    "Template",
    "add_template",
    "check_template",
    "find_template",
    "list_templates",
    "load_workflow",
    "project_folder",
]

SUFFIXES = (".json", ".yaml", ".yml")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_PEEK_LIMIT_BYTES = 1024 * 1024  # upstream's templates are small; a large file is ours
Warn = Callable[[Problem], None]


@dataclass(frozen=True, slots=True)
class Template:
    """A workflow file by its name. `overrides`: it takes the place of the package's template of that name."""

    name: str
    path: Path
    origin: Literal["built-in", "project"]
    overrides: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found; `spec` is None where there are problems."""

    spec: WorkflowSpec | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def project_folder(project: Path) -> Path:
    """Where a project's own templates are."""
    return project / ".sage" / "templates"


def list_templates(project: Path) -> list[Template]:
    """The project's templates and those of the package that they leave in place, by name."""
    found = {name: Template(name, path, "built-in") for name, path in _files(_built_in_folder()).items()}
    for name, path in _files(project_folder(project), inside=project).items():
        found[name] = Template(name, path, "project", overrides=name in found)
    return [found[name] for name in sorted(found)]


def find_template(name: str, project: Path) -> Template | None:
    """The template of that name; None where there is none, or `name` can only be a path.

    Raises:
        UsageError: the project's template of that name is a link that leads out of it.
    """
    if not _NAME.fullmatch(name):
        return None
    path = _files(project_folder(project)).get(name)
    if path is not None and not _leads_inside(path, project):
        raise UsageError(_leads_out(path))
    return next((each for each in list_templates(project) if each.name == name), None)


def load_workflow(path: Path, *, warn: Warn | None = None, project: Path | None = None) -> WorkflowSpec:
    """The workflow in a file of any of the shapes that are read; as `definitions.load_file`.

    project: where the servers and skills that it names must be; without one that is not asked.

    Raises:
        DefinitionError: all problems, each with its place; CycleError if a cycle is among them.
    """
    return _loaded(path, warn, project)[0]


def check_template(path: Path, project: Path | None = None) -> Checked:
    """Everything that is wrong with a file, or what it says; as `load_workflow`, but never raises for what is in it."""
    warnings: list[Problem] = []
    try:
        spec = load_workflow(path, warn=warnings.append, project=project)
    except DefinitionError as error:
        return Checked(None, error.problems, tuple(warnings))
    return Checked(spec, (), tuple(warnings))


def add_template(source: Path, project: Path, *, name: str | None = None, replace: bool = False) -> Template:
    """Put the workflow in `source` among the project's templates, whole or not at all.

    Upstream's shapes are written in the file format, and files of sub-workflows become part of it; else the
    text is kept as it is.

    Raises:
        DefinitionError: it is no valid workflow.
        UsageError: the name cannot be one, or is taken, or a link leads out of the project.
        StorageError: it cannot be written.
    """
    name = name or source.stem
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a template's name; use A-Z a-z 0-9 _ and -, 100 at most (--name NAME)"
        )
    suffix, data = _to_write(source)
    folder = project_folder(project)
    taken = _files(folder).get(name)
    if taken is not None and not replace:
        raise UsageError(
            f"there is a template {name!r} already, {taken}; --replace puts this one in its place"
        )
    path = folder / f"{name}{suffix}"
    if not _leads_inside(path, project):
        raise UsageError(_leads_out(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_shared_file(path, data)
        if taken is not None and taken != path:
            taken.unlink()
    except OSError as cause:
        raise StorageError(f"the template cannot be written: {cause}") from cause
    return Template(name, path, "project", overrides=name in _files(_built_in_folder()))


def _to_write(source: Path) -> tuple[str, bytes]:
    spec, normalised = _loaded(source)
    if normalised is not None:
        return ".json", _json(normalised.data)
    if any(node.operation.type == "workflow" for node in spec.nodes):
        return ".json", _json(spec.to_dict())
    try:
        return source.suffix.lower() if source.suffix.lower() in SUFFIXES else ".json", source.read_bytes()
    except OSError as cause:
        raise StorageError(f"{source} cannot be read: {cause}") from cause


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _loaded(
    path: Path, warn: Warn | None = None, project: Path | None = None
) -> tuple[WorkflowSpec, Normalised | None]:
    """The workflow, and what was made of the file where it is in one of upstream's shapes."""
    data, lines = read_file(path)
    normalised = _normalised(path, data, lines)
    if normalised is None:
        spec = load_dict(
            data, source=str(path), lines=lines, base=path.parent, warn=warn, file=path, project=project
        )
        return spec, None
    if normalised.problems:
        raise DefinitionError(normalised.problems, source=str(path))
    for warning in normalised.warnings if warn else ():
        assert warn is not None
        warn(warning)
    spec = load_dict(normalised.data, source=str(path), base=path.parent, warn=warn, project=project)
    return spec, normalised


def _normalised(path: Path, data: Any, lines: LineOf) -> Normalised | None:
    """The workflow of a file in one of upstream's shapes; None for every other file."""
    if not isinstance(data, dict) or "phases" not in data or path.stat().st_size > _PEEK_LIMIT_BYTES:
        return None
    from sage_actors.supervisor.templates.upstream import from_upstream, is_upstream

    if not is_upstream(data):
        return None
    found = from_upstream(data)
    found.problems = [
        Problem(each.place, each.message, each.hint, lines(each.place)) for each in found.problems
    ]
    return found


def _built_in_folder() -> Path:
    from sage_actors import templates

    return Path(templates.__path__[0])


def _leads_inside(path: Path, project: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(project))


def _leads_out(path: Path) -> str:
    return (
        f"{path} leads out of the project, to {os.path.realpath(path)}; it is not followed. Remove the link, and put "
        "the file there with `sage-actors templates add FILE`"
    )


def _files(folder: Path, inside: Path | None = None) -> dict[str, Path]:
    """The workflow files of a folder by name; of several with one name the first suffix counts.

    inside: a project, which links must not lead out of; those that do are passed over.
    """
    found: dict[str, Path] = {}
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    for suffix in SUFFIXES:
        for each in names:
            stem, ending = os.path.splitext(each)
            if ending == suffix and _NAME.fullmatch(stem) and _is_there(folder / each, inside):
                found.setdefault(stem, folder / each)
    return found


def _is_there(path: Path, inside: Path | None) -> bool:
    return path.is_file() and (inside is None or _leads_inside(path, inside))
