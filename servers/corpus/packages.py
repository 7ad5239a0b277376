"""What a project depends on: where it is declared, and what is installed of it, with licence and summary.

Only files are read: no registry is asked and no code of a package is run.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.parser import HeaderParser
from importlib import metadata
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from sage_actors.messages.passages import Passage
from sage_actors.servers.corpus.code import Piece
from sage_actors.servers.corpus.repository import Repository

__all__ = ["Package", "declared_packages", "package_pieces", "packages"]

_MAX_METADATA_BYTES = 200_000
_MAX_INSTALLED = 3000
_MAX_MANIFEST_BYTES = 400_000
_MAX_DECLARED = 1000  # of one manifest
_LINE_CHARS = 500
_UNREADABLE = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
_DESCRIBED_CHARS = 3000
_NAME = re.compile(r"\s*([A-Za-z0-9][\w.-]*)")


@dataclass(frozen=True, slots=True)
class Package:
    """path, line: where the project declares it; without them it came with another one.

    version, licence, summary: of what is installed or locked; empty where that is not determined.
    """

    name: str
    ecosystem: str
    wanted: str = ""
    group: str = ""
    path: str = ""
    line: int | None = None
    version: str = ""
    licence: str = ""
    summary: str = ""
    description: str = ""


def packages(repository: Repository) -> tuple[list[Package], list[str]]:
    """Declared packages and installed ones, each with what is known of it, and what could not be determined."""
    declared = list(declared_packages(repository))
    installed = {**_locked(repository), **_installed_node(repository.root)}
    notes = []
    if any(package.ecosystem == "python" for package in declared):
        found, note = _installed_python(repository.root, {_key(p) for p in declared})
        installed.update(found)
        notes += [note] if note else []
    known = [_joined(package, installed.get(_key(package))) for package in declared]
    names = {_key(package) for package in declared}
    return known + [package for key, package in installed.items() if key not in names], notes


def declared_packages(repository: Repository) -> Iterator[Package]:
    """Every dependency that a manifest of the project names, with the line where it does."""
    for file in repository.files:
        name = PurePosixPath(file.path).name
        reader = _MANIFESTS.get(name) or (
            _requirements if re.fullmatch(r"requirements.*\.(txt|in)", name) else None
        )
        if reader is None or file.path.count("/") > 4 or "node_modules/" in file.path:
            continue
        text = (repository.read_bytes(file.path, _MAX_MANIFEST_BYTES) or b"").decode("utf-8-sig", "replace")
        lines = [line[:_LINE_CHARS] for line in text.split("\n")]
        with suppress(*_UNREADABLE):  # a manifest that its own tool refuses, too
            for package in islice(reader(text), _MAX_DECLARED):
                yield replace(package, path=file.path, line=package.line or _line_of(lines, package))


def package_pieces(found: list[Package], shown: Callable[[str], str]) -> Iterator[Piece]:
    """What a search for dependencies looks through."""
    for package in found:
        source = shown(package.path) if package.path else f"package:{package.name}"
        weight = 1.0 if package.path else 0.6
        passage = Passage(_sentence(package), source, package.line, "dependency", weight)
        yield Piece(passage, package.name, extra=package.description)


def _sentence(package: Package) -> str:
    licence = package.licence or "licence not determined"
    version = f"installed or locked {package.version}" if package.version else "not installed here"
    declared = (
        f"declared {package.wanted or 'without a version'}"
        if package.path
        else "not declared: comes with another"
    )
    group = f" for {package.group}" if package.group else ""
    text = f"{package.name} ({package.ecosystem}): {declared}{group}; {version}; {licence}"
    return f"{text}. {package.summary}" if package.summary else text


def _key(package: Package) -> tuple[str, str]:
    return package.ecosystem, re.sub(r"[-_.]+", "-", package.name).lower()


def _joined(declared: Package, known: Package | None) -> Package:
    if known is None:
        return declared
    facts = {name: getattr(known, name) for name in ("version", "licence", "summary", "description")}
    return replace(declared, **facts)


def _line_of(text: list[str], package: Package) -> int | None:
    """The line that names it; the one with its version, where there are several."""
    pattern = re.compile(rf"(?<![\w./-]){re.escape(package.name)}(?![\w/-])")
    named = [(n, line) for n, line in enumerate(text, 1) if package.name in line]
    lines = [(n, line) for n, line in named if pattern.search(line)]
    exact = [n for n, line in lines if package.wanted and package.wanted in line]
    return exact[0] if exact else lines[0][0] if lines else None


# --- manifests ---


def _requirement(text: str, group: str, line: int | None = None) -> Package | None:
    match = _NAME.match(text)
    if match is None:
        return None
    wanted = re.sub(r"^\[[^\]]*\]", "", text[match.end() :].split(";")[0].strip()).strip()
    return Package(match[1], "python", wanted, group, line=line)


def _requirements(text: str) -> Iterator[Package]:
    for number, line in enumerate(text.split("\n"), 1):
        plain = line.split(" #")[0].strip()
        if plain and not plain.startswith(("#", "-")) and "://" not in plain:
            package = _requirement(plain.split(" --hash")[0].rstrip(" \\"), "", number)
            if package is not None:
                yield package


def _pyproject(text: str) -> Iterator[Package]:
    data = tomllib.loads(text)
    project = data.get("project", {})
    groups: dict[str, Any] = {"": project.get("dependencies", []), **project.get("optional-dependencies", {})}
    groups |= data.get("dependency-groups", {})
    groups["building"] = data.get("build-system", {}).get("requires", [])
    for group, entries in groups.items():
        found = (_requirement(entry, group) for entry in entries if isinstance(entry, str))
        yield from filter(None, found)
    poetry = data.get("tool", {}).get("poetry", {})
    tables = {"": poetry.get("dependencies", {}), "dev": poetry.get("dev-dependencies", {})}
    tables |= {name: group.get("dependencies", {}) for name, group in poetry.get("group", {}).items()}
    yield from _tables(tables, "python", skip=("python",))


def _tables(tables: Mapping[str, Any], ecosystem: str, skip: tuple[str, ...] = ()) -> Iterator[Package]:
    for group, table in tables.items():
        for name, wanted in table.items():
            if name not in skip:
                version = wanted if isinstance(wanted, str) else str(wanted.get("version", ""))
                yield Package(name, ecosystem, version, group)


def _setup_cfg(text: str) -> Iterator[Package]:
    option = ""
    for number, line in enumerate(text.split("\n"), 1):
        if line[:1].strip():
            option = line.split("=")[0].strip()
            line = line.partition("=")[2] if option == "install_requires" else ""
        if (
            option == "install_requires"
            and line.strip()
            and (package := _requirement(line.strip(), "", number))
        ):
            yield package


def _package_json(text: str) -> Iterator[Package]:
    data = json.loads(text)
    groups = {
        "": "dependencies",
        "dev": "devDependencies",
        "peer": "peerDependencies",
        "optional": "optionalDependencies",
    }
    yield from _tables({group: data.get(key) or {} for group, key in groups.items()}, "npm")


def _cargo(text: str) -> Iterator[Package]:
    data = tomllib.loads(text)
    tables = {"": data.get("dependencies", {}), "dev": data.get("dev-dependencies", {})}
    tables |= {"build": data.get("build-dependencies", {})}
    tables |= {"workspace": data.get("workspace", {}).get("dependencies", {})}
    yield from _tables(tables, "cargo")


def _go_mod(text: str) -> Iterator[Package]:
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > _LINE_CHARS:
            continue
        match = re.match(r"(?:\s+|require\s+)([\w.-]+\.[\w.-]+/\S+)\s+(v\S+)(\s*// indirect)?", line)
        if match:
            yield Package(match[1], "go", match[2], "others (indirect)" if match[3] else "", line=number)


def _gemfile(text: str) -> Iterator[Package]:
    for number, line in enumerate(text.split("\n"), 1):
        if match := re.match(r"\s*gem\s+['\"]([\w.-]+)['\"](?:,\s*['\"]([^'\"]+)['\"])?", line):
            yield Package(match[1], "gem", match[2] or "", line=number)


_MANIFESTS: dict[str, Callable[[str], Iterator[Package]]] = {
    "pyproject.toml": _pyproject,
    "setup.cfg": _setup_cfg,
    "package.json": _package_json,
    "Cargo.toml": _cargo,
    "go.mod": _go_mod,
    "Gemfile": _gemfile,
}


# --- what is installed or locked ---


def _locked(repository: Repository) -> dict[tuple[str, str], Package]:
    found: dict[tuple[str, str], Package] = {}
    for name, ecosystem in {"Cargo.lock": "cargo", "poetry.lock": "python", "uv.lock": "python"}.items():
        text = (repository.read_bytes(name, 8_000_000) or b"").decode("utf-8", "replace")
        with suppress(*_UNREADABLE):
            for entry in tomllib.loads(text).get("package", []):
                package = Package(
                    entry["name"],
                    ecosystem,
                    version=str(entry.get("version", "")),
                    summary=entry.get("description", ""),
                )
                found[_key(package)] = package
    return found | _locked_node(repository)


def _locked_node(repository: Repository) -> dict[tuple[str, str], Package]:
    found = {}
    with suppress(*_UNREADABLE):
        data = json.loads(repository.read_bytes("package-lock.json", 16_000_000) or b"{}")
        for path, entry in data.get("packages", {}).items():
            name = path.rpartition("node_modules/")[2]
            if name and path.count("node_modules/") == 1:
                licence = entry.get("license", "")
                package = Package(
                    name, "npm", version=str(entry.get("version", "")), licence=_licence(licence)
                )
                found[_key(package)] = package
    return found


def _installed_node(root: Path) -> dict[tuple[str, str], Package]:
    found = {}
    modules = root / "node_modules"
    manifests = [*modules.glob("*/package.json"), *modules.glob("@*/*/package.json")][:_MAX_INSTALLED]
    for path in manifests:
        with suppress(OSError, *_UNREADABLE):
            data = json.loads(path.read_bytes()[:_MAX_METADATA_BYTES])
            words = " ".join(map(str, data.get("keywords") or []))
            package = Package(
                str(data["name"]),
                "npm",
                version=str(data.get("version", "")),
                licence=_licence(data.get("license")),
                summary=str(data.get("description") or ""),
                description=words,
            )
            found[_key(package)] = package
    return found


def _installed_python(
    root: Path, declared: set[tuple[str, str]]
) -> tuple[dict[tuple[str, str], Package], str]:
    """Of the project's own environment; else, of what it declares, what the running interpreter has."""
    folders = [
        path for name in (".venv", "venv", "env") for path in root.glob(f"{name}/lib/python*/site-packages")
    ]
    found = {}
    there = metadata.distributions(path=[str(p) for p in folders]) if folders else _running(declared)
    for distribution in islice(there, _MAX_INSTALLED):
        with suppress(OSError, *_UNREADABLE):
            package = _distribution(distribution)
            found[_key(package)] = package
    if folders or not found:
        return found, ""
    note = "the project has no environment of its own: versions and licences are those of the interpreter that looked"
    return found, note


def _running(declared: set[tuple[str, str]]) -> Iterator[metadata.Distribution]:
    for ecosystem, name in sorted(declared):
        with suppress(metadata.PackageNotFoundError, ValueError):
            if ecosystem == "python":
                yield metadata.distribution(name)


def _distribution(distribution: metadata.Distribution) -> Package:
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    headers = HeaderParser().parsestr(text[:_MAX_METADATA_BYTES])
    classifiers = headers.get_all("Classifier") or []
    licences = [c.rpartition("::")[2].strip() for c in classifiers if c.startswith("License ::")]
    topics = [c.rpartition("::")[2].strip() for c in classifiers if c.startswith("Topic ::")]
    licence = headers.get("License-Expression") or ", ".join(licences) or headers.get("License") or ""
    body = str(headers.get_payload())[:_DESCRIBED_CHARS]
    return Package(
        headers["Name"],
        "python",
        version=headers.get("Version", ""),
        licence=_licence(licence),
        summary=headers.get("Summary", ""),
        description=" ".join([headers.get("Keywords") or "", *topics, body]),
    )


def _licence(value: Any) -> str:
    """One line: some packages put the whole text there."""
    text = value.get("type", "") if isinstance(value, dict) else str(value or "")
    return str(text).strip().split("\n")[0][:60]
