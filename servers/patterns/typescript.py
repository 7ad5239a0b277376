"""What is looked for in TypeScript and JavaScript: the query, and what each find means."""

from __future__ import annotations

import re

from tree_sitter import Node

from sage_actors.servers.patterns.facts import name_style, yes_or_no
from sage_actors.servers.patterns.treesitter import Grammar, Reading

__all__ = ["JAVASCRIPT", "TSX", "TYPESCRIPT"]

_FUNCTION = "[(function_expression) (arrow_function) (generator_function)]"
_DECLARATIONS = f"""
[(function_declaration) (generator_function_declaration) (method_definition)] %
(variable_declarator name: (identifier) value: {_FUNCTION}) %
(assignment_expression left: [(identifier) (member_expression)] right: {_FUNCTION}) %
(pair key: (property_identifier) value: {_FUNCTION}) %
"""
_COMMON = f"""
{_DECLARATIONS.replace("%", "@function")}
{_DECLARATIONS.replace("%", "@declaration")}
(ERROR) @broken
[(if_statement) (for_statement) (for_in_statement) (while_statement) (do_statement)] @branch
[(switch_case) (catch_clause) (ternary_expression)] @branch
(binary_expression operator: ["&&" "||" "??"]) @branch
[(if_statement) (for_statement) (for_in_statement) (while_statement) (do_statement)] @nest
[(switch_statement) (try_statement)] @nest
(import_statement source: (string) @import)
(call_expression function: (identifier) @_require arguments: (arguments . (string) @require .)
  (#eq? @_require "require"))
(export_statement) @export
(assignment_expression left: (member_expression) @exports (#match? @exports "^(module\\\\.)?exports\\\\b"))
(program (lexical_declaration kind: "const"
  (variable_declarator name: (identifier) @constant value: [(string) (number)])))
(program (export_statement (lexical_declaration kind: "const"
  (variable_declarator name: (identifier) @constant value: [(string) (number)]))))
(throw_statement) @throw
(catch_clause) @catch
(await_expression) @await
(call_expression) @call
(if_statement condition: (parenthesized_expression (identifier) @callback_error))
(string) @string
(expression_statement) @statement
[(function_declaration) (function_expression) (arrow_function) (method_definition)] @any_function
"""
_JAVASCRIPT_QUERY = (
    _COMMON
    + """
(class_declaration name: (identifier) @class)
(class_declaration (class_heritage (identifier) @base))
(field_definition property: (property_identifier) value: [(arrow_function) (function_expression)]) @function
"""
)
_TYPESCRIPT_QUERY = (
    _COMMON
    + """
[(class_declaration name: (type_identifier) @class) (abstract_class_declaration name: (type_identifier) @class)]
(class_heritage (extends_clause value: (identifier) @base))
[(interface_declaration name: (type_identifier) @class) (enum_declaration name: (identifier) @class)]
(type_alias_declaration name: (type_identifier) @class)
(public_field_definition name: (property_identifier) value: [(arrow_function) (function_expression)]) @function
(interface_declaration) @interface
(type_alias_declaration value: (object_type)) @object_type
(predefined_type) @predefined
(non_null_expression) @non_null
"""
)

_TEST_CALLS = frozenset({"it", "test"})
_HOOKS = frozenset({"beforeEach", "afterEach", "beforeAll", "afterAll", "before", "after"})
_RUNNERS = {
    "vitest": "vitest",
    "@jest/globals": "jest",
    "mocha": "mocha",
    "node:test": "node:test",
    "ava": "ava",
    "tape": "tape",
    "tap": "tap",
    "jasmine": "jasmine",
    "@playwright/test": "playwright",
}
_TEST_TOOLS = frozenset(
    {"supertest", "sinon", "chai", "should", "nock", "msw", "node:assert", "assert", "@testing-library/react"}
)
_LOGGERS = re.compile(r"(^|\.)_?(logger|log|winston|pino)\.(trace|debug|info|warn|error|fatal)$")
_NODE_MODULES = frozenset(
    re.findall(
        r"\w+",
        "assert async_hooks buffer child_process cluster console crypto dns events fs http http2 https module net os "
        "path perf_hooks process querystring readline stream string_decoder timers tls tty url util v8 vm "
        "worker_threads zlib",
    )
)


def _name(reading: Reading, node: Node) -> str:
    part = next(filter(None, map(node.child_by_field_name, ("name", "left", "key", "property"))), None)
    name = re.sub(r"\s+", "", reading.text(part))
    owner = _class_of(node)
    return f"{reading.text(owner)}.{name}" if owner is not None else name


def _class_of(node: Node) -> Node | None:
    if node.type not in ("method_definition", "field_definition", "public_field_definition"):
        return None
    holder = node.parent.parent if node.parent is not None else None
    return holder.child_by_field_name("name") if holder is not None else None


def _value(node: Node) -> Node:
    """The function itself, of a declaration that gives it a name."""
    return node.child_by_field_name("value") or node.child_by_field_name("right") or node


def _parameters(node: Node) -> int:
    function = _value(node)
    given = function.child_by_field_name("parameters")
    if given is not None:
        return sum(each.type != "comment" for each in given.named_children)
    return int(function.child_by_field_name("parameter") is not None)


def _on_declaration(reading: Reading, node: Node) -> None:
    if reading.facts.is_test:
        return
    short = _name(reading, node).rpartition(".")[2]
    style = name_style(short)
    if style is not None and short != "constructor":
        is_component = style == "PascalCase" and reading.facts.path.endswith("x")
        reading.see("naming.components" if is_component else "naming.functions", style, node)
    statement = _statement(node)
    if statement.parent is not None and statement.parent.type == "program":
        reading.see("documentation.public", yes_or_no(_is_documented(reading, statement)), node)
    if reading.facts.language == "typescript" and short != "constructor":
        returns = _value(node).child_by_field_name("return_type")
        reading.see("types.returns", yes_or_no(returns), node)


def _statement(node: Node) -> Node:
    """The statement that declares it, with its `export`."""
    while node.parent is not None and node.parent.type in (
        "lexical_declaration",
        "variable_declaration",
        "expression_statement",
        "export_statement",
    ):
        node = node.parent
    return node


def _is_documented(reading: Reading, statement: Node) -> bool:
    before = statement.prev_named_sibling
    return before is not None and before.type == "comment" and reading.text(before).startswith("/**")


def _on_any_function(reading: Reading, node: Node) -> None:
    is_async = any(each.type == "async" for each in node.children)
    reading.see("async.functions", yes_or_no(is_async), node)
    if node.type in ("function_expression", "arrow_function"):
        value = "arrow function" if node.type == "arrow_function" else "function expression"
        reading.see("style.functions", value, node)


def _on_class(reading: Reading, node: Node) -> None:
    style = name_style(reading.text(node))
    if style is not None:
        reading.see("naming.classes", style, node)


def _on_base(reading: Reading, node: Node) -> None:
    base = reading.text(node)
    if base.endswith("Error"):
        reading.see("errors.bases", base, node)
        holder = node.parent
        while holder is not None and not holder.type.endswith("class_declaration"):
            holder = holder.parent
        if holder is not None:
            reading.see("errors.classes", reading.text(holder.child_by_field_name("name")), node)


def _on_constant(reading: Reading, node: Node) -> None:
    name = reading.text(node)
    style = "UPPER_CASE" if name == name.upper() else name_style(name) or "lower-case word"
    reading.see("naming.constants", style, node)


def _on_import(reading: Reading, node: Node) -> None:
    _see_module(reading, node, "ES modules (import)")


def _on_require(reading: Reading, node: Node) -> None:
    _see_module(reading, node, "CommonJS (require)")


def _see_module(reading: Reading, node: Node, system: str) -> None:
    name = reading.text(node).strip("'\"`")
    if reading.facts.is_test:
        if name in _RUNNERS:
            reading.see("testing.imports", _RUNNERS[name], node)
        elif name in _TEST_TOOLS:
            reading.see("testing.helpers", name.removeprefix("node:"), node)
        return
    reading.see("imports.system", system, node)
    if name.startswith("."):
        return
    parts = name.split("/")
    package = "/".join(parts[:2]) if name.startswith("@") else parts[0]
    if not name.startswith("node:") and package not in _NODE_MODULES:
        reading.see("imports.modules", package, node)


def _on_export(reading: Reading, node: Node) -> None:
    text = reading.text(node)[:40]
    if not re.match(r"export\s+(type\s*)?[{*]", text) or "from" not in reading.text(node):
        is_default = re.match(r"export\s+(default\b|=)", text)
        reading.see("imports.exports", "default export" if is_default else "named exports", node)


def _on_exports(reading: Reading, node: Node) -> None:
    is_whole = reading.text(node) in ("module.exports", "exports")
    reading.see("imports.exports", "module.exports = …" if is_whole else "exports.name = …", node)


def _on_throw(reading: Reading, node: Node) -> None:
    thrown = re.match(r"throw\s+(?:new\s+)?([\w.]+)\s*\(", reading.text(node))
    if thrown is not None:
        reading.see("errors.raised", thrown[1].rpartition(".")[2], node)


def _on_call(reading: Reading, node: Node) -> None:
    function = node.child_by_field_name("function")
    if function is None or function.type not in ("identifier", "member_expression"):
        return
    name = reading.text(function) if function.end_byte - function.start_byte < 200 else ""
    last = name.rpartition(".")[2]
    if reading.facts.is_test:
        _on_test_call(reading, node, name)
    elif name.startswith("console."):
        reading.see("logging.calls", "console.*", node)
    elif name == "debug":
        reading.see("logging.calls", "debug()", node)
    elif _LOGGERS.search(name):
        reading.see("logging.calls", "a logger object", node)
    elif function.type == "member_expression":
        property_ = reading.text(function.child_by_field_name("property"))
        if property_ == "catch":
            reading.see("errors.handled", ".catch()", node)
        elif property_ == "then":
            reading.see("async.style", ".then()", node)
    elif last == "next" and re.match(r"next\(\s*(err|e|error)\b", reading.text(node)):
        reading.see("errors.handled", "next(err)", node)


def _on_test_call(reading: Reading, node: Node, name: str) -> None:
    first = name.partition(".")[0]
    if first in _TEST_CALLS:
        reading.see("testing.style", f"{first}(name, …)", node)
    elif name == "describe":
        reading.see("testing.helpers", "describe blocks", node)
    elif name in _HOOKS:
        reading.see("testing.helpers", name, node)
    elif re.match(r"(jest|vi)\.(fn|mock|spyOn)$", name):
        reading.see("testing.helpers", name, node)
        reading.see("testing.imports", "jest" if name.startswith("jest") else "vitest", node)
    elif first == "expect":
        reading.see("testing.assertions", "expect(…)", node)
    elif first == "assert":
        reading.see("testing.assertions", "assert.*", node)
    elif name.endswith(".expect"):
        reading.see("testing.assertions", "….expect(…) of supertest", node)


def _on_callback_error(reading: Reading, node: Node) -> None:
    if reading.text(node) in ("err", "error"):
        reading.see("errors.handled", "if (err) of a callback", node)


def _on_string(reading: Reading, node: Node) -> None:
    parent = node.parent
    if parent is not None and parent.type != "jsx_attribute":
        quote = reading.source[node.start_byte : node.start_byte + 1]
        reading.see("style.quotes", "double" if quote == b'"' else "single", node)


def _on_statement(reading: Reading, node: Node) -> None:
    has = reading.source[node.end_byte - 1 : node.end_byte] == b";"
    reading.see("style.semicolons", yes_or_no(has), node)


def _on_predefined(reading: Reading, node: Node) -> None:
    if reading.text(node) == "any":
        reading.see("types.any", "any", node)


def _grammar(package: str, entry: str, query: str) -> Grammar:
    return Grammar(
        package=package,
        entry=entry,
        query=query,
        name_of=_name,
        parameters_of=_parameters,
        direct={
            "catch": ("errors.handled", "try/catch"),
            "await": ("async.style", "await"),
            "interface": ("types.shapes", "interface"),
            "object_type": ("types.shapes", "type alias"),
            "non_null": ("types.non_null", "x!"),
        },
        handlers={
            "declaration": _on_declaration,
            "any_function": _on_any_function,
            "class": _on_class,
            "base": _on_base,
            "constant": _on_constant,
            "import": _on_import,
            "require": _on_require,
            "export": _on_export,
            "exports": _on_exports,
            "throw": _on_throw,
            "call": _on_call,
            "callback_error": _on_callback_error,
            "string": _on_string,
            "statement": _on_statement,
            "predefined": _on_predefined,
        },
    )


JAVASCRIPT = _grammar("tree_sitter_javascript", "language", _JAVASCRIPT_QUERY)
TYPESCRIPT = _grammar("tree_sitter_typescript", "language_typescript", _TYPESCRIPT_QUERY)
TSX = _grammar("tree_sitter_typescript", "language_tsx", _TYPESCRIPT_QUERY)
