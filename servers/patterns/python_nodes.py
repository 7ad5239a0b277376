"""Questions about single nodes of a Python tree: what is annotated, caught, constant, and how it is written."""

from __future__ import annotations

import ast

from sage_actors.servers.patterns.facts import name_style

__all__ = [
    "Function",
    "annotation_of",
    "caught",
    "constant_style",
    "doc_style",
    "dotted",
    "has_elif",
    "imports_annotations",
    "is_error_name",
    "is_main_guard",
    "is_none",
    "is_plain",
    "is_text",
    "parameters_of",
]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters_of(node: Function, *, is_method: bool) -> list[ast.arg]:
    """All of them, without the `self` or `cls` of a method."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    is_static = any(dotted(each) == "staticmethod" for each in node.decorator_list)
    if is_method and positional and not is_static:
        positional = positional[1:]
    rest = [each for each in (given.vararg, given.kwarg) if each is not None]
    return [*positional, *given.kwonlyargs, *rest]


def annotation_of(node: Function, *, is_method: bool) -> str:
    parameters = parameters_of(node, is_method=is_method)
    annotated = sum(each.annotation is not None for each in parameters)
    returns = node.returns is not None
    if annotated == len(parameters) and (returns or (annotated and node.name == "__init__")):
        return "fully annotated"
    return "partly annotated" if annotated or returns else "not annotated"


def doc_style(doc: str) -> str | None:
    """The form of a docstring that describes parameters or results; None for one that does not."""
    if ":param " in doc or ":return" in doc or ":rtype" in doc:
        return "Sphinx fields (:param x:)"
    if "\n" not in doc:
        return None
    if any(f"{word}\n" in doc for word in ("Args:", "Returns:", "Raises:", "Arguments:", "Yields:")):
        return "Google sections (Args:)"
    return "NumPy sections (underlined)" if "\n----" in doc.replace(" ", "") else None


def caught(type_: ast.expr | None) -> str:
    if type_ is None:
        return "bare except"
    names = {dotted(each) for each in type_.elts} if isinstance(type_, ast.Tuple) else {dotted(type_)}
    return "Exception" if names & {"Exception", "BaseException"} else "a specific error"


def imports_annotations(node: ast.stmt) -> bool:
    if not isinstance(node, ast.ImportFrom) or node.module != "__future__":
        return False
    return any(each.name == "annotations" for each in node.names)


def is_main_guard(node: ast.If) -> bool:
    test = node.test
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def has_elif(node: ast.If) -> bool:
    if len(node.orelse) != 1 or not isinstance(node.orelse[0], ast.If):
        return False
    return node.orelse[0].col_offset == node.col_offset and bool(node.body)


def dotted(node: ast.AST) -> str:
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


def is_error_name(name: str) -> bool:
    return name.endswith(("Error", "Exception", "Warning"))


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def is_plain(value: ast.expr) -> bool:
    """A number, a text, or a literal collection that is not empty (an empty one is a variable)."""
    if isinstance(value, ast.UnaryOp):
        value = value.operand
    if isinstance(value, ast.Constant):
        return value.value is not None and not isinstance(value.value, bool)
    return isinstance(value, ast.Tuple | ast.Set | ast.Dict) and bool(
        value.keys if isinstance(value, ast.Dict) else value.elts
    )


def constant_style(name: str) -> str:
    return "UPPER_CASE" if name == name.upper() else name_style(name) or "lower-case word"
