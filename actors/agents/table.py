"""The table of coding agents: `agents.toml` of this package, and what the user's config.toml adds or changes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sage_actors.actors.agents.data import built_in_tables
from sage_actors.actors.agents.structured import is_strict, schema_request
from sage_actors.messages.errors import UsageError

__all__ = [
    "AgentCall",
    "AgentEntry",
    "Mode",
    "agent_of_command",
    "built_in_agents",
    "executable_problem",
    "find_agent",
    "plan_call",
]

Mode = Literal["read", "edit"]

_PLACEHOLDER = re.compile(r"\{(prompt|prompt_file|model|schema|schema_file)\}")
_FILES = frozenset({"prompt_file", "schema_file"})


class AgentEntry(BaseModel):
    """How one agent is called and read. The top of `agents.toml` says what each field means."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    command: list[str] = Field(min_length=1)
    read: list[str] = []
    edit: list[str] = []
    model: list[str] = []
    schema_: list[str] = Field([], alias="schema")
    strict_schema: bool = False
    output: Literal["events", "text"] = "text"
    text: str | None = None
    value: str | None = None
    error: str | None = None
    session: str | None = None
    input_tokens: list[str] = []
    output_tokens: list[str] = []
    cost: list[str] = []
    error_pattern: str | None = None
    usage_pattern: str | None = None
    permanent: str | None = None
    permanent_exits: list[int] = []
    leaves: list[str] = []
    variables: list[str] = []
    keeps: list[str] = []
    hosts: list[str] = []

    @field_validator("text", "value", "error", "session")
    @classmethod
    def _is_expression(cls, value: str | None) -> str | None:
        return value if value is None else _checked_expression(value)

    @field_validator("input_tokens", "output_tokens", "cost")
    @classmethod
    def _are_expressions(cls, value: list[str]) -> list[str]:
        return [_checked_expression(each) for each in value]

    @field_validator("error_pattern", "usage_pattern", "permanent")
    @classmethod
    def _is_pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as cause:
                raise ValueError(f"no regular expression: {cause}") from cause
        return value


@dataclass(frozen=True, slots=True)
class AgentCall:
    """How an agent is started. stdin: the prompt, where no word takes it. files: what to write before it starts,
    by the placeholder that stands for the path."""

    words: tuple[str, ...]
    values: Mapping[str, str]
    stdin: str
    files: Mapping[str, str]

    def arguments(self, paths: Mapping[str, Path]) -> list[str]:
        """The words to start, with `paths` for the files. What a value holds is no placeholder again."""
        values = {**self.values, **{name: str(path) for name, path in paths.items()}}
        return [_PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), word) for word in self.words]


def plan_call(
    entry: AgentEntry,
    prompt: str,
    *,
    mode: Mode,
    model: str | None = None,
    schema: Mapping[str, Any] | None = None,
) -> AgentCall:
    """How `entry` is asked; a schema that no flag of its takes is asked for in the prompt.

    Raises:
        UsageError: a model is named, and the entry has no words to say so.
    """
    words = [*entry.command, *(entry.read if mode == "read" else entry.edit)]
    if model is not None:
        if not entry.model:
            raise UsageError(
                f"{entry.command[0]} takes no `model`: leave it out, or add `model` to its table"
            )
        words += entry.model
    if schema is not None and entry.schema_ and (not entry.strict_schema or is_strict(schema)):
        words += entry.schema_
    elif schema is not None:
        prompt += schema_request(schema)
    said = "" if schema is None else json.dumps(schema)
    values = {
        "prompt": prompt,
        "prompt_file": prompt,
        "model": model or "",
        "schema": said,
        "schema_file": said,
    }
    used = {name for word in words for name in _PLACEHOLDER.findall(word)}
    return AgentCall(
        words=tuple(words),
        values={name: values[name] for name in used - _FILES},
        stdin="" if used & {"prompt", "prompt_file"} else prompt,
        files={name: values[name] for name in used & _FILES},
    )


def find_agent(name: str, own: Mapping[str, Mapping[str, Any]] | None = None) -> AgentEntry:
    """The entry of an agent; `own`: the user's tables, of which each field goes before the built-in one.

    Raises:
        UsageError: there is no such agent (names those there are), or its table is wrong.
    """
    known = {**built_in_tables(), **(own or {})}
    if name not in known:
        raise UsageError(
            f"there is no agent {name!r}; known: {', '.join(sorted(known))}; "
            "others are [agents.NAME] tables of your config.toml"
        )
    table = {**built_in_tables().get(name, {}), **(own or {}).get(name, {})}
    try:
        return AgentEntry.model_validate(table)
    except ValidationError as cause:
        said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in cause.errors())
        raise UsageError(f"the table of the agent {name!r} is wrong: {said}") from cause


def agent_of_command(command: str | list[str]) -> AgentEntry:
    """Any command as an agent: it gets the prompt by stdin or where `{prompt}` stands, and answers with text."""
    words = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    if not words or not all(isinstance(word, str) for word in words):
        raise UsageError("`command` must be a text for the shell, or a list of words")
    if isinstance(command, str) and _PLACEHOLDER.search(command):
        raise UsageError(
            "in a text for the shell a prompt cannot be quoted safely: give `command` as a list of words"
        )
    return AgentEntry.model_validate({"command": words})


def built_in_agents() -> list[str]:
    """The names of the agents that this package knows."""
    return sorted(built_in_tables())


def executable_problem(entry: AgentEntry, path: str | None) -> str:
    """Why the command of `entry` cannot be started with this $PATH, or "" if it can."""
    program = entry.command[0]
    if shutil.which(program, path=path) is not None:
        return ""
    return f"the command {program!r} is not on your PATH: install it, or give its path as `command` in config.toml"


def _checked_expression(text: str) -> str:
    try:
        jmespath.compile(text)
    except JMESPathError as cause:
        raise ValueError(f"no JMESPath: {cause}") from cause
    return text
