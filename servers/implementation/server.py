"""The server sage-implementation: a work order that an agent can begin with, and the project's own checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio.to_thread
from mcp.server import MCPServer
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field

from sage_actors.messages.backend import TokenUsage, usage_of_failure
from sage_actors.messages.errors import SageError
from sage_actors.messages.findings import EvidenceLevel, Provenance, TokenCount
from sage_actors.servers.corpus.sources import sources_of
from sage_actors.servers.documents.documents import read_document, write_document
from sage_actors.servers.documents.slugs import check_slug, choose_slug
from sage_actors.servers.documents.tools import answer, tool_errors, valid_items
from sage_actors.servers.implementation.check_runner import DEFAULT_LIMIT_S, CheckResult, not_run, run_checks
from sage_actors.servers.implementation.checks import Check, best_of_each_part, detect_checks
from sage_actors.servers.implementation.work_order import WorkOrder, write_work_order
from sage_actors.servers.sage_server import SageServer
from sage_actors.servers.settings import ServerSettings
from sage_actors.servers.specification.models import Task
from sage_actors.servers.specification.study import Kind, Study

__all__ = [
    "ImplementationResult",
    "ValidationResult",
    "create_server",
    "execute_implementation",
    "run_validation",
]

_INSTRUCTIONS = (
    "implementation_execute writes docs/specs/<slug>/work-order.md, complete enough to hand to a coding agent; without"
    " a model or an agent it writes no code and says needs_agent. validation_run runs the project's own checks, if the"
    " user consented to that."
)
_RUNS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_ANSWER_CHARS = 200_000  # of a backend's answer, in the order
_NOT_TRUSTED = (
    "the project's checks were not run: they are its own code, and running that needs your consent"
    " (run again with --trust, or say yes when asked)"
)


class ImplementationResult(BaseModel):
    """needs_agent: the work order waits for somebody. drafted: a backend answered; its words are in the order."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["needs_agent", "drafted"]
    path: str = Field(description="of the work order, relative to the project")
    slug: str
    kind: Literal["feature", "bugfix", "enhancement"]
    document: Literal["created", "replaced", "unchanged"]
    backup: str | None = None
    read_first: list[str] = Field(description="file:line")
    commands: list[str]
    baseline: list[CheckResult] = Field(description="the project's checks before any change")
    citations: list[str]
    provenance: Provenance
    evidence_level: EvidenceLevel
    tokens: TokenCount
    notes: list[str] = Field(default_factory=list)


class ValidationResult(BaseModel):
    """passed: every check that ran did, and one did run. None: nothing was run.

    needs_agent: what was checked is the project as it was; the work order waits for somebody.
    """

    model_config = ConfigDict(extra="forbid")

    slug: str | None
    status: Literal["needs_agent"] | None = None
    work_order: str | None = Field(default=None, description="its path, where nobody has carried it out")
    passed: bool | None
    checks: list[CheckResult]
    summary: str
    provenance: Provenance = "local"
    evidence_level: EvidenceLevel
    notes: list[str] = Field(default_factory=list)


def create_server(settings: ServerSettings) -> MCPServer:
    """The server, for `settings.project` only."""
    server = SageServer("sage-implementation", instructions=_INSTRUCTIONS)

    @server.tool(annotations=_RUNS)
    async def implementation_execute(
        topic: Annotated[str, Field(min_length=1, max_length=100_000)],
        plan: Any = None,
        specification: Any = None,
        slug: str | None = None,
        kind: Kind = "feature",
        skills: Any = None,
        patterns: Any = None,
    ) -> Annotated[CallToolResult, ImplementationResult]:
        """Hands the work on: writes a work order with everything that a coding agent needs, and says who is needed.

        plan, specification: the results of planning_generate and specification_create; their documents are read as
        they are now. The order names the files to read first, the patterns to follow, the exact commands and when it
        is done. Writes no code itself. The project's checks are run once, as a baseline, where the user consented.
        """
        with tool_errors():
            result, usage = await execute_implementation(
                settings, topic, plan, specification, slug=slug, kind=kind, skills=skills, patterns=patterns
            )
        return answer(result, usage)

    @server.tool(annotations=_RUNS)
    async def validation_run(
        slug: str | None = None,
        work: Any = None,
        limit_seconds: Annotated[float, Field(gt=0, le=3600)] = DEFAULT_LIMIT_S,
    ) -> ValidationResult:
        """Runs the checks that the project declares: tests, linters, type checkers; each with its own time limit.

        slug: of the specification that is validated; it is handed back. work: the result of the
        implementation: what an agent changed is on a branch, and not looked at here. Nothing runs unless
        the user consented to run the project's own code; then every check is listed as not_run.
        """
        with tool_errors():
            return await run_validation(settings, slug=slug, work=work, limit_s=limit_seconds)

    return server


async def run_validation(
    settings: ServerSettings, *, slug: str | None = None, work: Any = None, limit_s: float = DEFAULT_LIMIT_S
) -> ValidationResult:
    """What the tool does. Raises ValueError for a malformed slug."""
    if slug is not None:
        check_slug(slug)
    checks = await anyio.to_thread.run_sync(lambda: sources_of(settings.project).once(detect_checks))
    if not settings.trusts_checks:
        results, notes = [not_run(check) for check in checks], [_NOT_TRUSTED]
    else:
        results, notes = await run_checks(settings.project, checks, limit_s=limit_s), []
    if not checks:
        notes = ["no check is declared in a file that is known here"]
    ran = [result for result in results if result.status in ("passed", "failed", "timeout")]
    counts = {
        status: sum(r.status == status for r in results)
        for status in dict.fromkeys(r.status for r in results)
    }
    done = work if isinstance(work, Mapping) else {}
    waits = done.get("status") == "needs_agent"
    if waits:
        notes.append("nobody has carried the work order out: what was looked at is the project as it was")
    elif isinstance(done.get("branch"), str):
        notes.append(f"the change is on the branch {done['branch']}, not in what was looked at here")
    return ValidationResult(
        slug=slug,
        status="needs_agent" if waits else None,
        work_order=(_path(done, "", "work_order") or _path(done, "") or None) if waits else None,
        passed=all(result.status == "passed" for result in ran) if ran else None,
        checks=results,
        summary=", ".join(f"{count} {status}" for status, count in counts.items()) or "no checks",
        evidence_level="measured" if ran else "none",
        notes=notes,
    )


async def execute_implementation(
    settings: ServerSettings,
    topic: str,
    plan: Any = None,
    specification: Any = None,
    *,
    slug: str | None = None,
    kind: Kind = "feature",
    skills: Any = None,
    patterns: Any = None,
) -> tuple[ImplementationResult, TokenUsage | None]:
    """What the tool does; the usage of the backend where one was asked. Raises as `create_specification`."""
    given_plan = plan if isinstance(plan, Mapping) else {}
    given_spec = specification if isinstance(specification, Mapping) else {}
    name = choose_slug(topic, slug, given_plan.get("slug"), given_spec.get("slug"))
    study = await anyio.to_thread.run_sync(
        lambda: Study(settings.project, topic, kind, patterns=patterns, skills=skills)
    )
    order = await _order(settings, name, given_plan, given_spec, study.checks)
    made = await anyio.to_thread.run_sync(write_work_order, study, order)
    text = made.text()
    answered = await _ask(settings, text)
    if answered.text:
        head = f"## Answer of {answered.by}\n\nNot applied; to be judged against the order above."
        text += f"\n{head}\n\n{answered.text}\n"
    written = await anyio.to_thread.run_sync(
        write_document, settings.project, f"docs/specs/{name}/work-order.md", text
    )
    result = ImplementationResult(
        status="drafted" if answered.text else "needs_agent",
        path=written.path,
        slug=name,
        kind=kind,
        document=written.state,
        backup=written.backup,
        read_first=order.read_first,
        commands=[check.text for check in study.checks],
        baseline=order.baseline,
        citations=list(made.citations),
        provenance=answered.by if answered.text else "local",
        evidence_level="measured" if settings.trusts_checks else "cited",
        tokens=TokenCount.of(order.spec + order.plan, text),
        notes=[
            *written.notes,
            *_missing(order),
            *([answered.note] if answered.note else []),
            *([] if settings.trusts_checks or not study.checks else [_NOT_TRUSTED]),
        ],
    )
    return result, answered.usage


async def _order(
    settings: ServerSettings, name: str, plan: Mapping[str, Any], spec: Mapping[str, Any], checks: list[Check]
) -> WorkOrder:
    """What the order is about: the documents as they are now, and what the checks say before the change."""
    order = WorkOrder(
        slug=name,
        spec_path=_path(spec, f"docs/specs/{name}/spec.md"),
        plan_path=_path(plan, f"docs/specs/{name}/plan.md"),
        tasks=valid_items(Task, plan.get("tasks")),
    )
    order.spec = read_document(settings.project, order.spec_path) or ""
    order.plan = read_document(settings.project, order.plan_path) or ""
    order.baseline = await _baseline(settings, checks)
    order.trusted = settings.trusts_checks
    return order


async def _baseline(settings: ServerSettings, checks: list[Check]) -> list[CheckResult]:
    """The tests before the change: what fails now is not the change's fault."""
    tests = best_of_each_part(checks, "test")
    if not settings.trusts_checks or not tests:
        return [not_run(check) for check in checks]
    return await run_checks(settings.project, [*tests, *(c for c in checks if c.kind != "test")])


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a backend wrote to the order, "" where it wrote nothing or none was asked. note: why it wrote nothing."""

    by: str = ""
    text: str = ""
    usage: TokenUsage | None = None
    note: str = ""


async def _ask(settings: ServerSettings, order: str) -> _Answer:
    """An agent is not asked: it is given the order by an operation of its own, in a worktree."""
    backend = settings.backend
    if backend is None or backend.name.startswith("agent:"):
        return _Answer()
    try:
        completion = await backend.complete(f"Carry out this work order.\n\n{order}")
    except SageError as error:
        note = f"{backend.name} gave no answer: {error}; the work order stands"
        return _Answer(backend.name, usage=usage_of_failure(error), note=note)
    text = completion.value if isinstance(completion.value, str) else ""
    note = "" if text else f"{backend.name} answered with no text; the work order stands"
    return _Answer(backend.name, text.replace("<", "&lt;")[:_ANSWER_CHARS], completion.usage, note)


def _path(given: Mapping[str, Any], default: str, name: str = "path") -> str:
    path = given.get(name)
    safe = isinstance(path, str) and re.fullmatch(r"(?!/)(?!.*\.\.)[^\0\\]+\.md", path)
    return str(path) if safe else default


def _missing(order: WorkOrder) -> list[str]:
    found = ((order.spec, order.spec_path), (order.plan, order.plan_path))
    return [f"{path} is not there: the work order goes without it" for text, path in found if not text]
