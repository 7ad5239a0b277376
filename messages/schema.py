"""The file format of workflows, as pydantic models: what is checked first, and the source of the JSON Schema.

The models check shape: fields, types, ranges. What a definition means as a whole (references, cycles, phases)
is checked in `supervisor/definitions/loading.py`. Strict throughout: the text "60" is not the number 60.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from sage_actors.messages.codec import MAX_RESULT_BYTES
from sage_actors.messages.definition import CALL_PATTERN, RetryPolicy
from sage_actors.messages.units import parse_duration, parse_size

__all__ = [
    "OPERATIONS",
    "CacheDefinition",
    "DigestDefinition",
    "InputDefinition",
    "LimitsDefinition",
    "OperationDefinition",
    "PhaseDefinition",
    "RetryDefinition",
    "UntypedOperation",
    "WorkflowDefinition",
]


_MAX_NAME = 200  # characters of an id or a name
_BACKOFF = RetryPolicy()
_FEWEST_FILES = 32  # the worker itself needs a dozen, and an import a few at a time
_DURATION = r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d)\s*$"
_SIZE = r"^\s*\d+(\.\d+)?\s*([KMGT]i?B|B)\s*$"


def _number_or_text(number: dict[str, Any], pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [number, {"type": "string", "pattern": pattern, "examples": [example]}]})


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _attempts(value: object) -> object:
    return {"max_attempts": value} if isinstance(value, int) and not isinstance(value, bool) else value


def _switch(value: object) -> object:
    return {"enabled": value} if isinstance(value, bool) else value


def _seconds_or_reference(value: object) -> object:
    return 0.0 if isinstance(value, str) and "${" in value else _duration(value)


def _of_the_web(url: str) -> str:
    literal = url.partition("${")[0]
    is_said = "://" in literal or literal == url  # else a reference says it
    if is_said and not re.match(r"https?://.", url, re.IGNORECASE):
        raise ValueError("must begin with http:// or https://")
    return url


Id: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=_MAX_NAME, json_schema_extra={"pattern": "^[A-Za-z0-9_-]+$"})
]
Seconds: TypeAlias = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False),
    BeforeValidator(_duration),
    _number_or_text({"type": "number", "exclusiveMinimum": 0}, _DURATION, "30s"),
]
Delay: TypeAlias = Annotated[
    float,
    Field(ge=0, allow_inf_nan=False),
    BeforeValidator(_duration),
    _number_or_text({"type": "number", "minimum": 0}, _DURATION, "500ms"),
]
WaitSeconds: TypeAlias = Annotated[
    float,
    Field(ge=0, allow_inf_nan=False),
    BeforeValidator(_seconds_or_reference),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "examples": ["2h"]}]}),
]
Bytes: TypeAlias = Annotated[
    int,
    Field(gt=0),
    BeforeValidator(_size),
    _number_or_text({"type": "integer", "exclusiveMinimum": 0}, _SIZE, "512MiB"),
]
ResultBytes: TypeAlias = Annotated[
    int,
    Field(gt=0, le=MAX_RESULT_BYTES),
    BeforeValidator(_size),
    _number_or_text({"type": "integer", "exclusiveMinimum": 0, "maximum": MAX_RESULT_BYTES}, _SIZE, "1MiB"),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True, hide_input_in_errors=True)


class RetryDefinition(_Model):
    """When a failed attempt is tried again."""

    max_attempts: int = Field(3, ge=1, le=1000, description="attempts in all, the first one included")
    backoff: Delay = Field(_BACKOFF.backoff, description="seconds before the second attempt")
    factor: float = Field(
        _BACKOFF.factor, ge=1, allow_inf_nan=False, description="multiplies the wait each time"
    )
    max_delay: Delay = Field(_BACKOFF.max_delay, description="seconds, the longest wait")
    jitter: float = Field(
        _BACKOFF.jitter, ge=0, le=1, description="share of the wait that is drawn at random"
    )
    on: list[str] = Field(
        default_factory=list,
        description="names of errors to retry, such as TimeoutExceeded; empty: all that can help",
    )


class LimitsDefinition(_Model):
    """What an operation's process tree may use."""

    memory: Bytes | None = Field(None, description='bytes, or a text such as "512MiB"')
    cpu_seconds: Seconds | None = Field(None, description="seconds of processor time")
    processes: int | None = Field(None, ge=1, description="processes at once")
    files: int | None = Field(None, ge=_FEWEST_FILES, description="files that each process has open at once")
    file_size: Bytes | None = Field(None, description="a size; no file that it writes may grow beyond it")
    output: Bytes | None = Field(None, description="a size; what it may print")
    result: ResultBytes | None = Field(None, description="a size; the packed result, 60 MiB at most")
    tmp: Bytes | None = Field(None, description="a size; its private temporary directory")


class CacheDefinition(_Model):
    """How long a result may be taken from the cache."""

    enabled: bool = Field(True, description="false: never ask the cache")
    ttl: Seconds | None = Field(None, description='seconds that a result stays valid, or "30d" (the default)')
    repository: bool = Field(
        False, description="the result depends on the files of the project; sage servers' results always do"
    )
    stale_if_error: bool = Field(
        False, description="after the last attempt failed, an expired result will do"
    )


class DigestDefinition(_Model):
    """How much of a result its dependents are shown."""

    max_tokens: int | None = Field(None, ge=1, description="tokens at most")
    max_bytes: Bytes | None = Field(None, description='bytes at most, as JSON, or a text such as "8KiB"')
    threshold: float | None = Field(
        None, ge=0, le=1, description="least relevance, as a share of the most relevant element's"
    )
    query: str | None = Field(
        None, min_length=1, description="what is relevant; by default the topic or query among the arguments"
    )
    top: int | None = Field(None, ge=1, description="elements of a list at most, the most relevant first")


class BudgetDefinition(_Model):
    """Tokens and money. Of an operation: what one attempt may use; of a workflow: all of a run."""

    tokens: int | None = Field(None, ge=1, description="tokens, in and out")
    cost: float | None = Field(None, gt=0, allow_inf_nan=False, description="in the currency of the bill")


Retry: TypeAlias = Annotated[
    RetryDefinition,
    BeforeValidator(_attempts, json_schema_input_type=RetryDefinition | Annotated[int, Field(ge=1, le=1000)]),
]
Cache: TypeAlias = Annotated[
    CacheDefinition, BeforeValidator(_switch, json_schema_input_type=CacheDefinition | bool)
]


class _Operation(_Model):
    """What every operation may say."""

    id: Id = Field(description="unique in its phase; A-Z a-z 0-9 _ -")
    description: str | None = Field(None, description="for the reader")
    needs: list[str] = Field(default_factory=list, description="ids of nodes that must be done before")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="named values; may hold ${references}"
    )
    when: str | None = Field(None, description="one reference; if its value is false the node is skipped")
    foreach: str | list[Any] | None = Field(
        None, description="a reference to a list: one node for each element"
    )
    timeout: Seconds | None = Field(None, description='seconds for one attempt, or "5m"')
    retry: Retry | None = Field(None, description="a number of attempts in all, or how to retry")
    on_failure: Literal["fail", "continue", "skip"] = Field(
        "fail", description="fail the run; or let dependents run and see null; or skip them"
    )
    trigger: Literal["all_success", "all_done", "any_success"] = Field(
        "all_success", description="which outcome of its dependencies starts the node"
    )
    effect: Literal["pure", "idempotent", "once"] = Field(
        "idempotent", description="what a repeat means; once: never repeated silently"
    )
    cache: Cache | None = Field(None, description="whether and how long a result may come from the cache")
    limits: LimitsDefinition | None = Field(None, description="limits of the operation's processes")
    endpoint: str | None = Field(None, min_length=1, description="the breaker that guards this operation")
    fallback: Any = Field(None, description="the result to use if all attempts fail")
    digest: DigestDefinition | None = Field(None, description="how much of the result dependents see")
    budget: BudgetDefinition | None = Field(
        None, description="the most that one attempt may use; reserved before it starts"
    )
    priority: int = Field(0, ge=-1_000_000, le=1_000_000, description="higher starts first among ready nodes")
    version: str | None = Field(None, description="change it to make finished nodes run again")
    max_crashes: int = Field(3, ge=1, le=100, description="worker deaths until the node counts as poisonous")
    sandbox: str | dict[str, Any] | None = Field(None, description="a narrower sandbox, or the word trusted")
    secret_outputs: bool = Field(
        False, description="the result is a secret: never saved, and made again where a resume needs it"
    )


class UntypedOperation(_Operation):
    """An operation whose type is not known: its common fields are checked all the same."""

    model_config = ConfigDict(extra="ignore")


class PythonOperation(_Operation):
    """Calls a Python function in a worker process."""

    type: Literal["python"]
    call: str = Field(
        pattern=CALL_PATTERN,
        description="where the function is: package.module:qualname",
    )


class ShellOperation(_Operation):
    """Runs a command; its result is {exit_code, stdout, stderr}."""

    type: Literal["shell"]
    command: str | list[str] = Field(
        min_length=1, description="a list of words, or a text for the shell, where references are quoted"
    )
    check: bool = Field(True, description="false: an exit code other than 0 is no failure")
    cwd: str | None = Field(None, description="the folder to run in, relative to the project")
    env: dict[str, str] = Field(default_factory=dict, description="further environment variables")
    stdin: str | None = Field(None, description="text for the standard input")


class HttpOperation(_Operation):
    """Sends a request; its result is {status, headers, body}."""

    type: Literal["http"]
    url: Annotated[str, AfterValidator(_of_the_web)] = Field(min_length=1, description="https://...")
    method: str = Field("GET", pattern=r"^[A-Z]{1,20}$", description="GET, POST, ...")
    headers: dict[str, str] = Field(default_factory=dict, description="request headers")
    query: dict[str, Any] = Field(default_factory=dict, description="query parameters")
    body: str | None = Field(None, description="a text, sent as it is")
    json_: Any = Field(None, alias="json", description="a value, sent as JSON in place of a body")
    raise_for_status: bool = Field(True, description="false: a status of 400 and more is no failure")


class McpOperation(_Operation):
    """Calls a tool of an MCP server."""

    type: Literal["mcp"]
    server: str = Field(min_length=1, description="its name in .mcp.json")
    tool: str = Field(min_length=1, description="the tool's name")


class AgentOperation(_Operation):
    """Asks a coding agent's command line, or a model."""

    type: Literal["agent"]
    prompt: str = Field(min_length=1, description="what to do; the named arguments are added to it")
    agent: str | None = Field(
        None,
        min_length=1,
        description="the coding agent to start, such as claude or codex; by default the user's",
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="the model to ask, as provider:model; with an agent, the model it uses",
    )
    command: str | list[str] | None = Field(
        None,
        min_length=1,
        description="any command as the agent; it gets the prompt by stdin, or for {prompt}",
    )
    schema_: dict[str, Any] | None = Field(
        None, alias="schema", description="JSON Schema of an object, which the answer must be"
    )
    max_tokens: int | None = Field(None, ge=1, description="tokens of a model's answer at most")
    worktree: bool = Field(
        True, description="false: the agent may only look, in the project itself, and changes nothing"
    )
    uncommitted: bool = Field(
        True, description="false: the worktree begins at HEAD, without what the checkout has not committed"
    )
    checks: bool | list[str] = Field(
        False, description="true: the project's own checks after it, if trusted; or commands for the shell"
    )

    optional: bool = Field(
        False, description="true: where the user has chosen no agent, the result is {status: needs_agent}"
    )

    @model_validator(mode="after")
    def _one_agent(self) -> AgentOperation:
        if self.agent is not None and self.command is not None:
            raise ValueError("give either `agent` or `command`")
        return self


class SkillOperation(_Operation):
    """Executes a skill of the project."""

    type: Literal["skill"]
    skill: str = Field(min_length=1, description="the skill's name")
    script: str | None = Field(None, min_length=1, description="which of its scripts, where it has several")
    instructions: bool = Field(False, description="hand on its text, and execute nothing")
    check: bool = Field(True, description="false: an exit code other than 0 is no failure")


class ApprovalOperation(_Operation):
    """Waits for a person, who may reject or give data."""

    type: Literal["approval"]
    message: str | None = Field(None, description="what the person is asked")


class WaitOperation(_Operation):
    """Waits for a time; survives kills."""

    type: Literal["wait"]
    seconds: WaitSeconds | None = Field(None, description='how long, in seconds or as "2h"')
    until: str | None = Field(None, min_length=1, description="a moment, as ISO 8601 with its offset")

    @model_validator(mode="after")
    def _one_of_both(self) -> WaitOperation:
        if (self.seconds is None) == (self.until is None):
            raise ValueError("give either `seconds` or `until`")
        if self.until is not None and "${" not in self.until and not _MOMENT.match(self.until):
            raise ValueError("`until` must be a moment such as 2030-01-31T09:00:00Z, with its offset")
        return self


_MOMENT = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)\Z"
)


class WorkflowOperation(_Operation):
    """Runs another workflow as one node."""

    type: Literal["workflow"]
    workflow: str | None = Field(None, min_length=1, description="path of its file, relative to this one")
    inputs: dict[str, Any] = Field(default_factory=dict, description="its inputs; may hold ${references}")
    definition: dict[str, Any] | None = Field(None, description="the workflow itself, in place of a path")

    @model_validator(mode="after")
    def _some_definition(self) -> WorkflowOperation:
        if self.workflow is None and self.definition is None:
            raise ValueError("give `workflow`, the path of a file")
        return self


OperationDefinition: TypeAlias = Annotated[
    PythonOperation
    | ShellOperation
    | HttpOperation
    | McpOperation
    | AgentOperation
    | SkillOperation
    | ApprovalOperation
    | WaitOperation
    | WorkflowOperation,
    Field(discriminator="type"),
]

OPERATIONS: dict[str, type[_Operation]] = {
    "python": PythonOperation,
    "shell": ShellOperation,
    "http": HttpOperation,
    "mcp": McpOperation,
    "agent": AgentOperation,
    "skill": SkillOperation,
    "approval": ApprovalOperation,
    "wait": WaitOperation,
    "workflow": WorkflowOperation,
}


class InputDefinition(_Model):
    """An input of the workflow, given with -i NAME=VALUE."""

    type: Literal["string", "integer", "number", "boolean", "array", "object", "any"] = Field(
        "any", description="its JSON type"
    )
    description: str = Field("", description="what it is for")
    required: bool | None = Field(
        None, description="whether a run must give it; by default, if it has no default"
    )
    default: Any = Field(None, description="used if a run does not give it")
    enum: list[Any] | None = Field(None, min_length=1, description="the values that are allowed")


class PhaseDefinition(_Model):
    """A group of operations; they wait for all operations of the phases that it depends on."""

    id: Id = Field(description="unique in the workflow; A-Z a-z 0-9 _ -")
    name: str = Field("", description="for display")
    description: str | None = Field(None, description="for the reader")
    dependencies: list[str] = Field(
        default_factory=list, description="ids of phases that must be done before"
    )
    min_success: float | None = Field(
        None, ge=0, le=1, description="share of operations that must succeed for the next phases to start"
    )
    operations: list[OperationDefinition] = Field(description="what the phase does")


class WorkflowDefinition(_Model):
    """A workflow: phases of operations, or a flat list of nodes."""

    schema_: str | None = Field(None, alias="$schema", description="for editors")
    name: str = Field(min_length=1, max_length=_MAX_NAME, description="begins the ids of its runs")
    description: str = Field("", description="what it does")
    inputs: dict[str, InputDefinition] = Field(default_factory=dict, description="what a run may be given")
    concurrency: int | None = Field(6, ge=1, description="operations at once; null is unlimited")
    timeout: Seconds | None = Field(None, description='seconds for the whole run, or "2h"')
    budget: BudgetDefinition | None = Field(None, description="what a run may use before it pauses")
    phases: list[PhaseDefinition] | None = Field(None, description="groups of operations")
    nodes: list[OperationDefinition] | None = Field(
        None, description="operations without phases, in place of them"
    )
