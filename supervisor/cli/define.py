"""Commands that look at a definition without running it: graph, validate, schema."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sage_actors.supervisor.cli.options import find_workflow, json_option, project_option

if TYPE_CHECKING:
    from sage_actors.messages.definition import WorkflowSpec
    from sage_actors.messages.errors import Problem

__all__ = ["graph_command", "schema_command", "validate_command"]


@click.command("graph")
@click.argument("workflow")
@project_option
@json_option
def graph_command(workflow: str, project: Path, as_json: bool) -> None:
    """Show in which batches WORKFLOW could execute, and what each node waits for.

    Execution itself does not wait for a batch: a node starts the moment its own dependencies are done.

    \b
    Examples:
      sage-actors graph examples/repo-report.json
      sage-actors graph feature --json
    """
    from sage_actors.supervisor.cli import picture
    from sage_actors.supervisor.templates.library import load_workflow

    spec = load_workflow(find_workflow(workflow, project))
    if as_json:
        from sage_actors.supervisor.json_text import to_json

        click.echo(to_json(picture.graph_as_json(spec)))
        return
    from rich.console import Console

    picture.render(spec, Console(highlight=False))


@click.command("validate")
@click.argument("workflow")
@project_option
@json_option
def validate_command(workflow: str, project: Path, as_json: bool) -> int:
    """Check WORKFLOW and report everything that is wrong with it, each with its place. Nothing runs.

    Python operations are imported in a worker process, to see that they are there. Exit code 2 if there are
    problems.

    \b
    Examples:
      sage-actors validate examples/repo-report.json
      sage-actors validate my-flow.yaml --json
    """
    from sage_actors.messages.errors import DefinitionError
    from sage_actors.messages.units import counted
    from sage_actors.supervisor.cli.display import printable

    path = find_workflow(workflow, project)
    warnings: list[Problem] = []
    try:
        spec = _checked(path, project, warnings)
    except DefinitionError as error:
        if not as_json:
            raise
        _print_verdict(path, None, error.problems, warnings)
        return error.exit_code
    if as_json:
        _print_verdict(path, spec, (), warnings)
        return 0
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)
    parts = [spec.name, counted(len(spec.nodes), "node")]
    parts += [counted(len(spec.phases), "phase")] if spec.phases else []
    click.echo(printable(f"{path} is valid: {', '.join(parts)}"))
    return 0


def _checked(path: Path, project: Path, warnings: list[Problem]) -> WorkflowSpec:
    from sage_actors.supervisor.cli.checking import load_checked, told_in_place

    spec = load_checked(path, project, warnings.append)
    operations = [node.operation for node in spec.nodes]
    if any(each.type in ("python", "workflow") or each.sandbox is not None for each in operations):
        from sage_actors.supervisor.api import Supervisor

        search = [path.resolve().parent]
        with (
            Supervisor(project, workers=1, durability="none", search_paths=search) as one,
            told_in_place(path),
        ):
            one.check(spec)
    return spec


def _print_verdict(path: Path, spec: WorkflowSpec | None, problems: Any, warnings: list[Problem]) -> None:
    from sage_actors.supervisor.json_text import to_json

    verdict: dict[str, Any] = {"valid": spec is not None, "file": str(path)}
    if spec is not None:
        verdict |= {"name": spec.name, "nodes": len(spec.nodes), "phases": len(spec.phases)}
    verdict["problems"] = [asdict(each) for each in problems]
    verdict["warnings"] = [asdict(each) for each in warnings]
    click.echo(to_json(verdict))


@click.command("schema")
@json_option
def schema_command(as_json: bool) -> None:
    """Print the JSON Schema of workflow files, for editors. (It is JSON with and without --json.)

    \b
    Example:
      sage-actors schema > workflow.schema.json
    """
    from sage_actors.supervisor.definitions.loading import json_schema
    from sage_actors.supervisor.json_text import to_json

    click.echo(to_json(json_schema()))
