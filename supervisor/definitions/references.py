"""References in definitions: `${inputs.topic}`, `${research/market | findings[0]}`, parsed once.

    ${ HEAD [ | JMESPATH ] }            $${  is a literal ${

    HEAD                 refers to
    inputs.NAME          an input of the run
    env.NAME             an environment variable: a secret, resolved when the work is handed to a worker
    keyring.NAME         an entry of the keychain: a secret too
    item, index          inside `foreach`: the element and its number; `item.a.b` is short for `item | a.b`
    anything else        a node's result, by id

A string that is one reference keeps the type of the value. Inside other text a string goes in raw, anything
else as compact JSON. Values that were put in are never expanded again. Keys of maps are not expanded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

import jmespath
from jmespath.exceptions import JMESPathError

from sage_actors.messages.errors import DefinitionError, ExpressionError, Problem
from sage_actors.messages.text_form import text_form
from sage_actors.supervisor.definitions.shell_text import unsafe_reference

__all__ = [
    "RESERVED_IDS",
    "Kind",
    "Reference",
    "Scope",
    "Template",
    "check_expression",
    "escape",
    "find_references",
    "is_single_reference",
    "parse_template",
    "read_references",
    "truthy",
]

Kind: TypeAlias = Literal["input", "node", "env", "keyring", "item", "index"]

RESERVED_IDS = frozenset({"inputs", "env", "keyring", "item", "index"})
MAX_DEPTH = 100  # levels of lists and maps inside one value
_MAX_EXPRESSION = 4096  # characters
_SCALARS = frozenset({int, float, bool, bytes, type(None)})
_OPENING = re.compile(r"\$\$\{|\$\{")
_NODE_ID = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*\Z")
_SIMPLE = re.compile(  # the common case, in one step
    r"\$\{(?!(?:inputs|env|keyring|item|index)\})([A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*)\}\Z"
)
_NAMED: dict[str, tuple[Kind, re.Pattern[str]]] = {
    "inputs": ("input", re.compile(r"[A-Za-z0-9_-]+\Z")),
    "env": ("env", re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")),
    "keyring": ("keyring", re.compile(r"[A-Za-z0-9_.:@/-]+\Z")),
}


_new_tuple = tuple.__new__  # what NamedTuple does inside, without the call around it


class Reference(NamedTuple):
    """One `${...}`.

    `name`: the input, node id or secret ("" for item and index). `expression`: JMESPath, or None for the
    whole value. `place`: where it stands, such as `arguments.topics[0]`. `whole`: it is all of its string,
    so that the value keeps its type.
    """

    kind: Kind
    name: str
    expression: str | None
    place: str
    whole: bool


Scope: TypeAlias = Callable[[Reference], Any]


class Template:
    """A value of a definition, with its references found; made by `parse_template`.

    `references` are those not bound yet, in the order in which they stand.
    """

    __slots__ = ("_bound", "_root", "references")

    def __init__(
        self,
        root: Any,
        references: tuple[Reference, ...],
        bound: Mapping[tuple[Kind, str], Any] | None = None,
    ) -> None:
        self._root = root
        self.references = references
        self._bound = bound or {}

    @property
    def is_static(self) -> bool:
        """Nothing is left to be resolved: `evaluate` needs no scope."""
        return not self.references

    @property
    def value(self) -> Any:
        """The value of a static template, `$${` already opened. ExpressionError if it is not static."""
        return self.evaluate()

    def evaluate(self, scope: Scope | None = None) -> Any:
        """The value with everything put in.

        scope: gives the whole value that a reference refers to; the expression is applied here. What it gives
            for a reference with `whole` and no expression is used as it is, whatever its type: a packed
            result need not be decoded.

        Raises:
            ExpressionError: an expression cannot be applied to the value, or a value has no place in text.
        """
        return _evaluate(self._root, self._lookup(scope))

    def bind(self, kind: Kind, values: Mapping[str, Any]) -> Template:
        """The same with the references of `kind` whose name is in `values` resolved (item and index: "")."""
        bound = dict(self._bound)
        bound.update({(kind, name): value for name, value in values.items()})
        left = tuple(each for each in self.references if (each.kind, each.name) not in bound)
        return Template(self._root, left, bound)

    def _lookup(self, scope: Scope | None) -> Scope:
        bound = self._bound
        if not bound:
            return scope or _no_scope

        def lookup(reference: Reference) -> Any:
            key = (reference.kind, reference.name)
            return bound[key] if key in bound else (scope or _no_scope)(reference)

        return lookup


def parse_template(value: Any, *, place: str = "", quote_at: tuple[str, ...] | None = None) -> Template:
    """Find the references in `value`, a string or lists and maps of them; what has none is kept as it is.

    place: the path of `value`, for `Reference.place` and for problems.
    quote_at: the keys that lead to a command for a POSIX shell, () for `value` itself. What is put in
        there is quoted, if the command is a string; a reference where quoting would not protect is a problem.

    Raises:
        DefinitionError: all that is wrong with its references, each with its place.
    """
    parser = _Parser()
    parser.quoted_place = _quoted_place(place, quote_at)
    root = parser.parse(value, place, 0)
    if parser.problems:
        raise DefinitionError(parser.problems)
    return Template(root, tuple(parser.references))


def find_references(value: Any, *, place: str = "") -> list[Reference]:
    """The references in `value`, without a template: cheaper where only edges are wanted. Raises the same."""
    references, problems = read_references(value, place=place)
    if problems:
        raise DefinitionError(problems)
    return references


def read_references(
    value: Any, *, place: str = "", quote_at: tuple[str, ...] | None = None
) -> tuple[list[Reference], list[Problem]]:
    """Both the references in `value` that can be read and what is wrong with the others; `quote_at` as above."""
    found: list[Reference] = []
    if quote_at is None and _scan(value, place, found):
        return found, []
    parser = _Parser()
    parser.quoted_place = _quoted_place(place, quote_at)
    parser.parse(value, place, 0)
    return parser.references, parser.problems


def is_single_reference(value: object) -> bool:
    """Whether `value` is a string that is one reference and nothing else."""
    if type(value) is not str:
        return False
    try:
        references = find_references(value)
    except DefinitionError:
        return False
    return len(references) == 1 and references[0].whole


def escape(value: Any) -> Any:
    """`value` such that a template of it gives `value` again: each `${` in its strings becomes `$${`."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, Mapping):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [escape(item) for item in value]
    return value


def truthy(value: object) -> bool:
    """JMESPath's truth: null, false, and empty strings, lists and maps are false; 0 is true."""
    return not (
        value is None or value is False or (isinstance(value, (str, list, tuple, dict)) and not value)
    )


def check_expression(expression: str) -> str:
    """What is wrong with a JMESPath expression; "" if nothing is."""
    if len(expression) > _MAX_EXPRESSION:
        return f"a JMESPath expression of {len(expression)} characters; the limit is {_MAX_EXPRESSION}"
    try:
        _compile(expression)
    except (JMESPathError, ValueError, TypeError, IndexError, KeyError, AttributeError) as cause:
        return f"bad JMESPath {expression!r}: {_first_line(cause)}"
    except RecursionError:
        return "a JMESPath expression that is nested too deep"
    return ""


def _quoted_place(place: str, quote_at: tuple[str, ...] | None) -> str | None:
    return None if quote_at is None else ".".join((*((place,) if place else ()), *quote_at))


def _scan(value: Any, place: str, found: list[Reference]) -> bool:
    """Collect the references of a plain, flat value; False if it is more than that."""
    if type(value) is dict:
        prefix = f"{place}." if place else ""
        flat = (
            type(item) is not dict and _scan(item, f"{prefix}{key}", found) for key, item in value.items()
        )
        return all(flat)
    if type(value) is not str:
        return type(value) in _SCALARS
    if "${" in value:
        match = _SIMPLE.match(value)
        if match is None:
            return False
        found.append(_new_tuple(Reference, ("node", match[1], None, place, True)))
    return True


class _Text:
    """A string with references inside other text (or one that is quoted)."""

    __slots__ = ("parts", "quote")

    def __init__(self, parts: list[str | Reference], quote: bool) -> None:
        self.parts = parts
        self.quote = quote


class _Map:
    __slots__ = ("items",)

    def __init__(self, items: dict[Any, Any]) -> None:
        self.items = items


class _List:
    __slots__ = ("items",)

    def __init__(self, items: list[Any]) -> None:
        self.items = items


class _Parser:
    """Walks a value; static parts stay plain, the rest becomes Reference, _Text, _Map or _List."""

    def __init__(self) -> None:
        self.references: list[Reference] = []
        self.problems: list[Problem] = []
        self.quoted_place: str | None = None  # of the command for a shell

    def parse(self, value: Any, place: str, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return self._string(value, place) if "${" in value else value
        if kind in _SCALARS or not isinstance(value, (dict, list, tuple, str, Mapping)):
            return value
        if kind is not dict and isinstance(value, str):
            return self.parse(str.__str__(value), place, depth)  # an enum's value, not its name
        if depth >= MAX_DEPTH:
            self._problem(place, f"nested more than {MAX_DEPTH} levels deep", "flatten it")
            return value
        if kind is dict or isinstance(value, Mapping):
            return self._map(value, place, depth)
        items = [self.parse(item, f"{place}[{number}]", depth + 1) for number, item in enumerate(value)]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else _List(items)

    def _map(self, value: Any, place: str, depth: int) -> Any:
        prefix = f"{place}." if place else ""
        items, changed = {}, False
        for key, item in value.items():
            if type(item) is str and "${" not in item:
                items[key] = item
                continue
            items[key] = made = self.parse(item, f"{prefix}{key}", depth + 1)
            changed = changed or made is not item
        return _Map(items) if changed else value

    def _string(self, text: str, place: str) -> Any:
        quote = place == self.quoted_place
        if not quote and (match := _SIMPLE.match(text)):
            reference = _new_tuple(Reference, ("node", match[1], None, place, True))
            self.references.append(reference)
            return reference
        parts, unclosed = _split(text)
        if unclosed:
            message = f"a reference that is not closed: {unclosed[:40]!r}"
            self._problem(place, message, "close it with `}`, or write `$${` for a literal `${`")
        whole = len(parts) == 1 and not quote
        made = [part if isinstance(part, str) else self._reference(part.body, place, whole) for part in parts]
        known = [part for part in made if part is not None]
        if quote and (why := unsafe_reference([part if isinstance(part, str) else None for part in parts])):
            self._problem(place, *why)
        return _assemble(known, whole, quote)

    def _reference(self, body: str, place: str, whole: bool) -> Reference | None:
        head, bar, expression = _cut_at_bar(body)
        found = _resolve_head(head.strip(), expression.strip() if bar else None)
        if isinstance(found, tuple) and len(found) == 2:
            self._problem(place, f"${{{body}}}: {found[0]}", found[1])
            return None
        kind, name, jmespath_text = found
        if jmespath_text is not None and (wrong := check_expression(jmespath_text)):
            self._problem(
                place, wrong, "see https://jmespath.org; quote names with \"...\" and text with '...'"
            )
            return None
        reference = Reference(kind, name, jmespath_text, place, whole)
        self.references.append(reference)
        return reference

    def _problem(self, place: str, message: str, hint: str) -> None:
        self.problems.append(Problem(place, message, hint))


class _Body(NamedTuple):
    """The inside of `${...}`."""

    body: str


def _split(text: str) -> tuple[list[str | _Body], str]:
    """Literal text and references, in turn; and what begins with a reference that is not closed."""
    parts: list[str | _Body] = []
    literal, at = "", 0
    while match := _OPENING.search(text, at):
        literal += text[at : match.start()]
        if match[0] == "$${":
            literal += "${"
            at = match.end()
            continue
        end = _closing(text, match.end())
        if end < 0:
            return parts, text[match.start() :]
        if literal:
            parts.append(literal)
        parts.append(_Body(text[match.end() : end]))
        literal, at = "", end + 1
    literal += text[at:]
    return ([*parts, literal] if literal else parts), ""


def _unquoted(text: str, start: int) -> Iterator[tuple[int, str]]:
    """Position and character of what stands outside of JMESPath's three kinds of quotes."""
    quote, at = "", start
    while at < len(text):
        char = text[at]
        if quote and char == "\\":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'`":
            quote = char
        else:
            yield at, char
        at += 1


def _closing(text: str, start: int) -> int:
    """Where the `}` stands that closes a reference; -1 if it does not."""
    depth = 0
    for at, char in _unquoted(text, start):
        if char == "{":
            depth += 1
        elif char == "}":
            if not depth:
                return at
            depth -= 1
    return -1


def _cut_at_bar(body: str) -> tuple[str, str, str]:
    """(head, "|", expression) at the first `|` outside quotes, or (body, "", "")."""
    for at, char in _unquoted(body, 0):
        if char == "|":
            return body[:at], "|", body[at + 1 :]
    return body, "", ""


def _resolve_head(head: str, expression: str | None) -> tuple[Kind, str, str | None] | tuple[str, str]:
    """(kind, name, expression), or (what is wrong, hint)."""
    first, dot, rest = head.partition(".")
    if first in _NAMED:
        kind, pattern = _NAMED[first]
        if not dot or not pattern.match(rest):
            return (
                f"{first} needs a name",
                f"write ${{{first}.NAME}}, and a path into it as ${{{first}.NAME | path}}",
            )
        if expression is not None and kind in ("env", "keyring"):
            return "a secret can only be used whole", "leave the expression out"
        return kind, rest, expression
    if first == "item" and dot:
        if expression is not None or not rest:
            return "a path on both sides", "write ${item | path}"
        return "item", "", rest
    if head in ("item", "index"):
        return ("item", "", expression) if head == "item" else ("index", "", expression)
    if _NODE_ID.match(head):
        return "node", head, expression
    return _bad_head(head)


def _bad_head(head: str) -> tuple[str, str]:
    name, dot, path = head.partition(".")
    if not head:
        return "an empty reference", "name an input, a node, or write `$${` for a literal `${`"
    if dot and _NODE_ID.match(name):
        return "a node id has no dots", f"write ${{{name} | {path}}}"
    if "[" in head:
        name = head.partition("[")[0]
        return (
            "only the whole result of a node can be referred to",
            f"write ${{{name} | {head[len(name) :]}}}",
        )
    return "this is no input, node, env, keyring, item or index", "ids are made of A-Z a-z 0-9 _ - and /"


@lru_cache(maxsize=4096)
def _compile(expression: str) -> Any:
    return jmespath.compile(expression)


def _assemble(parts: list[str | Reference], whole: bool, quote: bool) -> Any:
    if not any(isinstance(part, Reference) for part in parts):
        return "".join(map(str, parts))
    return parts[0] if whole else _Text(parts, quote)


def _evaluate(node: Any, scope: Scope) -> Any:
    kind = type(node)
    if kind is Reference:  # all of its string
        return _resolve(node, scope)
    if kind is _Map:
        return {key: _evaluate(item, scope) for key, item in node.items.items()}
    if kind is _Text:
        return "".join([_piece(part, scope, node.quote) for part in node.parts])
    if kind is _List:
        return [_evaluate(item, scope) for item in node.items]
    return node


def _piece(part: str | Reference, scope: Scope, quote: bool) -> str:
    if isinstance(part, str):
        return part
    text = _as_text(_resolve(part, scope), part)
    return shlex.quote(text) if quote else text


def _resolve(reference: Reference, scope: Scope) -> Any:
    value = scope(reference)
    if reference.expression is None:
        return value
    try:
        return _compile(reference.expression).search(value)
    except (JMESPathError, ValueError, TypeError, RecursionError, ArithmeticError) as cause:
        where = f"{reference.place}: " if reference.place else ""
        raise ExpressionError(
            f"{where}cannot apply {reference.expression!r} to {_describe(reference)}: {_first_line(cause)}"
        ) from cause


def _as_text(value: Any, reference: Reference) -> str:
    try:
        return text_form(value)
    except (TypeError, ValueError, RecursionError) as cause:
        where = f"{reference.place}: " if reference.place else ""
        raise ExpressionError(f"{where}{_describe(reference)} cannot be put into text: {cause}") from cause


def _describe(reference: Reference) -> str:
    """`${...}` as it may be shown."""
    prefix = {"input": "inputs.", "env": "env.", "keyring": "keyring.", "node": ""}.get(reference.kind)
    return f"${{{reference.kind if prefix is None else prefix + reference.name}}}"


def _first_line(cause: BaseException) -> str:
    return str(cause).strip().partition("\n")[0] or type(cause).__name__


def _no_scope(reference: Reference) -> Any:
    raise ExpressionError(f"{_describe(reference)} has no value here")
