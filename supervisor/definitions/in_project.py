"""What a definition takes from its project and from this package: are its servers, tools and skills there?

Nothing is started to find out. Which tools the sage servers have, and with which arguments, is in a table
(`servers/catalog.py`); what a server of `.mcp.json` offers is known once it runs, so nothing is said about that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_actors.messages.definition import NodeSpec, WorkflowSpec
from sage_actors.messages.errors import DefinitionError, Problem
from sage_actors.messages.node_columns import operations_of
from sage_actors.supervisor.core.graph import nearest
from sage_actors.supervisor.definitions.arguments import argument_problem
from sage_actors.supervisor.definitions.specs import spec_from_dict

if TYPE_CHECKING:
    from sage_actors.actors.mcp.config import ServerEntry
    from sage_actors.supervisor.definitions.validation import Places

__all__ = ["project_problems"]

_SHOWN = 20  # names that a hint lists


def project_problems(spec: WorkflowSpec, project: Path, *, places: Places | None = None) -> list[Problem]:
    """What `spec` names and is not there, sub-workflows included, each with its place.

    places: where nodes stand, if the source differs from what `spec.to_dict()` gives.
    """
    types = {each.type for each in operations_of(spec.nodes)}
    if types.isdisjoint(("mcp", "skill", "workflow")):
        return []
    # Loaded only where there is something to check.
    from sage_actors.supervisor.definitions.validation import places_of

    placed = list(zip((places or places_of(spec)).nodes, spec.nodes, strict=True))
    problems: list[Problem] = []
    for type_name, look in _LOOKS.items():
        if type_name in types:
            nodes = [(place, node) for place, node in placed if node.operation.type == type_name]
            problems += look(nodes, project)
    return problems


_Nodes = Sequence[tuple[str, NodeSpec]]


def _server_problems(nodes: _Nodes, project: Path) -> Iterator[Problem]:
    from sage_actors.servers.catalog import SAGE_SERVERS, tools_of

    own, wrong = _servers_of(project)
    yield from wrong
    for place, node in nodes:
        server, tool = str(node.operation.config.get("server")), str(node.operation.config.get("tool"))
        if "${" in server or (wrong and server not in SAGE_SERVERS):
            continue
        entry = own.get(server)
        if entry is not None and entry.disabled and server in SAGE_SERVERS:
            entry = None
        if entry is None and server in SAGE_SERVERS:
            if "${" not in tool:
                yield from _tool_problems(place, node, server, tool, tools_of(server))
        elif entry is None:
            known = [*own, *(each for each in SAGE_SERVERS if each not in own)]
            otherwise = f"known are {', '.join(known[:_SHOWN])}; others belong into .mcp.json"
            hint = nearest(server, known, otherwise=otherwise)
            yield Problem(f"{place}.server", f"there is no server {server!r}", hint)
        elif server not in SAGE_SERVERS:  # of such a name the built-in one is used where the entry cannot be
            yield from (
                Problem(f"{place}.server", f".mcp.json {each.place}: {each.message}", each.hint)
                for each in entry.problems
            )
            if entry.disabled:
                yield Problem(f"{place}.server", entry.why_disabled, "remove `disabled` there")


def _servers_of(project: Path) -> tuple[Mapping[str, ServerEntry], list[Problem]]:
    """The servers of `.mcp.json`; what is wrong with the file as a whole."""
    from sage_actors.actors.mcp.config import CONFIG_NAME, load_servers

    try:
        return load_servers(project), []
    except DefinitionError as error:
        return {}, [
            Problem(f"{CONFIG_NAME} {each.place}".strip(), _with_line(each), each.hint)
            for each in error.problems
        ]


def _with_line(problem: Problem) -> str:
    """A line of another file is no line of the definition."""
    return problem.message if problem.line is None else f"line {problem.line}: {problem.message}"


def _tool_problems(
    place: str, node: NodeSpec, server: str, tool: str, tools: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    if tool not in tools:
        hint = nearest(tool, list(tools), otherwise=f"it has {', '.join(tools)}")
        yield Problem(f"{place}.tool", f"{server} has no tool {tool!r}", hint)
        return
    known = tools[tool]["properties"]
    for name, value in node.arguments.items():
        if name not in known:
            hint = nearest(name, list(known), otherwise=f"it takes {', '.join(known) or 'none'}")
            yield Problem(f"{place}.arguments.{name}", f"{tool} takes no argument {name!r}", hint)
        elif reason := argument_problem(known[name], value):
            yield Problem(f"{place}.arguments.{name}", reason)
    for name in tools[tool]["required"]:
        if name not in node.arguments:
            yield Problem(f"{place}.arguments", f"{tool} needs the argument {name!r}", f"add {name}: ...")


def _skill_problems(nodes: _Nodes, project: Path) -> Iterator[Problem]:
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


def _inner_problems(nodes: _Nodes, project: Path) -> Iterator[Problem]:
    for place, node in nodes:
        definition = node.operation.config.get("definition")
        if isinstance(definition, Mapping):
            for each in project_problems(spec_from_dict(definition), project):
                yield Problem(f"{place}.definition", f"{each.place}: {each.message}", each.hint)


_LOOKS: dict[str, Callable[[_Nodes, Path], Iterator[Problem]]] = {
    "mcp": _server_problems,
    "skill": _skill_problems,
    "workflow": _inner_problems,
}
