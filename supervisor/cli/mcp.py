"""The command `mcp`: workflows as tools for agents, the sage servers on their own, and consent for both."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sage_actors.supervisor.cli.options import at_terminal, project_option

__all__ = ["mcp_command"]


@click.group("mcp", invoke_without_command=True)
@project_option
@click.pass_context
def mcp_command(ctx: click.Context, project: Path) -> None:
    """Serve the project's workflows over MCP, on standard input and output.

    An agent starts this itself, from `.mcp.json`; `sage-actors init` writes the entry. Without an agent, try
    it with: npx @modelcontextprotocol/inspector --cli sage-actors mcp --method tools/list

    \b
    Examples:
      sage-actors mcp --project ../shop
      sage-actors mcp serve sage-research
      sage-actors mcp trust deploy
    """
    ctx.obj = project
    if ctx.invoked_subcommand is None:
        _say_who_listens("sage-orchestration")
        from sage_actors.servers.orchestration.serve import serve_orchestration

        serve_orchestration(project.resolve())


@mcp_command.command("serve")
@click.argument("name")
@click.pass_obj
def serve_command(project: Path, name: str) -> None:
    """Serve the sage server NAME on standard input and output.

    NAME is sage-research, sage-patterns, sage-specification, sage-planning or sage-implementation. Runs start
    them by themselves; this is for other clients.

    \b
    Example:
      sage-actors mcp serve sage-research
    """
    from sage_actors.servers.catalog import SAGE_SERVERS

    if name not in SAGE_SERVERS:
        raise click.UsageError(f"There is no sage server {name!r}; there are {', '.join(SAGE_SERVERS)}.")
    _say_who_listens(name)
    from sage_actors.servers.orchestration.serve import serve_sage

    serve_sage(name, project.resolve())


@mcp_command.command("trust")
@click.argument("names", metavar="TEMPLATE...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Consent to all without being asked.")
@click.pass_obj
def trust_command(project: Path, names: tuple[str, ...], yes: bool) -> None:
    """Consent to what TEMPLATE would start from the project, as it is now.

    You are shown the commands of a template in .sage/templates/, servers of .mcp.json, scripts of skills and the
    project's checks. Agents can then run the template over MCP, until any of these changes.

    \b
    Examples:
      sage-actors mcp trust deploy
      sage-actors mcp trust feature deploy --yes
    """
    from sage_actors.messages.errors import UsageError
    from sage_actors.supervisor.cli.consent import ensure_consent
    from sage_actors.supervisor.templates.library import find_template, load_workflow

    found = {}
    for name in names:
        template = find_template(name, project)
        if template is None:
            raise UsageError(
                f"there is no template {name!r}; `sage-actors templates list` shows what there is"
            )
        found[name] = template.path, load_workflow(template.path, project=project)
    if not yes and not at_terminal():
        raise click.UsageError("Nobody can be asked here; look at the templates, then give --yes.")
    for name, (path, spec) in found.items():
        ensure_consent(spec, project, template_path=path, trust=yes, quiet=False)
        click.echo(f"Agents may run {name} over MCP, as it is now.")


def _say_who_listens(name: str) -> None:
    """For a person who started it by hand: it would look as if it hung."""
    if sys.stdin.isatty():
        click.echo(
            f"{name} speaks MCP on standard input and output; it is for an agent to start. Ctrl-C ends it.",
            err=True,
        )
