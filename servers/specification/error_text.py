"""What an error text says: frames, messages and failing tests, in the formats of several languages.

Python tracebacks and pytest output, JavaScript stacks, Go panics and test output, Rust panics and compiler
messages, and `file:line` in whatever else a tool prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sage_actors.servers.corpus.sources import Sources

__all__ = ["ErrorReport", "Frame", "located", "parse_error"]

_MAX_CHARS = 200_000
_LINE_CHARS = 400  # of a line that is looked at: the patterns' time is the square of a line's length
_ENDINGS = (
    "py|pyi|js|jsx|mjs|cjs|ts|tsx|mts|cts|vue|go|rs|java|kt|rb|php|cs|swift|c|cc|cpp|h|hpp|ex|exs|lua|sh"
)
_PYTHON_FRAME = re.compile(r'File "(?P<path>[^"\n]+)", line (?P<line>\d+)(?:, in (?P<function>[^\n]+))?')
_NODE_FRAME = re.compile(
    r"^[ \t]*at (?:async )?(?:(?P<function>[^\s(][^(\n]*?) \()?(?:file://)?"
    r"(?P<path>[^\s()]+?):(?P<line>\d+):\d+\)?[ \t]*$",
    re.MULTILINE,
)
_PLACE = re.compile(rf"(?<![\w/.-])(?P<path>[\w./@+~-]*[\w-]\.(?:{_ENDINGS})):(?P<line>\d+)")
_SAID_PLACE = re.compile(  # in prose: aiohttp/client.py line 640; file client.py, line 640; line 640 of client.py
    rf"(?<![\w/.-])(?P<path>[\w./@+~-]*[\w-]\.(?:{_ENDINGS}))[`'\"”’]?,?\s{{1,3}}(?:at\s|on\s)?line\s(?P<line>\d+)"
    rf"|\bline\s(?P<line_before>\d+)\s(?:of|in)\s(?:file\s)?[`'\"“‘]?"
    rf"(?P<path_behind>[\w./@+~-]*[\w-]\.(?:{_ENDINGS}))(?![\w/])",
    re.IGNORECASE,
)
_GO_CALL = re.compile(
    r"^(?P<function>[\w./*()-]+)\([^\n]*\)\n\t(?P<path>\S+\.go):(?P<line>\d+)", re.MULTILINE
)
_RUST_CALL = re.compile(
    r"^[ \t]*\d+: (?P<function>[\w:<>{}# ]+)\n[ \t]+at (?P<path>\S+\.rs):(?P<line>\d+)", re.MULTILINE
)
_JAVA_FRAME = re.compile(
    r"^[ \t]*at (?P<function>[\w.$<>]+)\((?P<path>\w+\.(?:java|kt|scala)):(?P<line>\d+)\)", re.MULTILINE
)

_QUOTED = re.compile(r"\n[ \t]+(?P<code>(?!File \"|\^|~|\[Previous)[^\n]*[^\s^~][^\n]*)")
_DEFINITION = r"\s*(?:[\w()]+\s+)*(?:def|class|func|fn|function)\s+(?:\([^)]*\)\s*)?{}\b"

_MESSAGES = (
    re.compile(
        r"^(?:E\s+)?(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*"
        r"(?:Error|Exception|Warning|Exit|Interrupt|Timeout|Failed?|Iteration|Group|Fault|Panic))"
        r"(?::[ \t]*(?P<text>[^\n]*))?$",
        re.MULTILINE,
    ),
    re.compile(
        r"^(?:Uncaught |Unhandled )?(?P<type>[A-Z]\w*(?:Error|Exception))(?: \[\w+\])?: (?P<text>[^\n]+)", re.MULTILINE
    ),
    re.compile(r"^E\s+(?P<type>assert) (?P<text>[^\n]+)", re.MULTILINE),
    re.compile(r"^[ \t]*(?P<type>panic): (?P<text>[^\n]+)", re.MULTILINE),
    re.compile(
        r"^thread '[^'\n]*' (?:\(\d+\) )?(?P<type>panicked) at "
        r"(?:'(?P<text>[^'\n]+)'|[^\n]+:\n(?P<below>[^\n]+))",
        re.MULTILINE,
    ),
    re.compile(r"^(?P<type>error)(?:\[E\d+\])?: (?P<text>[^\n]+)", re.MULTILINE),
    re.compile(r"^Exception in thread \"[^\"\n]*\" (?P<type>[\w.$]+)(?:: (?P<text>[^\n]+))?", re.MULTILINE),
)  # fmt: skip
_TESTS = (
    re.compile(r"(?P<path>[\w./-]+\.py)::(?P<name>[\w:]+(?:\[[^\]\n]*\])?)"),
    re.compile(r"^[ \t]*--- FAIL: (?P<name>\w+)", re.MULTILINE),
    re.compile(r"^test (?P<name>[\w:]+) \.\.\. FAILED", re.MULTILINE),
    re.compile(r"^---- (?P<name>[\w:]+) stdout ----", re.MULTILINE),
    re.compile(r"^[ \t]*(?:●|✕|✗|×|not ok \d+ -)\s+(?P<name>[^\n(]+)", re.MULTILINE),
    re.compile(r"^(?P<name>[Tt]est\w*|test_\w+)$"),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """A place that the text names. `path`: as it stands there. `code`: the line, where the text quotes it."""

    path: str
    line: int
    function: str = ""
    code: str = ""

    def line_in(self, lines: Sequence[str]) -> int | None:
        """Where the line is in the file as it is now, which may have changed since the error.

        The one that reads as the quoted one, the nearest to its number; else that number; else, where the file has
        become too short, the definition of the function. None where nothing of it is there any more.
        """
        there = lines[self.line - 1].strip() if self.line <= len(lines) else None
        if self.code and there != self.code:
            same = [number for number, line in enumerate(lines, 1) if line.strip() == self.code]
            if same:
                return min(same, key=lambda number: abs(number - self.line))
        return self.line if there is not None else self._defined_in(lines)

    @property
    def name(self) -> str:
        """The function by its last part; "" where the frame has none that can be defined somewhere."""
        name = re.split(r"[.:]+", self.function)[-1].strip("<>()* ")
        return name if name.isidentifier() and name not in ("module", "lambda", "anonymous") else ""

    def _defined_in(self, lines: Sequence[str]) -> int | None:
        name = self.name
        pattern = re.compile(_DEFINITION.format(re.escape(name))) if name else None
        return next((n for n, line in enumerate(lines, 1) if pattern and pattern.match(line)), None)


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """frames: outermost first, as a traceback prints them. messages: (type, text). tests: (path or "", name)."""

    frames: tuple[Frame, ...]
    messages: tuple[tuple[str, str], ...]
    tests: tuple[tuple[str, str], ...]


def located(frame: Frame, path: str, sources: Sources) -> int | None:
    """Where the frame is in the file as it is now: `Frame.line_in`, or the definition of its function.

    That one where the line is in another function now, and one definition in the file alone has the name. What the
    report quotes is where it reads so.
    """
    line = frame.line_in(sources.lines(path))
    here = sources.symbol_at(path, line) if line is not None and frame.name and not frame.code else None
    if line is None or here is None or here.short_name == frame.name:
        return line
    there = [symbol.line for symbol in sources.symbols_of(path) if symbol.short_name == frame.name]
    is_inside = bool(there) and there[0] < line and here.is_nested
    return there[0] if len(there) == 1 and not is_inside else line


def parse_error(text: str) -> ErrorReport:
    """Everything in `text` that leads somewhere. A text in no known format gives an empty report."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text[:_MAX_CHARS])
    text = "\n".join(line[:_LINE_CHARS].rstrip("\r") for line in text.split("\n"))
    return ErrorReport(
        frames=tuple(dict.fromkeys(_frames(text))),
        messages=tuple(dict.fromkeys(_messages(text))),
        tests=tuple(dict.fromkeys(_tests(text))),
    )


def _frames(text: str) -> Iterator[Frame]:
    """Frames with a function first, of which a bare place would know less."""
    places: dict[tuple[str, int], tuple[int, str, str]] = {}
    for pattern in (
        _PYTHON_FRAME,
        _GO_CALL,
        _RUST_CALL,
        _JAVA_FRAME,
        _NODE_FRAME,
        _PLACE,
        _SAID_PLACE,
    ):
        for match in pattern.finditer(text):
            groups = match.groupdict()
            function = (groups.get("function") or "").strip()
            path, line = groups["path"] or groups["path_behind"], groups["line"] or groups["line_before"]
            path = re.sub("^/{2,}", "/", path)  # of file:///
            quoted = _QUOTED.match(text, match.end()) if pattern is _PYTHON_FRAME else None
            code = quoted["code"].strip() if quoted else ""
            places.setdefault((path, int(line)), (match.start(), function, code))
    ordered = sorted(places.items(), key=lambda item: item[1][0])
    outwards = (
        _GO_CALL.search(text)
        or _RUST_CALL.search(text)
        or _NODE_FRAME.search(text)
        or _JAVA_FRAME.search(text)
    )
    for (path, line), (_, function, code) in reversed(ordered) if outwards else ordered:
        if line > 0:
            yield Frame(path, line, function, code)


def _messages(text: str) -> Iterator[tuple[str, str]]:
    for pattern in _MESSAGES:
        for match in pattern.finditer(text):
            groups = match.groupdict()
            said = groups.get("text") or groups.get("below") or ""
            yield match["type"], said.strip()


def _tests(text: str) -> Iterator[tuple[str, str]]:
    for pattern in _TESTS:
        for match in pattern.finditer(text.strip()):
            name = match["name"].strip()
            yield match.groupdict().get("path") or "", re.sub(r"\[[^\]]*\]$", "", name)
