"""The orchestration server: six tools by which an agent runs, follows and continues workflows over MCP.

`sage_workflow_execute` answers within a second with a handle (as a Task where the client declares the Tasks
extension); the run goes on in this process, and its state on disk outlives it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from sage_actors.messages.errors import NoCheckpointError, RunLockedError, StateError, StorageError
from sage_actors.servers.orchestration.errors import ToolRefused, errors_of
from sage_actors.servers.orchestration.models import (
    Cancellation,
    Execution,
    Listing,
    Options,
    Status,
    ValidationIssue,
    Verdict,
)
from sage_actors.servers.orchestration.resources import OrchestrationServer, add_prompt, add_resources
from sage_actors.servers.orchestration.runs import Runs, Standing
from sage_actors.servers.orchestration.skills import served_skills
from sage_actors.servers.orchestration.skills_extension import Skills
from sage_actors.servers.orchestration.tasks_extension import Tasks
from sage_actors.servers.orchestration.view import Runbook, describe, execution_of

__all__ = ["INSTRUCTIONS", "Orchestration", "create_orchestration_server"]

INSTRUCTIONS = """\
Runs multi-phase workflows (research, specification, planning, implementation) over this project in parallel,
durably: a finished step never runs again, over crashes, processes and days.

1. sage_workflow_execute {feature, template} begins a run and answers at once with its workflowId. The same
   feature and template again continues that run (or gives its results, if it has completed).
2. sage_workflow_status {feature, wait_seconds: 45} returns when something changes or the run ends. Repeat it
   until status is not "running". Results are abbreviated; resources workflow://ID/artifacts/... are whole.
3. A run that is paused or failed goes on with sage_workflow_resume, from what has succeeded. fromPhase makes a
   new run that begins again at that phase.
`feature` is a topic in plain words, or a workflowId. Templates: feature, bugfix, enhancement, and the project's
own in .sage/templates/, which need their user's consent (error CONSENT_REQUIRED says how). An operation that
waits for a person is answered by a person, with `sage-actors approve`. When a result says "needs_agent", its work
order is for you to carry out.
"""
_TICK_S = 0.05
_TICK_OTHER_S = 0.25
_MOST_WAIT_S = 600.0
_ADMITTED_S = 5.0  # longest wait for another process to admit the run that it has just locked
_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer", bound=BaseModel)

_Feature = Annotated[
    str, Field(min_length=1, max_length=2000, description="A topic in plain words, or a run's id")
]
_READS = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_RUNS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True
)
_STOPS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)


class Orchestration:
    """What the tools do, apart from how they are called. `runs` carries out, `book` reads."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.runs = Runs(project)
        self.book = Runbook(project)
        self._forking = threading.Lock()  # of two calls for one phase the second finds the run of the first

    def execute(self, feature: str, template: str, options: Options, inputs: dict[str, Any]) -> Execution:
        """Begin the run of a topic, or continue it; a run id continues that run."""
        from sage_actors.servers.orchestration.templates import load_template, with_options
        from sage_actors.supervisor.definitions.loading import default_run_id, resolve_inputs

        spec = with_options(load_template(template, self.project), options)
        given = dict(inputs)
        if "topic" in spec.inputs:
            given.setdefault("topic", feature)
        values = resolve_inputs(spec, given)
        run_id = default_run_id(spec, values, feature)
        return self._go_on(run_id, lambda: self.runs.start(spec, run_id, values))

    def resume(self, feature: str, from_phase: str | None) -> Execution:
        """Continue a run, or a copy of it that begins again at a phase."""
        run_id = self.book.find(feature, "NO_CHECKPOINT_FOUND")
        if from_phase is None:
            return self._resume(run_id)
        with self._forking:
            answer = self._resume(self.runs.fork(run_id, from_phase))
        return answer.model_copy(update={"resumed_from": from_phase})

    def status(self, feature: str) -> Status:
        """Where a run stands."""
        return describe(self.book.read(self.book.find(feature)))

    def list_runs(self, state: str | None, limit: int) -> Listing:
        """The runs in that state, those last written to first."""
        with closing(self.book.rows()) as rows:
            chosen = islice((row for row in rows if state in (None, row.status)), limit)
            return Listing(success=True, workflows=list(chosen))

    def cancel(self, feature: str, save_checkpoint: bool) -> Cancellation:
        """Stop a run; its state stays, unless it shall not."""
        run_id = self.book.find(feature)
        past = self.book.read(run_id)
        if past.status in ("succeeded", "failed", "cancelled"):
            raise ToolRefused("WORKFLOW_NOT_RUNNING", f"run {run_id} has ended: {past.status}")
        try:
            self.runs.cancel(run_id)
            place = None if save_checkpoint else self.runs.put_away(run_id)
        except (StorageError, StateError) as error:
            raise ToolRefused("CHECKPOINT_SAVE_FAILED", str(error)) from error
        if place is None:
            message = "What was finished is kept; sage_workflow_resume continues it all the same."
        else:
            message = f"Its state was put away in {place}"
        return Cancellation(
            success=True,
            message=message,
            feature=feature,
            workflow_id=run_id,
            cancelled_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            checkpoint_saved=save_checkpoint,
        )

    def validate(self, template: dict[str, Any] | str) -> Verdict:
        """All that is wrong with a definition. Nothing runs, nothing is imported."""
        from sage_actors.servers.orchestration.validate import validate

        return validate(template, self.project)

    def execution(self, run_id: str) -> Execution:
        """The result of the call that began a run, as it stands."""
        return execution_of(self.book.read(run_id))

    def _resume(self, run_id: str) -> Execution:
        phase = describe(self.book.read(run_id)).phase
        answer = self._go_on(run_id, lambda: self.runs.resume(run_id))
        return answer.model_copy(update={"resumed_from": phase})

    def _go_on(self, run_id: str, begin: Callable[[], list[str]]) -> Execution:
        try:
            notices = begin()
        except RunLockedError as error:
            answer = self._of_another(run_id)
            note = f"It is running already ({error}); sage_workflow_status follows it."
            return answer.model_copy(update={"message": note})
        answer = self.execution(run_id)
        said = "; ".join(notices)
        return answer.model_copy(update={"message": said}) if said else answer

    def _of_another(self, run_id: str) -> Execution:
        """The run that another process has locked. It may have been locked a moment ago, and be admitted in the next.

        Raises:
            NoCheckpointError: it still is not, after a while.
        """
        until = time.monotonic() + _ADMITTED_S
        while True:
            try:
                return self.execution(run_id)
            except NoCheckpointError:
                if time.monotonic() >= until:
                    raise
            time.sleep(_TICK_S)


def create_orchestration_server(project: Path, core: Orchestration | None = None) -> OrchestrationServer:
    """The server of `project`. `core`: what carries the runs out; whoever makes it closes it (`core.runs`)."""
    core = core or Orchestration(project)
    tools = _Tools(core)
    server = OrchestrationServer(
        core.book,
        title="sage workflows",
        instructions=INSTRUCTIONS,
        extensions=[
            Tasks(tools.tasks(), {"sage_workflow_execute", "sage_workflow_resume"}),
            Skills(served_skills(project)),
        ],
    )
    for function, hints in (
        (tools.sage_workflow_execute, _RUNS),
        (tools.sage_workflow_resume, _RUNS),
        (tools.sage_workflow_list, _READS),
        (tools.sage_workflow_status, _READS),
        (tools.sage_workflow_cancel, _STOPS),
        (tools.sage_workflow_validate, _READS),
    ):
        server.add_tool(function, annotations=hints)
    add_resources(server, core.book)
    add_prompt(server)
    return server


class _Tools:
    """The tools as clients see them: names, arguments, descriptions."""

    def __init__(self, core: Orchestration) -> None:
        self._core = core
        self._told: dict[str, Standing | None] = {}  # run id -> what the client heard of it last

    def tasks(self) -> Any:
        from sage_actors.servers.orchestration.tasks import RunTasks

        return RunTasks(self._core)

    async def sage_workflow_execute(
        self,
        ctx: Context[Any, Any],
        feature: _Feature,
        template: Annotated[
            str, Field(description="feature, bugfix, enhancement, or one of .sage/templates/")
        ] = "feature",
        options: Annotated[Options | None, Field(description="How to run it")] = None,
        wait: Annotated[bool, Field(description="true answers when the run has ended (for scripts)")] = False,
        inputs: Annotated[dict[str, Any] | None, Field(description="Further inputs of the template")] = None,
    ) -> Annotated[CallToolResult, Execution]:
        """Run a workflow for a feature, or continue its run. Answers at once with workflowId and status.

        Follow it with sage_workflow_status until status is not "running". The same feature and template again is
        the same run: it goes on where it stopped, and finished operations do not run again. Writes into the
        project (docs/specs/, .sage/); commands run as the template says.
        """

        async def act() -> Execution:
            answer = await _in_thread(
                lambda: self._core.execute(feature, template, options or Options(), inputs or {})
            )
            if wait and answer.status == "running":
                assert answer.workflow_id is not None
                await self._follow(answer.workflow_id, ctx, None)
                answer = await _in_thread(lambda: self._core.execution(answer.workflow_id or ""))
            self._told[answer.workflow_id or ""] = Standing()
            return answer

        return await _answered(act, lambda errors: Execution(success=False, feature=feature, errors=errors))

    async def sage_workflow_resume(
        self,
        feature: _Feature,
        fromPhase: Annotated[
            str | None,
            Field(
                description="Begin again at this phase, in a new run; keeps what does not depend on it. Not while the "
                "run goes on"
            ),
        ] = None,
    ) -> Annotated[CallToolResult, Execution]:
        """Continue a run that is paused, failed or was interrupted, from what has succeeded. Answers at once."""

        async def act() -> Execution:
            answer = await _in_thread(lambda: self._core.resume(feature, fromPhase))
            self._told[answer.workflow_id or ""] = Standing()
            return answer

        return await _answered(act, lambda errors: Execution(success=False, feature=feature, errors=errors))

    async def sage_workflow_list(
        self,
        filter: Annotated[
            Literal["running", "paused", "completed", "failed", "cancelled"] | None,
            Field(description="Only runs in this state"),
        ] = None,
        limit: Annotated[int, Field(ge=1, le=1000, description="Rows at most")] = 50,
    ) -> Annotated[CallToolResult, Listing]:
        """List the workflow runs of this project, those last written to first."""

        async def act() -> Listing:
            return await _in_thread(lambda: self._core.list_runs(filter, limit))

        return await _answered(act, lambda errors: Listing(success=False, workflows=[], errors=errors))

    async def sage_workflow_status(
        self,
        ctx: Context[Any, Any],
        feature: _Feature,
        wait_seconds: Annotated[
            float,
            Field(
                ge=0,
                le=_MOST_WAIT_S,
                description="Wait so long for a change; hosts often end calls after 60 s",
            ),
        ] = 0,
    ) -> Annotated[CallToolResult, Status]:
        """Where a run stands: phase, progress, what runs and waits, errors, and results once it has ended.

        With wait_seconds it answers when an operation has ended since you last asked, a person is needed, or
        the run has ended.
        """

        async def act() -> Status:
            run_id = await _in_thread(lambda: self._core.book.find(feature))
            if wait_seconds:
                await self._follow(run_id, ctx, time.monotonic() + wait_seconds)
            await self._note(run_id)
            return await _in_thread(lambda: self._core.status(run_id))

        return await _answered(act, lambda errors: Status(success=False, feature=feature, errors=errors))

    async def sage_workflow_cancel(
        self,
        feature: _Feature,
        saveCheckpoint: Annotated[
            bool, Field(description="false also moves the run's state to .sage/state/archive/")
        ] = True,
    ) -> Annotated[CallToolResult, Cancellation]:
        """Stop a run. What was finished is kept and sage_workflow_resume continues it."""

        async def act() -> Cancellation:
            return await _in_thread(lambda: self._core.cancel(feature, saveCheckpoint))

        return await _answered(
            act, lambda errors: Cancellation(success=False, feature=feature, errors=errors)
        )

    async def sage_workflow_validate(
        self,
        template: Annotated[
            dict[str, Any] | str, Field(description="A workflow definition, or the name of a template")
        ],
    ) -> Annotated[CallToolResult, Verdict]:
        """Check a workflow definition: everything that is wrong with it, and the size of its graph. Nothing runs."""

        async def act() -> Verdict:
            return await _in_thread(lambda: self._core.validate(template))

        def refused(errors: Any) -> Verdict:
            issues = [
                ValidationIssue(
                    field=each.field or "", message=each.message, severity="error", code=each.code
                )
                for each in errors
            ]
            return Verdict(valid=False, errors=issues)

        return await _answered(act, refused, is_error=lambda _: False)

    async def _note(self, run_id: str) -> None:
        """What the client is about to hear: the next wait is for what happens after that."""
        self._told[run_id] = await _in_thread(lambda: self._core.runs.look(run_id))

    async def _follow(self, run_id: str, ctx: Context[Any, Any], deadline: float | None) -> None:
        """Until the run ends or needs a person; with a deadline (monotonic), also until there is news."""
        runs = self._core.runs
        now = await _in_thread(lambda: runs.look(run_id))
        before = self._told.get(run_id) or now
        while now is not None and not now.stuck:
            if now != before:
                if deadline is not None:
                    return
                await ctx.report_progress(float(now.ended), float(now.total) if now.total else None)
                before = now
            if deadline is not None and time.monotonic() >= deadline:
                return
            await anyio.sleep(_TICK_S if runs.carries_out(run_id) else _TICK_OTHER_S)
            now = await _in_thread(lambda: runs.look(run_id))


_Result = TypeVar("_Result")


async def _in_thread(function: Callable[[], _Result]) -> _Result:
    """A call that blocks must not hold up others; a caller that is cancelled does not wait for it."""
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


async def _answered(
    act: Callable[[], Awaitable[_Answer]],
    refuse: Callable[[Any], _Answer],
    *,
    is_error: Callable[[Any], bool] = lambda answer: not answer.success and bool(answer.errors),
) -> CallToolResult:
    """The result of a tool; an error is one, too."""
    try:
        answer = await act()
        failed = False
    except Exception as error:  # noqa: BLE001 - the border to another process
        errors = errors_of(error)
        if errors[0].code == "INTERNAL_ERROR":
            _log.exception("a tool failed")
        answer = refuse(errors)
        failed = is_error(answer)
    structured = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    text = answer.model_dump_json(by_alias=True, exclude_none=True)
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=structured, is_error=failed
    )
