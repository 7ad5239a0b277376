"""What a project's layout and configuration say, whatever its language: folders, entry points, checks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from sage_actors.servers.corpus.repository import Repository
from sage_actors.servers.patterns.facts import FileFacts, summary_line
from sage_actors.servers.patterns.model import Example, Pattern
from sage_actors.servers.patterns.summary import Manifests, test_runner_of

__all__ = ["project_manifests", "project_patterns"]

_CONFIGURATION_BYTES = 256_000
_HOLDERS = frozenset({"src", "lib", "packages", "crates", "internal", "cmd", "pkg", "apps", "services"})
_SHOWN_FOLDERS = 8

_CHECKS: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (file, check, re.compile(pattern, re.M))
    for file, check, pattern in (
        ("pyproject.toml", "ruff", r"^\[tool\.ruff"),
        ("pyproject.toml", "black", r"^\[tool\.black"),
        ("pyproject.toml", "isort", r"^\[tool\.isort"),
        ("pyproject.toml", "mypy", r"^\[tool\.mypy"),
        ("pyproject.toml", "pyright", r"^\[tool\.pyright"),
        ("pyproject.toml", "pytest", r"^\[tool\.pytest"),
        ("pyproject.toml", "coverage", r"^\[tool\.coverage"),
        ("ruff.toml", "ruff", "."),
        (".ruff.toml", "ruff", "."),
        ("mypy.ini", "mypy", "."),
        ("setup.cfg", "flake8", r"^\[flake8"),
        ("setup.cfg", "mypy", r"^\[mypy"),
        ("setup.cfg", "pytest", r"^\[tool:pytest"),
        (".flake8", "flake8", "."),
        ("pytest.ini", "pytest", "."),
        ("tox.ini", "tox", "."),
        ("noxfile.py", "nox", "."),
        (".pre-commit-config.yaml", "pre-commit", "."),
        ("tsconfig.json", "strict TypeScript", r'"strict"\s*:\s*true'),
        ("package.json", "eslint", r'"eslint"\s*:'),
        ("package.json", "prettier", r'"prettier"\s*:'),
        ("package.json", "biome", r'"@biomejs/biome"\s*:'),
        ("package.json", "a test script", r'"test"\s*:'),
        ("package.json", "a lint script", r'"lint"\s*:'),
        ("eslint.config.js", "eslint", "."),
        ("eslint.config.mjs", "eslint", "."),
        (".eslintrc", "eslint", "."),
        (".eslintrc.js", "eslint", "."),
        (".eslintrc.json", "eslint", "."),
        (".eslintrc.yml", "eslint", "."),
        (".prettierrc", "prettier", "."),
        (".golangci.yml", "golangci-lint", "."),
        (".golangci.yaml", "golangci-lint", "."),
        ("rustfmt.toml", "rustfmt", "."),
        (".rustfmt.toml", "rustfmt", "."),
        ("clippy.toml", "clippy", "."),
        ("Cargo.toml", "lints of Cargo", r"^\[(workspace\.)?lints"),
        (".editorconfig", "editorconfig", "."),
        ("Makefile", "make test", r"^test\w*:"),
        ("Makefile", "make lint", r"^lint\w*:"),
    )
)
_ENTRIES: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (file, entry, re.compile(pattern, re.M))
    for file, entry, pattern in (
        ("pyproject.toml", "scripts of pyproject.toml", r"^\[(project|tool\.poetry)\.scripts\]"),
        ("setup.cfg", "entry points of setup.cfg", r"console_scripts"),
        ("setup.py", "entry points of setup.py", r"console_scripts"),
        ("package.json", "bin of package.json", r'^\s*"bin"\s*:'),
        ("package.json", "main of package.json", r'^\s*"main"\s*:'),
        ("package.json", "exports of package.json", r'^\s*"exports"\s*:'),
        ("Cargo.toml", "[[bin]] of Cargo.toml", r"^\[\[bin\]\]"),
        ("Cargo.toml", "workspace of Cargo.toml", r"^\[workspace\]"),
    )
)
_LINE_LENGTH = re.compile(
    r"^\s*(?:line-length|max-line-length|printWidth|\"printWidth\"|max_width)\s*[=:]\s*(\d+)", re.M
)
_LENGTH_FILES = (
    "pyproject.toml",
    "ruff.toml",
    "setup.cfg",
    ".flake8",
    ".prettierrc",
    "rustfmt.toml",
    ".rustfmt.toml",
)


class _Configuration:
    """The configuration files at the root, each read once."""

    def __init__(self, repository: Repository, below: str) -> None:
        self._repository = repository
        self._below = below
        self._texts: dict[str, str] = {}

    def text(self, name: str) -> str:
        if name not in self._texts:
            data = self._repository.read_bytes(self._below + name, _CONFIGURATION_BYTES)
            self._texts[name] = (data or b"").decode("utf-8", "replace")
        return self._texts[name]

    def find(self, name: str, pattern: re.Pattern[str]) -> Example | None:
        text = self.text(name)
        found = pattern.search(text)
        if found is None:
            return None
        line = text.count("\n", 0, found.start()) + 1
        return Example(file=self._below + name, line=line, text=summary_line(text.split("\n")[line - 1]))


def project_manifests(repository: Repository, below: str) -> Manifests:
    """What the manifests say that the sources are counted by. `below`: the folder, with its slash, or nothing."""
    modules = []
    for file in repository.files:
        if file.path.startswith(below) and PurePosixPath(file.path).name == "go.mod":
            data = repository.read_bytes(file.path, _CONFIGURATION_BYTES) or b""
            named = re.search(r"^module\s+(\S+)", data.decode("utf-8", "replace"), re.M)
            if named is not None:
                modules.append(named[1].strip('"'))
    runner = test_runner_of(_Configuration(repository, below).text("package.json"))
    return Manifests(test_runner=runner, go_modules=tuple(modules))


def project_patterns(
    repository: Repository, below: str, files: Sequence[FileFacts], *, read_share: float
) -> list[Pattern]:
    """Layout, checks and entry points."""
    configuration = _Configuration(repository, below)
    found = [
        _layout(below, files, read_share),
        _configured("tooling.checks", "Checks that are configured: {}.", _CHECKS, configuration),
        _line_length(configuration),
        _configured("architecture.entry_points", "The project is entered by {}.", _ENTRIES, configuration),
    ]
    return [each for each in found if each is not None]


def _layout(below: str, files: Sequence[FileFacts], read_share: float) -> Pattern | None:
    if not files:
        return None
    folders: dict[str, list[FileFacts]] = {}
    for file in files:
        folders.setdefault(_folder(file.path.removeprefix(below)), []).append(file)
    ranked = sorted(folders.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = ranked[:_SHOWN_FOLDERS]
    count = sum(len(each) for _, each in shown)
    more = f" and {len(ranked) - len(shown)} more folders" if len(ranked) > len(shown) else ""
    listed = ", ".join(f"{name} ({len(each)})" for name, each in shown)
    return _pattern(
        "architecture.layout",
        f"Sources lie in {listed}{more}.",
        {name: len(each) for name, each in shown},
        [_opening(each) for _, each in shown],
        count=count,
        total=len(files),
        confidence=read_share,
    )


def _folder(path: str) -> str:
    parts = PurePosixPath(path).parts[:-1]
    if not parts:
        return "the root"
    depth = 2 if parts[0] in _HOLDERS else 1
    return "/".join(parts[:depth]) + "/"


def _opening(files: Sequence[FileFacts]) -> Example:
    """The largest file of a folder that is no test, if there is one."""
    file = max(files, key=lambda each: (not each.is_test, each.line_count, each.path))
    return Example(file=file.path, line=file.opening.line, text=file.opening.text)


def _configured(
    name: str, sentence: str, table: Sequence[tuple[str, str, re.Pattern[str]]], configuration: _Configuration
) -> Pattern | None:
    found: dict[str, Example] = {}
    for file, label, pattern in table:
        if label not in found and (example := configuration.find(file, pattern)) is not None:
            found[label] = example
    if not found:
        return None
    listed = ", ".join(f"{label} ({example})" for label, example in found.items())
    return _pattern(name, sentence.format(listed), dict.fromkeys(found, 1), list(found.values()))


def _line_length(configuration: _Configuration) -> Pattern | None:
    for name in _LENGTH_FILES:
        found = _LINE_LENGTH.search(configuration.text(name))
        example = configuration.find(name, _LINE_LENGTH)
        if found is not None and example is not None:
            sentence = f"Lines have at most {found[1]} characters ({example})."
            return _pattern("tooling.line_length", sentence, {found[1]: 1}, [example])
    return None


def _pattern(
    name: str,
    statement: str,
    values: dict[str, int],
    citations: list[Example],
    *,
    count: int | None = None,
    total: int | None = None,
    confidence: float = 1.0,
) -> Pattern:
    count = len(values) if count is None else count
    total = count if total is None else total
    return Pattern(
        name=name,
        category="architecture" if name.startswith("architecture") else "tooling",
        language="project",
        statement=statement,
        count=count,
        total=total,
        percentage=round(100 * count / total, 1) if total else 0.0,
        confidence=round(confidence, 3),
        values=values,
        citations=citations,
        relevance=None,
    )
