"""What a definition needs the user's consent for before it runs, and how consent is asked for.

A repository can bring servers, templates, skills and checks that run code with the user's rights. None of it
starts because a file is there. What the user names by a path on the command line is the user's own word.

    required    servers of `.mcp.json` that the definition uses, a template of `.sage/templates/` that executes
                something, skills of the project whose scripts a definition executes, a `.sage/config.toml` that
                widens the sandbox: without consent nothing starts
    optional    the project's own tests and linters: without consent the run goes on and they are not run;
                a server of `.mcp.json` with a built-in one's name: the built-in one is used
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_actors.actors.trust.consents import (
    Item,
    TrustStore,
    checks_item,
    cut_description,
    digest_of,
    sandbox_item,
)
from sage_actors.messages.definition import OperationSpec, WorkflowSpec
from sage_actors.messages.errors import UsageError
from sage_actors.servers.catalog import IMPLEMENTATION, SAGE_SERVERS
from sage_actors.supervisor.definitions.specs import spec_from_dict

__all__ = ["Consent", "obtain_consent", "optional_items", "required_items", "template_item"]

_HARMLESS = frozenset({"mcp", "approval", "wait", "workflow"})
"""Types that execute nothing of a template's own: servers are asked for one by one, sub-workflows looked into."""

_CHECK_TOOLS = frozenset({"implementation_execute", "validation_run"})
_SHOWN = 20  # operations of a template that are described


@dataclass(frozen=True, slots=True)
class Consent:
    """What came of asking. `refused`: optional items that the run goes on without."""

    given: tuple[Item, ...] = ()
    refused: tuple[Item, ...] = ()


def required_items(spec: WorkflowSpec, project: Path, template_path: Path | None = None) -> list[Item]:
    """What must be consented to before `spec` may run.

    template_path: its file, where it was found by a template's name; None where the user gave a path.

    Raises:
        DefinitionError: `.mcp.json` or `.sage/config.toml` cannot be read.
        UsageError: a skill that is executed is not there, or cannot be read as a whole.
    """
    items = [item] if (item := template_item(spec, project, template_path)) is not None else []
    operations = list(_operations(spec))
    items += [item for item in _server_items(operations, project) if item.name not in SAGE_SERVERS]
    items += _skill_items(operations, project)
    items += _sandbox_items(project)
    return list(dict.fromkeys(items))


def optional_items(spec: WorkflowSpec, project: Path) -> list[Item]:
    """What a run of `spec` can do without: servers in the place of built-in ones, and the project's checks.

    Raises:
        DefinitionError: `.mcp.json` cannot be read.
    """
    operations = list(_operations(spec))
    items = [item for item in _server_items(operations, project) if item.name in SAGE_SERVERS]
    if any(_runs_checks(operation) for operation in operations):
        items.append(checks_item(project))
    return items


def _runs_checks(operation: OperationSpec) -> bool:
    """Whether it would run the project's own checks: a tool that does, or an agent after its work."""
    config = operation.config
    if operation.type == "agent":
        return config.get("checks") is True
    is_tool = operation.type == "mcp" and config.get("server") == IMPLEMENTATION
    return is_tool and config.get("tool") in _CHECK_TOOLS


def template_item(spec: WorkflowSpec, project: Path, template_path: Path | None) -> Item | None:
    """A template of the project that executes something, with all its sub-workflows; else None."""
    if template_path is None or not _is_of_project(template_path, project):
        return None
    shown = [text for operation in _operations(spec) if (text := _describe(operation))]
    if not shown:
        return None
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    files = _executed_files(spec, project, template_path)
    said = {"definition": spec.to_dict(), "files": files} if files else spec.to_dict()
    return Item(
        "template",
        template_path.stem,
        digest_of(said),
        f"executes {'; '.join(shown[:_SHOWN])}{more}{_files_shown(files)}",
    )


def _executed_files(spec: WorkflowSpec, project: Path, template_path: Path) -> dict[str, str]:
    """SHA-256 of the project's programs and modules that its commands and functions name, by path."""
    from sage_actors.actors.trust.programs import named_modules, named_programs

    found: dict[str, str] = {}
    calls: list[str] = []
    for operation in _operations(spec):
        config = operation.config
        if operation.type == "python":
            calls.append(str(config.get("call")))
        elif operation.type == "shell":
            command = config.get("command")
            words = ["sh", "-c", command] if isinstance(command, str) else list(map(str, command or ()))
            env = {str(name): str(value) for name, value in (config.get("env") or {}).items()}
            directory = project / str(config.get("cwd") or "")
            found |= named_programs(words, env, directory=directory, project=project)
    folders = (project, template_path.parent)
    return found | named_modules(calls, folders=folders, project=project)


def _files_shown(files: Collection[str]) -> str:
    if not files:
        return ""
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return f" (which is {', '.join(sorted(files)[:_SHOWN])}{more})"


def obtain_consent(
    required: Sequence[Item],
    optional: Sequence[Item],
    project: Path,
    *,
    trust: bool = False,
    ask: Callable[[Item, bool], bool] | None = None,
    store: TrustStore | None = None,
    record: Callable[[Sequence[Item]], None] = lambda _: None,
) -> Consent:
    """Makes sure that every required item is consented to, now or before.

    trust: the user consents to all, and it is recorded. ask: called with an item and whether the run needs it,
    where a person can be asked; None where nobody can. record: called with what is consented to now, before that
    counts; nothing is consented to if it raises.

    Raises:
        UsageError: a required item is not consented to; lists all of them and says what to do.
        StorageError: consent was given and cannot be recorded.
    """
    store = store or TrustStore()
    needed = store.missing(project, required)
    wanted = store.missing(project, optional)
    if trust:
        _give(store, project, [*needed, *wanted], record)
        return Consent((*needed, *wanted))
    given = [item for item in needed if ask is not None and ask(item, True)]
    if len(given) < len(needed):
        raise _refusal([item for item in needed if item not in given], store)
    given += [item for item in wanted if ask is not None and ask(item, False)]
    _give(store, project, given, record)
    return Consent(tuple(given), tuple(item for item in wanted if item not in given))


def _give(
    store: TrustStore, project: Path, items: Sequence[Item], record: Callable[[Sequence[Item]], None]
) -> None:
    if items:
        record(items)
        store.consent(project, items)


def _refusal(items: Sequence[Item], store: TrustStore) -> UsageError:
    lines = ["this run would start what the project brings, and you have not consented to it:"]
    lines += [f"  - {item}" for item in items]
    lines.append("Look at it; then consent with --trust, or on a terminal one by one. Nothing was started.")
    if problem := store.problem():
        lines.append(f"Earlier consents do not count: {problem}")
    return UsageError("\n".join(lines))


def _operations(spec: WorkflowSpec) -> Iterator[OperationSpec]:
    """Every operation once, those of sub-workflows too."""
    seen: set[int] = set()
    for node in spec.nodes:
        operation = node.operation
        if id(operation) in seen:
            continue
        seen.add(id(operation))
        yield operation
        definition = operation.config.get("definition") if operation.type == "workflow" else None
        if isinstance(definition, dict):
            yield from _operations(spec_from_dict(definition))


def _server_items(operations: Sequence[OperationSpec], project: Path) -> list[Item]:
    names = [str(each.config.get("server")) for each in operations if each.type == "mcp"]
    if not names:
        return []
    from sage_actors.actors.mcp.config import load_servers

    servers = load_servers(project)
    if any("${" in name for name in names):  # which one is known only when it runs
        names = list(servers)
    wanted = [servers[name] for name in dict.fromkeys(names) if name in servers]
    return [entry.trust_item() for entry in wanted if entry.may_start]  # others are told when they are used


def _skill_items(operations: Sequence[OperationSpec], project: Path) -> list[Item]:
    executed = [
        each.config for each in operations if each.type == "skill" and not each.config.get("instructions")
    ]
    if not executed:
        return []
    from sage_actors.actors.operations.skill import find_skill, skill_item
    from sage_actors.servers.skills.discovery import discover_skills

    if any("${" in str(config.get("skill")) for config in executed):
        skills = discover_skills(project)
    else:
        skills = [find_skill(project, config.get("skill")) for config in executed]
    items = [skill_item(skill) for skill in skills if skill.scripts]
    return [item for item in items if item is not None]


def _sandbox_items(project: Path) -> list[Item]:
    """The project's `.sage/config.toml`, where it would let operations do more than they may by default."""
    from sage_actors.supervisor.config import load_config

    sandbox = load_config(project).sandbox
    return [sandbox_item(sandbox.widening())] if sandbox.widens else []


def _is_of_project(path: Path, project: Path) -> bool:
    from sage_actors.supervisor.templates.library import project_folder

    folder = project_folder(project)
    return path.parent == folder or path.parent.resolve() == folder.resolve()


def _describe(operation: OperationSpec) -> str:
    """What an operation executes, on one line; "" for one that executes nothing of its own."""
    if operation.type in _HARMLESS:
        return ""
    config = operation.config
    said: Any = next(
        (config[name] for name in ("call", "command", "url", "skill", "prompt") if name in config), ""
    )
    words = " ".join(map(str, said)) if isinstance(said, (list, tuple)) else str(said)
    text = cut_description(f"{operation.type} {' '.join(words.split())}")
    return f"{text} (not confined)" if operation.sandbox == "trusted" else text
