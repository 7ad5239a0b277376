"""A work order: all that somebody who does not know the project needs to carry a plan out, and to know it is done."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sage_actors.servers.implementation.check_runner import CheckResult
from sage_actors.servers.specification import sections
from sage_actors.servers.specification.markdown import Document, block, code, plain
from sage_actors.servers.specification.models import Task
from sage_actors.servers.specification.places import spots
from sage_actors.servers.specification.requirements import habit_with_place
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.suspects import Investigation

__all__ = ["WorkOrder", "write_work_order"]

_PLACE = re.compile(r"`([^`\s:]+):(\d+)`")
_MAX_READ = 12


@dataclass
class WorkOrder:
    """What goes in. `read_first` is filled when it is written."""

    slug: str
    spec_path: str
    plan_path: str
    tasks: list[Task]
    spec: str = ""
    plan: str = ""
    baseline: list[CheckResult] = field(default_factory=list)
    trusted: bool = False
    read_first: list[str] = field(default_factory=list)


def write_work_order(study: Study, order: WorkOrder) -> Document:
    """The order as a document; specification and plan are embedded, so that it can be handed on alone."""
    document = Document(study.sources)
    sections.front_matter(study, document, "local", "cited")
    document.add(f"# Work order: {plain(study.title, 120)}", "")
    document.add(
        f"You work in the repository of {plain(study.name)}. Change its files so that the requirements below hold."
    )
    _read_first(study, order, document)
    _rules(study, document)
    _checks(study, order, document)
    _done(study, order, document)
    for title, path, text in (
        ("Plan", order.plan_path, order.plan),
        ("Specification", order.spec_path, order.spec),
    ):
        document.heading(f"{title} ({code(path)})")
        if text:
            document.add(_embedded(text))
        else:
            document.undetermined("it is not there.")
    return document


def _read_first(study: Study, order: WorkOrder, document: Document) -> None:
    document.heading("Read first")
    places: dict[str, str] = {}
    for task in order.tasks:
        for place in task.files:
            places.setdefault(place, task.id)
    for path, line in _PLACE.findall(order.plan.partition("## Risks")[0]):
        places.setdefault(f"{path}:{line}", "the plan")
    if not places:
        found = (
            [f"{s.path}:{s.line}" for s in Investigation(study).suspects] if study.kind == "bugfix" else []
        )
        places = dict.fromkeys(
            found or [f"{s.symbol.path}:{s.symbol.line}" for s in spots(study)], "found again"
        )
    for place, why in list(places.items()):
        path, _, line = place.rpartition(":")
        if (
            len(order.read_first) < _MAX_READ
            and path
            and line.isdigit()
            and study.sources.holds(path, int(line))
        ):
            order.read_first.append(place)
            document.bullet(f"{document.at(path, int(line), 'read first')} (for {plain(why)})")
    for name in ("AGENTS.md", "CLAUDE.md", "CONTRIBUTING.md", ".github/CONTRIBUTING.md", "CONTRIBUTING.rst"):
        if study.sources.lines(name):
            document.bullet(f"{document.at(name, 1, 'rules')}: the project's own rules for changes")
    if not order.read_first:
        document.undetermined("no place in the code is named by the plan.")


def _rules(study: Study, document: Document) -> None:
    document.heading("Follow")
    for habit in study.habits:
        document.bullet(habit_with_place(habit, document))
    for skill in study.skills:
        where = f" ({code(skill.place)})" if skill.place else ""
        document.bullet(f"Skill {code(skill.name)}{where}: {plain(skill.description, 200)}")
    facts = study.facts
    if facts.runtime:
        document.bullet(
            f"Supported: {plain(facts.runtime.text)} ({document.at_place(facts.runtime, 'versions')})"
        )
    document.bullet(
        "Answer no open question by guessing: stop and ask, or write down what you assumed and why."
    )
    document.bullet(f"Leave {code('docs/specs/')} as it is, but for answers to the open questions.")


def _checks(study: Study, order: WorkOrder, document: Document) -> None:
    document.heading("Checks")
    if not study.checks:
        document.undetermined("no test, lint or type check is declared in a file that is known here.")
        return
    document.add(*block([check.text for check in study.checks], "sh"), "")
    if not order.trusted:
        document.add(
            "They were not run before this order was written: they are the project's own code, and nobody consented to"
            f" run it. To have a baseline next time: {code('sage-actors run ' + study.kind + ' … --trust')}."
        )
        return
    document.add(
        "Before any change they ended so; what failed then is not for you to mend unless it is asked:", ""
    )
    rows = []
    for result in order.baseline:
        ended = (
            result.status
            if result.exit_code in (None, 0)
            else f"{result.status} (exit code {result.exit_code})"
        )
        rows.append((code(result.command), ended))
    document.table(("command", "ended"), rows)
    for result in order.baseline:
        if result.status in ("failed", "timeout") and result.tail:
            document.add("", f"The end of what {code(result.command)} printed:", "")
            document.add(*block(result.tail.splitlines()[-15:], "text"))


def _done(study: Study, order: WorkOrder, document: Document) -> None:
    document.heading("Done when")
    accepted = [
        f"{number}: {line.strip().removeprefix('- Accepted when ').rstrip('.')}"
        for number, line in _acceptance(order.spec)
    ]
    for line in accepted[:40]:
        document.bullet(line)
    if study.checks:
        document.bullet("every command under “Checks” ends as it did before, or better")
    document.bullet("the change holds nothing that no requirement or task asks for")


def _acceptance(spec: str) -> list[tuple[str, str]]:
    found, number = [], ""
    for line in spec.splitlines():
        if match := re.match(r"- \*\*(N?FR-\d+)\*\*", line):
            number = match[1]
        elif number and line.startswith("  - Accepted when "):
            found.append((number, line))
    return found


def _embedded(text: str) -> str:
    """Without its front matter and its evidence; headings two levels deeper."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).partition("\n## Evidence\n")[0]
    fenced, lines = False, []
    for line in text.strip().splitlines():
        fenced = fenced != line.startswith("```")
        lines.append(f"##{line}" if line.startswith("#") and not fenced else line)
    return "\n".join(lines)
