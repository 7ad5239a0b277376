"""A thorough check of a workflow file against the project: are its servers, tools and skills there?

Loads the sage servers to ask them for their tools, about a second; a run finds out on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sage_actors.messages.definition import NodeSpec, WorkflowSpec
from sage_actors.messages.errors import DefinitionError, Problem
from sage_actors.supervisor.core.graph import nearest
from sage_actors.supervisor.definitions.validation import places_of
from sage_actors.supervisor.templates.library import Checked, check_template

__all__ = ["check_thoroughly"]


def check_thoroughly(path: Path, project: Path) -> Checked:
    """As `check_template`; a valid file is then held against what the project and this package have."""
    checked = check_template(path)
    if checked.spec is None:
        return checked
    problems = (*_server_problems(checked.spec, project), *_skill_problems(checked.spec, project))
    return Checked(None if problems else checked.spec, problems, checked.warnings)


def _nodes(spec: WorkflowSpec, type_name: str) -> list[tuple[str, NodeSpec]]:
    places = places_of(spec).nodes
    return [
        (place, node)
        for place, node in zip(places, spec.nodes, strict=True)
        if node.operation.type == type_name
    ]


def _server_problems(spec: WorkflowSpec, project: Path) -> Iterator[Problem]:
    nodes = _nodes(spec, "mcp")
    if not nodes:
        return
    from sage_actors.actors.mcp.config import load_servers
    from sage_actors.servers.catalog import SAGE_SERVERS

    try:
        own = load_servers(project)
    except DefinitionError as error:
        yield from (
            Problem(f".mcp.json {each.place}".strip(), each.message, each.hint, each.line)
            for each in error.problems
        )
        return
    tools: dict[str, Mapping[str, Any]] = {}
    for place, node in nodes:
        server, tool = str(node.operation.config.get("server")), str(node.operation.config.get("tool"))
        if "${" in server or server in own:  # what those offer is known once they are started
            if server in own:
                yield from (
                    Problem(f".mcp.json {each.place}", each.message, each.hint)
                    for each in own[server].problems
                )
        elif server not in SAGE_SERVERS:
            known = [*own, *SAGE_SERVERS]
            hint = nearest(
                server, known, otherwise=f"known are {', '.join(known)}; others belong into .mcp.json"
            )
            yield Problem(f"{place}.server", f"there is no server {server!r}", hint)
        elif "${" not in tool:
            if server not in tools:
                tools[server] = _tools_of(server, project)
            yield from _tool_problems(place, node, server, tool, tools[server])


def _tool_problems(
    place: str, node: NodeSpec, server: str, tool: str, tools: Mapping[str, Any]
) -> Iterator[Problem]:
    if tool not in tools:
        hint = nearest(tool, list(tools), otherwise=f"it has {', '.join(tools)}")
        yield Problem(f"{place}.tool", f"{server} has no tool {tool!r}", hint)
        return
    schema = tools[tool]
    known = schema.get("properties") or {}
    for name in node.arguments:
        if name not in known:
            hint = nearest(name, list(known), otherwise=f"it takes {', '.join(known) or 'none'}")
            yield Problem(f"{place}.arguments.{name}", f"{tool} takes no argument {name!r}", hint)
    for name in schema.get("required") or ():
        if name not in node.arguments:
            yield Problem(f"{place}.arguments", f"{tool} needs the argument {name!r}", f"add {name}: ...")


def _tools_of(server: str, project: Path) -> dict[str, Mapping[str, Any]]:
    """The JSON Schema of the arguments of each tool."""
    import asyncio

    from sage_actors.servers.catalog import create_server
    from sage_actors.servers.settings import ServerSettings

    made = create_server(server, ServerSettings(project))
    return {tool.name: tool.input_schema for tool in asyncio.run(made.list_tools())}


def _skill_problems(spec: WorkflowSpec, project: Path) -> Iterator[Problem]:
    nodes = _nodes(spec, "skill")
    if not nodes:
        return
    from sage_actors.actors.operations.skill import choose_script
    from sage_actors.messages.errors import UsageError
    from sage_actors.servers.skills.discovery import discover_skills

    skills = {skill.name: skill for skill in discover_skills(project)}
    for place, node in nodes:
        name, script = str(node.operation.config.get("skill")), node.operation.config.get("script")
        if "${" in name:
            continue
        if name not in skills:
            hint = nearest(name, list(skills), otherwise="`sage-actors skills list` shows what there is")
            yield Problem(f"{place}.skill", f"there is no skill {name!r}", hint)
        elif not node.operation.config.get("instructions") and "${" not in str(script):
            try:
                choose_script(skills[name], script)
            except UsageError as cause:
                yield Problem(f"{place}.script", str(cause))
