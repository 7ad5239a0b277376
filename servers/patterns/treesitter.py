"""Reads TypeScript, JavaScript, Go and Rust by tree-sitter: one query a language, one pass over what it finds.

A grammar (go.py, rust.py, typescript.py) names what its query captures:

    @function   something with a name and a body            @branch   adds one to the complexity
    @nest       adds one to the depth of what is in it      @test     a span that is test code in a file that is not
    any other   one sighting: looked up in `Grammar.direct`, or given to `Grammar.handlers`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module

from tree_sitter import Language, Node, Parser, Query, QueryCursor

from sage_actors.servers.patterns.facts import FileFacts, FunctionFacts, UnreadableError

__all__ = ["Grammar", "Reading", "read_with"]

_BROKEN_SHARE = 0.2  # of a file's bytes that no rule of the grammar fits: it is something else then


@dataclass(frozen=True, slots=True)
class Grammar:
    """One language: where its grammar is, what to look for, and what a find means.

    direct: capture -> (kind, value) of a sighting. handlers: capture -> what to do with the node.
    name_of, parameters_of: of a @function. else_of: the types of node under which an `if` is an else-if.
    """

    package: str
    entry: str
    query: str
    name_of: Callable[[Reading, Node], str]
    parameters_of: Callable[[Node], int]
    direct: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    handlers: Mapping[str, Callable[[Reading, Node], None]] = field(default_factory=dict)
    is_test_function: Callable[[Reading, Node], bool] = lambda reading, node: False


@dataclass(slots=True)
class Reading:
    """A file while it is read: what a handler needs."""

    facts: FileFacts
    source: bytes
    test_spans: list[tuple[int, int]] = field(default_factory=list)

    def text(self, node: Node | None) -> str:
        """The source of a node, as far as it is UTF-8."""
        if node is None:
            return ""
        return self.source[node.start_byte : node.end_byte].decode("utf-8", errors="replace")

    def in_test(self, node: Node) -> bool:
        """Whether the node is test code: its file is, or a part of the file around it."""
        if self.facts.is_test:
            return True
        return any(start <= node.start_byte < end for start, end in self.test_spans)

    def see(self, kind: str, value: str, node: Node) -> None:
        """Counts a sighting; a habit of production code is counted there only, one of tests in tests only."""
        if kind.startswith("testing.") == self.in_test(node):
            self.facts.see(kind, value, node.start_point[0] + 1)


@dataclass(slots=True)
class _Open:
    """A function or a nesting statement that the pass is inside of. `end`: its last byte, exclusive."""

    end: int
    function: FunctionFacts | None
    depth: int


def read_with(grammar: Grammar, facts: FileFacts, source: bytes) -> None:
    """Counts into `facts` what the file shows.

    Raises:
        UnreadableError: most of it is not of this language, or its grammar is not installed.
    """
    language, query = _compiled(grammar.package, grammar.entry, grammar.query)
    root = Parser(language).parse(source).root_node
    captures = {
        name: sorted(nodes, key=_place) for name, nodes in QueryCursor(query).captures(root).items()
    }  # they come in the order of their addresses in memory
    _refuse_broken(root, captures.pop("broken", []), len(source))
    reading = Reading(facts, source)
    reading.test_spans = [(node.start_byte, node.end_byte) for node in captures.pop("test", [])]
    _measure(grammar, reading, captures)
    for name, nodes in captures.items():
        _see_all(grammar, reading, name, nodes)


def _place(node: Node) -> tuple[int, int, str]:
    """In the order of the file, what is around before what is inside."""
    return node.start_byte, -node.end_byte, node.type


@lru_cache(maxsize=16)
def _compiled(package: str, entry: str, query: str) -> tuple[Language, Query]:
    try:
        language = Language(getattr(import_module(package), entry)())
    except ImportError as error:
        raise UnreadableError(f"the grammar {package} is not installed") from error
    return language, Query(language, query)


def _refuse_broken(root: Node, broken: list[Node], size: int) -> None:
    unread = size if root.type == "ERROR" else sum(node.end_byte - node.start_byte for node in broken)
    if size and unread / size > _BROKEN_SHARE:
        line = (broken[0] if broken else root).start_point[0] + 1
        raise UnreadableError(f"the grammar does not fit most of it (from line {line})")


def _see_all(grammar: Grammar, reading: Reading, name: str, nodes: list[Node]) -> None:
    known = grammar.direct.get(name)
    handler = grammar.handlers.get(name)
    for node in nodes:
        if known is not None:
            reading.see(*known, node)
        elif handler is not None:
            handler(reading, node)


def _measure(grammar: Grammar, reading: Reading, captures: dict[str, list[Node]]) -> None:
    """Gives every branch to the innermost function that has a name, in one pass in the order of the file."""
    events = [
        (node.start_byte, -node.end_byte, order, node)
        for order, kind in enumerate(("function", "nest", "branch"))
        for node in captures.get(kind, ())
    ]
    events.sort(key=lambda event: event[:3])
    open_: list[_Open] = []
    for start, minus_end, order, node in events:
        while open_ and open_[-1].end <= start:
            open_.pop()
        inside = open_[-1] if open_ else _Open(0, None, 0)
        if order == 0:
            open_.append(_Open(-minus_end, _function(grammar, reading, node), 0))
        elif order == 1:
            open_.append(_nested(inside, node, -minus_end))
        elif inside.function is not None:
            inside.function.complexity += 1
        else:
            reading.facts.top_level_complexity += 1
    captures.pop("nest", None)
    captures.pop("branch", None)


def _nested(inside: _Open, node: Node, end: int) -> _Open:
    """An else-if is no deeper than its if."""
    parent = node.parent
    is_else_if = parent is not None and (
        parent.type == "else_clause"
        or (parent.type == node.type and parent.child_by_field_name("alternative") == node)
    )
    depth = inside.depth + (0 if is_else_if else 1)
    if inside.function is not None:
        inside.function.nesting = max(inside.function.nesting, depth)
    return _Open(end, inside.function, depth)


def _function(grammar: Grammar, reading: Reading, node: Node) -> FunctionFacts:
    facts = FunctionFacts(
        grammar.name_of(reading, node),
        node.start_point[0] + 1,
        node.end_point[0] + 1,
        parameters=grammar.parameters_of(node),
        is_test=grammar.is_test_function(reading, node),
    )
    reading.facts.functions.append(facts)
    return facts
