"""Which workflow an agent asked for, and whether its user consented to what the project brings along.

Only names of templates are taken over MCP, never paths: what an agent names by a path is not its user's own word.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from sage_actors.actors.trust.consents import TrustStore
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.servers.orchestration.errors import ToolRefused
from sage_actors.servers.orchestration.models import Options
from sage_actors.supervisor.consent import required_items
from sage_actors.supervisor.core.graph import nearest
from sage_actors.supervisor.templates.library import Template, find_template, list_templates, load_workflow

__all__ = ["load_template", "named_template", "with_options"]


def load_template(name: str, project: Path) -> WorkflowSpec:
    """The workflow of a template.

    Raises:
        ToolRefused: there is no such template, or the user did not consent to what it would start.
        DefinitionError: it is invalid.
    """
    template = named_template(name, project)
    spec = load_workflow(template.path, project=project)
    store = TrustStore()
    missing = store.missing(project, required_items(spec, project, template.path))
    if missing:
        lines = [
            f"template {name} would start what the project brings, and its user has not consented to it:"
        ]
        lines += [f"  - {item}" for item in missing]
        lines.append(
            "Nothing was started. Only the user can consent, in a terminal in the project: "
            f"sage-actors mcp trust {shlex.quote(name)}"
        )
        if problem := store.problem():
            lines.append(f"Earlier consents do not count: {problem}")
        raise ToolRefused("CONSENT_REQUIRED", "\n".join(lines))
    return spec


def named_template(name: str, project: Path) -> Template:
    """The template of that name. Raises ToolRefused: there is none; names the nearest."""
    template = find_template(name, project)
    if template is None:
        known = [each.name for each in list_templates(project)]
        hint = nearest(name, known, otherwise=f"there are: {', '.join(known) or 'none'}")
        raise ToolRefused(
            "WORKFLOW_VALIDATION_ERROR",
            f"there is no template {name[:200]!r} (a file becomes one with `sage-actors templates add FILE`); {hint}",
        )
    return template


def with_options(spec: WorkflowSpec, options: Options) -> WorkflowSpec:
    """The workflow as it shall run this time."""
    if not options.parallel:
        spec = replace(spec, concurrency=1)
    if options.timeout is not None:
        spec = replace(spec, timeout=options.timeout / 1000)
    if not options.caching:
        nodes = [replace(each, operation=replace(each.operation, cache=None)) for each in spec.nodes]
        spec = replace(spec, nodes=nodes)
    return spec
