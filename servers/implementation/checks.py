"""Which checks a project has, by what it declares itself: each command with the file and line that says so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_actors.servers.corpus.sources import Sources

__all__ = ["Check", "CheckKind", "best_check", "detect_checks"]

CheckKind = Literal["test", "lint", "types", "format"]


class Check(BaseModel):
    """One command of the project. `confirmed_by`: where its continuous integration runs the same tool."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="unique among the checks of the project")
    kind: CheckKind
    command: list[str] = Field(description="program and arguments; never a text for a shell")
    source: str = Field(description="file:line that declares it")
    confirmed_by: str | None = None

    @property
    def text(self) -> str:
        """The command as a person types it."""
        return " ".join(self.command)


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


def detect_checks(sources: Sources) -> list[Check]:
    """The project's checks: tests first, then linters, types and format; of each tool the first place."""
    found: dict[str, Check] = {}
    for check in _all(sources):
        found.setdefault(check.name, check)
    order = ("test", "lint", "types", "format")
    ordered = sorted(found.values(), key=lambda check: order.index(check.kind))
    confirmed = _ci_commands(sources)
    return [_confirm(check, confirmed) for check in ordered]


def best_check(checks: list[Check], kind: CheckKind) -> Check | None:
    """The check of that kind that is nearest to its tool: a wrapper such as make or tox only without another."""
    of_kind = [check for check in checks if check.kind == kind]
    direct = [check for check in of_kind if check.command[0] not in ("make", "tox", "nox")]
    return next(iter(direct or of_kind), None)


def _all(sources: Sources) -> Iterator[Check]:
    for detect in _DETECTORS:
        yield from detect(sources)


def _sections(sources: Sources) -> Iterator[Check]:
    for path in _SECTION_FILES:
        for number, line in enumerate(sources.lines(path), 1):
            for pattern, name, kind, command in _SECTIONS:
                if re.match(pattern, line.strip()):
                    yield _check(name, kind, command, path, number)


def _whole_files(sources: Sources) -> Iterator[Check]:
    for path, name, kind, command in _WHOLE_FILES:
        if sources.has(path):
            yield _check(name, kind, command, path, 1)
    for number, line in enumerate(sources.lines("tox.ini"), 1):
        if re.match(r"\[tox\]|env_?list\s*=", line):
            yield _check("tox", "test", ("tox",), "tox.ini", number)
            return


def _python_tests(sources: Sources) -> Iterator[Check]:
    """pytest where it is a dependency; unittest where test files import it and nothing says pytest."""
    for path in sorted(
        p
        for p in sources.classes
        if re.search(r"(requirements[^/]*\.txt|setup\.(py|cfg)|pyproject\.toml)$", p)
    ):
        for number, line in enumerate(sources.lines(path), 1):
            if _TEST_DEPENDENCY.match(line) or re.search(r"""["']pytest\b""", line):
                yield _check("pytest", "test", (*_PYTHON, "pytest", "-q"), path, number)
                return
    for path in sources.files("test"):
        if not path.endswith(".py"):
            continue
        for number, line in enumerate(sources.lines(path), 1):
            if "pytest" in line and re.match(r"\s*import pytest\b|\s*from pytest\b", line):
                yield _check("pytest", "test", (*_PYTHON, "pytest", "-q"), path, number)
                return
    yield from _unittest(sources)


def _unittest(sources: Sources) -> Iterator[Check]:
    for path in sources.files("test"):
        for number, line in enumerate(sources.lines(path) if path.endswith(".py") else (), 1):
            if "unittest" in line and re.match(r"\s*(import|from) unittest\b", line):
                yield _check("unittest", "test", (*_PYTHON, "unittest", "discover"), path, number)
                return


def _make(sources: Sources) -> Iterator[Check]:
    path = next((name for name in ("Makefile", "makefile", "GNUmakefile") if sources.has(name)), "Makefile")
    for number, line in enumerate(sources.lines(path), 1):
        match = re.match(r"([\w.-]+)\s*:(?!=)", line)
        if match and (kind := _target_kind(match[1])):
            yield _check(f"make {match[1]}", kind, ("make", match[1]), path, number)


def _npm(sources: Sources) -> Iterator[Check]:
    lines = sources.lines("package.json")
    scripts = _json_object("\n".join(lines)).get("scripts")
    if not isinstance(scripts, dict):
        return
    manager = _package_manager(sources)
    for name, script in scripts.items():
        kind = _target_kind(name)
        if kind and isinstance(script, str) and _PLACEHOLDER not in script:
            command = (manager, "test") if name == "test" else (manager, "run", name)
            yield _check(
                f"{manager} {' '.join(command[1:])}", kind, command, "package.json", _key_line(lines, name)
            )


def _package_manager(sources: Sources) -> str:
    locks = {"pnpm-lock.yaml": "pnpm", "yarn.lock": "yarn", "bun.lockb": "bun", "bun.lock": "bun"}
    return next((manager for lock, manager in locks.items() if sources.has(lock)), "npm")


def _go(sources: Sources) -> Iterator[Check]:
    for number, line in enumerate(sources.lines("go.mod"), 1):
        if line.startswith("module "):
            yield _check("go test", "test", ("go", "test", "./..."), "go.mod", number)
            yield _check("go vet", "lint", ("go", "vet", "./..."), "go.mod", number)
            return


def _cargo(sources: Sources) -> Iterator[Check]:
    for number, line in enumerate(sources.lines("Cargo.toml"), 1):
        if line.strip() in ("[package]", "[workspace]"):
            yield _check("cargo test", "test", ("cargo", "test"), "Cargo.toml", number)
            yield _check("cargo check", "types", ("cargo", "check"), "Cargo.toml", number)
            return


def _scripts(sources: Sources) -> Iterator[Check]:
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
        first = sources.lines(path)[:1]
        if first and first[0].startswith("#!"):
            yield _check(f"./{path}", "test", (f"./{path}",), path, 1)


_DETECTORS: tuple[Callable[[Sources], Iterator[Check]], ...] = (
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
