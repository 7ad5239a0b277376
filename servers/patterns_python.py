"""Reads a Python file by `ast`: one walk counts its habits and measures its functions."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sage_actors.servers.patterns_facts import FileFacts, FunctionFacts, name_style

__all__ = ["UnreadableError", "parse_python", "read_python"]

_Function = ast.FunctionDef | ast.AsyncFunctionDef
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


class UnreadableError(Exception):
    """The file cannot be parsed; the text says why."""


@dataclass(slots=True)
class _Where:
    """What encloses a node. `depth`: of nesting statements in the innermost function."""

    function: FunctionFacts | None = None
    in_function: bool = False
    class_name: str = ""
    depth: int = 0
    caught: bool = False
    is_public: bool = True


def parse_python(source: bytes) -> ast.Module:
    """The tree of a file, its declared encoding and byte order mark respected; else as UTF-8 with gaps.

    Raises:
        UnreadableError: it is not Python 3, or nested too deeply.
    """
    try:
        return _parse(source)
    except (SyntaxError, ValueError) as error:
        try:
            source.decode("utf-8")
        except UnicodeDecodeError:
            return _parse_with_gaps(source)
        raise UnreadableError(f"not Python 3: {_reason(error)}") from error
    except (RecursionError, MemoryError) as error:
        raise UnreadableError("nested too deeply to be parsed") from error


def _parse_with_gaps(source: bytes) -> ast.Module:
    try:
        return _parse(source.decode("utf-8", errors="replace"))
    except (SyntaxError, ValueError) as error:
        raise UnreadableError(f"neither UTF-8 nor Python 3: {_reason(error)}") from error
    except (RecursionError, MemoryError) as error:
        raise UnreadableError("nested too deeply to be parsed") from error


def _parse(source: str | bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in somebody else's code
        return ast.parse(source)


def _reason(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} (line {error.lineno})"
    return str(error)


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
            self.facts.see("documentation.modules", _yes(ast.get_docstring(tree, clean=False)), 1)
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
            if _imports_annotations(node):
                self.facts.see("types.future", "yes", node.lineno)
                return
        if any(not isinstance(node, ast.Expr) for node in tree.body):  # more than a docstring
            self.facts.see("types.future", "no", 1)

    def branch(self, where: _Where, count: int = 1) -> None:
        if where.function is None:
            self.facts.top_level_complexity += count
        else:
            where.function.complexity += count

    def on_function(self, node: _Function, where: _Where) -> _Where:
        is_method = bool(where.class_name) and not where.in_function
        facts = FunctionFacts(
            f"{where.class_name}.{node.name}" if where.class_name else node.name,
            node.lineno,
            node.end_lineno or node.lineno,
            parameters=len(_parameters(node, is_method=is_method)),
            is_test=self.facts.is_test and node.name.startswith("test"),
        )
        self.facts.functions.append(facts)
        is_public = where.is_public and not node.name.startswith("_") and not where.in_function
        if self.facts.is_test:
            _see_test_function(self.facts, node, in_class=is_method)
        else:
            self._see_function(node, where, is_method=is_method, is_public=is_public)
        return _Where(facts, True, where.class_name, is_public=False)

    def _see_function(self, node: _Function, where: _Where, *, is_method: bool, is_public: bool) -> None:
        see = self.see
        style = None if node.name.startswith("__") else name_style(node.name)
        if style is not None:
            see("naming.functions", style, node)
        if not where.in_function and not where.class_name and not node.name.startswith("__"):
            see("naming.private", _yes(node.name.startswith("_")), node)
        see("types.functions", _annotated(node, is_method=is_method), node)
        see("async.functions", _yes(isinstance(node, ast.AsyncFunctionDef)), node)
        if is_public:
            see("documentation.public", _yes(ast.get_docstring(node, clean=False)), node)
            self._see_doc_style(node)

    def _see_doc_style(self, node: _Function) -> None:
        doc = ast.get_docstring(node, clean=False)
        style = _doc_style(doc) if doc else None
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
            self.see("documentation.public", _yes(ast.get_docstring(node, clean=False)), node)
        bases = [_dotted(base) for base in node.bases]
        for decorator in node.decorator_list:
            record = _RECORDS.get(_dotted(decorator))
            if record is not None:
                self.see("types.records", record, node)
        for base in bases:
            record = _RECORD_BASES.get(base.rpartition(".")[2])
            if record is not None:
                self.see("types.records", record, node)
            if _is_error_name(base):
                self.see("errors.bases", base.rpartition(".")[2], node)
                self.see("errors.classes", node.name, node)
                break

    def _see_test_class(self, node: ast.ClassDef) -> None:
        if any(_dotted(base).endswith("TestCase") for base in node.bases):
            self.facts.see("testing.framework", "unittest", node.lineno)

    def on_branch(self, node: ast.AST, where: _Where) -> _Where | None:
        """A statement that may branch, and nests what is in it."""
        if isinstance(node, ast.If | ast.For | ast.AsyncFor | ast.While):
            self.branch(where)
        if isinstance(node, ast.If) and _is_main_guard(node):
            self.see("architecture.entry", 'if __name__ == "__main__"', node)
        depth = where.depth + 1
        if where.function is not None:
            where.function.nesting = max(where.function.nesting, depth)
        inner = _Where(where.function, where.in_function, where.class_name, depth, where.caught)
        if isinstance(node, ast.If) and _has_elif(node):
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
        self.see("errors.caught", _caught(node.type), node)
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
            name = _dotted(node.exc).rpartition(".")[2]
            if name and name[0].isupper():
                self.see("errors.raised", name, node)
            if where.caught:
                self.see("errors.chained", _yes(node.cause), node)
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
        owner = _dotted(function.value).rpartition(".")[2]
        if function.attr in _LOG_METHODS and owner in _LOGGER_NAMES:
            self.see("logging.calls", self.logging_library, node)
        elif function.attr == "getLogger" and node.args:
            self._see_logger(node)
        elif function.attr == "format" and _is_text(function.value):
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
            if isinstance(target, ast.Name) and _is_plain(node.value) and not target.id.startswith("__"):
                self.see("naming.constants", _constant_style(target.id), node)
        return where

    def on_union(self, node: ast.BinOp, where: _Where) -> _Where:
        if isinstance(node.op, ast.BitOr) and _is_none(node.right):
            self.see("types.optional", "X | None", node)
        elif isinstance(node.op, ast.Mod) and _is_text(node.left):
            self.see("style.strings", "% formatting", node)
        return where

    def on_subscript(self, node: ast.Subscript, where: _Where) -> _Where:
        if _dotted(node.value).rpartition(".")[2] == "Optional":
            self.see("types.optional", "Optional[X]", node)
        return where

    def on_joined(self, node: ast.JoinedStr, where: _Where) -> None:
        """Its plain parts are no texts of their own."""
        self.see("style.strings", "f-string", node)
        self.stack.extend((each, where) for each in node.values if isinstance(each, ast.FormattedValue))

    def on_constant(self, node: ast.Constant, where: _Where) -> None:
        """Which quotes short texts have, as far as the first character tells."""
        if not isinstance(node.value, str) or node.lineno != node.end_lineno:
            return
        line = self.facts.lines[node.lineno - 1] if node.lineno <= len(self.facts.lines) else ""
        quote = line[node.col_offset : node.col_offset + 3] if line.isascii() else ""
        if quote[:1] in ("'", '"') and quote not in ("'''", '"""'):
            self.see("style.quotes", "double" if quote[0] == '"' else "single", node)


def _see_test_function(facts: FileFacts, node: _Function, *, in_class: bool) -> None:
    for decorator in node.decorator_list:
        name = _dotted(decorator)
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
        for argument in _parameters(node, is_method=in_class):
            if argument.arg in ("tmp_path", "monkeypatch", "capsys", "caplog", "mocker"):
                facts.see("testing.helpers", argument.arg, node.lineno)


def _parameters(node: _Function, *, is_method: bool) -> list[ast.arg]:
    """All of them, without the `self` or `cls` of a method."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    is_static = any(_dotted(each) == "staticmethod" for each in node.decorator_list)
    if is_method and positional and not is_static:
        positional = positional[1:]
    rest = [each for each in (given.vararg, given.kwarg) if each is not None]
    return [*positional, *given.kwonlyargs, *rest]


def _annotated(node: _Function, *, is_method: bool) -> str:
    parameters = _parameters(node, is_method=is_method)
    annotated = sum(each.annotation is not None for each in parameters)
    returns = node.returns is not None
    if annotated == len(parameters) and (returns or (annotated and node.name == "__init__")):
        return "fully annotated"
    return "partly annotated" if annotated or returns else "not annotated"


def _doc_style(doc: str) -> str | None:
    """The form of a docstring that describes parameters or results; None for one that does not."""
    if ":param " in doc or ":return" in doc or ":rtype" in doc:
        return "Sphinx fields (:param x:)"
    if "\n" not in doc:
        return None
    if any(f"{word}\n" in doc for word in ("Args:", "Returns:", "Raises:", "Arguments:", "Yields:")):
        return "Google sections (Args:)"
    return "NumPy sections (underlined)" if "\n----" in doc.replace(" ", "") else None


def _caught(type_: ast.expr | None) -> str:
    if type_ is None:
        return "bare except"
    names = {_dotted(each) for each in type_.elts} if isinstance(type_, ast.Tuple) else {_dotted(type_)}
    return "Exception" if names & {"Exception", "BaseException"} else "a specific error"


def _imports_annotations(node: ast.stmt) -> bool:
    if not isinstance(node, ast.ImportFrom) or node.module != "__future__":
        return False
    return any(each.name == "annotations" for each in node.names)


def _is_main_guard(node: ast.If) -> bool:
    test = node.test
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def _has_elif(node: ast.If) -> bool:
    if len(node.orelse) != 1 or not isinstance(node.orelse[0], ast.If):
        return False
    return node.orelse[0].col_offset == node.col_offset and bool(node.body)


def _dotted(node: ast.AST) -> str:
    """`a.b.c` of a name, an attribute, or a call or subscript of one; empty for anything else."""
    parts: list[str] = []
    while True:
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        elif isinstance(node, ast.Name):
            parts.append(node.id)
            return ".".join(reversed(parts))
        else:
            return ".".join(reversed(parts))


def _is_error_name(name: str) -> bool:
    return name.endswith(("Error", "Exception", "Warning"))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_plain(value: ast.expr) -> bool:
    """A number, a text, or a literal collection that is not empty (an empty one is a variable)."""
    if isinstance(value, ast.UnaryOp):
        value = value.operand
    if isinstance(value, ast.Constant):
        return value.value is not None and not isinstance(value.value, bool)
    return isinstance(value, ast.Tuple | ast.Set | ast.Dict) and bool(
        value.keys if isinstance(value, ast.Dict) else value.elts
    )


def _constant_style(name: str) -> str:
    return "UPPER_CASE" if name == name.upper() else name_style(name) or "lower-case word"


def _yes(value: object) -> str:
    return "yes" if value else "no"


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
