"""What an agent printed, read as the table says: the answer, what it used, what went wrong.

Formats drift: events that nobody here knows are counted and otherwise left alone, fields that are missing are
nothing, and a line that is no JSON is no event.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from sage_actors.actors.agents.structured import extract_json, schema_problem
from sage_actors.actors.agents.table import AgentEntry
from sage_actors.actors.operations.command import CommandOutput
from sage_actors.messages.backend import TokenUsage
from sage_actors.messages.errors import OperationError

__all__ = ["AgentAnswer", "AgentFailed", "parse_events", "read_answer"]

_ERROR_CHARS = 2_000
_EVENT_NAMES = 50
_UNITS = {"k": 1e3, "M": 1e6}
_STDERR_LINES = 20


class AgentFailed(OperationError):
    """The agent says that it failed, or gave no answer. `details`: exit_code, the end of stderr, events, session.

    `usage` is what it used all the same.
    """

    def __init__(
        self, message: str, *, usage: TokenUsage, retryable: bool, details: Mapping[str, Any]
    ) -> None:
        super().__init__(message)
        self.usage = usage
        self.retryable = retryable  # type: ignore[misc]
        self.details = dict(details)


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """text: the answer in words. value: the object, where one was asked for. events: how many of each type."""

    text: str
    value: dict[str, Any] | None = None
    usage: TokenUsage = field(default_factory=TokenUsage)
    session: str | None = None
    events: Mapping[str, int] = field(default_factory=dict)


def read_answer(
    name: str, entry: AgentEntry, output: CommandOutput, schema: Mapping[str, Any] | None = None
) -> AgentAnswer:
    """The answer of the agent `name` in what it printed.

    Raises:
        AgentFailed: it says that it failed, ended with an exit code, said nothing, or nothing that `schema` allows.
    """
    events = parse_events(output.stdout) if entry.output == "events" else []
    reading = _Reading(name, entry, output, events)
    if problem := reading.problem():
        raise reading.failure(problem)
    text = reading.text()
    if schema is None:
        return reading.answer(text, None)
    value = reading.find(entry.value)
    if not isinstance(value, dict):
        value = extract_json(text)
    if value is None:
        raise reading.failure(f"gave no JSON object, which was asked for; it said: {_short(text)}")
    if wrong := schema_problem(value, schema):
        raise reading.failure(f"gave an object that the schema does not allow: {wrong}")
    return reading.answer(text, value)


def parse_events(text: str) -> list[dict[str, Any]]:
    """The JSON objects in `text`: one document (an object, or a list of them), or one a line among other lines."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        events = list(_objects(map(_parsed, text.split("\n"))))
        return events or list(_objects([extract_json(text)]))  # a document over many lines, among other lines
    return list(_objects(document if isinstance(document, list) else [document]))


def _parsed(line: str) -> Any:
    try:
        return json.loads(line) if line.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None


def _objects(values: Iterable[Any]) -> Iterable[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict))


@dataclass(frozen=True, slots=True)
class _Reading:
    """One output of one agent."""

    name: str
    entry: AgentEntry
    output: CommandOutput
    events: list[dict[str, Any]]

    def find(self, expression: str | None) -> Any:
        """What a JMESPath expression finds in the events; None where they are not as it expects."""
        if expression is None:
            return None
        try:
            return jmespath.search(expression, self.events)
        except JMESPathError:  # a function that got another type than it takes
            return None

    def text(self) -> str:
        """The answer in words."""
        if self.entry.output == "text":
            return self.output.stdout.strip()
        found = self.find(self.entry.text)
        return found if isinstance(found, str) else ""

    def problem(self) -> str:
        """What went wrong; "" if nothing did."""
        if said := self._said_error():
            return f"failed: {said}"
        if self.output.exit_code:
            return f"ended with {_how(self.output.exit_code)}{self._last_words()}"
        if self.entry.output == "events" and not self.events:
            return f"printed nothing that can be read{self._last_words()}"
        if not self.text() and not isinstance(self.find(self.entry.value), dict):
            return f"gave no answer{self._last_words()}"
        return ""

    def _said_error(self) -> str:
        if self.entry.output == "text":
            if self.entry.error_pattern is None:
                return ""
            found = re.findall(self.entry.error_pattern, self.output.stdout, re.MULTILINE)
            return _short(found[-1]) if found else ""
        said = self.find(self.entry.error)
        if not said:
            # an agent may put its error on the other stream, as the same kind of document
            said = self._on_stderr() if self.output.exit_code else None
        return _short(_words(said)) if said else ""

    def _on_stderr(self) -> Any:
        other = _Reading(self.name, self.entry, self.output, parse_events(self.output.stderr))
        return other.find(self.entry.error)

    def _last_words(self) -> str:
        lines = (self.output.stderr.strip() or self.output.stdout.strip()).splitlines()
        cut = " (its output was cut: more than can be read)" if self.output.cut else ""
        return cut + (f": {_short(lines[-1])}" if lines else "")

    def usage(self) -> TokenUsage:
        """What was used, as the agent counted; 0 where it does not say."""
        if self.entry.output == "text":
            return self._usage_in_text()
        entry = self.entry
        sums = [sum(self._numbers(each)) for each in (entry.input_tokens, entry.output_tokens, entry.cost)]
        return TokenUsage(int(sums[0]), int(sums[1]), float(sums[2]))

    def _usage_in_text(self) -> TokenUsage:
        total = [0.0, 0.0, 0.0]
        for match in re.finditer(self.entry.usage_pattern or r"(?!)", self.output.stdout, re.MULTILINE):
            groups = match.groupdict()
            for position, name in enumerate(("input", "output", "cost")):
                total[position] += _number(groups.get(name))
        return TokenUsage(round(total[0]), round(total[1]), total[2])

    def _numbers(self, expressions: Iterable[str]) -> Iterable[float]:
        for expression in expressions:
            yield from _flat_numbers(self.find(expression))

    def answer(self, text: str, value: dict[str, Any] | None) -> AgentAnswer:
        return AgentAnswer(text, value, self.usage(), self._session(), self._event_counts())

    def failure(self, problem: str) -> AgentFailed:
        code = self.output.exit_code
        lines = self.output.stderr.strip().splitlines()[-_STDERR_LINES:]
        details = {"exit_code": code, "stderr": _short("\n".join(lines)), "events": self._event_counts()}
        if session := self._session():
            details["session"] = session
        permanent = code in self.entry.permanent_exits or bool(
            self.entry.permanent and re.search(self.entry.permanent, problem)
        )
        return AgentFailed(
            f"the agent {self.name} {problem}", usage=self.usage(), retryable=not permanent, details=details
        )

    def _session(self) -> str | None:
        found = self.find(self.entry.session)
        return found if isinstance(found, str) else None

    def _event_counts(self) -> dict[str, int]:
        counts = Counter(str(event.get("type", "?"))[:100] for event in self.events)
        return dict(counts.most_common(_EVENT_NAMES))


def _words(said: Any) -> str:
    if isinstance(said, str):
        return said
    if isinstance(said, list) and all(isinstance(each, str) for each in said):
        return "; ".join(said)
    return json.dumps(said)


def _short(text: str) -> str:
    return text if len(text) <= _ERROR_CHARS else text[:_ERROR_CHARS] + " [cut]"


def _how(exit_code: int) -> str:
    return f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"


def _flat_numbers(value: Any) -> Iterable[float]:
    if isinstance(value, list):
        for each in value:
            yield from _flat_numbers(each)
    elif (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    ):
        yield value


def _number(text: str | None) -> float:
    """The number that `2.4k` says; 0 where it says none.

    >>> _number("2.4k"), _number("1,234"), _number(None)
    (2400.0, 1234.0, 0.0)
    """
    digits = (text or "").replace(",", "")
    unit = _UNITS.get(digits[-1:], 1.0)
    try:
        return float(digits.rstrip("kM")) * unit
    except ValueError:
        return 0.0
