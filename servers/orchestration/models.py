"""What the orchestration server's tools answer: upstream's field names, camelCase on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

__all__ = [
    "Cancellation",
    "Digests",
    "Execution",
    "Graph",
    "Listing",
    "Metrics",
    "Options",
    "Phase",
    "Progress",
    "Results",
    "RunState",
    "Status",
    "ValidationIssue",
    "Verdict",
    "WorkflowError",
    "WorkflowRow",
]

RunState = Literal["running", "paused", "completed", "failed", "cancelled"]
PhaseState = Literal["pending", "running", "paused", "completed", "failed", "skipped"]


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Options(_Wire):
    """How to run a workflow."""

    parallel: bool = Field(default=True, description="false runs one operation after another")
    caching: bool = Field(default=True, description="false asks no cache")
    timeout: int | None = Field(
        default=None, gt=0, le=2_592_000_000, description="Milliseconds for the whole run"
    )


class WorkflowError(_Wire):
    """What went wrong, and where. `code` is one of upstream's, or of this package's errors."""

    code: str
    message: str
    field: str | None = Field(default=None, description="Place in the definition or the arguments")
    node: str | None = Field(default=None, description="The operation that failed")


class Progress(_Wire):
    """Operations of a run that have ended, and all."""

    completed: int
    total: int
    percentage: int = Field(ge=0, le=100)


class Phase(_Wire):
    """One phase as it stands. seconds: sum of the times of its operations."""

    id: str
    status: PhaseState
    completed: int
    total: int
    seconds: float


class Digests(_Wire):
    """Sizes before and after, of all results that declare a digest; tokens by `tokenizer`."""

    raw_bytes: int
    kept_bytes: int
    raw_tokens: int
    kept_tokens: int
    tokenizer: str


class Metrics(_Wire):
    """Measured, never estimated: what was not measured is missing. seconds: wall time; busy_seconds: sum of all
    operations' times."""

    seconds: float
    busy_seconds: float
    speedup: float | None = Field(
        default=None, description="busySeconds over seconds, of a run that has ended"
    )
    tokens: dict[str, float] = Field(default_factory=dict)
    digests: Digests | None = Field(default=None, description="what operations found, and what was passed on")
    saved_tokens: int | None = Field(default=None, description="that hits of the cache saved")
    server_starts: dict[str, int] = Field(default_factory=dict, description="of each MCP server")
    context_reloads: int = Field(default=0, description="server starts beyond the first of each")


class Results(_Wire):
    """What a run made. outputs: results that nothing else uses, abbreviated; artifacts: where they are whole."""

    phases: list[Phase]
    metrics: Metrics
    outputs: dict[str, Any]
    artifacts: list[str] = Field(description="URIs of resources of this server")
    files: list[str] = Field(default_factory=list, description="Files that operations say they wrote")


class _Answer(_Wire):
    success: bool
    message: str | None = None
    errors: list[WorkflowError] | None = None


class Execution(_Answer):
    """A run that was begun or continued; with its results if it has ended."""

    feature: str | None = None
    workflow_id: str | None = None
    status: RunState | None = None
    resumed_from: str | None = Field(default=None, description="The phase that the run goes on from")
    reason: str | None = None
    results: Results | None = None


class Status(_Answer):
    """Where a run stands."""

    feature: str | None = None
    workflow_id: str | None = None
    template: str | None = None
    phase: str | None = Field(default=None, description="The first phase that has not ended")
    status: RunState | None = None
    reason: str | None = None
    started_at: str | None = None
    last_updated_at: str | None = None
    progress: Progress | None = None
    running: list[str] | None = None
    waiting: dict[str, str] | None = Field(default=None, description="Operation: what it waits for")
    phases: list[Phase] | None = None
    metrics: Metrics | None = None
    results: Results | None = None


class WorkflowRow(_Wire):
    """One run in a list. progress: 0 to 100."""

    feature: str
    workflow_id: str
    template: str | None = None
    phase: str | None = None
    status: RunState | Literal["unreadable"]
    started_at: str | None = None
    progress: int = Field(ge=0, le=100)
    reason: str | None = None


class Listing(_Answer):
    """Runs of the project, those last written to first."""

    workflows: list[WorkflowRow]


class Cancellation(_Answer):
    """A run that was stopped."""

    feature: str | None = None
    workflow_id: str | None = None
    cancelled_at: str | None = None
    checkpoint_saved: bool | None = None


class ValidationIssue(_Wire):
    """One thing about a definition."""

    field: str
    message: str
    severity: Literal["error", "warning"]
    code: str | None = None


class Graph(_Wire):
    """Size of a workflow. depth: operations on its longest path."""

    nodes: int
    edges: int
    depth: int


class Verdict(_Wire):
    """Whether a definition can run, and all that is wrong with it."""

    valid: bool
    errors: list[ValidationIssue] | None = None
    warnings: list[ValidationIssue] | None = None
    graph: Graph | None = None
