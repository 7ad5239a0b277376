"""Looks for secrets in values: in texts, keys and bytes, at any depth. Says where, never what.

packed value -> candidates (two passes in C; usually none: done) -> walk -> findings, and a copy without them
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import is_not
from typing import Any, Literal, NamedTuple

from sage_actors.messages.codec import pack, unpack
from sage_actors.messages.errors import Problem, ResultError, SecretInStateError
from sage_actors.messages.secret_patterns import ASSIGNMENT, KEY_NAME, RULES, Rule, candidates, hides, spans
from sage_actors.messages.secret_values import KnownValues

__all__ = [
    "Allowed",
    "Finding",
    "SecretsPolicy",
    "find_secrets",
    "is_secret_problem",
    "redact",
    "redact_packed",
    "redact_text",
    "refuse_secrets",
    "secret_problems",
    "without_known",
]

_LEAST_PACKED = 12  # bytes of the shortest value that could hold a secret: {"secret": "abcd"}
_NAMES = frozenset({KEY_NAME, "auth-header", *(rule.name for rule in RULES)})  # what can be allowed
_HOLDS = "holds a secret itself"
_INSTEAD = (
    "say ${env.NAME} or ${keyring.NAME} in its place; what is no secret: [secrets] allow in your config.toml"
)
_NUMBERS = frozenset((int, float, bool, type(None)))
_LEAST_TEXT = 8  # characters of a text that patterns are tried on


class Finding(NamedTuple):
    """rule: of `secret_patterns`, or the reference that a known value came from. path: `$.headers[0]`."""

    rule: str
    path: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """Findings that are none: by rule and path, in which `*` stands for anything. A known value is always one."""

    rule: str = "*"
    path: str = "*"

    def covers(self, finding: Finding) -> bool:
        return _glob(self.rule).fullmatch(finding.rule) is not None and (
            _glob(self.path).fullmatch(finding.path) is not None
        )


@dataclass(frozen=True, slots=True)
class SecretsPolicy:
    """What the user says. on_output: what happens to a result that holds a secret."""

    on_output: Literal["redact", "reject"] = "redact"
    allow: tuple[Allowed, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"on_output": self.on_output, "allow": [[each.rule, each.path] for each in self.allow]}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> SecretsPolicy:
        return cls(said["on_output"], tuple(Allowed(*each) for each in said["allow"]))


def find_secrets(
    value: Any, *, path: str = "$", allow: tuple[Allowed, ...] = (), known: KnownValues | None = None
) -> list[Finding]:
    """The secrets in a value of a definition or an input, whatever it is made of."""
    return redact(value, path=path, allow=allow, known=known)[1]


def redact(
    value: Any, *, path: str = "$", allow: tuple[Allowed, ...] = (), known: KnownValues | None = None
) -> tuple[Any, list[Finding]]:
    """`value` with `[redacted:RULE]` in the place of each secret, and the findings. The same object if none."""
    if type(value) is str:
        if len(value) < _LEAST_TEXT and not known:
            return value, []
        rules = candidates(value.encode("utf-8", "surrogatepass"))
    else:
        try:
            rules = candidates(pack(value))
        except ResultError:  # it holds what msgpack cannot carry: the walk looks at the rest
            rules = RULES
    return _redacted(value, rules, path, allow, known)


def without_known(value: Any, known: KnownValues) -> Any:
    """`value` without known values; what only looks like a secret was judged where the user's rules are known."""
    return _redacted(value, (), "$", (), known)[0]


def _redacted(
    value: Any, rules: tuple[Rule, ...], path: str, allow: tuple[Allowed, ...], known: KnownValues | None
) -> tuple[Any, list[Finding]]:
    if not rules and not known:
        return value, []
    walk = _Walk(rules, known, allow)
    made = walk.visit(value, path)
    return (made, walk.findings) if walk.findings else (value, [])


def redact_packed(
    packed: bytes,
    *,
    allow: tuple[Allowed, ...] = (),
    known: KnownValues | None = None,
    only_known: bool = False,
) -> tuple[bytes, list[Finding]]:
    """The same for a packed value: it is opened only where there may be something."""
    if len(packed) < _LEAST_PACKED and not known:
        return packed, []
    rules = () if only_known else candidates(packed)
    if not rules and not (known and known.is_in(packed)):
        return packed, []
    walk = _Walk(rules, known, allow)
    made = walk.visit(unpack(packed), "$")
    return (pack(made), walk.findings) if walk.findings else (packed, [])


def secret_problems(value: Any, place: str, *, allow: tuple[Allowed, ...] = ()) -> list[Problem]:
    """What `find_secrets` finds, as problems with their places."""
    return [
        Problem(each.path, f"{_HOLDS} ({each.rule})", _INSTEAD)
        for each in find_secrets(value, path=place, allow=allow)
    ]


def is_secret_problem(problem: Problem) -> bool:
    """Whether `secret_problems` made it."""
    return problem.message.startswith(_HOLDS)


def refuse_secrets(value: Any, what: str) -> None:
    """SecretInStateError if `value`, which is about to be saved, holds a secret."""
    if value is not None and (problems := secret_problems(value, "$")):
        raise SecretInStateError(problems, source=what)


def redact_text(
    text: str, *, path: str = "$", allow: tuple[Allowed, ...] = (), known: KnownValues | None = None
) -> tuple[str, list[Finding]]:
    """The same for a text, such as lines of a log."""
    made, findings = redact(text, path=path, allow=allow, known=known)
    return str(made), findings


class _Walk:
    """One look through a value. Makes copies of what it changes, and of nothing else."""

    def __init__(
        self, rules: tuple[Rule, ...], known: KnownValues | None, allow: tuple[Allowed, ...]
    ) -> None:
        self.findings: list[Finding] = []
        self._rules, self._known, self._allow = rules, known, allow
        self._names = ASSIGNMENT in rules

    def visit(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind is str:
            return self._text(value, path)
        if isinstance(value, Mapping):
            return self._map(value, path)
        if kind is list or kind is tuple:
            made = [
                each if type(each) in _NUMBERS else self.visit(each, f"{path}[{i}]")
                for i, each in enumerate(value)
            ]
            return made if any(map(is_not, made, value)) else value
        if kind is bytes or kind is bytearray:
            text = bytes(value).decode("utf-8", "surrogateescape")
            made_text = self._text(text, path)
            return value if made_text is text else made_text.encode("utf-8", "surrogateescape")
        return str(self._text(str(value), path)) if isinstance(value, str) else value

    def _map(self, value: Mapping[Any, Any], path: str) -> Any:
        out: dict[Any, Any] = {}
        changed = False
        for key, item in value.items():
            name = self.visit(key, f"{path} (key)") if type(key) in (str, bytes) else key
            here = f"{path}.{name}" if path else str(name)
            if self._names and type(item) is str and type(key) is str and hides(key, item):
                made = self._hidden(item, KEY_NAME, here)
            else:
                made = self.visit(item, here)
            changed = changed or name is not key or made is not item
            while name in out:
                name = f"{name}+"  # two keys of which nothing is left but the rule
            out[name] = made
        return out if changed else value

    def _hidden(self, text: str, rule: str, path: str) -> str:
        return f"[redacted:{rule}]" if self._note(rule, path) else text

    def _note(self, rule: str, path: str) -> bool:
        finding = Finding(rule, path)
        if rule in _NAMES and any(each.covers(finding) for each in self._allow):
            return False
        self.findings.append(finding)
        return True

    def _text(self, text: str, path: str) -> str:
        found = self._known.spans(text) if self._known else []
        if self._rules and len(text) >= _LEAST_TEXT:
            found += spans(text, self._rules)
        if not found:
            return text
        parts, at = [], 0
        for start, end, rule in _apart(found):
            if self._note(rule, path):
                parts += [text[at:start], f"[redacted:{rule}]"]
                at = end
        return "".join([*parts, text[at:]]) if parts else text


def _apart(found: Iterable[tuple[int, int, str]]) -> Iterable[tuple[int, int, str]]:
    """In order, and what overlaps as one: under the name of the first, a known value before a pattern."""
    start, end, rule = -1, -1, ""
    for each in sorted(found, key=lambda span: (span[0], -span[1])):
        if each[0] < end:
            end = max(end, each[1])
            continue
        if end >= 0:
            yield start, end, rule
        start, end, rule = each
    if end >= 0:
        yield start, end, rule


def _glob(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in text.split("*")), re.DOTALL)
