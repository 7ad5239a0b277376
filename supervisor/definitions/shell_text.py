"""Where in a shell command a quoted value is safe, and where quoting it would protect nothing.

References in a string command are quoted with single quotes as they are put in. That is only safe where the
shell reads a plain word. Inside double quotes, `"'$(id)'"` runs `id`; inside single quotes the value ends
them; in a comment a line break does; after a backslash the quote is literal; in a here-document quotes mean
nothing. A full shell grammar would be needed to be clever, so everything doubtful is refused instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["unsafe_reference"]

_USE_LIST = "give the command as a list, or pass the value through `arguments` and read it from there"
_PLAIN_EXPANSION = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_WORD_START = " \t\n;&|()"


def unsafe_reference(parts: Sequence[str | None]) -> tuple[str, str] | None:
    """What is wrong with a command and what to do, or None.

    parts: the literal text of the command in turn with None for each reference.
    """
    reader = _Reader()
    for part in parts:
        if part is not None:
            reader.read(part)
        elif (why := reader.why_unsafe()) is not None:
            return why
        else:
            reader.previous = "x"
    return None


class _Reader:
    """Follows a shell command: in which quotes it is, and whether it holds what this reader cannot follow."""

    def __init__(self) -> None:
        self.previous = "\n"
        self._state = ""  # "", "'", '"' or "#"
        self._escaped = False
        self._beyond = ""  # the construct after which nothing is certain

    def why_unsafe(self) -> tuple[str, str] | None:
        if self._state in ("'", '"'):
            return (
                "a reference inside quotes",
                "remove the quotes: a reference in a string command is quoted already",
            )
        if self._state == "#":
            return "a reference in a shell comment", "remove it"
        if self._escaped:
            return "a reference after a backslash", "remove the backslash: the value is quoted already"
        if self._beyond:
            return (
                f"a reference after {self._beyond} in a shell command, where quoting is not certain",
                _USE_LIST,
            )
        return None

    def read(self, text: str) -> None:
        at = 0
        while at < len(text):
            at += self._step(text, at)

    def _step(self, text: str, at: int) -> int:
        """Take in one character, or the few that belong together; returns how many."""
        char = text[at]
        before, self.previous = self.previous, char
        if self._escaped:
            self._escaped = False
        elif self._state in ("'", "#"):
            if char == ("'" if self._state == "'" else "\n"):
                self._state = ""
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._state = "" if self._state else '"'
        elif self._state == '"':
            return self._inside_double(text, at)
        else:
            return self._plain(text, at, before)
        return 1

    def _inside_double(self, text: str, at: int) -> int:
        if text[at] == "`" or text.startswith("$(", at):
            self._beyond = "a command substitution inside double quotes"
        elif text.startswith("${", at):
            match = _PLAIN_EXPANSION.match(text, at)
            if match:
                return len(match[0])
            self._beyond = "an expansion inside double quotes"
        return 1

    def _plain(self, text: str, at: int, before: str) -> int:
        char = text[at]
        if char == "'":
            if before == "$":
                self._beyond = "$'...'"
            self._state = "'"
        elif char == "#" and before in _WORD_START:
            self._state = "#"
        elif char == "`":
            self._beyond = "a backquote"
        elif text.startswith("<<<", at):
            return 3
        elif text.startswith("<<", at):
            self._beyond = "a here-document"
        elif text.startswith("((", at):
            self._beyond = "(( ))"
        return 1
