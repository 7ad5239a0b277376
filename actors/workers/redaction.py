"""What a worker says, without secrets: results, errors, progress and output are looked through before they leave.

    arguments with secrets -> learn                     their values are known from now on
    its variables          -> learn_variables           those whose names say that they are secret
    result, packed  -> candidates -> walk   \\
    error map       -> each of its texts     >  `[redacted:RULE]`, and a note of rule and place for the journal
    progress        -> each of its texts    /
    output          -> line by line

So the work is done in parallel, off the supervisor's processor. The supervisor looks for known values again
(`RunState.without_known`): a worker that ran foreign code is not to be believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from sage_actors.messages.errors import Problem, SecretInStateError
from sage_actors.messages.secret_patterns import hides
from sage_actors.messages.secret_scan import (
    Allowed,
    Finding,
    SecretsPolicy,
    redact,
    redact_packed,
    redact_text,
)
from sage_actors.messages.secret_values import KnownValues

__all__ = ["DEFAULT_POLICY", "Redactor", "add_note", "found_in_result", "parse_secrets"]

_MOST_NOTES = 50  # findings of an attempt that are noted one by one
DEFAULT_POLICY = SecretsPolicy()
_MOST_HELD = 4096  # characters of a line that is not complete
_LEAST_HELD = 2048  # of one that is longer: what a secret could begin in, and the next read ends

Key = tuple[int, int, int]


class Redactor:
    """What one worker process knows about secrets. `learn` in one thread, the rest in any."""

    def __init__(self) -> None:
        self._known = KnownValues()
        self._held: dict[tuple[Key, str], str] = {}  # the last line of an output, while it is not complete

    def learn(self, secrets: Iterable[tuple[str, str]]) -> None:
        """These (name, value) were put into arguments. They stay known as long as the process lives."""
        self._known.add(secrets)

    def learn_variables(self, environ: Mapping[str, str]) -> None:
        """Of these variables the secret ones, by their names: what gets them may say them, or hand them on."""
        self.learn((f"env.{name}", value) for name, value in environ.items() if hides(name, value))

    def result(
        self, packed: bytes, node_id: str, *, policy: SecretsPolicy = DEFAULT_POLICY
    ) -> tuple[bytes, list[Finding]]:
        """A packed result without secrets, and what was found.

        Raises:
            SecretInStateError: there is one, and the policy is to reject such a result.
        """
        clean, findings = redact_packed(packed, allow=policy.allow, known=self._known)
        if findings and policy.on_output == "reject":
            raise found_in_result(node_id, findings)
        return clean, findings

    def value(self, value: Any) -> tuple[Any, list[Finding]]:
        """An error map or a progress report without secrets, and what was found."""
        return redact(value, known=self._known)

    def text(self, text: str) -> str:
        """A text without secrets."""
        return redact_text(text, known=self._known)[0]

    def rows(self, rows: list[list[Any]]) -> list[list[Any]]:
        """Rows [*key, stream, text] of output without secrets; what follows each other on a stream becomes one row.

        An incomplete last line waits for its end, so that a secret is not cut in two: [*key, "", ""] says that
        the attempt is over.
        """
        out: list[list[Any]] = []
        for row in _joined(rows):
            key, stream, text = (row[0], row[1], row[2]), row[3], row[4]
            if not stream:
                out += [
                    [*key, name, self._clean(self._held.pop((key, name), ""))]
                    for name in ("stdout", "stderr")
                ]
                continue
            if stream in ("stdout", "stderr") and key[0] >= 0:
                text = self._complete(key, stream, self._held.pop((key, stream), "") + text)
            out.append([*key, stream, self._clean(text)])
        return [row for row in out if row[4]]

    def _complete(self, key: Key, stream: str, text: str) -> str:
        """`text` up to the end of its last line; the rest is held."""
        end = text.rfind("\n") + 1
        if end == len(text):
            return text
        if len(text) - end > _MOST_HELD:
            text = self._clean(text)
            end = max(len(text) - _LEAST_HELD, text.rfind("\n") + 1)
        self._held[key, stream] = text[end:]
        return text[:end]

    def _clean(self, text: str) -> str:
        return self.text(text) if text else text


def _joined(rows: list[list[Any]]) -> Iterable[list[Any]]:
    """Neighbours of one stream as one row: a print may have made two, and a burst thousands."""
    for head, group in groupby(rows, key=lambda row: row[:4]):
        texts = [row[4] for row in group]
        if head[3] in ("stdout", "stderr"):
            texts = ["".join(texts)]
        yield from ([*head, text] for text in texts)


def add_note(used: dict[str, Any] | None, findings: list[Finding]) -> dict[str, Any] | None:
    """What an attempt used, with `redacted`: [[rule, path], ...] added, which the journal and the audit log keep."""
    if not findings:
        return used
    used = used or {"input_tokens": 0, "output_tokens": 0, "cost": 0.0}
    said = used.get("redacted")
    before = said if isinstance(said, list) else []  # perhaps from a worker that is not to be believed
    used["redacted"] = [*before, *(list(each) for each in findings)][:_MOST_NOTES]
    return used


def parse_secrets(said: Any, problems: list[Problem]) -> SecretsPolicy:
    """The table `[secrets]` of the user's configuration; what is wrong with it is added to `problems`."""
    if not isinstance(said, dict):
        problems.append(Problem("secrets", "must be a table"))
        return DEFAULT_POLICY
    for name in said.keys() - {"on_output", "allow"}:
        problems.append(Problem(f"secrets.{name}", "unknown setting", "on_output or allow"))
    on_output = said.get("on_output", "redact")
    if on_output not in ("redact", "reject"):
        problems.append(Problem("secrets.on_output", 'must be "redact" or "reject"'))
    allow = said.get("allow", [])
    if not isinstance(allow, list):
        problems.append(Problem("secrets.allow", "must be a list"))
        allow = []
    allowed = [_allowed(each, f"secrets.allow[{i}]", problems) for i, each in enumerate(allow)]
    return SecretsPolicy(on_output, tuple(each for each in allowed if each is not None))


def _allowed(said: Any, place: str, problems: list[Problem]) -> Allowed | None:
    if isinstance(said, dict) and said and said.keys() <= {"rule", "path"}:
        rule, path = said.get("rule", "*"), said.get("path", "*")
        if isinstance(rule, str) and isinstance(path, str):
            return Allowed(rule, path)
    problems.append(Problem(place, 'must say a rule, a path or both: { rule = "jwt", path = "$.session" }'))
    return None


def found_in_result(node_id: str, findings: list[Finding]) -> SecretInStateError:
    """Names rule and place of each finding."""
    hint = 'declare `secret_outputs: true`, or `[secrets] on_output = "redact"` in your config.toml'
    problems = [Problem(each.path, f"holds a secret ({each.rule})", hint) for each in findings[:_MOST_NOTES]]
    return SecretInStateError(problems, source=f"the result of node {node_id!r}")
