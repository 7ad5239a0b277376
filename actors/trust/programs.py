"""Which programs of a project a command line executes, by content: consent to the command is consent to them.

    tools/server.py    ./server    --config=run.sh        a file that is named, if it is a program
    bash start    python server.txt                       what an interpreter is given first, whatever its name
    -m package.server                                     a module, and the packages around it
    python tools/    node .                               what a folder is executed by
    sh -c 'exec ./run.sh'    NODE_OPTIONS="-r ./a.js"     words inside words, and in variables
    npm start    make server                              what tells such a program what to do
    PATH=tools:/usr/bin server                            a bare name, where it would be found

What is named and not executed is data, and may change. What a program loads in its turn is not followed. Where
this errs, it asks once more than it had to.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["named_modules", "named_programs"]

_PROGRAM = re.compile(
    r".*\.(bash|[cm]?[jt]sx?|csx?|dylib|exs|go|jar|jl|kts|lua|node|php|p[ly]|ps1|pth|py[cz]|rb?|sh|so(\.[\d.]+)?"
    r"|tcl|wasm|zsh)",
    re.IGNORECASE,
)
_PIECES = re.compile(r"[\s;|&<>()'\"`=:,$]+")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_ENTRIES = ("__main__.py", "__init__.py", "package.json", "index.js", "index.mjs", "index.cjs", "index.ts")
_INTERPRETER = re.compile(r"(python|pypy|node|bun|deno|ts-node|tsx|uv)[\d.]*", re.IGNORECASE)
_READS_A_SCRIPT = re.compile(
    r"(python|pypy|node|bun|deno|ts-node|tsx|ruby|perl|php|lua|rscript|(ba|da|z|k|fi)?sh|source|g?make|just)[\d.]*",
    re.IGNORECASE,
)
_SAYS_IT_ITSELF = frozenset(("-c", "-e", "-m", "--eval"))  # what follows is given to what was said there
_LOCAL_TOOLS = "node_modules/.bin"  # npx and its like look there first
# what a program that takes its commands from a file reads
_MANIFESTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("npm", "pnpm", "yarn", "bun"), ("package.json", ".npmrc", ".yarnrc.yml", "bunfig.toml")),
    **dict.fromkeys(("uv", "poetry", "pdm", "hatch"), ("pyproject.toml", "uv.toml", "poetry.toml")),
    **dict.fromkeys(("make", "gmake"), ("GNUmakefile", "makefile", "Makefile")),
    **dict.fromkeys(("just",), ("justfile", "Justfile", ".justfile")),
    **dict.fromkeys(("task", "go-task"), ("Taskfile.yml", "Taskfile.yaml")),
    **dict.fromkeys(("deno",), ("deno.json", "deno.jsonc")),
    **dict.fromkeys(("cargo",), ("Cargo.toml", "build.rs", ".cargo/config.toml")),
    **dict.fromkeys(("docker", "podman"), ("Dockerfile", "compose.yaml", "docker-compose.yml")),
    **dict.fromkeys(("direnv",), (".envrc",)),
    **dict.fromkeys(("rake", "bundle"), ("Rakefile", "Gemfile")),
}
_READ_BY_PROGRAMS = frozenset(
    os.path.basename(each) for names in (*_MANIFESTS.values(), _ENTRIES) for each in names
)
_ELSEWHERE = {"", ".", ".."}


def named_programs(
    words: Sequence[str], env: Mapping[str, str], *, directory: Path, project: Path
) -> dict[str, str]:
    """SHA-256 of each file of `project` that the command executes, by its path there.

    Args:
        words: the command and its arguments; a text for a shell is one word.
        env: variables that it is given.
        directory: where it starts.
    """
    inside = _Inside(project)
    pieces = [piece for word in (*words, *env.values()) for piece in _pieces(word)]
    tools, candidates = _by_first(pieces), _by_first(_candidates(pieces))
    named = (directory / piece for piece in _there(directory, tools))
    for folder in dict.fromkeys((directory, *filter(_is_folder, named))):
        for place, paths in ((folder, candidates), (folder / _LOCAL_TOOLS, tools)):
            for path in _there(place, paths):
                inside.add(place / path)
        for given in _given_to_interpreters(pieces):
            if script := next(filter(_is_file, (folder / word for word in given)), None):
                inside.add(script, executed=True)
    for searched in _search_path(env) if words and "/" not in words[0] else ():
        inside.add(directory / searched / words[0])
    return inside.found


def named_modules(names: Iterable[str], *, folders: Sequence[Path], project: Path) -> dict[str, str]:
    """SHA-256 of the Python modules `a.b:function` that lie in `project`, looked for in `folders`."""
    inside = _Inside(project)
    for name in names:
        for path in _module(name.partition(":")[0]):
            for folder in folders:
                inside.add(folder / path)
    return inside.found


def _by_first(paths: Iterable[str]) -> dict[str, list[str]]:
    """The same paths, each once, by their first part: most words name nothing that is there."""
    found: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        found.setdefault(path.partition("/")[0].casefold(), []).append(path)
    return found


def _there(folder: Path, paths: Mapping[str, list[str]]) -> Iterator[str]:
    """Those of `paths` whose first part is in `folder`, or leads elsewhere. A file system may not tell a from A."""
    try:
        names = {name.casefold() for name in os.listdir(folder)}
    except OSError:
        return
    for first in paths.keys() & (names | _ELSEWHERE):
        yield from paths[first]


def _candidates(pieces: Sequence[str]) -> Iterator[str]:
    """Paths, relative to a folder in which the command may look for them."""
    executes_folders = any(_INTERPRETER.fullmatch(os.path.basename(piece)) for piece in pieces)
    for number, piece in enumerate(pieces):
        if number or "/" in piece:  # a bare command is looked up in PATH, not in the directory
            yield piece
        if number and executes_folders:
            yield from (f"{piece}/{entry}" for entry in _ENTRIES)
        yield from _MANIFESTS.get(os.path.basename(piece), ())
        if number and pieces[number - 1] == "-m":
            yield from _module(piece)
        elif piece.startswith("-m"):
            yield from _module(piece[2:])


def _given_to_interpreters(pieces: Sequence[str]) -> list[list[str]]:
    """The words behind each interpreter, up to the next one: the first that is a file is what it executes."""
    found: list[list[str]] = []
    is_open = False
    for piece in pieces:
        if _READS_A_SCRIPT.fullmatch(os.path.basename(piece)):
            found.append([])
            is_open = True
        elif piece in _SAYS_IT_ITSELF:
            is_open = False
        elif is_open:
            found[-1].append(piece)
    return found


def _search_path(env: Mapping[str, str]) -> list[str]:
    """Folders of PATH that could be the project's: those that the command is given, and relative ones."""
    if given := env.get("PATH"):
        return given.split(os.pathsep)
    return [each for each in os.environ.get("PATH", "").split(os.pathsep) if not os.path.isabs(each)]


def _pieces(word: str) -> Iterator[str]:
    """The word, and the words in it."""
    if word:
        yield word
    parts = [part for part in _PIECES.split(word) if part]
    if parts != [word]:
        yield from parts


def _module(name: str) -> Iterator[str]:
    """The files that Python executes on the way to a module."""
    if not _MODULE.fullmatch(name):
        return
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        yield f"{'/'.join(parts[:end])}/__init__.py"
    yield f"{'/'.join(parts)}.py"
    yield f"{'/'.join(parts)}/__main__.py"


class _Inside:
    """Collects programs that lie in a project, by the path that is named and by the one that it leads to."""

    def __init__(self, project: Path) -> None:
        self.found: dict[str, str] = {}
        self._roots = dict.fromkeys((Path(os.path.abspath(project)), Path(os.path.realpath(project))))

    def add(self, path: Path, *, executed: bool = False) -> None:
        """executed: whatever it is called. Else a file that is no program is data."""
        try:
            for place in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):
                root = next((each for each in self._roots if place.is_relative_to(each)), None)
                if root is None or not (_is_file(place) if executed else _is_program(place)):
                    continue
                name = os.fsencode(place.relative_to(root)).decode("utf-8", "backslashreplace")
                if name not in self.found:
                    self.found[name] = _digest(place)
        except (OSError, ValueError):  # an argument need not be a path
            pass


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_program(path: Path) -> bool:
    """By its name, its mode or its first two bytes: a database that a server writes to is none."""
    if not path.is_file():
        return False
    if _PROGRAM.fullmatch(path.name) or path.name in _READ_BY_PROGRAMS or path.stat().st_mode & 0o111:
        return True
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def _digest(path: Path) -> str:
    """SHA-256 of a file's content, whatever its size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
