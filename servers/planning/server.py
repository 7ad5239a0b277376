"""The server sage-planning: the steps from a specification to the change, in an order that holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import anyio.to_thread
from mcp.server import MCPServer
from mcp_types import CallToolResult
from pydantic import Field

from sage_actors.messages.backend import TokenUsage
from sage_actors.messages.errors import UsageError
from sage_actors.messages.findings import TokenCount
from sage_actors.servers.documents.documents import read_document, write_document
from sage_actors.servers.documents.drafting import Drafted, PlanDraft, ask, cleaned
from sage_actors.servers.documents.slugs import choose_slug
from sage_actors.servers.documents.tools import WRITES, answer, tool_errors, valid_items
from sage_actors.servers.planning.tasks import check_order, plan_tasks
from sage_actors.servers.sage_server import SageServer
from sage_actors.servers.settings import ServerSettings
from sage_actors.servers.specification import sections
from sage_actors.servers.specification.markdown import Document, code, plain
from sage_actors.servers.specification.models import PlanResult, Requirement, Section, Task
from sage_actors.servers.specification.study import Kind, Study
from sage_actors.servers.specification.tests import is_tested

__all__ = ["create_server", "generate_plan"]

_INSTRUCTIONS = (
    "Writes docs/specs/<slug>/plan.md from a specification: tasks in dependency order, each with its files, its reason"
    " and the command that checks it, and the risks that the evidence shows."
)
_DRAFT = "Draft the plan for this {kind}: {topic!r}. Small tasks, each with the files it touches and how it is checked."
_OFTEN = 3  # commits of a file, and a tenth of all
_REQUIREMENT = re.compile(
    r"- \*\*(?P<id>N?FR-\d+)\*\* \((?P<status>asked|from evidence|proposed)\) (?P<text>.+)"
)
_CITED = re.compile(r"`([^`\s]+:\d+)`")


def create_server(settings: ServerSettings) -> MCPServer:
    """The server, for `settings.project` only."""
    server = SageServer("sage-planning", instructions=_INSTRUCTIONS)

    @server.tool(annotations=WRITES)
    async def planning_generate(
        topic: Annotated[str, Field(min_length=1, max_length=100_000)],
        specification: Any = None,
        slug: str | None = None,
        kind: Kind = "feature",
        research: Any = None,
        patterns: Any = None,
        skills: Any = None,
        output: str | None = None,
    ) -> Annotated[CallToolResult, PlanResult]:
        """Writes the plan of a feature, a bug's fix or an enhancement into the project.

        specification: the result of specification_create; its document is read as it is now, with what a person
        changed in it. Without one the project is looked at again. research, patterns, skills: as for the
        specification; each may be null or shortened. output: a path in the project instead of
        docs/specs/<slug>/plan.md. Tasks come in an order that their dependencies allow. Runs no code of the project.
        """
        with tool_errors():
            result, usage = await generate_plan(
                settings,
                topic,
                specification,
                slug=slug,
                kind=kind,
                research=research,
                patterns=patterns,
                skills=skills,
                output=output,
            )
        return answer(result, usage)

    return server


async def generate_plan(
    settings: ServerSettings,
    topic: str,
    specification: Any = None,
    *,
    slug: str | None = None,
    kind: Kind = "feature",
    research: Any = None,
    patterns: Any = None,
    skills: Any = None,
    output: str | None = None,
) -> tuple[PlanResult, TokenUsage | None]:
    """What the tool does; the usage of the backend where one was asked. Raises as `create_specification`."""
    given = specification if isinstance(specification, Mapping) else {}
    name = choose_slug(topic, slug, given.get("slug"))
    handed = json.dumps([specification, research, patterns, skills], ensure_ascii=False, default=str)
    study = await anyio.to_thread.run_sync(
        lambda: Study(settings.project, topic, kind, research=research, patterns=patterns, skills=skills)
    )
    spec = _Specification(settings, given, name)
    tasks = await anyio.to_thread.run_sync(plan_tasks, study, spec.requirements, spec.questions)
    made = await anyio.to_thread.run_sync(_make, study, spec, tasks, "local")
    drafted = None
    if settings.backend is not None:
        evidence = f"{spec.text}\n\n{made.text}"
        drafted = await ask(
            settings.backend, _DRAFT.format(kind=kind, topic=topic[:500]), evidence, PlanDraft
        )
        tasks, note = _drafted_tasks(drafted, study, tasks)
        drafted.note = drafted.note or note
        if drafted.draft is not None and not note:
            made = await anyio.to_thread.run_sync(_make, study, spec, tasks, settings.backend.name)
    written = await anyio.to_thread.run_sync(
        write_document, settings.project, output or f"docs/specs/{name}/plan.md", made.text
    )
    result = PlanResult(
        path=written.path,
        slug=name,
        kind=kind,
        document=written.state,
        backup=written.backup,
        sections=[Section(title=title, undetermined=why) for title, why in made.document.sections],
        tasks=tasks,
        risks=made.risks,
        commands=[check.text for check in study.checks],
        citations=list(made.document.citations),
        provenance=made.provenance,
        evidence_level="cited" if made.provenance == "local" else "inferred",
        tokens=TokenCount.of(handed, made.text),
        notes=[*written.notes, *_notes(spec, drafted)],
    )
    return result, drafted.usage if drafted else None


class _Specification:
    """The document as it is on disk, since a person may have changed it; else what the result says of it."""

    def __init__(self, settings: ServerSettings, given: Mapping[str, Any], name: str) -> None:
        path = given.get("path")
        self.path = path if isinstance(path, str) else f"docs/specs/{name}/spec.md"
        try:
            self.text = read_document(settings.project, self.path) or ""
        except UsageError:
            self.text = ""
        self.requirements = _read_requirements(self.text) or valid_items(
            Requirement, given.get("requirements")
        )
        self.questions = _read_questions(self.text) or [
            q for q in given.get("open_questions") or [] if isinstance(q, str)
        ]


def _read_requirements(text: str) -> list[Requirement]:
    found = []
    for line in text.splitlines():
        match = _REQUIREMENT.match(line)
        if match:
            found.append(Requirement(**match.groupdict(), rests_on=_CITED.findall(match["text"])))  # type: ignore[arg-type]
        elif found and line.startswith("  - Accepted when "):
            found[-1].acceptance.append(line.removeprefix("  - Accepted when ").rstrip("."))
    return found


def _read_questions(text: str) -> list[str]:
    _, _, rest = text.partition("\n## Open questions\n")
    return re.findall(r"^\d+\. (.+)$", rest.partition("\n## ")[0], re.MULTILINE)


@dataclass(slots=True)
class _Made:
    document: Document
    risks: list[str]
    provenance: str
    text: str


def _make(study: Study, spec: _Specification, tasks: list[Task], provenance: str) -> _Made:
    document = Document(study.sources)
    document.add(f"# Plan: {plain(study.title, 120)}", "")
    if spec.text:
        asked = ", ".join(requirement.id for requirement in spec.requirements)
        document.add(f"For {code(spec.path)}" + (f" ({asked})." if asked else "."))
    else:
        document.add("There is no specification yet: this plan rests on the project alone.")
    _write_tasks(tasks, study, document)
    risks = _risks(study, tasks, document)
    document.heading("Risks")
    for risk in risks:
        document.bullet(risk)
    if not risks:
        document.undetermined("the history and the tests of the files above show none.")
    _commands(study, document)
    head = Document(study.sources)
    sections.front_matter(study, head, provenance, "cited" if provenance == "local" else "inferred")
    sections.evidence_table(document)
    return _Made(document, risks, provenance, head.text() + "\n" + document.text())


def _write_tasks(tasks: list[Task], study: Study, document: Document) -> None:
    document.heading("Tasks")
    for task in tasks:
        after = f" (after {', '.join(task.needs)})" if task.needs else ""
        document.add("", f"### {task.id}. {plain(task.title, 160)}{after}", "")
        if task.files:
            document.bullet(
                "Files: " + ", ".join(_file(place, study, document, task.id) for place in task.files)
            )
        if task.why:
            document.bullet(f"Why: {_with_places(task.why)}")
        if task.checked_by:
            document.bullet(f"Check: {_command(task.checked_by)}")
        if task.skill:
            document.bullet(f"Skill that helps: {code(task.skill)}")


def _file(place: str, study: Study, document: Document, task: str) -> str:
    path, _, line = place.rpartition(":")
    if path and line.isdigit() and study.sources.holds(path, int(line)):
        return document.at(path, int(line), task)
    return code(place) if study.sources.has(place) else f"{code(place)} (new)"


def _with_places(text: str) -> str:
    """Text whose places are code, so that underscores in them stay."""
    parts = re.split(r"`?([\w@./+-]+\.\w+:\d+)`?", text)
    return "".join(
        code(part) if number % 2 else re.sub(r"\S.*\S|\S", lambda match: plain(match[0]), part, count=1)
        for number, part in enumerate(parts)
    )


def _command(text: str) -> str:
    before, separator, command = text.rpartition(": ")
    if separator:
        return f"{plain(before)}: {code(command)}"
    words = (
        "python ",
        "npm ",
        "pnpm ",
        "yarn ",
        "go ",
        "cargo ",
        "make ",
        "tox",
        "nox",
        "./",
        "ruff ",
        "bun ",
    )
    return "; ".join(map(code, text.split("; "))) if text.startswith(words) else plain(text)


def _risks(study: Study, tasks: list[Task], document: Document) -> list[str]:
    """What the history and the tests say of the files that the tasks touch."""
    touched = [place.rpartition(":")[0] for task in tasks for place in task.files]
    paths = [path for path in dict.fromkeys(touched) if study.sources.is_product(path)]
    risks = []
    commits = len(study.sources.history)
    for path in paths:
        changed = study.churn[path]
        if changed >= _OFTEN and changed * 10 >= commits:
            risks.append(
                f"{document.at(path, 1, 'risk')} changes often: in {changed} of the {commits} commits known here;"
                " others may be at it."
            )
        together = [(other, n) for other, n in study.changed_with(path) if other not in paths][:2]
        if together and changed >= 3:
            said = ", ".join(f"{code(other)} ({n} times)" for other, n in together)
            risks.append(f"Who changed {document.at(path, 1, 'risk')} changed with it: {said}.")
        is_face = path.rpartition("/")[2].partition(".")[0] in (
            "__init__",
            "index",
        )  # what it exports is tested
        if not is_face and not is_tested(path, study.sources, study.survey.words):
            risks.append(f"No test was found for {document.at(path, 1, 'risk')}, by name or by mention.")
    return risks[:8]


def _commands(study: Study, document: Document) -> None:
    document.heading("Commands")
    if not study.checks:
        document.undetermined("no test, lint or type check is declared in a file that is known here.")
        return
    rows = []
    for check in study.checks:
        path, _, line = check.source.rpartition(":")
        confirmed = "no"
        if check.confirmed_by:
            file, _, number = check.confirmed_by.rpartition(":")
            confirmed = document.at(file, int(number), "run by CI")
        rows.append((check.kind, code(check.text), document.at(path, int(line), "check"), confirmed))
    document.table(("kind", "command", "declared at", "run by CI"), rows)


def _drafted_tasks(drafted: Drafted, study: Study, own: list[Task]) -> tuple[list[Task], str]:
    """The tasks of the draft, held to the project: needs must exist, places must be there. Else the own ones."""
    if drafted.draft is None:
        return own, ""
    plan: PlanDraft = drafted.draft
    known = {f"{path}:{n}" for path in study.sources.classes for n in (1,)}
    made = []
    for number, task in enumerate(plan.tasks, 1):
        files = [place for place in task.files if _is_place(place, study)]
        drafted.removed += len(task.files) - len(files)

        made.append(
            Task(
                id=f"T{number}",
                title=task.title,
                needs=[f"T{need}" for need in task.needs],
                files=files,
                why=cleaned(task.why, known, drafted),
                checked_by=cleaned(task.checked_by, known, drafted),
            )
        )
    try:
        return check_order(made), ""
    except ValueError as error:
        return own, f"the drafted plan was left aside: {error}"


def _is_place(place: str, study: Study) -> bool:
    """A line of the project, a file of it, or a new file inside it."""
    path, _, line = place.rpartition(":")
    if path and line.isdigit():
        return study.sources.holds(path, int(line))
    return bool(re.fullmatch(r"(?!/)(?!.*\.\.)[\w@./+-]+\.\w+", place))


def _notes(spec: _Specification, drafted: Drafted | None) -> list[str]:
    notes = [] if spec.text else [f"{spec.path} is not there: the plan rests on the project alone"]
    if drafted and drafted.note:
        notes.append(f"{drafted.note}; the document is from the evidence alone")
    if drafted and drafted.removed:
        notes.append(f"{drafted.removed} places of the draft were removed: the project does not have them")
    return notes
