"""`sage_workflow_validate`: a definition checked as a run would check it, without running or importing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import DefinitionError, Problem
from sage_actors.servers.orchestration.models import Graph, ValidationIssue, Verdict
from sage_actors.supervisor.definitions.validation import code_of

__all__ = ["validate"]


def validate(template: dict[str, Any] | str, project: Path) -> Verdict:
    """The verdict on a definition, or on the template of a name."""
    warnings: list[Problem] = []
    try:
        spec = _load(template, project, warnings)
    except DefinitionError as error:
        issues = [_issue(each, "error", code_of(each)) for each in error.problems]
        return Verdict(valid=False, errors=issues, warnings=_warnings(warnings))
    return Verdict(valid=True, warnings=_warnings(warnings), graph=_graph(spec))


def _load(template: dict[str, Any] | str, project: Path, warnings: list[Problem]) -> WorkflowSpec:
    from sage_actors.servers.orchestration.templates import named_template
    from sage_actors.supervisor.definitions.loading import load_dict
    from sage_actors.supervisor.templates.library import load_workflow
    from sage_actors.supervisor.templates.upstream import from_upstream, is_upstream

    if isinstance(template, str):
        found = named_template(template, project)
        return load_workflow(found.path, warn=warnings.append, project=project)
    if is_upstream(template):
        normalised = from_upstream(template)
        warnings += normalised.warnings
        if normalised.problems:
            raise DefinitionError(normalised.problems, source="template")
        template = normalised.data
    return load_dict(template, source="template", warn=warnings.append, project=project)


def _graph(spec: WorkflowSpec) -> Graph:
    from sage_actors.supervisor.cli.picture import graph_as_json

    shown = graph_as_json(spec)
    return Graph(nodes=len(spec.nodes), edges=shown["edges"], depth=len(shown["batches"]))


def _warnings(found: list[Problem]) -> list[ValidationIssue] | None:
    return [_issue(each, "warning", None) for each in found] or None


def _issue(problem: Problem, severity: Any, code: str | None) -> ValidationIssue:
    text = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    return ValidationIssue(field=problem.place, message=text, severity=severity, code=code)
