"""Dependencies as the manifests declare them. Manifests are parsed, never executed."""

from __future__ import annotations

import ast
import configparser
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from repo_report.tree import list_files, read_texts

__all__ = ["declared"]

MAX_MANIFESTS = 60
MAX_PER_MANIFEST = 150
Found = tuple[str, str, str]  # name, constraint as written ("" is none), group
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*(.*)$")
_URL = re.compile(r"git\+|https?://|file:|link:|workspace:|^@ |\.git\b|github:")


def declared(root: str, head: str | None) -> dict[str, Any]:
    """Each manifest with what it declares; one that cannot be parsed says why."""
    manifests = [
        (file, parser)
        for file in list_files(root, head)[0]
        if file.role != "vendored" and (parser := _parser_of(file.path)) is not None
    ]
    manifests.sort(key=lambda item: (item[0].path.count("/"), item[0].path))
    parsers = {file.path: parser for file, parser in manifests[:MAX_MANIFESTS]}
    rows = []
    for read in read_texts(root, (file for file, _ in manifests[:MAX_MANIFESTS])):
        ecosystem, parse = parsers[read.file.path]
        rows.append(_manifest(read.file.path, ecosystem, parse, read.text))
    return {
        "manifests": [row for row in rows if row["count"] or row["error"]],
        "manifests_left_out": max(0, len(manifests) - MAX_MANIFESTS),
    }


def _manifest(
    path: str, ecosystem: str, parse: Callable[[str], Iterable[Found]], text: str | None
) -> dict[str, Any]:
    found: list[Found] = []
    error = None if text is not None else "not readable as text"
    try:
        found = list(dict.fromkeys(parse(text or "")))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        SyntaxError,
        RecursionError,
        configparser.Error,
    ) as cause:
        error = f"{type(cause).__name__}: {cause}"[:200]
    return {
        "path": path,
        "ecosystem": ecosystem,
        "count": len(found),
        "dependencies": [
            {
                "name": name[:200],
                "constraint": constraint[:200],
                "group": group,
                "remote": bool(_URL.search(constraint)),
            }
            for name, constraint, group in found[:MAX_PER_MANIFEST]
        ],
        "error": error,
    }


def _parser_of(path: str) -> tuple[str, Callable[[str], Iterable[Found]]] | None:
    name = path.rpartition("/")[2]
    if name in _PARSERS:
        return _PARSERS[name]
    if re.fullmatch(r"(.*[-_.])?(requirements|constraints)([-_.].*)?\.(txt|in)", name) or re.search(
        r"(^|/)requirements/[^/]+\.(txt|in)$", path
    ):
        return "Python", _requirements
    if name.endswith((".csproj", ".fsproj")):
        return "NuGet", _csproj
    if re.search(r"(^|/)\.github/workflows/[^/]+\.ya?ml$", path):
        return "GitHub Actions", _actions
    if name == "Dockerfile" or name.endswith(".Dockerfile") or name.startswith("Dockerfile."):
        return "Docker", _dockerfile
    return None


def _requirement(text: str, group: str) -> Iterator[Found]:
    text = text.split(" #")[0].strip()
    match = _REQUIREMENT.match(text)
    if match and text:
        constraint = match[2].split(";")[0].strip()
        yield match[1], constraint, group


def _requirements(text: str) -> Iterator[Found]:
    for line in text.replace("\\\n", " ").split("\n"):
        line = re.sub(r"\s--hash=\S+", "", line).strip()
        if line.startswith(("-e ", "--editable ", "git+", "http:", "https:")):
            url = line.removeprefix("-e ").removeprefix("--editable ").strip()
            name = url.partition("#egg=")[2] or url.rstrip("/").rpartition("/")[2].partition("@")[0]
            yield (name.removesuffix(".git") or url, url, "main")
        elif line and not line.startswith(("#", "-", ".", "/")):
            yield from _requirement(line, "main")


def _pyproject(text: str) -> Iterator[Found]:
    data = tomllib.loads(text)
    project = data.get("project", {})
    groups = {
        "build": data.get("build-system", {}).get("requires", []),
        "main": project.get("dependencies", []),
        **project.get("optional-dependencies", {}),
        **data.get("dependency-groups", {}),
    }
    for group, items in groups.items():
        for item in items:
            if isinstance(item, str):
                yield from _requirement(item, group)
    poetry = data.get("tool", {}).get("poetry", {})
    yield from _table(poetry.get("dependencies", {}), "main")
    yield from _table(poetry.get("dev-dependencies", {}), "dev")
    for group, content in poetry.get("group", {}).items():
        yield from _table(content.get("dependencies", {}), group)


def _table(table: dict[str, Any], group: str) -> Iterator[Found]:
    """A name to a constraint, or to a table with `version`, `git` or `path`."""
    for name, value in table.items():
        if name.lower() == "python":
            continue
        if isinstance(value, dict):
            source = value.get("git") or value.get("path")
            value = value.get("version") or (
                f"git+{source}" if value.get("git") else f"file:{source}" if source else ""
            )
        constraint = str(value)
        yield name, "" if constraint == "*" else constraint, group


def _setup_cfg(text: str) -> Iterator[Found]:
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    listed = {("main", parser.get("options", "install_requires", fallback=""))}
    if parser.has_section("options.extras_require"):
        listed |= set(parser.items("options.extras_require"))
    for group, lines in sorted(listed):
        for line in lines.split("\n"):
            if not line.strip().startswith(("#", "file:")):
                yield from _requirement(line, group)


def _setup_py(text: str) -> Iterator[Found]:
    """Lists that are written out; what `setup.py` would compute is not known without running it."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.keyword) or node.arg not in (
            "install_requires",
            "extras_require",
            "tests_require",
        ):
            continue
        parts = node.value.values if isinstance(node.value, ast.Dict) else [node.value]
        for each in (item for part in parts for item in getattr(part, "elts", ())):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                yield from _requirement(each.value, "main" if node.arg == "install_requires" else "extra")


def _pipfile(text: str) -> Iterator[Found]:
    data = tomllib.loads(text)
    yield from _table(data.get("packages", {}), "main")
    yield from _table(data.get("dev-packages", {}), "dev")


def _package_json(text: str) -> Iterator[Found]:
    data = json.loads(text)
    names = {
        "dependencies": "main",
        "devDependencies": "dev",
        "peerDependencies": "peer",
        "optionalDependencies": "optional",
    }
    for key, group in names.items():
        for name, constraint in (data.get(key) or {}).items():
            yield name, "" if constraint in ("*", "latest") else str(constraint), group


def _go_mod(text: str) -> Iterator[Found]:
    block = re.findall(r"^require\s*\((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    single = re.findall(r"^require\s+([^(\s]\S*\s+\S+.*)$", text, re.MULTILINE)
    for line in "\n".join([*block, *single]).split("\n"):
        code, _, comment = line.partition("//")
        if len(parts := code.split()) == 2:
            yield parts[0], parts[1], "indirect" if "indirect" in comment else "main"


def _cargo(text: str) -> Iterator[Found]:
    data = tomllib.loads(text)
    places = [data, data.get("workspace", {}), *data.get("target", {}).values()]
    groups = {"dependencies": "main", "dev-dependencies": "dev", "build-dependencies": "build"}
    for place in places:
        for key, group in groups.items():
            for name, constraint, _ in _table(place.get(key, {}), group):
                value = place[key][name]
                shared = isinstance(value, dict) and value.get("workspace")
                yield name, "workspace:" if shared else constraint, group


def _gemfile(text: str) -> Iterator[Found]:
    for name, rest in re.findall(r"""^\s*gem\s+["']([^"']+)["'](.*)$""", text, re.MULTILINE):
        versions = re.findall(r"""["']([~<>=!\d][^"']*)["']""", rest.partition("#")[0])
        yield name, "git+" if re.search(r"\b(git|github):", rest) else ", ".join(versions), "main"


def _composer(text: str) -> Iterator[Found]:
    data = json.loads(text)
    for key, group in (("require", "main"), ("require-dev", "dev")):
        for name, constraint in (data.get(key) or {}).items():
            if "/" in name:
                yield name, "" if constraint == "*" else str(constraint), group


def _pom(text: str) -> Iterator[Found]:
    for block in re.findall(r"<dependency>(.*?)</dependency>", text, re.DOTALL):
        fields = dict(re.findall(r"<(groupId|artifactId|version|scope)>\s*([^<]*?)\s*</", block))
        if "artifactId" in fields:
            name = f"{fields.get('groupId', '?')}:{fields['artifactId']}"
            yield name, fields.get("version", "(managed)"), fields.get("scope", "main")


def _gradle(text: str) -> Iterator[Found]:
    pattern = (
        r"^\s*(\w*(?:[iI]mplementation|api|[cC]ompileOnly|[rR]untimeOnly))\s*\(?\s*"
        r"""["']([^"':]+:[^"':]+)(?::([^"']+))?["']"""
    )
    for group, name, version in re.findall(pattern, text, re.MULTILINE):
        yield name, version or "(managed)", "test" if group.startswith("test") else "main"


def _csproj(text: str) -> Iterator[Found]:
    for tag in re.findall(r"<PackageReference\s[^>]*>", text):
        fields = dict(re.findall(r'(Include|Version)="([^"]*)"', tag))
        if "Include" in fields:
            yield fields["Include"], fields.get("Version", "(managed)"), "main"


def _actions(text: str) -> Iterator[Found]:
    for name, version in re.findall(
        r"""^\s*(?:-\s*)?uses:\s*["']?([\w./-]+)@([\w./-]+)""", text, re.MULTILINE
    ):
        yield name, version, "main"


def _dockerfile(text: str) -> Iterator[Found]:
    stages = {
        stage.lower() for stage in re.findall(r"^FROM\s.*\sAS\s+(\S+)", text, re.MULTILINE | re.IGNORECASE)
    }
    for image in re.findall(r"^FROM\s+(?:--\S+\s+)*(\S+)", text, re.MULTILINE | re.IGNORECASE):
        if image.lower() not in stages | {"scratch"} and "$" not in image:
            name, at, digest = image.partition("@")
            name, _, tag = name.partition(":") if ":" in name.rpartition("/")[2] else (name, "", "")
            yield name, at + digest or ("" if tag == "latest" else tag), "main"


_PARSERS: dict[str, tuple[str, Callable[[str], Iterable[Found]]]] = {
    "pyproject.toml": ("Python", _pyproject),
    "setup.cfg": ("Python", _setup_cfg),
    "setup.py": ("Python", _setup_py),
    "Pipfile": ("Python", _pipfile),
    "package.json": ("npm", _package_json),
    "go.mod": ("Go", _go_mod),
    "Cargo.toml": ("Rust", _cargo),
    "Gemfile": ("Ruby", _gemfile),
    "composer.json": ("PHP", _composer),
    "pom.xml": ("Maven", _pom),
    "build.gradle": ("Gradle", _gradle),
    "build.gradle.kts": ("Gradle", _gradle),
}
