"""What a run is given: inputs by their declared types, and the run id that follows from them."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from sage_actors.messages.codec import pack
from sage_actors.messages.definition import InputSpec, WorkflowSpec
from sage_actors.messages.errors import DefinitionError, Problem, ResultError, SecretInStateError
from sage_actors.servers.documents.slugs import headline
from sage_actors.supervisor.core.graph import nearest
from sage_actors.supervisor.definitions.literals import problems_in
from sage_actors.supervisor.json_text import from_json

__all__ = ["default_run_id", "input_problem", "resolve_inputs"]

_MAX_NAME = 40  # characters of a workflow's name in a run id; a run id has 128 at most
_MAX_SLUG = 60  # characters of a topic in a run id
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def resolve_inputs(spec: WorkflowSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each declared input: what is given, else its default.

    A text for an input of another type is read as that type, as the command line needs it: numbers, true and
    false, JSON for arrays and objects.

    Raises:
        DefinitionError: everything that is wrong with `given`: missing, unknown, not of the type or the enum.
        SecretInStateError: an input holds a secret itself.
    """
    problems: list[Problem] = []
    problems += problems_in((f"inputs.{name}", value) for name, value in given.items())
    if problems:
        # Before all other problems, whose messages would show the value.
        raise SecretInStateError(problems, source=f"inputs of {spec.name}")
    for name in given:
        if name not in spec.inputs:
            known = ", ".join(spec.inputs) or "none"
            hint = nearest(name, spec.inputs, otherwise=f"the workflow's inputs: {known}")
            problems.append(Problem(f"inputs.{name}", "the workflow has no such input", hint))
    values: dict[str, Any] = {}
    for name, declared in spec.inputs.items():
        try:
            values[name] = _value(name, declared, given)
        except ValueError as cause:
            problems.append(Problem(f"inputs.{name}", str(cause), declared.description))
    if problems:
        raise DefinitionError(problems, source=f"inputs of {spec.name}")
    return values


def _value(name: str, declared: InputSpec, given: Mapping[str, Any]) -> Any:
    if name not in given:
        if declared.required:
            raise ValueError(f"is missing: give it with -i {name}=VALUE, or as inputs={{{name!r}: ...}}")
        return declared.default
    value = given[name]
    if value is None and not declared.required and declared.default is None:
        return None  # left out, and resolved once before: a run hands its own inputs on
    if isinstance(value, str) and declared.type in _READERS:
        value = _READERS[declared.type](value)
    if wrong := input_problem(declared, value):
        raise ValueError(wrong)
    try:
        pack(value)
    except ResultError as cause:
        raise ValueError(str(cause).removeprefix("the value ")) from cause
    return value


def input_problem(declared: InputSpec, value: Any) -> str:
    """Why `value` cannot be the value of an input; "" if it can."""
    shown = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)[:60]
    if not _CHECKS.get(declared.type, _anything)(value):
        return f"must be of type {declared.type}, but is {shown}"
    if declared.enum is not None and not any(_same(value, each) for each in declared.enum):
        allowed = ", ".join(json.dumps(each, default=str) for each in declared.enum)
        return f"must be one of {allowed}, but is {shown}"
    return ""


def _integer(text: str) -> Any:
    return int(text) if re.fullmatch(r"\s*[-+]?[0-9]{1,30}\s*", text) else text


def _number(text: str) -> Any:
    if not re.fullmatch(r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?\s*", text):
        return text
    return int(text) if re.fullmatch(r"\s*[-+]?[0-9]{1,18}\s*", text) else float(text)


def _boolean(text: str) -> Any:
    word = text.strip().lower()
    return True if word in _TRUE else False if word in _FALSE else text


def _json(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return text


_READERS: dict[str, Callable[[str], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "array": _json,
    "object": _json,
}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _anything(value: Any) -> bool:
    return True


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": _is_integer,
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, (list, tuple)),
    "object": lambda value: isinstance(value, Mapping),
}


def _same(value: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1, but 1 is 1.0."""
    return value == other and isinstance(value, bool) is isinstance(other, bool)


def default_run_id(spec: WorkflowSpec, inputs: Mapping[str, Any], topic: str | None = None) -> str:
    """`<workflow>-<topic slug>`, the same for the same workflow, topic and inputs.

    Of a topic of many lines, such as a traceback, the slug is that of its headline. A name or a topic that lost
    characters gains eight hex digits of its hash; inputs besides `topic` that differ from their defaults add eight
    of theirs.
    """
    slug, lost = _slug(spec.name, most=None)  # a long name is cut as it always was
    name = slug[:_MAX_NAME].lstrip("._-")
    parts = [name] if name else ["workflow"]
    parts += [_hash(spec.name)] if lost or not name else []
    if topic is None and isinstance(inputs.get("topic"), str):
        topic = inputs["topic"]
    if topic is not None:
        said = headline(topic) if len(topic.splitlines()) > 1 else topic
        slug, lost = _slug(said)
        parts += [slug] if slug else []
        parts += [_hash(topic)] if lost or said.strip() != topic.strip() else []
    others = {
        name: value
        for name, value in inputs.items()
        if name != "topic" and not (name in spec.inputs and _is_default(spec.inputs[name], value))
    }
    if others:
        parts.append(_hash(json.dumps(others, sort_keys=True, default=str)))
    return "-".join(parts)


def _is_default(declared: InputSpec, value: Any) -> bool:
    return not declared.required and _same(declared.default, value)


def _slug(text: str, *, most: int | None = _MAX_SLUG) -> tuple[str, bool]:
    """Lower case, `-` for white space, `most` characters; and whether anything else was lost."""
    plain = re.sub(r"\s+", "-", unicodedata.normalize("NFC", text).strip()).lower()
    kept = re.sub(r"[^a-z0-9._-]+", "-", plain)
    slug = re.sub(r"-{2,}", "-", kept).strip("-")[:most].strip("-")
    return slug, slug != plain


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
