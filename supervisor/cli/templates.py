"""The command `templates`: list, show, add, check."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sage_actors.supervisor.cli.options import find_workflow, json_option, project_option

if TYPE_CHECKING:
    from sage_actors.messages.definition import WorkflowSpec
    from sage_actors.messages.errors import Problem
    from sage_actors.supervisor.templates.library import Checked, Template

__all__ = ["templates_command"]


@click.group("templates")
def templates_command() -> None:
    """List, show, add and check templates: workflows that are run by name.

    They come with the package, or are in .sage/templates/ of the project. A template of the project replaces one of
    the package that has the same name.

    \b
    Examples:
      sage-actors templates list
      sage-actors templates show feature
      sage-actors templates add my-flow.json
      sage-actors run my-flow "payment processing"
    """


@templates_command.command("list")
@project_option
@json_option
def list_command(project: Path, as_json: bool) -> None:
    """Every template, where it comes from, and whether it can run.

    \b
    Examples:
      sage-actors templates list
      sage-actors templates list --json
    """
    from sage_actors.messages.units import counted
    from sage_actors.supervisor.cli.display import one_line
    from sage_actors.supervisor.templates.library import check_template, list_templates

    found = [(template, check_template(template.path)) for template in list_templates(project)]
    if as_json:
        _print_json([_entry(template, checked) for template, checked in found])
        return

    width = max(len(template.name) for template, _ in found)
    for template, checked in found:
        said = (
            one_line(checked.spec.description)
            if checked.spec
            else f"{counted(len(checked.problems), 'problem')}; see `templates check`"
        )
        click.echo(f"{template.name:<{width}}  {_origin(template):<24}  {said}".rstrip())


@templates_command.command("show")
@click.argument("name")
@project_option
@json_option
def show_command(name: str, project: Path, as_json: bool) -> None:
    """What the template NAME does: inputs, phases, operations. With --json, the whole definition.

    \b
    Examples:
      sage-actors templates show feature
      sage-actors templates show bugfix --json > .sage/templates/bugfix.json
    """
    from sage_actors.supervisor.cli.display import printable
    from sage_actors.supervisor.templates.library import find_template, load_workflow

    path = find_workflow(name, project)
    spec = load_workflow(path)
    if as_json:
        _print_json(spec.to_dict())
        return
    template = find_template(name, project)
    click.echo(f"{spec.name} ({_origin(template) if template else 'file'}: {path})")
    if spec.description:
        click.echo(printable(spec.description))
    for text in _shown(spec):
        click.echo(printable(text))


@templates_command.command("add")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What to call it (default: the file's name).")
@click.option("--replace", is_flag=True, help="Replace an existing template of that name.")
@project_option
@json_option
def add_command(file: Path, name: str | None, replace: bool, project: Path, as_json: bool) -> None:
    """Check the workflow in FILE and put it among the project's templates.

    Both shapes of sage-dev's templates are read, and written in the format of this program. Adding a file
    consents to what it executes, as running it by its path does.

    \b
    Examples:
      sage-actors templates add my-flow.json
      sage-actors templates add draft.yaml --name release --replace
    """
    from sage_actors.supervisor.templates.library import add_template, check_template

    template = add_template(file, project, name=name, replace=replace)
    checked = check_template(template.path)
    if checked.spec is not None:
        _consent(checked.spec, template, project)
    if as_json:
        _print_json(_entry(template, checked))
        return
    click.echo(
        f"Added {template.path}" + ("; it takes the built-in one's place" if template.overrides else "")
    )
    needed = [] if checked.spec is None else [k for k, v in checked.spec.inputs.items() if v.required]
    given = "".join(' "TOPIC"' if each == "topic" else f" -i {each}=VALUE" for each in needed)
    click.echo(f"Run it: sage-actors run {template.name}{given}")


@templates_command.command("check")
@click.argument("name", required=False)
@project_option
@json_option
def check_command(name: str | None, project: Path, as_json: bool) -> int:
    """Everything that is wrong with the template or file NAME, or with all templates. Nothing runs.

    Exit code 2 if there are problems.

    \b
    Examples:
      sage-actors templates check
      sage-actors templates check my-flow --json
    """
    from sage_actors.supervisor.templates.library import check_template, find_template, list_templates

    wanted: list[tuple[str, Path, Template | None]]
    if name is None:
        wanted = [(each.name, each.path, each) for each in list_templates(project)]
    else:
        wanted = [(name, find_workflow(name, project), find_template(name, project))]
    found = [(said, path, template, check_template(path, project)) for said, path, template in wanted]
    if as_json:
        _print_json([_verdict(path, template, checked, said) for said, path, template, checked in found])
    else:
        for said, path, _, checked in found:
            _print_verdict(said, path, checked)
    return 2 if any(checked.problems for *_, checked in found) else 0


def _print_verdict(name: str, path: Path, checked: Checked) -> None:
    from sage_actors.messages.units import counted

    count = len(checked.problems)
    click.echo(f"{name}: " + (f"{counted(count, 'problem')} in {path}" if count else "valid"))
    for problem in checked.problems:
        click.echo(f"  - {problem}")
    for warning in checked.warnings:
        click.echo(f"  warning: {warning}")


def _verdict(path: Path, template: Template | None, checked: Checked, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "origin": template.origin if template else "file",
        "path": str(path),
        "valid": not checked.problems,
        "problems": _problems(checked.problems),
        "warnings": _problems(checked.warnings),
    }


def _entry(template: Template, checked: Checked) -> dict[str, Any]:
    spec = checked.spec
    return {
        "name": template.name,
        "origin": template.origin,
        "overrides": template.overrides,
        "path": str(template.path),
        "valid": not checked.problems,
        "description": spec.description if spec else "",
        "phases": [phase.id for phase in spec.phases] if spec else [],
        "inputs": list(spec.inputs) if spec else [],
    }


def _problems(problems: tuple[Problem, ...]) -> list[dict[str, Any]]:
    return [asdict(each) for each in problems]


def _origin(template: Template) -> str:
    return "project, not the built-in" if template.overrides else template.origin


def _shown(spec: WorkflowSpec) -> list[str]:
    lines = []
    for name, declared in spec.inputs.items():
        default = "" if declared.required else f", default {declared.default!r}"
        lines.append(f"input {name} ({declared.type}{default}): {declared.description}".rstrip(": "))
    phase = None
    for node in spec.nodes:
        if node.phase != phase:
            phase = node.phase
            lines.append(f"{phase}")
        lines.append(f"  {node.id.rpartition('/')[2]}: {_what(node.operation.type, node.operation.config)}")
    return lines


def _what(type_name: str, config: Any) -> str:
    if type_name == "mcp":
        return f"{config.get('server')} {config.get('tool')}"
    said = next(
        (config[key] for key in ("call", "command", "url", "skill", "prompt", "message") if config.get(key)),
        "",
    )
    return " ".join(f"{type_name} {' '.join(map(str, said)) if isinstance(said, list) else said}".split())[
        :100
    ]


def _consent(spec: WorkflowSpec, template: Template, project: Path) -> None:
    from sage_actors.actors.trust.consents import TrustStore
    from sage_actors.supervisor.consent import template_item

    if (item := template_item(spec, project, template.path)) is not None:
        TrustStore().consent(project, [item])


def _print_json(value: Any) -> None:
    from sage_actors.supervisor.json_text import to_json

    click.echo(to_json(value))
