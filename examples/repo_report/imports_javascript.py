"""JavaScript's and TypeScript's imports, by pattern: comments are taken out first, strings are kept.

A specifier that is no relative path may be an alias of the bundler: if its end is the end of a file's path,
that file counts as imported, since a file wrongly called unused is worse than one that is missed.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict

from repo_report.imports import Graph, Sources

__all__ = ["read"]

_STRING_OR_COMMENT = re.compile(
    r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|//[^\n]*|/\*.*?\*/""", re.DOTALL
)
_STATIC = re.compile(
    r"""\b(?:import|export)\b(?:\s+type\b)?[\s\w$*{},]*?\bfrom\s*["']([^"'\n]+)["']"""
    r"""|\bimport\s*["']([^"'\n]+)["']""",
)
_CALL = re.compile(
    r"""\b(?:require(?:\.resolve)?|import|jest\.mock|vi\.mock)\s*\(\s*["'`]([^"'`\n$]+)["'`]"""
)
_COMPUTED = re.compile(r"""\b(?:require|import)\s*\(\s*(?:[A-Za-z_$]|[`'"][^`'"\n]*(?:\$\{|[`'"]\s*\+))""")
_PATH_STRING = re.compile(r"""["'`]([\w@./-]*/[\w.-]+)["'`]""")
_COMPUTED_PATH = re.compile(r"""["'`](\.{1,2}/[^"'`$\n*]*)(?:\$\{|["']\s*\+|\*)""")  # `./commands/${name}`
_GLOBS = re.compile(r"\bimport\.meta\.glob|\brequire\.context\b")
_ENDINGS = (".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts", ".vue", ".svelte")
_SCRIPT = re.compile(
    r"(^|/)(index|main|app|server|cli|gulpfile|gruntfile|jakefile)\.[cm]?[jt]sx?$"
    r"|(^|/)[^/]*\.(config|conf|setup|stories|d)\.[cm]?[jt]sx?$|(^|/)\.[^/]*rc\.[cm]?js$"
    r"|(^|/)(pages|app|routes|api|bin|scripts?|examples?|docs?|public|static|migrations|__mocks__|tools|bench(marks?)?"
    r"|benches|\.github)/",
    re.IGNORECASE,
)
_BUILT_IN = frozenset(
    [
        "assert",
        "async_hooks",
        "buffer",
        "child_process",
        "cluster",
        "console",
        "constants",
        "crypto",
        "dgram",
        "diagnostics_channel",
        "dns",
        "domain",
        "events",
        "fs",
        "http",
        "http2",
        "https",
        "inspector",
        "module",
        "net",
        "os",
        "path",
        "perf_hooks",
        "process",
        "punycode",
        "querystring",
        "readline",
        "repl",
        "stream",
        "string_decoder",
        "sys",
        "timers",
        "tls",
        "trace_events",
        "tty",
        "url",
        "util",
        "v8",
        "vm",
        "wasi",
        "worker_threads",
        "zlib",
    ]
)


def read(sources: Sources) -> Graph:
    """The imports among `sources.texts`."""
    graph = Graph()
    by_end: dict[str, set[str]] = defaultdict(set)
    for path in sources.texts:
        for end in _ends(path):
            by_end[end].add(path)
    for path, text in sources.texts.items():
        if _SCRIPT.search(path) or text.startswith("#!"):
            graph.entry_points.add(path)
        code = _STRING_OR_COMMENT.sub(lambda match: match[1] or " ", text)
        static = [first or second for first, second in _STATIC.findall(code)]
        for specifier in {*static, *_CALL.findall(code)}:
            _add(graph, sources, by_end, path, specifier, at_load=specifier in static)
        for word in _PATH_STRING.findall(code):
            graph.mentioned |= by_end.get(_stem(word.removeprefix("./").removeprefix("/")), set())
        for start in _COMPUTED_PATH.findall(code):
            base = posixpath.normpath(posixpath.join(posixpath.dirname(path), start))
            base += "/" if start.endswith("/") else ""
            graph.mentioned |= {each for each in sources.texts if each.startswith(base)}
        if _COMPUTED.search(code) or _GLOBS.search(code):
            graph.dynamic.add(path)
    return graph


def _add(
    graph: Graph, sources: Sources, by_end: dict[str, set[str]], path: str, specifier: str, *, at_load: bool
) -> None:
    specifier = specifier.partition("?")[0]
    if specifier.startswith("."):
        found = _file(posixpath.normpath(posixpath.join(posixpath.dirname(path), specifier)), sources.texts)
    else:
        found = (
            by_end.get(_stem(specifier.lstrip("@~#/").removeprefix("/")), set())
            if "/" in specifier
            else set()
        )
        if not found:
            _third_party(graph, path, specifier)
    graph.edges[path] |= found
    if at_load:
        graph.at_load[path] |= found - {path}


def _file(base: str, paths: dict[str, str]) -> set[str]:
    tried = [base, *(base + end for end in _ENDINGS), *(f"{base}/index{end}" for end in _ENDINGS)]
    if base.endswith((".js", ".jsx", ".mjs", ".cjs")):  # TypeScript is imported by the name of its output
        tried += [_stem(base) + end for end in _ENDINGS]
    return set(next(([each] for each in tried if each in paths), []))


def _third_party(graph: Graph, path: str, specifier: str) -> None:
    if specifier.startswith(
        ("node:", "@/", "~", "#", "/", "bun:", "virtual:", "http:", "https:", "data:", "$")
    ):
        return
    parts = specifier.split("/")
    name = "/".join(parts[:2]) if specifier.startswith("@") else parts[0]
    if name not in _BUILT_IN and re.fullmatch(r"(@[\w.-]+/)?[\w.-]+", name):
        graph.third_party[name].add(path)


def _ends(path: str) -> list[str]:
    """Every end of the path, without its extension: what an alias may be followed by."""
    parts = _stem(path).split("/")
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return ends + [end.removesuffix("/index") for end in ends if end.endswith("/index")]


def _stem(path: str) -> str:
    end = next((end for end in sorted(_ENDINGS, key=len, reverse=True) if path.endswith(end)), "")
    return path.removesuffix(end)
