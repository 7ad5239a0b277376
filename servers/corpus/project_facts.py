"""What a project says about itself: name, version, purpose, licence, versions it supports, what it needs.

Every fact is a text with the file and line that says so; what no file says is absent.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sage_actors.servers.corpus.parts import MANIFESTS
from sage_actors.servers.corpus.sources import Sources

__all__ = ["Dependency", "Fact", "ProjectFacts", "collect_facts", "of_part"]


@dataclass(frozen=True, slots=True)
class Fact:
    """`text` stands in file `path` at `line`."""

    text: str
    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Dependency:
    """A package that the project declares; `requirement` as written there."""

    name: str
    requirement: str
    source: str
    line: int


@dataclass(slots=True)
class ProjectFacts:
    """None, or an empty list: the project does not say. `languages`: language -> (files, lines), code only.

    part: the name of the part of the project whose manifest this is, where it is no manifest of the whole.
    """

    name: Fact | None = None
    part: Fact | None = None
    version: Fact | None = None
    purpose: Fact | None = None
    licence: Fact | None = None
    runtime: Fact | None = None
    manifest: str | None = None
    dependencies: list[Dependency] = field(default_factory=list)
    changelog: Fact | None = None
    contributing: Fact | None = None
    languages: dict[str, tuple[int, int]] = field(default_factory=dict)


def collect_facts(sources: Sources) -> ProjectFacts:
    """The facts of the project that `sources` reads. Files that are broken or lie are read as far as they go."""
    facts = ProjectFacts()
    _read_manifests(sources, facts, "")
    if facts.manifest is None and (folder := _main_folder(sources)):
        _read_manifests(sources, facts, folder)
    _dunder_names(sources, facts)
    facts.purpose = facts.purpose or _readme_purpose(sources)
    facts.licence = facts.licence or _licence_file(sources)
    facts.changelog = _changelog(sources)
    facts.contributing = _contributing(sources)
    facts.languages = _languages(sources)
    return facts


def of_part(sources: Sources, whole: ProjectFacts, folder: str) -> ProjectFacts:
    """`whole` with what the manifest of its part in `folder` says instead; the same where that says nothing."""
    own = ProjectFacts()
    _read_manifests(sources, own, folder)
    if own.manifest is None or own.manifest == whole.manifest:
        return whole
    return replace(
        whole,
        part=own.name,
        manifest=own.manifest,
        dependencies=own.dependencies,
        version=own.version or whole.version,
        purpose=own.purpose or whole.purpose,
        licence=own.licence or whole.licence,
        runtime=own.runtime or whole.runtime,
    )


def _read_manifests(sources: Sources, facts: ProjectFacts, folder: str) -> None:
    """folder: "", or a folder with `/` behind it."""
    for read in (_pyproject, _setup_cfg, _setup_py, _package_json, _cargo, _go_mod):
        read(sources, facts, folder)


def _main_folder(sources: Sources) -> str:
    """The folder that has a manifest and most of the code, such as `v7/`; "" where there is none."""
    code = sources.files("code")
    folders = {path.split("/")[0] + "/" for path in code if "/" in path}
    return next((f for f in sorted(folders) if _is_project(sources, f) and _share(code, f) > 0.5), "")


def _is_project(sources: Sources, folder: str) -> bool:
    return any(sources.has(folder + name) for name in MANIFESTS)


def _share(paths: list[str], folder: str) -> float:
    return sum(path.startswith(folder) for path in paths) / max(1, len(paths))


def _find(sources: Sources, path: str, pattern: str) -> int | None:
    expression = re.compile(pattern)
    return next((n for n, line in enumerate(sources.lines(path), 1) if expression.search(line)), None)


def _fact(sources: Sources, path: str, pattern: str, text: object) -> Fact | None:
    """The fact, if it is a text and a line matches; what spans lines or is computed has no place and is left out."""
    line = _find(sources, path, pattern)
    if not isinstance(text, str) or not text.strip() or line is None:
        return None
    return Fact(" ".join(text.split()), path, line)


def _toml(sources: Sources, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(sources.text(path))
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}


def _table(data: object, *keys: str) -> dict[str, Any]:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}


def _pyproject(sources: Sources, facts: ProjectFacts, folder: str) -> None:
    path = folder + "pyproject.toml"
    data = _toml(sources, path)
    project = _table(data, "project") or _table(data, "tool", "poetry")
    if not project:
        return
    facts.manifest = path
    facts.name = _fact(sources, path, r"^\s*name\s*=", project.get("name"))
    facts.version = _fact(sources, path, r"^\s*version\s*=", project.get("version"))
    facts.purpose = _fact(sources, path, r"^\s*description\s*=", project.get("description"))
    licence = project.get("license")
    licence = licence.get("text") if isinstance(licence, dict) else licence
    facts.licence = _fact(sources, path, r"^\s*license\s*=", licence)
    requires = project.get("requires-python")
    facts.runtime = _fact(
        sources, path, r"^\s*requires-python\s*=", f"Python {requires}" if requires else None
    )
    listed = project.get("dependencies")
    names = listed if isinstance(listed, list) else []
    for requirement in [*names, *(listed if isinstance(listed, dict) else {})]:
        if isinstance(requirement, str):
            _add_dependency(
                sources,
                facts,
                path,
                requirement,
                rf"[\"']?{re.escape(requirement)}\b|{re.escape(requirement)}",
            )


def _add_dependency(sources: Sources, facts: ProjectFacts, path: str, requirement: str, pattern: str) -> None:
    name = re.match(r"[@\w./-]+", requirement)
    line = _find(sources, path, pattern)
    if name and line is not None:
        facts.dependencies.append(Dependency(name[0], requirement, path, line))


def _setup_cfg(sources: Sources, facts: ProjectFacts, folder: str) -> None:
    path = folder + "setup.cfg"
    section = ""
    for number, line in enumerate(sources.lines(path), 1):
        section = line.strip() if line.startswith("[") else section
        key, separator, value = (part.strip() for part in line.partition("="))
        if (
            not separator
            or section not in ("[metadata]", "[options]")
            or value.startswith(("file:", "attr:"))
        ):
            continue
        attribute = {
            "name": "name",
            "version": "version",
            "description": "purpose",
            "license": "licence",
        }.get(key)
        if attribute and value and getattr(facts, attribute) is None:
            setattr(facts, attribute, Fact(value, path, number))
            facts.manifest = facts.manifest or path
        if key == "python_requires" and facts.runtime is None:
            facts.runtime = Fact(f"Python {value}", path, number)


def _setup_py(sources: Sources, facts: ProjectFacts, folder: str) -> None:
    """Keywords of `setup(...)` that are literals, or names of literals; what is computed there is not run."""
    path = folder + "setup.py"
    keys = {"name": "name", "version": "version", "description": "purpose", "license": "licence"}
    for key, value in _setup_keywords(sources.text(path)):
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value.strip():
            fact = Fact(" ".join(value.value.split()), path, value.lineno)
            attribute = keys.get(key)
            if attribute and getattr(facts, attribute) is None:
                setattr(facts, attribute, fact)
                facts.manifest = facts.manifest or path
            elif key == "python_requires" and facts.runtime is None:
                facts.runtime = replace(fact, text=f"Python {fact.text}")
        elif key in ("install_requires", "requires") and isinstance(value, ast.List | ast.Tuple):
            facts.manifest = facts.manifest or path
            facts.dependencies += _requirements(value.elts, path)


def _setup_keywords(text: str) -> list[tuple[str, ast.expr]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in somebody else's code
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    named = {
        each.targets[0].id: each.value
        for each in tree.body
        if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name)
    }
    return [
        (
            keyword.arg,
            named.get(keyword.value.id, keyword.value)
            if isinstance(keyword.value, ast.Name)
            else keyword.value,
        )
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and _called(call.func) == "setup"
        for keyword in call.keywords
        if keyword.arg is not None
    ]


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _requirements(listed: Iterable[ast.expr], path: str) -> Iterator[Dependency]:
    for each in listed:
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            name = re.match(r"[A-Za-z][\w.-]*", each.value.strip())
            if name:
                yield Dependency(name[0], each.value.strip(), path, each.lineno)


def _package_json(sources: Sources, facts: ProjectFacts, folder: str) -> None:
    path = folder + "package.json"
    try:
        data = json.loads(sources.text(path) or "{}")
    except (ValueError, RecursionError):
        return
    if not isinstance(data, dict) or not data or facts.manifest:
        return
    facts.manifest = path
    facts.name = _fact(sources, path, r'^\s*"name"\s*:', data.get("name"))
    facts.version = _fact(sources, path, r'^\s*"version"\s*:', data.get("version"))
    facts.purpose = _fact(sources, path, r'^\s*"description"\s*:', data.get("description"))
    facts.licence = _fact(sources, path, r'^\s*"license"\s*:', data.get("license"))
    node = _table(data, "engines").get("node")
    facts.runtime = _fact(sources, path, r'"node"\s*:', f"Node {node}" if node else None)
    start = _find(sources, path, r'^\s*"dependencies"\s*:') or 0
    for name, version in _table(data, "dependencies").items():
        places = (n for n, line in enumerate(sources.lines(path), 1) if n >= start and f'"{name}"' in line)
        if (line := next(places, None)) is not None:
            facts.dependencies.append(Dependency(name, f"{name} {version}", path, line))


def _cargo(sources: Sources, facts: ProjectFacts, folder: str) -> None:
    path = folder + "Cargo.toml"
    data = _toml(sources, path)
    package = _table(data, "package") or _table(data, "workspace", "package")
    if not data or facts.manifest:
        return
    facts.manifest = path
    facts.name = _fact(sources, path, r"^\s*name\s*=", package.get("name"))
    facts.version = _fact(sources, path, r"^\s*version\s*=", package.get("version"))
    facts.purpose = _fact(sources, path, r"^\s*description\s*=", package.get("description"))
    facts.licence = _fact(sources, path, r"^\s*license\s*=", package.get("license"))
    for key in ("rust-version", "edition"):
        value = package.get(key)
        facts.runtime = facts.runtime or _fact(
            sources,
            path,
            rf"^\s*{key}\s*=",
            f"Rust {key.removeprefix('rust-')} {value}" if isinstance(value, str) else None,
        )
    for name in _table(data, "dependencies"):
        _add_dependency(sources, facts, path, name, rf"^\s*(\[dependencies\.)?{re.escape(name)}\b")


def _go_mod(sources: Sources, facts: ProjectFacts, folder: str) -> None:
    path = folder + "go.mod"
    if facts.manifest or not sources.lines(path):
        return
    facts.manifest = path
    for number, line in enumerate(sources.lines(path), 1):
        if match := re.match(r"module\s+(\S+)", line):
            facts.name = Fact(match[1], path, number)
        elif match := re.match(r"go\s+([\d.]+)", line):
            facts.runtime = Fact(f"Go {match[1]}", path, number)
        elif (
            match := re.match(r"\s*(?:require\s+)?([\w.-]+\.\w+/\S+)\s+(v\S+)", line)
        ) and "// indirect" not in line:
            facts.dependencies.append(Dependency(match[1], f"{match[1]} {match[2]}", path, number))


def _dunder_names(sources: Sources, facts: ProjectFacts) -> None:
    """`__title__` and `__version__` of a Python package, where its manifest computes the name or the version.

    Not of a project inside of this one, and without a manifest only of what lies at the top or in src/.
    """
    if facts.manifest is not None and not facts.manifest.endswith(
        ("pyproject.toml", "setup.cfg", "setup.py")
    ):
        return
    names = {"__title__": "name", "__version__": "version", "__license__": "licence"}
    for path in sources.files("code"):
        if (
            not path.endswith(("__init__.py", "version.py", "about__.py", "_version__.py"))
            or path.count("/") > (2 if facts.manifest else 1 + path.startswith("src/"))
            or _is_of_another(sources, path, facts.manifest)
        ):
            continue
        for number, line in enumerate(sources.lines(path), 1):
            match = re.match(r"""(__\w+__)\s*(?::[^=]+)?=\s*["']([^"']+)["']""", line)
            if match and (attribute := names.get(match[1])) and getattr(facts, attribute) is None:
                setattr(facts, attribute, Fact(match[2], path, number))


def _is_of_another(sources: Sources, path: str, manifest: str | None) -> bool:
    """Whether a folder around it has a manifest of its own."""
    parts = path.split("/")[:-1]
    around = ("/".join(parts[:depth]) + "/" for depth in range(1, len(parts) + 1))
    own = (manifest or "").rpartition("/")[0] + "/"
    return any(folder != own and _is_project(sources, folder) for folder in around)


_BADGE = re.compile(
    r"!\[|^\s*\[!\[|^\s*<(?!https?:)|^\s*\.\. |^\s*:\w+:|^\s*\|.*\||^\s*\[[^\]]+\]:|^---|^\s*\[.*\]\(.*\)\s*$|^>?\s*\[!"
)
_MARKUP = re.compile(r"^\s*([#=\-~*_^`+]+\s*$|#{1,6}\s|[-*]\s*\[|```)")


def _readme_purpose(sources: Sources) -> Fact | None:
    """The first sentence or two of prose in the README, without headings, badges and HTML."""
    path = next(
        (
            p
            for p in sorted(sources.classes)
            if re.fullmatch(r"readme(\.(md|rst|txt|markdown))?", p, re.IGNORECASE)
        ),
        None,
    )
    lines = sources.lines(path) if path else []
    for number, line in enumerate(lines[:120], 1):
        following = lines[number] if number < len(lines) else ""
        if not _is_prose(line) or re.match(r"[=\-~*^#]{3,}\s*$", following):
            continue
        paragraph = [line]
        for more in lines[number : number + 5]:
            if not _is_prose(more):
                break
            paragraph.append(more)
        assert path is not None
        return Fact(_first_sentences(" ".join(part.strip() for part in paragraph)), path, number)
    return None


def _is_prose(line: str) -> bool:
    plain = re.sub(r"[*_`]", "", line).strip()
    return (
        len(plain.split()) >= 4
        and not _BADGE.search(line)
        and not _MARKUP.match(line)
        and not line.startswith("    ")
    )


def _first_sentences(text: str, limit: int = 240) -> str:
    text = re.sub(r"`([^`<]+?)\s*(?:<[^<>`]+>)?`__?", r"\1", text)  # links of reStructuredText
    text = re.sub(
        r"\[([^\]]+)\](\([^)]*\)|\[[^\]]*\])", r"\1", re.sub(r"[*_]{1,3}(\S[^*_]*?)[*_]{1,3}", r"\1", text)
    ).strip()
    if len(text) <= limit:
        return text
    end = text.rfind(". ", 0, limit)
    return text[: end + 1] if end > 40 else text[:limit].rpartition(" ")[0] + " …"


def _licence_file(sources: Sources) -> Fact | None:
    for path in ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "COPYING"):
        for number, line in enumerate(sources.lines(path)[:5], 1):
            if line.strip():
                return Fact(line.strip().lstrip("# "), path, number)
    return None


_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_ENTRY = re.compile(r"(#+\s*|=+\s*|\*\*)?\[?v?(\d+\.\d+[\w.]*|unreleased|dev\b|next\b|main\b)", re.IGNORECASE)


def _changelog(sources: Sources) -> Fact | None:
    """The newest entry's heading: the first line that names a version, or what is not released."""
    names = r"(changelog|changes|(version[-_ ]?)?history|news|release[-_ ]?notes)(\.(md|rst|txt))?"
    for path in sorted(sources.classes):
        if re.fullmatch(names, path.rpartition("/")[2], re.IGNORECASE) and path.count("/") < 2:
            for number, line in enumerate(sources.lines(path)[:200], 1):
                if _ENTRY.match(line):
                    return Fact(_LINK.sub(r"\1", line.strip().strip("#* ")), path, number)
    return None


def _contributing(sources: Sources) -> Fact | None:
    for path in sorted(sources.classes):
        if re.fullmatch(r"(\.github/|docs/)?contributing\.(md|rst|txt)", path, re.IGNORECASE):
            return Fact("how to contribute", path, 1)
    return None


def _languages(sources: Sources) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for path in sources.files("code"):
        language = sources.classes[path].language
        if language in ("javascript",):
            language = "typescript" if re.search(r"(?<!\.d)\.[mc]?tsx?$", path) else "javascript"
        files, lines = counts.get(language, (0, 0))
        counts[language] = (files + 1, lines + len(sources.lines(path)))
    return counts
