"""Reads a Python file by `ast`: one walk counts its habits and measures its functions."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sage_actors.servers.patterns.facts import FileFacts, FunctionFacts, name_style, yes_or_no
from sage_actors.servers.patterns.python_nodes import (
    Function,
    annotation_of,
    caught,
    constant_style,
    doc_style,
    dotted,
    has_elif,
    imports_annotations,
    is_error_name,
    is_main_guard,
    is_none,
    is_plain,
    is_text,
    parameters_of,
)
from sage_actors.servers.patterns.python_parse import parse_python

__all__ = ["read_python"]

_LEAVES = frozenset({str, int, bool, type(None), ast.Name, ast.alias, ast.Pass, ast.Break, ast.Continue})
_NO_CODE = frozenset(
    ["ctx", "op", "ops", "name", "id", "attr", "arg", "kind", "names", "module", "level", "type_comment"]
)
_NESTING = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.With,
    ast.AsyncWith,
    ast.Try,
    ast.TryStar,
    ast.Match,
)
_LOG_METHODS = frozenset({"debug", "info", "warning", "warn", "error", "critical", "exception", "log"})
_LOGGER_NAMES = frozenset({"log", "logger", "logging", "_log", "_logger", "LOG", "LOGGER"})
_RECORDS = {
    "dataclass": "dataclass",
    "dataclasses.dataclass": "dataclass",
    "attr.s": "attrs",
    "attrs.define": "attrs",
    "attrs.frozen": "attrs",
    "define": "attrs",
}
_RECORD_BASES = {
    "BaseModel": "pydantic model",
    "NamedTuple": "NamedTuple",
    "TypedDict": "TypedDict",
    "Protocol": "Protocol",
    "Enum": "Enum",
    "StrEnum": "Enum",
    "IntEnum": "Enum",
    "ABC": "abstract base class",
}
_CONCURRENCY = frozenset(
    {"asyncio", "anyio", "trio", "threading", "multiprocessing", "concurrent", "gevent", "curio"}
)
_LOGGING_LIBRARIES = frozenset({"structlog", "loguru"})


@dataclass(slots=True)
class _Where:
    """What encloses a node. `depth`: of nesting statements in the innermost function."""

    function: FunctionFacts | None = None
    in_function: bool = False
    class_name: str = ""
    depth: int = 0
    caught: bool = False
    is_public: bool = True


def read_python(facts: FileFacts, source: bytes) -> None:
    """Counts into `facts` what the file shows.

    Raises:
        UnreadableError: as `parse_python`.
    """
    tree = parse_python(source)
    _Reader(facts).walk(tree)


@dataclass(slots=True)
class _Reader:
    facts: FileFacts
    logging_library: str = "logging"
    stack: list[tuple[ast.AST, _Where]] = field(default_factory=list)

    def walk(self, tree: ast.Module) -> None:
        """All nodes, on a stack of its own: depth costs no recursion. Statements of the module in their order."""
        if not self.facts.is_test:
            self.facts.see("documentation.modules", yes_or_no(ast.get_docstring(tree, clean=False)), 1)
            self._see_future(tree)
        top = _Where()
        stack = self.stack
        stack.extend((node, top) for node in reversed(tree.body))
        while stack:
            node, where = stack.pop()
            kind = type(node)
            handler = _HANDLERS.get(kind)
            if handler is not None:
                inner = handler(self, node, where)
                if inner is None:
                    continue
                where = inner
            for name in _FIELDS[kind]:
                value = getattr(node, name, None)
                if type(value) is list:
                    stack.extend([(each, where) for each in value if type(each) not in _LEAVES])
                elif isinstance(value, ast.AST) and type(value) not in _LEAVES:
                    stack.append((value, where))

    def see(self, kind: str, value: str, node: Any) -> None:
        """Counts a habit of production code; tests have their own."""
        if not self.facts.is_test:
            self.facts.see(kind, value, node.lineno)

    def _see_future(self, tree: ast.Module) -> None:
        for node in tree.body:
            if imports_annotations(node):
                self.facts.see("types.future", "yes", node.lineno)
                return
        if any(not isinstance(node, ast.Expr) for node in tree.body):  # more than a docstring
            self.facts.see("types.future", "no", 1)

    def branch(self, where: _Where, count: int = 1) -> None:
        if where.function is None:
            self.facts.top_level_complexity += count
        else:
            where.function.complexity += count

    def on_function(self, node: Function, where: _Where) -> _Where:
        is_method = bool(where.class_name) and not where.in_function
        facts = FunctionFacts(
            f"{where.class_name}.{node.name}" if where.class_name else node.name,
            node.lineno,
            node.end_lineno or node.lineno,
            parameters=len(parameters_of(node, is_method=is_method)),
            is_test=self.facts.is_test and node.name.startswith("test"),
        )
        self.facts.functions.append(facts)
        is_public = where.is_public and not node.name.startswith("_") and not where.in_function
        if self.facts.is_test:
            _see_test_function(self.facts, node, in_class=is_method)
        else:
            self._see_function(node, where, is_method=is_method, is_public=is_public)
        return _Where(facts, True, where.class_name, is_public=False)

    def _see_function(self, node: Function, where: _Where, *, is_method: bool, is_public: bool) -> None:
        see = self.see
        style = None if node.name.startswith("__") else name_style(node.name)
        if style is not None:
            see("naming.functions", style, node)
        if not where.in_function and not where.class_name and not node.name.startswith("__"):
            see("naming.private", yes_or_no(node.name.startswith("_")), node)
        see("types.functions", annotation_of(node, is_method=is_method), node)
        see("async.functions", yes_or_no(isinstance(node, ast.AsyncFunctionDef)), node)
        if is_public:
            see("documentation.public", yes_or_no(ast.get_docstring(node, clean=False)), node)
            self._see_doc_style(node)

    def _see_doc_style(self, node: Function) -> None:
        doc = ast.get_docstring(node, clean=False)
        style = doc_style(doc) if doc else None
        if style is not None:
            self.see("documentation.style", style, node)

    def on_class(self, node: ast.ClassDef, where: _Where) -> _Where:
        is_public = where.is_public and not node.name.startswith("_") and not where.in_function
        if self.facts.is_test:
            self._see_test_class(node)
        else:
            self._see_class(node, is_public=is_public)
        return _Where(where.function, False, node.name, where.depth, is_public=is_public)

    def _see_class(self, node: ast.ClassDef, *, is_public: bool) -> None:
        style = name_style(node.name)
        if style is not None:
            self.see("naming.classes", style, node)
        if is_public:
            self.see("documentation.public", yes_or_no(ast.get_docstring(node, clean=False)), node)
        bases = [dotted(base) for base in node.bases]
        for decorator in node.decorator_list:
            record = _RECORDS.get(dotted(decorator))
            if record is not None:
                self.see("types.records", record, node)
        for base in bases:
            record = _RECORD_BASES.get(base.rpartition(".")[2])
            if record is not None:
                self.see("types.records", record, node)
            if is_error_name(base):
                self.see("errors.bases", base.rpartition(".")[2], node)
                self.see("errors.classes", node.name, node)
                break

    def _see_test_class(self, node: ast.ClassDef) -> None:
        if any(dotted(base).endswith("TestCase") for base in node.bases):
            self.facts.see("testing.framework", "unittest", node.lineno)

    def on_branch(self, node: ast.AST, where: _Where) -> _Where | None:
        """A statement that may branch, and nests what is in it."""
        if isinstance(node, ast.If | ast.For | ast.AsyncFor | ast.While):
            self.branch(where)
        if isinstance(node, ast.If) and is_main_guard(node):
            self.see("architecture.entry", 'if __name__ == "__main__"', node)
        depth = where.depth + 1
        if where.function is not None:
            where.function.nesting = max(where.function.nesting, depth)
        inner = _Where(where.function, where.in_function, where.class_name, depth, where.caught)
        if isinstance(node, ast.If) and has_elif(node):
            self._push_elif(node, where, inner)
            return None
        return inner

    def _push_elif(self, node: ast.If, where: _Where, inner: _Where) -> None:
        """An `elif` is no deeper than its `if`."""
        self.stack.append((node.orelse[0], where))
        self.stack.extend((each, inner) for each in reversed(node.body))
        self.stack.append((node.test, inner))

    def on_handler(self, node: ast.ExceptHandler, where: _Where) -> _Where:
        self.branch(where)
        self.see("errors.caught", caught(node.type), node)
        return _Where(where.function, where.in_function, where.class_name, where.depth, True)

    def on_match_case(self, node: ast.match_case, where: _Where) -> _Where:
        if not (
            isinstance(node.pattern, ast.MatchAs) and node.pattern.pattern is None and node.guard is None
        ):
            self.branch(where)
        return where

    def on_bool(self, node: ast.BoolOp, where: _Where) -> _Where:
        self.branch(where, len(node.values) - 1)
        return where

    def on_conditional(self, node: ast.IfExp, where: _Where) -> _Where:
        self.branch(where)
        return where

    def on_comprehension(self, node: ast.comprehension, where: _Where) -> _Where:
        self.branch(where, 1 + len(node.ifs))
        return where

    def on_raise(self, node: ast.Raise, where: _Where) -> _Where:
        if node.exc is not None:
            name = dotted(node.exc).rpartition(".")[2]
            if name and name[0].isupper():
                self.see("errors.raised", name, node)
            if where.caught:
                self.see("errors.chained", yes_or_no(node.cause), node)
        return where

    def on_import(self, node: ast.Import, where: _Where) -> None:
        for each in node.names:
            self._see_module(each.name, node)
        self.see("imports.style", "import module", node)

    def on_import_from(self, node: ast.ImportFrom, where: _Where) -> None:
        if node.level:
            self.see("imports.relative", "." * node.level + (node.module or ""), node)
        elif node.module and node.module != "__future__":
            self._see_module(node.module, node)
            self.see("imports.style", "from module import name", node)

    def _see_module(self, name: str, node: Any) -> None:
        top = name.partition(".")[0]
        if self.facts.is_test:
            if top in ("pytest", "unittest", "nose", "hypothesis", "doctest"):
                self.facts.see("testing.imports", top, node.lineno)
            return
        if top in _CONCURRENCY:
            self.see("async.library", name if top == "concurrent" else top, node)
        if top in _LOGGING_LIBRARIES:
            self.logging_library = top
        if top not in sys.stdlib_module_names:
            self.see("imports.modules", name, node)

    def on_call(self, node: ast.Call, where: _Where) -> _Where:
        function = node.func
        if isinstance(function, ast.Name):
            if function.id == "print":
                self.see("logging.calls", "print", node)
            elif function.id == "getLogger" and node.args:
                self._see_logger(node)
        elif isinstance(function, ast.Attribute):
            self._on_method_call(node, function)
        return where

    def _on_method_call(self, node: ast.Call, function: ast.Attribute) -> None:
        owner = dotted(function.value).rpartition(".")[2]
        if function.attr in _LOG_METHODS and owner in _LOGGER_NAMES:
            self.see("logging.calls", self.logging_library, node)
        elif function.attr == "getLogger" and node.args:
            self._see_logger(node)
        elif function.attr == "format" and is_text(function.value):
            self.see("style.strings", "str.format", node)
        elif self.facts.is_test and owner == "self" and function.attr.startswith("assert"):
            self.facts.see("testing.assertions", "self.assert*()", node.lineno)
        elif self.facts.is_test and function.attr == "raises" and owner == "pytest":
            self.facts.see("testing.helpers", "pytest.raises", node.lineno)

    def _see_logger(self, node: ast.Call) -> None:
        name = node.args[0]
        by_module = isinstance(name, ast.Name) and name.id == "__name__"
        self.see("logging.logger", "__name__" if by_module else "a fixed name", node)

    def on_assert(self, node: ast.Assert, where: _Where) -> _Where:
        if self.facts.is_test:
            self.facts.see("testing.assertions", "assert statement", node.lineno)
        return where

    def on_assign(self, node: ast.Assign | ast.AnnAssign, where: _Where) -> _Where:
        """A constant: a module's name that is given a plain value."""
        if where.in_function or where.class_name or where.depth or node.value is None:
            return where
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and is_plain(node.value) and not target.id.startswith("__"):
                self.see("naming.constants", constant_style(target.id), node)
        return where

    def on_union(self, node: ast.BinOp, where: _Where) -> _Where:
        if isinstance(node.op, ast.BitOr) and is_none(node.right):
            self.see("types.optional", "X | None", node)
        elif isinstance(node.op, ast.Mod) and is_text(node.left):
            self.see("style.strings", "% formatting", node)
        return where

    def on_subscript(self, node: ast.Subscript, where: _Where) -> _Where:
        if dotted(node.value).rpartition(".")[2] == "Optional":
            self.see("types.optional", "Optional[X]", node)
        return where

    def on_joined(self, node: ast.JoinedStr, where: _Where) -> None:
        """Its plain parts and its formats are no texts of their own."""
        self.see("style.strings", "f-string", node)
        self.stack.extend((each.value, where) for each in node.values if isinstance(each, ast.FormattedValue))

    def on_constant(self, node: ast.Constant, where: _Where) -> None:
        """Which quotes short texts have, as far as the first character tells."""
        if not isinstance(node.value, str) or node.lineno != node.end_lineno:
            return
        line = self.facts.lines[node.lineno - 1] if node.lineno <= len(self.facts.lines) else ""
        quote = line[node.col_offset : node.col_offset + 3] if line.isascii() else ""
        if quote[:1] in ("'", '"') and quote not in ("'''", '"""'):
            self.see("style.quotes", "double" if quote[0] == '"' else "single", node)


def _see_test_function(facts: FileFacts, node: Function, *, in_class: bool) -> None:
    for decorator in node.decorator_list:
        name = dotted(decorator)
        if name in ("pytest.fixture", "fixture"):
            facts.see("testing.helpers", "pytest.fixture", node.lineno)
        elif name in ("pytest.mark.parametrize", "parametrize"):
            facts.see("testing.helpers", "pytest.mark.parametrize", node.lineno)
        elif name in ("given", "hypothesis.given"):
            facts.see("testing.helpers", "hypothesis.given", node.lineno)
        elif name.rpartition(".")[2] == "patch" or ".patch." in name:
            facts.see("testing.helpers", "mock.patch", node.lineno)
    if node.name.startswith("test"):
        facts.see("testing.style", "methods of a class" if in_class else "functions", node.lineno)
        for argument in parameters_of(node, is_method=in_class):
            if argument.arg in ("tmp_path", "monkeypatch", "capsys", "caplog", "mocker"):
                facts.see("testing.helpers", argument.arg, node.lineno)


class _Fields(dict[type, tuple[str, ...]]):
    """The fields of a type of node that may hold code."""

    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        fields = self[kind] = tuple(name for name in kind._fields if name not in _NO_CODE)
        return fields


_FIELDS = _Fields()
_HANDLERS: dict[type[ast.AST], Callable[[Any, Any, _Where], _Where | None]] = {
    ast.FunctionDef: _Reader.on_function,
    ast.AsyncFunctionDef: _Reader.on_function,
    ast.ClassDef: _Reader.on_class,
    ast.ExceptHandler: _Reader.on_handler,
    ast.match_case: _Reader.on_match_case,
    ast.BoolOp: _Reader.on_bool,
    ast.IfExp: _Reader.on_conditional,
    ast.comprehension: _Reader.on_comprehension,
    ast.Raise: _Reader.on_raise,
    ast.Import: _Reader.on_import,
    ast.ImportFrom: _Reader.on_import_from,
    ast.Call: _Reader.on_call,
    ast.Assert: _Reader.on_assert,
    ast.Assign: _Reader.on_assign,
    ast.AnnAssign: _Reader.on_assign,
    ast.BinOp: _Reader.on_union,
    ast.Subscript: _Reader.on_subscript,
    ast.JoinedStr: _Reader.on_joined,
    ast.Constant: _Reader.on_constant,
    **dict.fromkeys(_NESTING, _Reader.on_branch),
}
