"""What is looked for in Go: the query, and what each find means."""

from __future__ import annotations

import re

from tree_sitter import Node

from sage_actors.servers.patterns.facts import yes_or_no
from sage_actors.servers.patterns.treesitter import Grammar, Reading

__all__ = ["GO"]

_QUERY = """
[(function_declaration) (method_declaration)] @function
(ERROR) @broken
[(if_statement) (for_statement) (expression_case) (type_case) (communication_case)] @branch
(binary_expression operator: ["&&" "||"]) @branch
[(if_statement) (for_statement) (expression_switch_statement) (type_switch_statement) (select_statement)] @nest
[(type_spec) (type_alias)] @type
(const_spec name: (identifier) @constant)
(import_spec path: (interpreted_string_literal) @import)
(go_statement) @goroutine
(channel_type) @channel
(if_statement condition: (binary_expression left: (identifier) @_err operator: "!=" right: (nil))) @error_check
(call_expression function: (selector_expression) @call)
(call_expression function: (identifier) @builtin (#eq? @builtin "panic"))
[(function_declaration) (method_declaration)] @declaration
(package_clause) @package
"""

_PRINTS = frozenset({"fmt.Print", "fmt.Println", "fmt.Printf"})
_LOG_LIBRARIES = {"log": "log", "slog": "log/slog", "logrus": "logrus", "zap": "zap", "zerolog": "zerolog"}
_LOG_CALL = re.compile(
    r"(?:^|\.)(?:log|logger|logrus|slog|zap|sugar)\.(?:Print|Println|Printf|Fatal|Fatalf|Panic|Panicf|"
    r"Debug|Debugf|Info|Infof|Warn|Warnf|Error|Errorf|With|DebugContext|InfoContext|ErrorContext)$",
    re.IGNORECASE,
)
_TEST_CALLS = {
    "t.Run": "t.Run subtests",
    "t.Helper": "t.Helper",
    "t.Parallel": "t.Parallel",
    "t.Cleanup": "t.Cleanup",
    "t.TempDir": "t.TempDir",
    "httptest.NewServer": "httptest",
    "httptest.NewRecorder": "httptest",
    "gomock.NewController": "gomock",
}


def _name(reading: Reading, node: Node) -> str:
    name = reading.text(node.child_by_field_name("name"))
    receiver = node.child_by_field_name("receiver")
    owner = re.search(r"\*?\s*(\w+)\s*(\[[^]]*\])?\s*\)$", reading.text(receiver)) if receiver else None
    return f"{owner[1]}.{name}" if owner else name


def _parameters(node: Node) -> int:
    """`a, b int` are two; a type without a name is one."""
    given = node.child_by_field_name("parameters")
    if given is None:
        return 0
    total = 0
    for each in given.named_children:
        if each.type in ("parameter_declaration", "variadic_parameter_declaration"):
            total += max(1, len(each.children_by_field_name("name")))
    return total


def _is_test(reading: Reading, node: Node) -> bool:
    name = reading.text(node.child_by_field_name("name"))
    return reading.facts.is_test and name.startswith(("Test", "Benchmark", "Fuzz", "Example"))


def _on_declaration(reading: Reading, node: Node) -> None:
    name = reading.text(node.child_by_field_name("name"))
    if reading.facts.is_test:
        _see_test(reading, node, name)
        return
    reading.see("naming.functions", _style(name), node)
    if name == "main" and node.type == "function_declaration":
        reading.see("architecture.entry", "func main", node)
    if name[:1].isupper():
        reading.see("documentation.public", yes_or_no(_is_documented(node)), node)
    parameters = reading.text(node.child_by_field_name("parameters"))
    reading.see("async.context", yes_or_no(re.match(r"\(\s*\w*\s*context\.Context", parameters)), node)
    result = reading.text(node.child_by_field_name("result"))
    if result:
        reading.see("errors.returns", yes_or_no(re.search(r"\berror\b", result)), node)
    receiver = node.child_by_field_name("receiver")
    if receiver is not None:
        is_pointer = "*" in reading.text(receiver)
        reading.see("types.receivers", "pointer" if is_pointer else "value", node)
    if name == "Error" and result == "string" and receiver is not None:
        reading.see("errors.classes", _name(reading, node).partition(".")[0], node)


def _see_test(reading: Reading, node: Node, name: str) -> None:
    if name.startswith("Test") and name != "TestMain":
        reading.see(
            "testing.style", f"func Test{'Xxx' if '_' not in name else 'Xxx_case'}(t *testing.T)", node
        )
        body = reading.text(node.child_by_field_name("body"))
        is_table = bool(re.search(r"\[\](struct\s*\{|\w*[tT]est\w*\{)", body)) and "range" in body
        reading.see("testing.tables", yes_or_no(is_table), node)
    elif name.startswith("Benchmark"):
        reading.see("testing.helpers", "benchmarks", node)
    elif name.startswith("Example"):
        reading.see("testing.helpers", "example functions", node)
    elif name.startswith("Fuzz"):
        reading.see("testing.helpers", "fuzz tests", node)


def _on_type(reading: Reading, node: Node) -> None:
    name = reading.text(node.child_by_field_name("name"))
    if not name:
        return
    reading.see("naming.classes", _style(name), node)
    declaration = node.parent if node.parent is not None else node
    if name[:1].isupper() and declaration.type == "type_declaration":
        documented = _is_documented(declaration) or _is_documented(node)
        reading.see("documentation.public", yes_or_no(documented), node)


def _on_constant(reading: Reading, node: Node) -> None:
    name = reading.text(node)
    if name != "_":
        reading.see("naming.constants", _style(name), node)


def _on_import(reading: Reading, node: Node) -> None:
    module = reading.text(node).strip('"')
    if reading.facts.is_test:
        if "testify" in module or module in ("github.com/onsi/ginkgo", "github.com/onsi/ginkgo/v2"):
            reading.see("testing.imports", "testify" if "testify" in module else "ginkgo", node)
        elif module == "testing":
            reading.see("testing.imports", "testing", node)
    elif "." in module.partition("/")[0]:
        reading.see("imports.modules", module, node)
    elif module in ("sync", "context", "sync/atomic"):
        reading.see("async.library", module, node)


def _on_error_check(reading: Reading, node: Node) -> None:
    condition = reading.text(node.child_by_field_name("condition"))
    if not re.match(r"\w*[eE]rr\w*\s*!=", condition):
        return
    body = reading.text(node.child_by_field_name("consequence"))
    if re.search(r"\bpanic\(|\.Fatal", body):
        done = "panic or exit"
    elif re.search(r"%w|errors\.Wrap|\.Wrapf?\(", body):
        done = "wrapped and returned"
    elif re.search(r"\breturn\b.*\berr\b", body):
        done = "returned as it is"
    else:
        done = "handled otherwise"
    reading.see("errors.checked", done, node)


def _on_call(reading: Reading, node: Node) -> None:
    name = reading.text(node)
    if reading.facts.is_test:
        _on_test_call(reading, node, name)
    elif name in _PRINTS:
        reading.see("logging.calls", "fmt.Print*", node)
    elif name in ("errors.New", "fmt.Errorf"):
        reading.see("errors.created", name, node)
    elif name in ("errors.Is", "errors.As"):
        reading.see("errors.compared", name, node)
    elif _LOG_CALL.search(name):
        owner = name.split(".")[-2]
        reading.see("logging.calls", _LOG_LIBRARIES.get(owner, f"{owner} object"), node)


def _on_test_call(reading: Reading, node: Node, name: str) -> None:
    if name in _TEST_CALLS:
        reading.see("testing.helpers", _TEST_CALLS[name], node)
    elif name.startswith(("assert.", "require.")):
        reading.see("testing.assertions", name.partition(".")[0] + ".* of testify", node)
    elif re.match(r"tb?\.(Error|Errorf|Fatal|Fatalf)$", name):
        reading.see("testing.assertions", "if … { t.Error/t.Fatal }", node)


def _on_panic(reading: Reading, node: Node) -> None:
    reading.see("errors.panics", "calls of panic", node)


def _on_package(reading: Reading, node: Node) -> None:
    name = reading.text(node).split()[-1]
    if reading.facts.is_test:
        is_outside = name.endswith("_test")
        reading.see("testing.package", "package x_test" if is_outside else "the package itself", node)


def _is_documented(node: Node) -> bool:
    before = node.prev_sibling
    if before is None or before.type != "comment":
        return False
    return before.end_point[0] == node.start_point[0] - 1


def _style(name: str) -> str:
    stripped = name.strip("_")
    if "_" not in stripped:
        return "MixedCaps"
    return "UPPER_CASE" if stripped == stripped.upper() else "with underscores"


GO = Grammar(
    package="tree_sitter_go",
    entry="language",
    query=_QUERY,
    name_of=_name,
    parameters_of=_parameters,
    is_test_function=_is_test,
    direct={
        "goroutine": ("async.constructs", "go statements"),
        "channel": ("async.constructs", "channels"),
    },
    handlers={
        "declaration": _on_declaration,
        "type": _on_type,
        "constant": _on_constant,
        "import": _on_import,
        "error_check": _on_error_check,
        "call": _on_call,
        "builtin": _on_panic,
        "package": _on_package,
    },
)
