"""`.mcp.json`: one server's entry is put in, and every other character of the file stays where it was."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from sage_actors.messages.errors import UsageError

__all__ = ["Merged", "merge_server"]

_KEY = "mcpServers"
_SPACE = re.compile(r"[ \t\r\n]*")
_INDENT = re.compile(r"\n([ \t]+)\S")
_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Merged:
    """content: what the file should hold, None where it may stay as it is. note: what to know about it.

    rewritten: more than the entry has changed: another entry was in its place, or the file's layout is lost.
    """

    content: bytes | None
    note: str = ""
    rewritten: bool = False


def merge_server(old: bytes | None, name: str, entry: dict[str, Any], *, source: str) -> Merged:
    """The file with an entry for `name`. An entry that starts this package stays as its user made it.

    Raises:
        UsageError: it is not JSON, with the place, or not of the form {"mcpServers": {...}}.
    """
    if old is None or not old.strip():
        return Merged((json.dumps({_KEY: {name: entry}}, indent=2) + "\n").encode())
    text = _decode(old, source)
    bom, text = (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)
    data = _parse(text, source)
    servers = data.get(_KEY, {})
    if name in servers:
        if servers[name] == entry:
            return Merged(None)
        if _is_ours(servers[name]):
            return Merged(None, f"your own entry for {name} stays")
    wanted = {**data, _KEY: {**servers, name: entry}}
    new = None if name in servers else _insert(text, name, entry, has_servers=_KEY in data)
    rewritten = new is None or _loads(new) != wanted  # such as keys that occur twice
    if new is None or rewritten:
        new = json.dumps(wanted, indent=_indent(text) or None, ensure_ascii=False)
        new += "\n" if text.endswith("\n") else ""
    note = f"another server was called {name}" if name in servers else ""
    return Merged((bom + new).encode(), note, rewritten)


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as cause:
        raise UsageError(f"{source} is not UTF-8 (byte {cause.start}); nothing was written") from cause


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as cause:
        raise UsageError(
            f"{source} is not JSON: line {cause.lineno}, column {cause.colno}: {cause.msg}; mend it and try "
            "again. Nothing was written"
        ) from cause
    except RecursionError as cause:
        raise UsageError(f"{source} is nested too deeply; nothing was written") from cause
    if not isinstance(data, dict) or not isinstance(data.get(_KEY, {}), dict):
        raise UsageError(f'{source} must have the form {{"{_KEY}": {{...}}}}; nothing was written')
    return data


def _is_ours(entry: Any) -> bool:
    """Whether it starts sage-actors, in whatever way its user needs (a path, uvx, python -m)."""
    if not isinstance(entry, dict):
        return False
    arguments = entry.get("args")
    words = [entry.get("command"), *(arguments if isinstance(arguments, list) else [])]
    return any(isinstance(word, str) and re.search(r"sage[-_]actors", word) for word in words)


def _insert(text: str, name: str, entry: dict[str, Any], *, has_servers: bool) -> str | None:
    """The text with the entry behind the last one of its object; None where it cannot be placed so."""
    top = _Members(text, _SPACE.match(text).end())  # type: ignore[union-attr]
    at, level, what = top, 1, f"{json.dumps(_KEY)}: {_block({name: entry}, text, 1)}"
    if has_servers:
        at, level = _Members(text, top.values[_KEY]), 2
        what = f"{json.dumps(name)}: {_block(entry, text, 2)}"
    indent, newline = _indent(text), _newline(text)
    lead = newline + indent * level if indent else " " if at.values else ""
    if at.values:
        return f"{text[: at.end]},{lead}{what}{text[at.end :]}"
    tail = newline + indent * (level - 1) if indent else ""
    close = text.index("}", at.start)
    return f"{text[: at.start + 1]}{lead}{what}{tail}{text[close:]}"


class _Members:
    """An object in JSON text. start: its brace; values: key -> where its value begins; end: of the last value."""

    def __init__(self, text: str, start: int) -> None:
        self.start, self.end, self.values = start, start + 1, dict[str, int]()
        decode = json.JSONDecoder().raw_decode
        at = self._skip(text, start + 1)
        while text[at] == '"':
            key, at = decode(text, at)
            at = self._skip(text, self._skip(text, at) + 1)
            self.values[key] = at
            _, self.end = decode(text, at)
            at = self._skip(text, self.end)
            if text[at] != ",":
                return
            at = self._skip(text, at + 1)

    @staticmethod
    def _skip(text: str, at: int) -> int:
        found = _SPACE.match(text, at)
        assert found is not None
        return found.end()


def _block(value: dict[str, Any], text: str, level: int) -> str:
    indent = _indent(text)
    if not indent:
        return json.dumps(value)
    return json.dumps(value, indent=indent).replace("\n", _newline(text) + indent * level)


def _indent(text: str) -> str:
    found = _INDENT.search(text)
    return found.group(1) if found else ""


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
