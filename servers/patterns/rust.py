"""What is looked for in Rust: the query, and what each find means."""

from __future__ import annotations

import re

from tree_sitter import Node

from sage_actors.servers.patterns.facts import name_style, yes_or_no
from sage_actors.servers.patterns.treesitter import Grammar, Reading

__all__ = ["RUST"]

_QUERY = r"""
(function_item) @function
(function_item) @declaration
(ERROR) @broken
[(if_expression) (while_expression) (for_expression) (loop_expression)] @branch
(match_arm pattern: (match_pattern (_))) @branch
(binary_expression operator: ["&&" "||"]) @branch
[(if_expression) (while_expression) (for_expression) (loop_expression) (match_expression)] @nest
((attribute_item) @_attribute . (mod_item) @test (#match? @_attribute "cfg\\(.*test"))
[(struct_item) (enum_item) (trait_item) (type_item) (union_item)] @type
[(const_item) (static_item)] @constant
(use_declaration) @use
(try_expression) @question
(call_expression function: (field_expression field: (field_identifier) @method (#match? @method "^(unwrap|expect)$")))
(macro_invocation) @macro
(attribute_item) @attribute
(await_expression) @await
(unsafe_block) @unsafe
"""

_LOG_MACROS = frozenset({"trace", "debug", "info", "warn", "error"})
_STANDARD = frozenset({"std", "core", "alloc", "crate", "self", "super"})
_CONCURRENT = re.compile(r"\b(tokio|rayon|crossbeam\w*|async_std|futures)\b|std::(thread|sync)\b")


def _name(reading: Reading, node: Node) -> str:
    name = reading.text(node.child_by_field_name("name"))
    owner = node.parent.parent if node.parent is not None else None
    if owner is not None and owner.type in ("impl_item", "trait_item"):
        type_ = owner.child_by_field_name("type") or owner.child_by_field_name("name")
        return f"{reading.text(type_).partition('<')[0]}::{name}"
    return name


def _parameters(node: Node) -> int:
    given = node.child_by_field_name("parameters")
    return 0 if given is None else sum(each.type == "parameter" for each in given.named_children)


def _is_test(reading: Reading, node: Node) -> bool:
    return any(re.search(r"\btest\b", each) for each in _attributes(reading, node))


def _attributes(reading: Reading, node: Node) -> list[str]:
    found = []
    before = node.prev_named_sibling
    while before is not None and before.type in ("attribute_item", "line_comment", "block_comment"):
        if before.type == "attribute_item":
            found.append(reading.text(before))
        before = before.prev_named_sibling
    return found


def _on_declaration(reading: Reading, node: Node) -> None:
    name = reading.text(node.child_by_field_name("name"))
    if _is_test(reading, node):
        _see_test(reading, node)
        return
    if reading.in_test(node):
        return
    style = name_style(name)
    if style is not None:
        reading.see("naming.functions", style, node)
    _see_public(reading, node)
    if name == "main" and node.parent is not None and node.parent.type == "source_file":
        reading.see("architecture.entry", "fn main", node)
    modifiers = [reading.text(each) for each in node.named_children if each.type == "function_modifiers"]
    reading.see("async.functions", yes_or_no(any("async" in each for each in modifiers)), node)
    result = reading.text(node.child_by_field_name("return_type"))
    if result:
        reading.see("errors.returns", yes_or_no(re.match(r"(\w+::)*\w*Result\b", result)), node)


def _see_test(reading: Reading, node: Node) -> None:
    line = node.start_point[0] + 1
    attributes = " ".join(_attributes(reading, node))
    framework = "tokio::test" if "tokio::test" in attributes else "#[test]"
    reading.facts.see("testing.framework", framework, line)
    inline = not reading.facts.is_test
    place = "a tests module in the file itself" if inline else "files of their own"
    reading.facts.see("testing.placement", place, line)


def _on_type(reading: Reading, node: Node) -> None:
    name = reading.text(node.child_by_field_name("name"))
    style = name_style(name)
    if style is not None and node.parent is not None and node.parent.type != "declaration_list":
        reading.see("naming.classes", style, node)
    _see_public(reading, node)
    if not name.endswith("Error") or node.type not in ("struct_item", "enum_item"):
        return
    by_thiserror = any(re.search(r"derive\(.*\bError\b", each) for each in _attributes(reading, node))
    reading.see("errors.classes", name, node)
    reading.see("errors.bases", "thiserror" if by_thiserror else "an impl by hand", node)


def _see_public(reading: Reading, node: Node) -> None:
    visibility = next((each for each in node.named_children if each.type == "visibility_modifier"), None)
    if reading.text(visibility) == "pub":
        reading.see("documentation.public", yes_or_no(_is_documented(reading, node)), node)


def _is_documented(reading: Reading, node: Node) -> bool:
    before = node.prev_named_sibling
    while before is not None and before.type == "attribute_item":
        before = before.prev_named_sibling
    return before is not None and reading.text(before).startswith(("///", "/**"))


def _on_constant(reading: Reading, node: Node) -> None:
    name = reading.text(node.child_by_field_name("name"))
    if name != "_":
        reading.see("naming.constants", "UPPER_CASE" if name == name.upper() else "other", node)


def _on_use(reading: Reading, node: Node) -> None:
    path = reading.text(node.child_by_field_name("argument"))
    top = re.match(r"[:\s]*(r#)?(\w+)", path)
    if top is None or reading.in_test(node):
        return
    if top[2] in ("crate", "super", "self"):
        reading.see("imports.internal", f"{top[2]}::", node)
    elif top[2] not in _STANDARD and top[2].islower():
        reading.see("imports.modules", top[2], node)
    concurrent = _CONCURRENT.match(path)
    if concurrent is not None:
        reading.see("async.library", concurrent[0], node)


def _on_method(reading: Reading, node: Node) -> None:
    reading.see("errors.propagated", f"{reading.text(node)}()", node)


def _on_macro(reading: Reading, node: Node) -> None:
    name = reading.text(node.child_by_field_name("macro"))
    owner, _, last = name.rpartition("::")
    if reading.in_test(node):
        if last.startswith("assert"):
            reading.see("testing.assertions", f"{last}!", node)
        elif last in ("proptest", "quickcheck"):
            reading.see("testing.helpers", last, node)
    elif last in _LOG_MACROS and owner in ("", "log", "tracing", "slog"):
        reading.see("logging.calls", f"{owner}::*! macros" if owner else "log macros (info!, warn!, …)", node)
    elif last in ("println", "eprintln", "print", "eprint"):
        reading.see("logging.calls", f"{last}!", node)
    elif last in ("panic", "unreachable", "todo", "unimplemented"):
        reading.see("errors.panics", f"{last}!", node)
    elif last in ("bail", "anyhow", "ensure"):
        reading.see("errors.created", f"{last}! of anyhow", node)


def _on_attribute(reading: Reading, node: Node) -> None:
    text = reading.text(node)
    if text.startswith("#[derive("):
        for each in re.findall(r"[\w:]+", text[len("#[derive(") :].rpartition(")")[0]):
            reading.see("types.derives", each.rpartition("::")[2], node)


RUST = Grammar(
    package="tree_sitter_rust",
    entry="language",
    query=_QUERY,
    name_of=_name,
    parameters_of=_parameters,
    is_test_function=_is_test,
    direct={
        "question": ("errors.propagated", "?"),
        "await": ("async.constructs", ".await"),
        "unsafe": ("types.unsafe", "unsafe block"),
    },
    handlers={
        "declaration": _on_declaration,
        "type": _on_type,
        "constant": _on_constant,
        "use": _on_use,
        "method": _on_method,
        "macro": _on_macro,
        "attribute": _on_attribute,
    },
)
