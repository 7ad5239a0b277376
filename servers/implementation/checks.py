"""Which checks a project has, by what it declares itself: each command with the file and line that says so.

The parts of a monorepo have checks of their own, each run in its folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from shlex import join, quote
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_actors.servers.corpus.parts import part_of, parts
from sage_actors.servers.corpus.sources import Sources

__all__ = ["Check", "CheckKind", "best_check", "best_of_each_part", "detect_checks"]

CheckKind = Literal["test", "lint", "types", "format"]


class Check(BaseModel):
    """One command of the project. `confirmed_by`: where its continuous integration runs the same tool."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="unique among the checks of the project")
    kind: CheckKind
    command: list[str] = Field(description="program and arguments; never a text for a shell")
    source: str = Field(description="file:line that declares it")
    confirmed_by: str | None = None
    folder: str = Field(
        default="", description="where it runs, below the project; empty: the project's own folder"
    )

    @property
    def text(self) -> str:
        """The command as a person types it in the project's folder."""
        return self.said(join(self.command))

    def said(self, command: str) -> str:
        """`command`, in the folder of this check."""
        return f"(cd {quote(self.folder)} && {command})" if self.folder else command


_CI = re.compile(r"(\.github/workflows/[^/]+|\.gitlab-ci|\.circleci/config|azure-pipelines)\.ya?ml")
_PYTHON = ("python", "-m")
_SECTIONS: tuple[tuple[str, str, CheckKind, tuple[str, ...]], ...] = (
    (
        r"\[tool\.pytest(\.ini_options)?\]|\[tool:pytest\]|\[pytest\]",
        "pytest",
        "test",
        (*_PYTHON, "pytest", "-q"),
    ),
    (r"\[tool\.ruff[\].]", "ruff", "lint", ("ruff", "check", ".")),
    (r"\[flake8\]", "flake8", "lint", (*_PYTHON, "flake8")),
    (r"\[tool\.mypy\]|\[mypy\]", "mypy", "types", (*_PYTHON, "mypy")),
    (r"\[tool\.pyright\]", "pyright", "types", ("pyright",)),
    (r"\[tool\.black\]", "black", "format", (*_PYTHON, "black", "--check", ".")),
)
_SECTION_FILES = ("pyproject.toml", "pytest.ini", "setup.cfg", "tox.ini", "mypy.ini", ".flake8")
_WHOLE_FILES: tuple[tuple[str, str, CheckKind, tuple[str, ...]], ...] = (
    ("ruff.toml", "ruff", "lint", ("ruff", "check", ".")),
    (".ruff.toml", "ruff", "lint", ("ruff", "check", ".")),
    (".golangci.yml", "golangci-lint", "lint", ("golangci-lint", "run")),
    (".golangci.yaml", "golangci-lint", "lint", ("golangci-lint", "run")),
    ("rustfmt.toml", "cargo fmt", "format", ("cargo", "fmt", "--check")),
    ("noxfile.py", "nox", "test", ("nox",)),
)
_TARGET_KINDS: tuple[tuple[str, CheckKind], ...] = (
    (r"tests?|check|unit(-?tests?)?|test[-:]unit", "test"),
    (r"lint(ing)?|lint:check|eslint|vet", "lint"),
    (r"types?|type-?check|mypy|tsc|typecheck|check-types|test:typescript", "types"),
    (r"fmt-?check|format[-:]check|prettier:check|check-format", "format"),
)
_PLACEHOLDER = "no test specified"  # what `npm init` writes
_TEST_DEPENDENCY = re.compile(r"""^\s*["']?pytest\b""")
_WRAPPERS = ("make", "tox", "nox")
_MANAGERS = ("npm", "pnpm", "yarn", "bun")
_TOOLS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((".py", ".pyi"), ("python", "ruff", "pyright")),
    **dict.fromkeys((".js", ".ts", ".mjs", ".cjs", ".jsx", ".tsx", ".mts", ".cts", ".vue"), _MANAGERS),
    ".go": ("go", "golangci-lint"),
    ".rs": ("cargo",),
}
_WORKSPACES = ("pnpm-workspace.yaml", "lerna.json")


@dataclass(frozen=True, slots=True)
class _Part:
    """A folder of the project, looked at by itself, without the parts inside it. folder: "", or with `/` behind it."""

    sources: Sources
    folder: str
    others: tuple[str, ...]

    def lines(self, path: str) -> list[str]:
        return self.sources.lines(self.folder + path)

    def has(self, path: str) -> bool:
        return self.sources.has(self.folder + path)

    @property
    def paths(self) -> list[str]:
        return self._own(sorted(self.sources.classes))

    def files(self, *kinds: str) -> list[str]:
        return self._own(self.sources.files(*kinds))

    def _own(self, paths: list[str]) -> list[str]:
        own = (path for path in paths if part_of(path, self.others) == self.folder)
        return [path.removeprefix(self.folder) for path in own]


def detect_checks(sources: Sources) -> list[Check]:
    """The project's checks: tests first, then linters, types and format; of each tool the first place.

    Those of its parts stand behind its own, where its own do not run them, too.
    """
    folders = tuple(parts(file.path for file in sources.repository.files))
    main = _Part(sources, "", folders)
    found: dict[str, Check] = {}
    for check in _all(main):
        found.setdefault(check.name, check)
    for folder in folders:
        for check in _all(_Part(sources, folder, folders)):
            if not _covers(main, found, check):
                inside = _moved(check, folder)
                found.setdefault(inside.name, inside)
    order = ("test", "lint", "types", "format")
    ordered = sorted(found.values(), key=lambda check: order.index(check.kind))
    confirmed = _ci_commands(sources)
    return [_confirm(check, confirmed) for check in ordered]


def best_check(checks: list[Check], kind: CheckKind, path: str = "") -> Check | None:
    """The check of that kind that is nearest to its tool: a wrapper such as make or tox only without another.

    path: the file that it is to check; of the innermost part around it, and of its language if there is one. Without a
    path the main folder's, else the first.
    """
    of_kind = [check for check in checks if check.kind == kind]
    folders = {f"{check.folder}/" for check in of_kind if check.folder}
    where = part_of(path, folders).rstrip("/")
    near = [check for check in of_kind if check.folder == where] or ([] if path else of_kind)
    speaking = [check for check in near if check.command[0] in _TOOLS.get(PurePosixPath(path).suffix, ())]
    direct = [check for check in near if check.command[0] not in _WRAPPERS]
    return next(iter(speaking or direct or near), None)


def best_of_each_part(checks: list[Check], kind: CheckKind) -> list[Check]:
    """The check of that kind that `best_check` chooses in each folder."""
    folders = dict.fromkeys(check.folder for check in checks)
    best = [best_check([c for c in checks if c.folder == folder], kind) for folder in folders]
    return [check for check in best if check is not None]


def _covers(main: _Part, found: dict[str, Check], check: Check) -> bool:
    """Whether a check of the main folder runs a part's, too: `go test ./...` ends where another module begins, and a
    package manager runs what its workspaces have."""
    known = found.get(check.name)
    if known is None or known.command != check.command or check.command[0] == "go":
        return False
    if check.command[0] == "cargo":
        return any(line.strip() == "[workspace]" for line in main.lines("Cargo.toml"))
    if check.command[0] in _MANAGERS:
        return "workspaces" in _package(main) or any(main.has(name) for name in _WORKSPACES)
    return True


def _moved(check: Check, folder: str) -> Check:
    inside = folder.rstrip("/")
    named = {"name": f"{check.name} in {inside}", "source": folder + check.source, "folder": inside}
    return check.model_copy(update=named)


def _all(files: _Part) -> Iterator[Check]:
    for detect in _DETECTORS:
        yield from detect(files)


def _sections(files: _Part) -> Iterator[Check]:
    for path in _SECTION_FILES:
        for number, line in enumerate(files.lines(path), 1):
            for pattern, name, kind, command in _SECTIONS:
                if re.match(pattern, line.strip()):
                    yield _check(name, kind, command, path, number)


def _whole_files(files: _Part) -> Iterator[Check]:
    for path, name, kind, command in _WHOLE_FILES:
        if files.has(path):
            yield _check(name, kind, command, path, 1)
    for number, line in enumerate(files.lines("tox.ini"), 1):
        if re.match(r"\[tox\]|env_?list\s*=", line):
            yield _check("tox", "test", ("tox",), "tox.ini", number)
            return


def _python_tests(files: _Part) -> Iterator[Check]:
    """pytest where it is a dependency or test files import it; else unittest where they import that."""
    for path in sorted(
        p for p in files.paths if re.search(r"(requirements[^/]*\.txt|setup\.(py|cfg)|pyproject\.toml)$", p)
    ):
        for number, line in enumerate(files.lines(path), 1):
            if _TEST_DEPENDENCY.match(line) or re.search(r"""["']pytest\b""", line):
                yield _check("pytest", "test", (*_PYTHON, "pytest", "-q"), path, number)
                return
    tests = [path for path in files.files("test") if path.endswith(".py")]
    if found := _first_line(files, tests, "pytest", r"\s*(import|from) pytest\b"):
        yield _check("pytest", "test", (*_PYTHON, "pytest", "-q"), *found)
    elif found := _first_line(files, tests, "unittest", r"\s*(import|from) unittest\b"):
        yield _check("unittest", "test", (*_PYTHON, "unittest", "discover", *_discovered(tests)), *found)
    elif found := _first_line(files, tests, "def test_", r"(async )?def test_\w*\("):
        # Of the two only pytest collects functions.
        yield _check("pytest", "test", (*_PYTHON, "pytest", "-q"), *found)


def _discovered(tests: list[str]) -> tuple[str, ...]:
    """What unittest has to be told, where the tests have no names that it finds by itself."""
    names = [path.rpartition("/")[2] for path in tests]
    ours = sum(name.endswith("_test.py") for name in names)
    return ("-p", "*_test.py") if ours > sum(name.startswith("test") for name in names) else ()


def _first_line(files: _Part, paths: list[str], word: str, pattern: str) -> tuple[str, int] | None:
    """The first line of these files that has `word` and begins so."""
    begins = re.compile(pattern)
    lines = ((path, number, line) for path in paths for number, line in enumerate(files.lines(path), 1))
    return next(((path, number) for path, number, line in lines if word in line and begins.match(line)), None)


def _make(files: _Part) -> Iterator[Check]:
    path = next((name for name in ("Makefile", "makefile", "GNUmakefile") if files.has(name)), "Makefile")
    for number, line in enumerate(files.lines(path), 1):
        match = re.match(r"([\w.-]+)\s*:(?!=)", line)
        if match and (kind := _target_kind(match[1])):
            yield _check(f"make {match[1]}", kind, ("make", match[1]), path, number)


def _npm(files: _Part) -> Iterator[Check]:
    lines = files.lines("package.json")
    scripts = _package(files).get("scripts")
    if not isinstance(scripts, dict):
        return
    manager = _package_manager(files)
    for name, script in scripts.items():
        kind = _target_kind(name)
        if kind and isinstance(script, str) and _PLACEHOLDER not in script:
            command = (manager, "test") if name == "test" else (manager, "run", name)
            yield _check(
                f"{manager} {' '.join(command[1:])}", kind, command, "package.json", _key_line(lines, name)
            )


def _package(files: _Part) -> dict[str, object]:
    return _json_object("\n".join(files.lines("package.json")))


def _package_manager(files: _Part) -> str:
    locks = {"pnpm-lock.yaml": "pnpm", "yarn.lock": "yarn", "bun.lockb": "bun", "bun.lock": "bun"}
    here = (manager for lock, manager in locks.items() if files.has(lock))
    above = (manager for lock, manager in locks.items() if files.sources.has(lock))
    return next(here, None) or next(above, "npm")


def _go(files: _Part) -> Iterator[Check]:
    for number, line in enumerate(files.lines("go.mod"), 1):
        if line.startswith("module "):
            yield _check("go test", "test", ("go", "test", "./..."), "go.mod", number)
            yield _check("go vet", "lint", ("go", "vet", "./..."), "go.mod", number)
            return


def _cargo(files: _Part) -> Iterator[Check]:
    for number, line in enumerate(files.lines("Cargo.toml"), 1):
        if line.strip() in ("[package]", "[workspace]"):
            yield _check("cargo test", "test", ("cargo", "test"), "Cargo.toml", number)
            yield _check("cargo check", "types", ("cargo", "check"), "Cargo.toml", number)
            return


def _scripts(files: _Part) -> Iterator[Check]:
    """A script in the root or in scripts/ that is named as a check."""
    for path in (
        "check",
        "test",
        "script/test",
        "scripts/test",
        "scripts/test.sh",
        "run_tests.sh",
        "scripts/check",
    ):
        first = files.lines(path)[:1]
        if first and first[0].startswith("#!"):
            yield _check(f"./{path}", "test", (f"./{path}",), path, 1)


_DETECTORS: tuple[Callable[[_Part], Iterator[Check]], ...] = (
    *(_sections, _python_tests, _npm, _go, _cargo, _make, _whole_files, _scripts),
)


def _check(name: str, kind: CheckKind, command: tuple[str, ...], path: str, line: int) -> Check:
    return Check(name=name, kind=kind, command=list(command), source=f"{path}:{line}")


def _target_kind(name: str) -> CheckKind | None:
    return next((kind for pattern, kind in _TARGET_KINDS if re.fullmatch(pattern, name)), None)


def _key_line(lines: list[str], key: str) -> int:
    """The line of a script in package.json: the first one with its key after "scripts"."""
    start = next((n for n, line in enumerate(lines) if '"scripts"' in line), 0)
    for number in range(start, len(lines)):
        if re.search(rf'"{re.escape(key)}"\s*:', lines[number]):
            return number + 1
    return start + 1


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _ci_commands(sources: Sources) -> list[tuple[str, str]]:
    """Each line of a workflow that may run something, with its place."""
    found = []
    for path in sorted(path for path in sources.classes if _CI.fullmatch(path)):
        for number, line in enumerate(sources.lines(path), 1):
            if not line.lstrip().startswith(("#", "- uses:", "uses:", "name:", "- name:")):
                found.append((line, f"{path}:{number}"))
    return found


def _confirm(check: Check, commands: list[tuple[str, str]]) -> Check:
    words = [word for word in check.command if word not in (*_PYTHON, "-q", ".", "./...")]
    pattern = re.compile(r"(?<![\w./-])" + r"\s+(?:\S+\s+)?".join(map(re.escape, words)) + r"(?![\w-])")
    place = next((place for line, place in commands if pattern.search(line)), None)
    return check if place is None else check.model_copy(update={"confirmed_by": place})
