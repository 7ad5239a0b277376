"""Text of a definition file to plain data, JSON or YAML, with the line of each place when it is asked for.

YAML is read from its events, without the constructors of a loader: no tags, no infinities, scalars as YAML 1.2
has them (`on` and `no` are text, `22:22` is no number), keys are text, aliases cannot multiply
without bound. Both formats refuse a key that stands twice in one map.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

import yaml

from sage_actors.messages.errors import DefinitionError, Problem
from sage_actors.supervisor.json_text import finite, no_constant

__all__ = ["MAX_FILE_BYTES", "Lines", "parse_json", "parse_yaml"]

MAX_FILE_BYTES = 128 * 1024 * 1024
MAX_LEVELS = 150
_MOST_DIGITS = 100  # of a whole number; what can be stored has 20
_MAX_ALIASED = 100_000  # values that aliases may repeat
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NO_JSON = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_WORDS: dict[str, Any] = {"": None, "~": None}
_WORDS |= dict.fromkeys(("null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_TAG = "tag:yaml.org,2002:"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_SPACE = re.compile(r"[ \t\r\n]*")


class Lines:
    """The line of each place of a text, worked out at the first question: good files never pay for it."""

    def __init__(self, work_out: Callable[[], dict[str, int]]) -> None:
        self._work_out = work_out
        self._known: dict[str, int] | None = None

    def __call__(self, place: str) -> int | None:
        """The line (1-based) of `place`, or of the nearest thing around it that has one."""
        if self._known is None:
            self._known = self._work_out()
        while place not in self._known:
            shorter = re.sub(r"(\.[^.\[\]]*|\[[^\[\]]*\])\Z", "", place)
            if shorter == place:
                shorter = place.rpartition(".")[0]
            if not shorter:
                return self._known.get("")
            place = shorter
        return self._known[place]


def parse_json(text: str) -> tuple[Any, Lines]:
    """JSON as data. Raises DefinitionError with line and column for bad syntax, and for duplicate keys."""
    twice = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        made = dict(items)
        twice = twice or len(made) != len(items)
        return made

    try:
        data = json.loads(
            text, object_pairs_hook=pairs, parse_constant=no_constant, parse_float=finite, parse_int=_whole
        )
    except json.JSONDecodeError as cause:
        message = f"bad JSON at column {cause.colno}: {cause.msg}"
        raise DefinitionError([Problem("", message, "see the text just before", cause.lineno)]) from cause
    except RecursionError as cause:
        raise DefinitionError([Problem("", "nested too deep", f"{MAX_LEVELS} levels at most")]) from cause
    except ValueError as cause:
        raise DefinitionError([Problem("", f"bad JSON: {cause}")]) from cause
    if twice:
        problems: list[Problem] = []
        _JsonPlaces(text, problems).read()
        raise DefinitionError(problems)
    return data, Lines(lambda: _JsonPlaces(text, []).read())


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{text[:20]}... is too large for a whole number")
    return int(text)


class _JsonPlaces:
    """Reads JSON that is known to be well-formed a second time, for the lines of its places."""

    def __init__(self, text: str, problems: list[Problem]) -> None:
        self._text = text
        self._problems = problems
        self._lines: dict[str, int] = {}
        self._counted = (0, 1)  # an offset, and its line

    def read(self) -> dict[str, int]:
        self._value(_SPACE.match(self._text, 0).end(), "")  # type: ignore[union-attr]
        return self._lines

    def _line(self, offset: int) -> int:
        start, line = self._counted
        line += self._text.count("\n", start, offset)
        self._counted = (offset, line)
        return line

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at

    def _value(self, at: int, place: str) -> int:
        self._lines.setdefault(place, self._line(at))
        char = self._text[at]
        if char == '"':
            return int(scanstring(self._text, at + 1, True)[1])
        if char == "{":
            return self._object(self._skip(at + 1), place)
        if char == "[":
            return self._array(self._skip(at + 1), place)
        if match := _NUMBER.match(self._text, at):
            return match.end()
        return at + len("false" if char == "f" else "null")

    def _object(self, at: int, place: str) -> int:
        seen: set[str] = set()
        while self._text[at] != "}":
            line = self._line(at)
            key, at = scanstring(self._text, at + 1, True)
            here = f"{place}.{key}" if place else key
            if key in seen:
                self._problems.append(_twice(here, line))
            seen.add(key)
            self._lines[here] = line
            at = self._skip(self._value(self._skip(self._skip(at) + 1), here))
            if self._text[at] == ",":
                at = self._skip(at + 1)
        return at + 1

    def _array(self, at: int, place: str) -> int:
        number = 0
        while self._text[at] != "]":
            at = self._skip(self._value(at, f"{place}[{number}]"))
            number += 1
            if self._text[at] == ",":
                at = self._skip(at + 1)
        return at + 1


def parse_yaml(text: str) -> tuple[Any, Lines]:
    """YAML as data. Raises DefinitionError for bad syntax, tags, duplicate keys, and runaway aliases."""
    data, _ = _read_yaml(text, places=False)
    return data, Lines(lambda: _read_yaml(text, places=True)[1])


def _read_yaml(text: str, *, places: bool) -> tuple[Any, dict[str, int]]:
    reader = _YamlReader(places)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        column = f" at column {mark.column + 1}" if mark else ""
        message = f"bad YAML{column}: {cause.problem or cause.context}"
        raise DefinitionError([Problem("", message, line=mark.line + 1 if mark else None)]) from cause
    except (yaml.YAMLError, RecursionError, ValueError) as cause:
        raise DefinitionError([Problem("", f"bad YAML: {str(cause).partition(chr(10))[0]}")]) from cause
    if reader.problems:
        raise DefinitionError(reader.problems)
    return reader.result, reader.lines


class _Open:
    """A map or list that is being read."""

    __slots__ = ("key", "merges", "place", "size", "value")

    def __init__(self, value: Any, place: str) -> None:
        self.value = value
        self.place = place
        self.key: str | None = None
        self.size = 1
        self.merges: list[Any] = []


class _YamlReader:
    """Builds data from YAML events, with a stack of its own: depth and size are bounded here."""

    def __init__(self, places: bool) -> None:
        self.result: Any = None
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self._places = places
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._anchored: dict[int, str] = {}  # depth of an open container: its anchor
        self._aliased = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        match event:
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._start(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end(event)
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._fail(event, "a second document", "a file holds one workflow")

    def _fail(self, event: yaml.Event, message: str, hint: str = "") -> None:
        """Problems that end the reading."""
        raise DefinitionError([Problem(self._here()[:80], message, hint, _line_of(event))])

    def _here(self) -> str:
        if not self._stack:
            return ""
        top = self._stack[-1]
        if isinstance(top.value, list):
            return f"{top.place}[{len(top.value)}]"
        if top.key is None:
            return top.place
        return f"{top.place}.{top.key}" if top.place else top.key

    def _expects_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None

    def _scalar(self, event: Any) -> None:
        self._refuse_tag(event)
        plain = event.implicit[0] and not event.style
        if self._expects_key():
            self._key(event.value, event, plain)
            return
        value: Any = event.value
        try:
            if plain:
                value = _resolve_plain(value)
        except ValueError as cause:
            self.problems.append(Problem(self._here(), str(cause), "quote it, for a text", _line_of(event)))
        if event.anchor:
            self._anchors[event.anchor] = (value, 1)
        self._put(value, event, 1)

    def _key(self, key: str, event: Any, plain: bool) -> None:
        top = self._stack[-1]
        if key == "<<" and plain:
            top.key = key
            return
        line = _line_of(event)
        here = f"{top.place}.{key}" if top.place else key
        if key in top.value:
            self.problems.append(_twice(here, line))
        if self._places:
            self.lines[here] = line
        top.key = key
        top.value[key] = None

    def _refuse_tag(self, event: Any) -> None:
        if event.tag:
            tag = event.tag.replace(_TAG, "!!")
            self._fail(event, f"the tag {tag!r} is not allowed", "remove it; a text is quoted")

    def _start(self, event: Any) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        self._refuse_tag(event)
        if self._expects_key():
            self._fail(event, "a key that is no text", "keys are names")
        if len(self._stack) >= MAX_LEVELS:
            self._fail(event, "nested too deep", f"{MAX_LEVELS} levels at most")
        place = self._here()
        if self._places:
            self.lines.setdefault(place, _line_of(event))
        self._stack.append(_Open({} if is_map else [], place))
        if event.anchor:
            self._anchored[len(self._stack)] = event.anchor

    def _end(self, event: Any) -> None:
        anchor = self._anchored.pop(len(self._stack), None)
        done = self._stack.pop()
        for merged in done.merges:
            for key, value in merged.items():
                done.value.setdefault(key, value)
        if anchor:
            self._anchors[anchor] = (done.value, done.size)
        self._put(done.value, event, done.size)

    def _alias(self, event: Any) -> None:
        if self._expects_key():
            self._fail(event, "a key that is no text", "keys are names")
        if event.anchor not in self._anchors:
            self._fail(event, f"the alias *{event.anchor} has no anchor before it, or is inside it")
        value, size = self._anchors[event.anchor]
        self._aliased += size
        if self._aliased > _MAX_ALIASED:
            self._fail(
                event, f"aliases repeat more than {_MAX_ALIASED} values", "write them out, or use phases"
            )
        self._put(value, event, size)

    def _put(self, value: Any, event: Any, size: int) -> None:
        if not self._stack:
            self.result = value
            return
        top = self._stack[-1]
        top.size += size
        if isinstance(top.value, list):
            if self._places:
                self.lines.setdefault(f"{top.place}[{len(top.value)}]", _line_of(event))
            top.value.append(value)
            return
        key, top.key = top.key, None
        if key == "<<" and key not in top.value:
            self._merge(top, value, event)
        else:
            top.value[key] = value

    def _merge(self, top: _Open, value: Any, event: Any) -> None:
        maps = value if isinstance(value, list) else [value]
        if not all(isinstance(each, dict) for each in maps):
            self._fail(event, "`<<` merges maps only", "name a map, or a list of them")
        top.merges.extend(maps)


def _line_of(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _resolve_plain(text: str) -> Any:
    """A plain scalar as YAML 1.2's core schema reads it. ValueError for a number that JSON does not have."""
    if text in _WORDS:
        return _WORDS[text]
    if _NO_JSON.match(text):
        no_constant(text)
    if _INT.match(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base) if len(text) < _MOST_DIGITS else text
    return finite(text) if _FLOAT.match(text) else text


def _twice(place: str, line: int) -> Problem:
    return Problem(place, "this key stands twice in one map", "keep one of them", line)
