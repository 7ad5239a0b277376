"""Python's imports, by `ast`: nothing is executed, and where a name is ambiguous every match counts."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections import defaultdict

from repo_report.imports import Graph, Sources

__all__ = ["read"]

_DOTTED = re.compile(r"^\.{0,3}[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(?=$|:[\w.]+$)")
_SCRIPT = re.compile(
    r"(^|/)(__init__|__main__|setup|conftest|noxfile|tasks|fabfile|manage|wsgi|asgi|app|main|cli|conf|settings|sitecustomize"
    r"|hatch_build|dodo)\.pyw?$"
    r"|(^|/)(migrations|versions|examples?|docs?|scripts?|bin|tools|benchmarks?|bench|samples?|tutorials?|\.github"
    r"|\.ci|ci)/"
)
_STANDARD = sys.stdlib_module_names | {
    "distutils",
    "imp",
    "asyncore",
    "asynchat",
    "smtpd",
    "_typeshed",
    "lib2to3",
}
_LOADERS = frozenset(
    {"iter_modules", "walk_packages", "iter_entry_points", "spec_from_file_location", "find_modules"}
)


def read(sources: Sources) -> Graph:
    """The imports among `sources.texts`."""
    graph = Graph()
    index = _Index(set(sources.texts))
    for path, text in sources.texts.items():
        graph.names[path] = index.names_of(path)
        if _SCRIPT.search(path):
            graph.entry_points.add(path)
        tree = _parse(text)
        if tree is None:
            graph.unparsed.add(path)
        else:
            _Reader(path, index, graph).visit(tree)
    return graph


def _parse(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Index:
    """Which files a module name can mean.

    A file's name starts at the top package that holds it, or further up: `src/pkg/mod.py` is `pkg.mod` (what
    an import says) and `src.pkg.mod`, but never `mod`, or each `json.py` would pass for the standard one.
    """

    def __init__(self, paths: set[str]) -> None:
        self.paths = paths
        self._folders = {part for path in paths for part in path.split("/")[:-1]}
        self._by_name: dict[str, set[str]] = defaultdict(set)
        self._by_file: dict[str, set[str]] = defaultdict(set)
        for path in paths:
            self._by_file[path.rpartition("/")[2]].add(path)
            for name in self.names_of(path):
                self._by_name[name].add(path)

    def names_of(self, path: str) -> set[str]:
        parts = re.sub(r"(/__init__)?\.py[iw]?$", "", "/" + path).strip("/").split("/")
        if not parts[0]:
            return set()
        folders = path.split("/")[:-1]
        top = len(folders)
        while top and "/".join([*folders[:top], "__init__.py"]) in self.paths:
            top -= 1
        top = min(top, len(parts) - 1)
        return {".".join(parts[start:]) for start in range(top + 1)}

    def absolute(self, name: str) -> set[str]:
        """Files called `name`; else by its end, for packages that are installed under another name."""
        found = self._by_name.get(name)
        while found is None and name.count(".") > 1:
            name = name.partition(".")[2]
            found = self._by_name.get(name)
        return found or set()

    def below(self, folder: str, name: str) -> set[str]:
        """The files that `name` means inside `folder` ("" is the root)."""
        base = "/".join(part for part in (folder, *name.split(".")) if part)
        return {each for each in (f"{base}.py", f"{base}.pyi", f"{base}/__init__.py") if each in self.paths}

    def ending(self, name: str) -> set[str]:
        """The files whose path ends with the path `name`."""
        same_name = self._by_file.get(name.rpartition("/")[2], ())
        return {path for path in same_name if ("/" + path).endswith("/" + name)}

    def package(self, name: str) -> set[str]:
        """Every file of the package `name`."""
        return {
            path for called, paths in self._by_name.items() if called.startswith(name + ".") for path in paths
        }

    def is_own(self, name: str) -> bool:
        return name in self._by_name or name in self._folders


class _Reader(ast.NodeVisitor):
    def __init__(self, path: str, index: _Index, graph: Graph) -> None:
        self.path, self.index, self.graph = path, index, graph
        self.folder = path.rpartition("/")[0]
        self.in_function = self.in_try = self.for_types = 0
        self.words: set[str] = set()
        self.own_third_party: dict[str, bool] = {}

    def visit_Module(self, node: ast.Module) -> None:
        self.generic_visit(node)
        if self.path in self.graph.dynamic:  # a computed name: any sibling that is named here may be meant
            for word in self.words:
                self.graph.mentioned |= self.index.below(self.folder, word)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._absolute(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        names = [alias.name for alias in node.names]
        if not node.level:
            submodules = [found for name in names if (found := self.index.absolute(f"{module}.{name}"))]
            self._absolute(module, loads=len(submodules) < len(names))
            for found in submodules:
                self._add(found)
            return
        folder = self._up(node.level)
        submodules = [
            found for name in names if (found := self.index.below(folder, f"{module}.{name}".strip(".")))
        ]
        for found in submodules:
            self._add(found)
        self._add(self.index.below(folder, module), loads=len(submodules) < len(names))

    def visit_Constant(self, node: ast.Constant) -> None:
        if not isinstance(node.value, str) or not 1 < len(node.value) < 200:
            return
        text = node.value
        if text.endswith(".py"):
            name = text.replace("\\", "/").removeprefix("./")
            self.graph.mentioned |= self.index.ending(name)
        elif match := _DOTTED.match(text):
            self._mention(match[0])

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        if name in ("import_module", "__import__") and node.args:
            self._dynamic(node.args[0])
        elif name in _LOADERS:
            self.graph.dynamic.add(self.path)
            if name in ("iter_modules", "walk_packages", "find_modules"):
                self.graph.mentioned |= {
                    path for path in self.index.paths if path.startswith(self.folder + "/")
                }
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        names = {getattr(each, "id", None) or getattr(each, "attr", None) for each in ast.walk(node.test)}
        is_main = "__name__" in names and any(
            getattr(each, "value", 0) == "__main__" for each in ast.walk(node.test)
        )
        if is_main:
            self.graph.entry_points.add(self.path)
        for_types = "TYPE_CHECKING" in names
        self.for_types += for_types
        self.in_function += is_main  # does not run when the file is imported
        for statement in node.body:
            self.visit(statement)
        self.for_types -= for_types
        self.in_function -= is_main
        self.visit(node.test)
        for statement in node.orelse:
            self.visit(statement)

    def visit_Try(self, node: ast.Try) -> None:
        self.in_try += 1
        self.generic_visit(node)
        self.in_try -= 1

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: ast.AST) -> None:
        self.in_function += 1
        self.generic_visit(node)
        self.in_function -= 1

    def _absolute(self, name: str, *, loads: bool = True) -> None:
        top = name.partition(".")[0]
        found = self.index.absolute(name)
        parent = name
        while not found and "." in parent:
            parent = parent.rpartition(".")[0]
            found = self.index.absolute(parent)
        if not found and top not in _STANDARD:
            found = self.index.below(self.folder, name)  # beside a script
        if found:
            self._add(found, loads=loads)
        elif top not in _STANDARD and not self.index.is_own(top) and not self.for_types:
            self._third_party(top)

    def _third_party(self, name: str) -> None:
        seen_before = name in self.graph.third_party
        self.graph.third_party[name].add(self.path)
        if not (self.in_try or self.in_function):
            self.graph.optional.discard(name)
        elif not seen_before:
            self.graph.optional.add(name)

    def _add(self, found: set[str], *, loads: bool = True) -> None:
        self.graph.edges[self.path] |= found
        if loads and not self.in_function and not self.for_types:
            packages = {each for each in found if self.path.startswith(each.removesuffix("__init__.py"))}
            # Its own package is loaded anyway.
            self.graph.at_load[self.path] |= found - packages - {self.path}

    def _up(self, level: int) -> str:
        return (
            "/".join(self.folder.split("/")[: len(self.folder.split("/")) - level + 1]) if self.folder else ""
        )

    def _mention(self, name: str) -> None:
        self.words.add(name.lstrip("."))
        if name.startswith("."):
            self.graph.mentioned |= self.index.below(
                self._up(len(name) - len(name.lstrip("."))), name.lstrip(".")
            )
            return
        while "." in name:  # `package.module.Class` names the module too
            self.graph.mentioned |= self.index.absolute(name)
            name = name.rpartition(".")[0]

    def _dynamic(self, argument: ast.expr) -> None:
        if isinstance(argument, ast.Constant):
            if isinstance(argument.value, str):
                self.graph.mentioned |= self.index.absolute(argument.value)
            return
        self.graph.dynamic.add(self.path)
        if (
            isinstance(argument, ast.JoinedStr)
            and argument.values
            and isinstance(argument.values[0], ast.Constant)
        ):
            prefix = str(argument.values[0].value).rpartition(".")[0]
            if prefix:
                self.graph.mentioned |= self.index.package(prefix)
        if self.path.endswith("/__init__.py"):  # a package that loads its own parts by name
            self.graph.mentioned |= {each for each in self.index.paths if each.startswith(self.folder + "/")}
