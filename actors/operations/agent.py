"""Operations of type `agent`: a coding agent's command line, or a model, is given a prompt.

config: prompt; agent (a name of the table), command (any command) or model (`provider:model`; with `agent`: which
model that one uses) - without any of these, what the user chose for drafts; schema (of an object: the result then has
`value`); max_tokens (of a model's answer); worktree (default true: an agent works, and may change files, in a git
worktree of its own; false: it may only look, in the project itself); uncommitted (default true: the worktree begins
with what the checkout has not committed); checks (true: the project's own; or commands for the shell), run after it.
Named `arguments` are added to the prompt, each under its name. optional (default false): where nobody is named and the
user has chosen no agent, the result is {status: "needs_agent", text, and the arguments}.

The result: {status, text | value, agent, model, session, usage}, and of a worktree {base, branch, patch, diff,
diff_cut, files, file_count, commits, checks, notes, worktree}. status: "answered" (no worktree, or a model),
"unchanged", "changed" or "checks_failed". patch: a file for `git apply`, relative to the project. worktree: null,
since it is removed; its path where that failed.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_actors.actors.agents.answer import AgentAnswer, AgentFailed
from sage_actors.actors.agents.backends import AGENT_VARIABLE, chosen_backend
from sage_actors.actors.agents.checks import plan_checks, run_checks
from sage_actors.actors.agents.model_backend import ModelBackend, ModelFailed
from sage_actors.actors.agents.process import AgentRequest, agent_environment, run_agent
from sage_actors.actors.agents.table import AgentEntry, Mode, agent_of_command, find_agent
from sage_actors.actors.agents.worktree import Changes, GitError, Worktree, attempt_worktree
from sage_actors.actors.operations.context import Context, Task
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.actors.user_config import UserConfig, load_user_config
from sage_actors.messages.backend import TokenUsage
from sage_actors.messages.codec import unpack
from sage_actors.messages.errors import UsageError

__all__ = ["AgentRunner"]

_TEXT_CHARS = 100_000


@dataclass(frozen=True, slots=True)
class _Choice:
    """Who is asked: an agent with its entry, or a model alone."""

    agent: str | None
    entry: AgentEntry | None
    model: str | None


class AgentRunner:
    """Asks the agent or model that the operation names. It is a blocking operation: an agent takes minutes, and in a
    process of its own it can crash, reach a limit or be cancelled without touching others."""

    is_async = False

    def __init__(self, spec: Mapping[str, Any], settings: RunnerSettings) -> None:
        self._project = Path(settings.project)

    def run(self, task: Task) -> dict[str, Any]:
        said = unpack(task.packed)
        config = said.get("config", {})
        user = load_user_config(os.environ)
        arguments = said.get("arguments") or {}
        if config.get("optional") and not _has_agent(config, user):
            text = f"no agent is chosen: set ${AGENT_VARIABLE}, or [backend] agent in your config.toml"
            return {"status": "needs_agent", "agent": None, "text": text, **arguments}
        choice = _choose(config, user)
        prompt = _prompt(config.get("prompt"), arguments)
        context = task.context()
        try:
            if choice.entry is None:
                return _ask_model(choice, prompt, config, user, context)
            return self._ask_agent(choice, choice.entry, prompt, config, task, context)
        except (AgentFailed, ModelFailed) as error:
            _account(context, error.usage)
            raise

    def _ask_agent(
        self,
        choice: _Choice,
        entry: AgentEntry,
        prompt: str,
        config: Mapping[str, Any],
        task: Task,
        context: Context,
    ) -> dict[str, Any]:
        def ask(directory: Path, mode: Mode) -> AgentAnswer:
            request = AgentRequest(
                name=choice.agent or "",
                entry=entry,
                prompt=prompt,
                cwd=directory,
                mode=mode,
                model=choice.model,
                schema=config.get("schema"),
            )
            return run_agent(request, os.environ, on_text=_log_of(task), stop=lambda: task.cancelled)

        if not config.get("worktree", True):
            answer = ask(self._project, "read")
            _account(context, answer.usage)
            return _result("answered", answer, choice)
        uncommitted = bool(config.get("uncommitted", True))
        with attempt_worktree(
            self._project, context.run_id, context.node_id, uncommitted=uncommitted
        ) as worktree:
            answer = _working(worktree, entry, choice, lambda: ask(worktree.directory, "edit"))
            _account(context, answer.usage)
            changes = worktree.collect(_message(choice, context), leaves=tuple(entry.leaves))
            outcome = self._checked(config.get("checks", False), worktree, changes, task)
        left = str(worktree.root) if worktree.root.exists() else None
        if changes.patch is not None:
            context.usage()  # makes the map where there is none
            assert task.used is not None
            task.used["artifacts"] = [str(changes.patch.relative_to(self._project))]
        result = _result(outcome.pop("status"), answer, choice)
        return {**result, **_changes(changes, self._project), **outcome, "worktree": left}

    def _checked(
        self, wanted: bool | list[str], worktree: Worktree, changes: Changes, task: Task
    ) -> dict[str, Any]:
        """{status, checks, notes}: what was changed, and what the checks say of it."""
        if changes.patch is None:
            return {"status": "unchanged", "checks": [], "notes": []}
        paths = (str(each["path"]) for each in changes.files)
        plan = plan_checks(wanted, worktree.directory, self._project, paths)
        environ = agent_environment(os.environ)
        checks = run_checks(
            plan, worktree.directory, environ, on_text=_log_of(task), stop=lambda: task.cancelled
        )
        status = "changed" if all(each["ok"] for each in checks) else "checks_failed"
        return {"status": status, "checks": checks, "notes": [plan.note] if plan.note else []}


def _has_agent(config: Mapping[str, Any], user: UserConfig) -> bool:
    """Whether somebody is named, or the user has chosen an agent: a model alone can change no file."""
    if any(config.get(name) for name in ("agent", "command", "model")):
        return True
    chosen = chosen_backend(os.environ, user)
    return chosen is not None and chosen != "none" and ":" not in chosen


def _choose(config: Mapping[str, Any], user: UserConfig) -> _Choice:
    """Raises UsageError if nobody is named, or nobody is there of that name."""
    agent, command, model = (config.get(name) for name in ("agent", "command", "model"))
    if agent and command:
        raise UsageError("give either `agent` or `command`")
    if command:
        return _Choice(_program(command), agent_of_command(command), model)
    if not agent and not model:
        chosen = chosen_backend(os.environ, user)
        if chosen is None or chosen == "none":
            raise UsageError(
                f"no agent is chosen: give the operation an `agent` or a `model`, set ${AGENT_VARIABLE}, or write "
                "[backend] into your config.toml"
            )
        agent, model = (None, chosen) if ":" in chosen else (chosen, None)
    return _Choice(agent, find_agent(agent, user.agents) if agent else None, model)


def _program(command: str | list[str]) -> str:
    first = command.split() if isinstance(command, str) else command
    return os.path.basename(str(first[0])) if first else ""


def _ask_model(
    choice: _Choice, prompt: str, config: Mapping[str, Any], user: UserConfig, context: Context
) -> dict[str, Any]:
    backend = ModelBackend(
        choice.model or "",
        environ=os.environ,
        timeout_s=user.timeout_s,
        max_tokens=config.get("max_tokens"),
    )
    schema = config.get("schema")
    completion = asyncio.run(backend.complete(prompt, schema))
    _account(context, completion.usage)
    answer = AgentAnswer("", completion.value, completion.usage) if schema else None
    return _result("answered", answer or AgentAnswer(completion.value, None, completion.usage), choice)


def _working(
    worktree: Worktree, entry: AgentEntry, choice: _Choice, ask: Callable[[], AgentAnswer]
) -> AgentAnswer:
    """The agent's answer. What one that failed had changed is kept as a patch: it may be an hour's work."""
    try:
        return ask()
    except AgentFailed as error:
        try:
            changes = worktree.collect(
                f"What {choice.agent} had changed when it failed",
                leaves=tuple(entry.leaves),
                keeps_branch=False,
            )
        except (GitError, OSError):
            raise error from None
        if changes.patch is not None:
            error.details["patch"] = str(changes.patch)
        raise


def _prompt(prompt: Any, arguments: Mapping[str, Any]) -> str:
    """The prompt and the arguments, each under its name, as text or JSON."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError("`prompt` must be a text")
    parts = [prompt]
    for name, value in arguments.items():
        text = (
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1, default=str)
        )
        parts.append(f"## {name}\n\n{text}")
    return "\n\n".join(parts)


def _log_of(task: Task) -> Callable[[str, str], None]:
    return lambda text, stream: task.services.log(task.key, text, stream)


def _account(context: Context, used: TokenUsage) -> None:
    context.usage(input_tokens=used.input_tokens, output_tokens=used.output_tokens, cost=used.cost)


def _message(choice: _Choice, context: Context) -> str:
    return f"What {choice.agent} changed\n\nRun {context.run_id}, node {context.node_id}, by sage-actors."


def _result(status: str, answer: AgentAnswer, choice: _Choice) -> dict[str, Any]:
    used = answer.usage
    said = {"text": answer.text[:_TEXT_CHARS]} if answer.value is None else {"value": answer.value}
    return {
        "status": status,
        **said,
        "agent": choice.agent,
        "model": choice.model,
        "session": answer.session,
        "usage": {"input_tokens": used.input_tokens, "output_tokens": used.output_tokens, "cost": used.cost},
    }


def _changes(changes: Changes, project: Path) -> dict[str, Any]:
    patch = changes.patch
    return {
        "base": changes.base,
        "branch": changes.branch,
        "patch": None if patch is None else str(patch.relative_to(project)),
        "diff": changes.diff,
        "diff_cut": changes.diff_cut,
        "files": changes.files,
        "file_count": changes.file_count,
        "commits": changes.commits,
    }
