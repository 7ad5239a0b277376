"""Runs one coding agent for one prompt, and reads its answer.

The agent gets the user's environment without the key of saved state and without git's own variables (which would
lead it to another repository than the directory that it works in). Its process group ends with the call, however
that ends: what it left in the background would go on writing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_actors.actors.agents.answer import AgentAnswer, read_answer
from sage_actors.actors.agents.git_command import LOCAL_VARIABLES
from sage_actors.actors.agents.structured import check_schema
from sage_actors.actors.agents.table import AgentEntry, Mode, executable_problem, plan_call
from sage_actors.actors.keys.provider import KEY_VARIABLE
from sage_actors.actors.operations.command import run_command
from sage_actors.messages.errors import UsageError

__all__ = ["AgentRequest", "agent_environment", "run_agent"]


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """What an agent is asked. mode: "read" may only look, "edit" may change what is in `cwd`."""

    name: str
    entry: AgentEntry
    prompt: str
    cwd: Path
    mode: Mode
    model: str | None = None
    schema: Mapping[str, Any] | None = None
    timeout_s: float | None = None


def run_agent(
    request: AgentRequest,
    environ: Mapping[str, str],
    *,
    on_text: Callable[[str, str], None] = lambda text, stream: None,
    stop: Callable[[], bool] = lambda: False,
) -> AgentAnswer:
    """Starts the agent, waits for its end, reads its answer. All that it prints goes to `on_text`, too.

    Raises:
        AgentFailed: it failed, or gave no answer (of the schema).
        UsageError: it cannot be started, or cannot be asked like that.
        OperationCancelled: `stop` said so; TimeoutExceeded: it took longer than the request's timeout.
    """
    if request.schema is not None:
        check_schema(request.schema)
    call = plan_call(
        request.entry, request.prompt, mode=request.mode, model=request.model, schema=request.schema
    )
    env = agent_environment(environ)
    if problem := executable_problem(request.entry, env.get("PATH")):
        raise UsageError(f"the agent {request.name} cannot be started: {problem}")
    with ExitStack() as stack:
        arguments = call.arguments(_written(call.files, stack))
        try:
            output = run_command(
                arguments,
                cwd=str(request.cwd),
                env=env,
                stdin=call.stdin,
                on_text=on_text,
                stop=stop,
                timeout_s=request.timeout_s,
                ends_group=True,
            )
        except (OSError, ValueError) as cause:  # too long for an argument, a NUL in it, not executable, ...
            raise UsageError(f"the agent {request.name} cannot be started: {cause}") from cause
    return read_answer(request.name, request.entry, output, request.schema)


def agent_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what is not an agent's business."""
    return {
        name: value for name, value in environ.items() if name not in LOCAL_VARIABLES and name != KEY_VARIABLE
    }


def _written(files: Mapping[str, str], stack: ExitStack) -> dict[str, Path]:
    """The paths of `files`, written into a private directory that `stack` removes."""
    if not files:
        return {}
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sage-agent-")))
    paths = {name: folder / (f"{name}.json" if name == "schema_file" else f"{name}.md") for name in files}
    for name, path in paths.items():
        path.write_text(files[name], encoding="utf-8", errors="backslashreplace")
    return paths
