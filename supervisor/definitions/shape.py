"""The shape of a definition: pydantic's findings in words, with places; and what remains to be examined.

A fault is a path into the data. `repair_shape` takes the faulty parts out, so that references and cycles can
still be checked in the rest, and remembers where each remaining operation stood.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from sage_actors.messages.codec import pack
from sage_actors.messages.errors import Problem, ResultError
from sage_actors.supervisor.core.graph import nearest
from sage_actors.supervisor.definitions.validation import TYPES, Places, type_hint

__all__ = ["Path", "check_shape", "place_of", "repair_shape", "unstorable"]

Path: TypeAlias = tuple[str | int, ...]
Loc: TypeAlias = tuple[str | int, ...]  # a path of pydantic's, with names of types in it

_EXPECTED = {
    "model_attributes_type": "a map",
    "model_type": "a map",
    "dict_type": "a map",
    "list_type": "a list",
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}
_EXPECTED |= dict.fromkeys(("either_command", "either_foreach"), "a text or a list")
_EXPECTED |= {"either_sandbox": "a text or a map", "either_checks": "true, false or a list"}

# What other tools call our fields, without _ and -.
_ELSEWHERE = {
    **dict.fromkeys(("dependson", "dependencies", "after", "requires", "upstream", "waitfor"), "needs"),
    **dict.fromkeys(("args", "params", "parameters", "with", "kwargs"), "arguments"),
    **dict.fromkeys(("if", "condition"), "when"),
    **dict.fromkeys(("loop", "map", "withitems", "forall"), "foreach"),
    **dict.fromkeys(("run", "cmd", "script"), "command"),
    **dict.fromkeys(("retries", "maxretries"), "retry"),
    **dict.fromkeys(("attempts", "maximumattempts"), "max_attempts"),
    **dict.fromkeys(("environment", "envs"), "env"),
    **dict.fromkeys(("workingdirectory", "workdir", "directory"), "cwd"),
    **dict.fromkeys(("function", "callable", "func"), "call"),
    **dict.fromkeys(("steps", "tasks", "jobs"), "nodes"),
    **dict.fromkeys(("maxparallel", "maxparallelism", "maxconcurrency"), "concurrency"),
    "needs": "dependencies",
}
_ALTERNATIVE = re.compile(r"(str|bool|(list|dict)\[.*\])\Z")
_LISTS = ("phases", "nodes", "operations")


def check_shape(data: Mapping[str, Any]) -> tuple[list[Problem], list[Path]]:
    """(problems, paths of what is wrong) of `data` against the models of the file format."""
    from pydantic import ValidationError

    from sage_actors.messages.schema import UntypedOperation, WorkflowDefinition

    problems = dict.fromkeys(_which_shape(data))
    faults: list[Path] = []

    def check(model: Any, part: Any, prefix: Path) -> None:
        try:
            model.model_validate(part)
        except ValidationError as error:
            found = [{**each, "loc": (*prefix, *each["loc"])} for each in error.errors(include_url=False)]
            for each in _of_what_was_meant(found):
                loc = each["loc"]
                path = _without_tags(loc)
                problems[_in_words(each, path, loc)] = None
                faults.append(path)
                if each["type"].startswith("union_tag") and isinstance(each["input"], dict):
                    check(UntypedOperation, each["input"], path)

    check(WorkflowDefinition, data, ())
    return list(problems), faults


def unstorable(data: Mapping[str, Any]) -> list[Problem]:
    """What a run could not write down: whole numbers beyond 64 bits, texts that are no Unicode."""
    try:
        pack(data)
        return []
    except ResultError:
        return list(_unstorable(data, ()))


def _unstorable(value: Any, path: Path) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _unstorable(key, path)
            yield from _unstorable(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _unstorable(inner, (*path, at))
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        yield Problem(place_of(path), "a whole number of more than 64 bits cannot be stored", "write a text")
    elif isinstance(value, str) and not _is_unicode(value):
        yield Problem(place_of(path), "a text that is no Unicode cannot be stored", "write whole characters")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
        return True
    except UnicodeEncodeError:
        return False


def place_of(path: Path) -> str:
    """`("phases", 0, "id")` as `phases[0].id`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text


def _which_shape(data: Mapping[str, Any]) -> list[Problem]:
    phases, nodes = data.get("phases"), data.get("nodes")
    if phases is not None and nodes is not None:
        return [Problem("nodes", "there are both `phases` and `nodes`", "use one of them")]
    if phases is None and nodes is None:
        return [
            Problem("", "there are neither `phases` nor `nodes`", "add `phases` with operations, or `nodes`")
        ]
    if not phases and not nodes and isinstance(phases if nodes is None else nodes, list):
        name = "phases" if nodes is None else "nodes"
        return [Problem(name, "the workflow has no nodes", "add an operation")]
    return []


def _of_what_was_meant(errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One error for a field that may be this or that: pydantic has one for each, under a name of its own."""
    deep = set[Loc]()
    for each in errors:
        at = _alternative_at(each["loc"])
        if at and len(each["loc"]) > at + 1:
            deep.add(each["loc"][:at])  # it is a list, and something in it is wrong
    out: dict[Any, dict[str, Any]] = {}
    for each in errors:
        loc = each["loc"]
        at = _alternative_at(loc)
        if not at:
            out[loc, each["type"]] = each
        elif len(loc) > at + 1:
            out[loc, each["type"]] = {**each, "loc": loc[:at] + loc[at + 1 :]}
        elif loc[:at] not in deep:
            out[loc[:at], ""] = {**each, "loc": loc[:at], "type": f"either_{loc[at - 1]}"}
    return list(out.values())


def _alternative_at(loc: Loc) -> int:
    """Where pydantic's name for one of several types of a field stands; 0 if there is none."""
    for at in range(2, len(loc)):
        is_field = f"either_{loc[at - 1]}" in _EXPECTED and (
            loc[at - 2] in TYPES or isinstance(loc[at - 2], int)
        )
        if is_field and _ALTERNATIVE.match(str(loc[at])):
            return at
    return 0


def _without_tags(loc: tuple[str | int, ...]) -> Path:
    """pydantic names the operation type after an operation's index; the file has no such level."""
    path: list[str | int] = []
    for at, part in enumerate(loc):
        after_operation = at >= 2 and isinstance(loc[at - 1], int) and loc[at - 2] in ("operations", "nodes")
        if after_operation and part in TYPES and at in (2, 4):
            continue
        path.append(part)
    return tuple(path)


def _in_words(error: Any, path: Path, loc: tuple[str | int, ...]) -> Problem:
    kind, place, value = error["type"], place_of(path), error.get("input")
    if kind == "missing":
        return Problem(place, "is missing", f"add `{path[-1] if path else 'it'}`")
    if kind == "extra_forbidden":
        fields = _fields_at(loc)
        meant = _ELSEWHERE.get(str(path[-1]).lower().replace("_", "").replace("-", ""))
        hint = (
            f"did you mean {meant!r}?"
            if meant in fields
            else nearest(str(path[-1]), fields, otherwise="remove it")
        )
        return Problem(place, f"unknown field {path[-1]!r}", hint)
    if kind == "union_tag_not_found":
        near = get_close_matches("type", [each for each in value if isinstance(each, str)], n=1)
        meant = f"is {near[0]!r} meant to be it? " if near else ""
        return Problem(f"{place}.type", "is missing", f"{meant}add `type`: one of {', '.join(TYPES)}")
    if kind == "union_tag_invalid":
        name = value.get("type") if isinstance(value, Mapping) else value
        return Problem(f"{place}.type", f"unknown operation type {name!r:.60}", type_hint(str(name)))
    if kind in _EXPECTED:
        return Problem(place, f"must be {_EXPECTED[kind]}, but is {_shown(value)}")
    if kind == "string_pattern_mismatch" and path[-1] == "call":
        hint = "lambdas and closures have no import path: move the function to a module"
        return Problem(place, f"must be package.module:function, but is {_shown(value)}", hint)
    if kind in ("too_short", "string_too_short"):
        return Problem(place, "must not be empty")
    if kind == "string_unicode":
        return Problem(place, "must be a text")  # what is wrong with it is said beside
    if kind == "string_pattern_mismatch" and path[-1] == "method":
        return Problem(place, f"must be a method in capitals, such as GET, but is {_shown(value)}")
    message = str(error["msg"])
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error":
        return Problem(place, message)
    return Problem(place, f"{message[:1].lower()}{message[1:]}, but is {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        return "a map" if isinstance(value, Mapping) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields_at(loc: tuple[str | int, ...]) -> list[str]:
    """The fields that the map around the last part of `loc` may have."""
    from sage_actors.messages import schema

    inside: dict[str, type[Any]] = {
        "retry": schema.RetryDefinition,
        "limits": schema.LimitsDefinition,
        "cache": schema.CacheDefinition,
        "digest": schema.DigestDefinition,
        "budget": schema.BudgetDefinition,
    }
    around = loc[:-1]
    model: type[Any] = schema.WorkflowDefinition
    if around and around[-1] in inside:
        model = inside[str(around[-1])]
    elif len(around) in (3, 5) and around[-1] in schema.OPERATIONS:
        model = schema.OPERATIONS[str(around[-1])]
    elif len(around) == 2 and around[0] == "inputs":
        model = schema.InputDefinition
    elif len(around) == 2 and around[0] == "phases":
        model = schema.PhaseDefinition
    return [field.alias or name for name, field in model.model_fields.items()]


def repair_shape(data: Any, faults: list[Path]) -> tuple[dict[str, Any], Places]:
    """A copy of `data` without its faulty parts, and where what remains stands."""
    data, copies = dict(data), _Copies()
    copies.own[id(data)] = data
    for path in faults:
        _take_out(data, path, copies)
    data.setdefault("name", "unnamed")
    for name in ("description", "inputs"):
        if not data.get(name):
            data.pop(name, None)
    places: list[str] = []
    phase_places: list[str] = []
    if data.get("nodes") and data.get("phases"):
        data.pop("nodes")
    data["nodes"] = _operations(data.get("nodes"), "nodes", places)
    phases = []
    for at, phase in enumerate(data.get("phases") or ()):
        if isinstance(phase, dict) and isinstance(phase.get("id"), str):
            operations = _operations(phase.get("operations"), f"phases[{at}].operations", places)
            phase_places.append(f"phases[{at}]")
            known = _known(phase.get("dependencies"))
            phases.append({**phase, "operations": operations, "dependencies": known})
    data["phases"] = phases
    return data, Places(places, phase_places)


def _operations(items: Any, prefix: str, places: list[str]) -> list[Any]:
    kept = []
    for at, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            # A missing or wrong type has been reported.
            kept.append({"type": "approval", **item, "needs": _known(item.get("needs"))})
            places.append(f"{prefix}[{at}]")
    return kept


def _known(names: Any) -> list[str]:
    return [name for name in names or () if name is not None]


class _Copies:
    """Copies made on the way to faulty parts, so that what was given stays as it was."""

    def __init__(self) -> None:
        self.own: dict[int, Any] = {}  # by id, and kept alive, so that no id is used twice

    def enter(self, outer: Any, part: str | int) -> Any:
        """`outer[part]`, replaced by a copy of our own first."""
        inner = outer[part]
        if id(inner) not in self.own:
            inner = outer[part] = copy.copy(inner)
            self.own[id(inner)] = inner
        return inner


def _take_out(data: Any, path: Path, copies: _Copies) -> None:
    """Remove what is at `path`; an element of a list becomes None, so that the others keep their numbers."""
    *way, last = path or ("",)
    for part in way:
        try:
            data = copies.enter(data, part)
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(data, list) and isinstance(last, int) and last < len(data):
        unknown_type = (
            isinstance(data[last], dict) and path[-2] in _LISTS and isinstance(data[last].get("id"), str)
        )
        if unknown_type:
            copies.enter(data, last).pop("type", None)
        else:
            data[last] = None
    elif isinstance(data, dict) and not (last == "id" and isinstance(data.get("id"), str)):
        data.pop(last, None)
