"""Which tests belong to a source file, and the project's test command narrowed to them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from shlex import join, quote

from sage_actors.servers.corpus.sources import Sources, Symbol
from sage_actors.servers.implementation.checks import Check
from sage_actors.servers.specification.topic import split_name, stem
from sage_actors.servers.specification.words import WordIndex

__all__ = [
    "TestFile",
    "find_tests",
    "is_common",
    "is_tested",
    "narrowed",
    "new_test_path",
    "test_file_for",
    "tests_of_file",
]


_MENTIONS = "it mentions"
_TESTING = frozenset(map(stem, ("test", "tests", "src", "lib")))
_CORE_NAMES = frozenset({"base", "core"})  # of the file of a package that is tested under the package's name


@dataclass(frozen=True, slots=True)
class TestFile:
    """`path` tests the source. `reason`: how that is known. `line`: the first that shows it."""

    path: str
    line: int
    reason: str

    __test__ = False  # pytest: no test class


def find_tests(source: str, sources: Sources, words: WordIndex, symbol: Symbol | None) -> list[TestFile]:
    """The test files of `source`, the surest first: by their name, then by how often they mention the symbol."""
    found = [TestFile(path, 1, "by its name") for path in _by_name(source, sources)]
    if source.endswith(".rs"):
        found += _inside(source, sources)
    if symbol is not None:
        for path in _mentioning(symbol, sources, words)[:3]:
            line = words.first_line(symbol.short_name, path)
            if line is not None and all(test.path != path for test in found):
                found.append(TestFile(path, line, f"{_MENTIONS} `{symbol.short_name}`"))
    return found


def _mentioning(symbol: Symbol, sources: Sources, words: WordIndex) -> list[str]:
    """The test files that mention the symbol, most mentions first.

    A name that others have too (`main`, `remove`, `__enter__`) is a mention where its class, or its module, is named
    as well.
    """
    name = symbol.short_name
    owner = _owner(symbol) if is_common(name) else None
    if len(name) <= 3 or owner == "":
        return []
    return [
        path
        for path in words.files_with(name, "test")
        if _same_language(path, symbol.path) and _is_test(path, sources)
        if owner is None or _names(owner, path, sources, words)
    ]


def is_common(name: str) -> bool:
    """A single word in lower case, or one of the language's own names."""
    return (name.isalpha() and name.islower()) or (name.startswith("__") and name.endswith("__"))


def _owner(symbol: Symbol) -> str:
    """Its class, else its module; "" for a name of the language's own in a module, which says nothing."""
    owners = [part for part in symbol.name.split(".")[:-1] if part != "prototype"]
    if owners:
        return owners[-1]
    pure = PurePosixPath(symbol.path)
    module = pure.parent.name if pure.stem in ("__init__", "index", "mod", "lib") else pure.stem
    return "" if symbol.short_name.startswith("__") else module


def _names(owner: str, path: str, sources: Sources, words: WordIndex) -> bool:
    if owner.isidentifier():
        return words.has(owner, path)
    return re.search(rf"(?<![\w-]){re.escape(owner)}(?![\w-])", sources.text(path)) is not None


def _is_test(path: str, sources: Sources) -> bool:
    """Whether a file has tests, not what tests use: in Python by their names."""
    if "conftest" in path or "/fixtures/" in path:
        return False
    return not path.endswith(".py") or any(
        symbol.short_name.startswith("test") for symbol in sources.symbols_of(path)
    )


def tests_of_file(source: str, sources: Sources, words: WordIndex) -> list[str]:
    """The test files of a whole source file: by its name, else those that mention most of what it defines."""
    named = _by_name(source, sources)
    if named or (source.endswith(".rs") and _inside(source, sources)):
        return named or [source]
    counts: Counter[str] = Counter()
    for symbol in sources.symbols_of(source):
        counts.update(_mentioning(symbol, sources, words))
    return [path for path, _ in counts.most_common(2)]


def is_tested(source: str, sources: Sources, words: WordIndex) -> bool:
    """Whether any test file belongs to it, by its name or by what it mentions."""
    return bool(tests_of_file(source, sources, words))


def _by_name(source: str, sources: Sources) -> list[str]:
    pure = PurePosixPath(source)
    own, ending = pure.stem.lower(), pure.suffix
    folder = pure.parent.name.lower()
    own = folder if own in ("__init__", "index", "mod", "lib", "main") and folder else own
    names = {f"test_{own}", f"{own}_test", f"{own}.test", f"{own}.spec", f"test-{own}", f"{own}-test"}
    names |= {f"test_{folder}_{own}", f"test_{own.lstrip('_')}", f"test_{own.removesuffix('s')}"}
    if own in _CORE_NAMES and folder:
        names |= {f"test_{folder}", f"{folder}_test", f"{folder}.test", f"{folder}.spec"}
    plain = {own} if ending in (".js", ".ts", ".mjs", ".cjs", ".rs", ".jsx", ".tsx") else set()
    by_stem = sources.once(_by_stem)
    found = [path for name in sorted(names) for path in by_stem.get(name, ())]
    found += [path for name in plain for path in by_stem.get(name, ()) if path not in found]
    found = [path for path in found if _same_language(path, source) and _is_test(path, sources)]
    return sorted(found, key=lambda path: (-_shared(path, source), path))[:3]


def _by_stem(sources: Sources) -> dict[str, list[str]]:
    """The test files by their names without ending, in lower case."""
    found: dict[str, list[str]] = {}
    for path in sources.files("test"):
        found.setdefault(PurePosixPath(path).stem.lower(), []).append(path)
    return found


def _shared(path: str, source: str) -> int:
    """How many folders two paths have in common: the nearer test is the likelier one."""
    return len(set(path.split("/")[:-1]) & set(source.split("/")[:-1]))


def _same_language(path: str, source: str) -> bool:
    family = (".js", ".ts", ".mjs", ".cjs", ".jsx", ".tsx", ".mts", ".cts")
    a, b = PurePosixPath(path).suffix, PurePosixPath(source).suffix
    return a == b or (a in family and b in family)


def _inside(source: str, sources: Sources) -> list[TestFile]:
    lines = enumerate(sources.lines(source), 1)
    return [TestFile(source, n, "tests in the file") for n, line in lines if line.strip() == "#[cfg(test)]"][
        :1
    ]


def test_file_for(source: str, tests: Sequence[TestFile], sources: Sources) -> str:
    """Where a new test of `source` goes: the one of `tests` that is named after it or its folder, else a file of its
    own, else one that mentions it; "" where there is nothing to follow."""
    about = {stem(part) for part in split_name(source.rpartition(".")[0])} - _TESTING
    named = (
        test.path
        for test in tests
        if not test.reason.startswith(_MENTIONS)
        or about & {stem(part) for part in split_name(PurePosixPath(test.path).stem)}
    )
    return next(named, "") or new_test_path(source, sources) or next((test.path for test in tests), "")


test_file_for.__test__ = False  # type: ignore[attr-defined]  # pytest: no test


def new_test_path(source: str, sources: Sources) -> str:
    """Where a new test for `source` would stand, as the project's other tests do; "" where it has none to follow."""
    pure = PurePosixPath(source)
    if pure.suffix == ".go":
        return str(pure.with_name(f"{pure.stem}_test.go"))
    if pure.suffix == ".rs":
        return source
    tests = [path for path in sources.files("test") if _same_language(path, source)]
    tests = [path for path in tests if "conftest" not in path and "/fixtures/" not in path]
    if not tests:
        return ""
    beside = [path for path in tests if PurePosixPath(path).parent == pure.parent and pure.suffix != ".py"]
    folders = Counter(path.rpartition("/")[0] for path in tests)
    usual = [path for path in tests if path.rpartition("/")[0] == folders.most_common(1)[0][0]]
    model = PurePosixPath((beside or usual)[0])
    if pure.suffix == ".py":
        name = pure.parent.name if pure.stem == "__init__" else pure.stem
        return str(model.parent / f"test_{name.strip('_')}.py")
    for mark in (".test", ".spec"):
        if model.stem.endswith(mark):
            return str(model.parent / f"{pure.stem}{mark}{model.suffix}")
    return str(model.parent / f"{pure.stem}{model.suffix}")


def narrowed(check: Check | None, test: str, name: str = "") -> str:
    """The command that runs only the file `test`, quoted for a shell; the whole check where its tool takes no file.

    name: of the one test in it that is to run, qualified by its class; where the tool takes one.
    """
    if check is None:
        return ""
    whole = join(check.command)
    command = _of_file(check, whole, test.removeprefix(f"{check.folder}/") if check.folder else test)
    takes_name = command != whole or check.command[:2] == ["cargo", "test"]
    return check.said(_of_one(check, command, name) if name and takes_name else command)


def _of_one(check: Check, command: str, name: str) -> str:
    if "pytest" in check.command:
        return command + quote(f"::{name.replace('.', '::')}")
    if check.command[:2] == ["go", "test"]:
        short = name.rpartition(".")[2]
        return f"{command} -run {quote(f'^{short}$')}"
    if check.command[:2] == ["cargo", "test"]:
        return f"{command} {quote(name.rpartition('.')[2])}"
    return command


def _of_file(check: Check, whole: str, test: str) -> str:
    if "pytest" in check.command and test.endswith(".py"):
        return f"{whole} {quote(test)}"
    if "unittest" in check.command and test.endswith(".py"):
        return f"python -m unittest {quote(test.removesuffix('.py').replace('/', '.'))}"
    if check.command[:2] == ["go", "test"]:
        folder = test.rpartition("/")[0]
        return f"go test {quote(f'./{folder}')}" if folder else "go test ."
    if check.command[:2] == ["cargo", "test"] and test.startswith("tests/"):
        return f"cargo test --test {quote(PurePosixPath(test).stem)}"
    if check.command[0] in ("npm", "pnpm", "yarn"):
        return f"{whole} {'-- ' if check.command[0] == 'npm' else ''}{quote(test)}"
    return whole
