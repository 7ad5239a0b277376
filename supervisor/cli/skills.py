"""The command `skills`: list, show, search, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sage_actors.supervisor.cli.options import json_option, project_option

if TYPE_CHECKING:
    from sage_actors.servers.skills.discovery import Skill
    from sage_actors.servers.skills.needs import KnowledgeNeed, ToolNeed
    from sage_actors.supervisor.skills_usage import SkillStatistics

__all__ = ["skills_command"]

_DESCRIPTION_CHARS = 100


@click.group("skills")
def skills_command() -> None:
    """Show what the skills of the project and of the user are for, whether they can be used, and how often they are.

    They are looked for in .sage/skills, .agents/skills, .claude/skills and .sage/agent/skills of the project, then in
    ~/.agents/skills and ~/.claude/skills; the first one with a name wins.

    \b
    Examples:
      sage-actors skills list
      sage-actors skills search "flaky tests"
      sage-actors skills check
    """


@skills_command.command("list")
@project_option
@json_option
def list_command(project: Path, as_json: bool) -> None:
    """Every skill, where it is, and in how many runs it was offered and used.

    The reuse rate is the share of runs that used a skill among those that were offered one.

    \b
    Examples:
      sage-actors skills list
      sage-actors skills list --json
    """
    from sage_actors.servers.skills.discovery import find_skills
    from sage_actors.supervisor.skills_usage import skills_of_project

    found = find_skills(project)
    usage = skills_of_project(project)
    if as_json:
        skills = [_entry(skill) | _usage_of(skill, usage) for skill in found.skills]
        _print_json({"skills": skills, "usage": _usage(usage), "warnings": found.warnings})
        return
    _warn(found.warnings)
    for skill in found.skills:
        click.echo(f"{skill.name}  ({skill.place})")
        click.echo(f"  {_short(skill.description)}")
        offered, used = usage.by_skill.get(skill.name, (0, 0))
        if offered or used:
            click.echo(f"  offered to {offered} runs, used by {used}")
    if not found.skills:
        click.echo(
            "There are no skills. One is a folder with a SKILL.md in .sage/skills/ or .agents/skills/."
        )
    if usage.rate is not None:
        click.echo(
            f"{usage.used} of {usage.offered} runs that were offered a skill used one ({usage.rate:.0%})."
        )


@skills_command.command("show")
@click.argument("name")
@project_option
@json_option
def show_command(name: str, project: Path, as_json: bool) -> None:
    """The skill NAME: what is known of it, and its instructions.

    \b
    Examples:
      sage-actors skills show release-notes
    """
    from sage_actors.actors.operations.skill import find_skill
    from sage_actors.messages.errors import UsageError

    skill = find_skill(project, name)
    try:
        text = skill.read()
    except OSError as cause:
        raise UsageError(f"{skill.place} cannot be read: {cause}") from cause
    if as_json:
        _print_json(_entry(skill) | {"trusted": _is_trusted(skill, project), "instructions": text})
        return
    click.echo(f"{skill.name}  ({skill.place}, {skill.origin})")
    click.echo(skill.description)
    for title, values in (
        ("needs", skill.tools),
        ("builds on", skill.knowledge),
        ("executes", skill.scripts),
    ):
        if values:
            click.echo(f"{title}: {', '.join(values)}")
    if skill.scripts and not _is_trusted(skill, project):
        click.echo("Its scripts run only after consent: `run --trust`, once you have read them.")
    click.echo(f"\n{_printable(text).strip()}")


@skills_command.command("search")
@click.argument("topic")
@click.option(
    "--top",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    metavar="N",
    help="The most skills to show.",
)
@project_option
@json_option
def search_command(topic: str, top: int, project: Path, as_json: bool) -> None:
    """Skills for TOPIC, best first, as a run would be offered them.

    \b
    Examples:
      sage-actors skills search "flaky tests"
      sage-actors skills search "rate limiting" --top 3 --json
    """
    from sage_actors.servers.skills.search import skills_search

    found = skills_search(project, topic, top)
    if as_json:
        _print_json(found.model_dump())
        return
    for skill in found.skills:
        click.echo(f"{skill.score:4.0%}  {skill.name}  ({skill.path})")
        click.echo(f"      {_short(skill.description)}")
    for note in found.notes:
        click.echo(note, err=True)


@skills_command.command("check")
@click.argument("name", required=False)
@project_option
@json_option
def check_command(name: str | None, project: Path, as_json: bool) -> int:
    """Whether the prerequisites of the skill NAME, or of all skills, are met.

    Each tool is looked for in $PATH and, where a version is asked for, started with --version; nothing of the
    project is. Exit code 2 if something is missing or a skill had to be left out.

    \b
    Examples:
      sage-actors skills check
      sage-actors skills check release-notes --json
    """
    from sage_actors.actors.operations.skill import find_skill
    from sage_actors.servers.skills.discovery import find_skills
    from sage_actors.servers.skills.needs import check_knowledge, check_tools

    found = find_skills(project)
    wanted = found.skills if name is None else [find_skill(project, name)]
    warnings = found.warnings if name is None else []
    checked = [(skill, check_tools(skill, project), check_knowledge(skill, found.skills)) for skill in wanted]
    if as_json:
        verdicts = [_verdict(skill, tools, knowledge, project) for skill, tools, knowledge in checked]
        _print_json({"skills": verdicts, "warnings": warnings})
    else:
        for skill, tools, knowledge in checked:
            _print_verdict(skill, tools, knowledge)
        _warn(warnings)
    left_out = any("left out" in warning for warning in warnings)
    return 2 if left_out or any(not need.is_met for _, tools, _ in checked for need in tools) else 0


def _print_verdict(skill: Skill, tools: list[ToolNeed], knowledge: list[KnowledgeNeed]) -> None:
    met = all(need.is_met for need in tools)
    click.echo(f"{skill.name}: {'ok' if met else 'prerequisites are missing'}")
    for need in tools:
        found = f" ({need.found})" if need.found else ""
        detail = f": {need.detail}" if need.state != "ok" else ""
        click.echo(f"  {need.need}: {need.state}{found}{detail}")
    for item in knowledge:
        click.echo(f"  {item.need}: {item.skill or 'no skill of that name; known elsewhere'}")


def _verdict(
    skill: Skill, tools: list[ToolNeed], knowledge: list[KnowledgeNeed], project: Path
) -> dict[str, Any]:
    return {
        "name": skill.name,
        "path": skill.place,
        "ok": all(need.is_met for need in tools),
        "trusted": _is_trusted(skill, project),
        "tools": [
            {"need": each.need, "state": each.state, "found": each.found, "detail": each.detail}
            for each in tools
        ],
        "knowledge": [{"need": each.need, "skill": each.skill or None} for each in knowledge],
    }


def _entry(skill: Skill) -> dict[str, Any]:
    return {
        "name": skill.name,
        "description": skill.description,
        "path": skill.place,
        "origin": skill.origin,
        "format": skill.format,
        "category": skill.category,
        "languages": list(skill.languages),
        "tools": list(skill.tools),
        "knowledge": list(skill.knowledge),
        "scripts": list(skill.scripts),
    }


def _usage_of(skill: Skill, usage: SkillStatistics) -> dict[str, int]:
    offered, used = usage.by_skill.get(skill.name, (0, 0))
    return {"runs_offered": offered, "runs_used": used}


def _usage(usage: SkillStatistics) -> dict[str, Any]:
    return {
        "runs": usage.runs,
        "runs_offered": usage.offered,
        "runs_used": usage.used,
        "runs_unreadable": usage.unreadable,
        "reuse_rate": usage.rate,
    }


def _is_trusted(skill: Skill, project: Path) -> bool:
    """Whether its scripts may run."""
    from sage_actors.actors.operations.skill import skill_item
    from sage_actors.actors.trust.consents import TrustStore
    from sage_actors.messages.errors import UsageError

    try:
        item = skill_item(skill)
    except UsageError:
        return False
    return item is None or TrustStore().trusts(project, item)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)


def _short(text: str) -> str:
    return text if len(text) <= _DESCRIPTION_CHARS else f"{text[: _DESCRIPTION_CHARS - 1].rstrip()}…"


def _printable(text: str) -> str:
    """Without what would drive the terminal: the text comes from a repository."""
    return "".join(each if each.isprintable() or each in "\n\t" else "�" for each in text)


def _print_json(value: Any) -> None:
    from sage_actors.supervisor.json_text import to_json

    click.echo(to_json(value))
