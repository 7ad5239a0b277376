"""What of a project a topic touches: definitions near it, the public surface, and the ways to extend it.

All of it is found by names and counted by mentions; what is shown is always a line that stands in the project.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property

from sage_actors.messages.ranking import UNSPACED
from sage_actors.servers.corpus.sources import Sources, Symbol
from sage_actors.servers.specification.evidence import Evidence, Item
from sage_actors.servers.specification.topic import SURFACE_WORDS, VAGUE_WORDS, Topic, split_name, stem
from sage_actors.servers.specification.words import Hit, WordIndex

__all__ = ["Candidate", "Place", "Survey", "is_mechanism", "is_sentence"]

_STRONG_WORDS = (
    "middleware middlewares hook hooks plugin plugins adapter adapters interceptor interceptors extension extensions"
    " register mount"
)
_WEAK_WORDS = (
    "handler handlers transport filter filters dispatch signal signals backend backends"
    " provider decorator listener"
)
_STRONG: frozenset[str] = frozenset(_STRONG_WORDS.split())
_WEAK: frozenset[str] = frozenset(_WEAK_WORDS.split())
_ERROR_ENDINGS = ("Error", "Exception", "Warning")
_SETTING = re.compile(r"\w*(Config|Settings|Options|Configuration|Opts)\b|(?:DEFAULT|MAX|MIN)_\w+")
_ENVIRONMENT = re.compile(r"os\.environ|os\.getenv|process\.env\b|os\.Getenv|env::var|os\.LookupEnv")
_ENVIRONMENT_WORDS = frozenset({"environ", "environb", "getenv", "getenvb", "env", "Getenv", "LookupEnv"})
_ERROR = re.compile(
    r"class\s+(?P<py>\w+)\s*\((?P<base>[\w.]*(?:Error|Exception|Warning)|[\w.]+)[,)]"
    r"|class\s+(?P<js>\w*(?:Error|Exception))\s+extends\s+(?P<jsbase>[\w.]+)"
    r"|(?P<go>\bErr[A-Z]\w*)\s*=\s*(?:errors\.New|fmt\.Errorf)|type\s+(?P<gotype>\w*Error)\s+struct"
    r"|enum\s+(?P<rust>\w*Error)\b|(?P<code>\w+):\s*createError\("
)
_ADVICE = "best_practices"
_SPOKEN = 0.5  # of what all words of the thing say, by how rare they are
_READ = 20  # lines of a definition, of what it is about
_LEAST_LINES = 10  # with a word that the project uses at all
_INNER = 0.5  # of its score has what stands inside of a function
_AKIN = 0.7  # of what the word itself would count
_WHOLE = 0.5  # of its score has a name that says other things, too; a name that the topic says entirely has all of it
_ASIDE = 0.5  # of an error type's score counts, where the topic is about no errors
_FAULTS = frozenset(map(stem, ("error", "exception", "warning")))
_BASES = re.compile(r"^class\s+\w+\s*\(([^)]*)\)")
_IMPORT = re.compile(r"(?:from|import|use|export)\s|.*\brequire\(")
_DOC_START = re.compile(r'\s*[rRuUbB]*("""|\'\'\'|")')
_ITEM = re.compile(r"\s*(?:[-*+•|]\s|\d+[.)]\s|\.\. )")
_HEADING = re.compile(r"\s*(?:#{1,6}\s|[=\-~*^]{3,}\s*$|```)")
_UNSPACED = re.compile(UNSPACED)
_ATTRIBUTE = re.compile(r"!?\[\w+[(\]]")  # of Rust, such as #[cfg(test)], without its first character
_QUOTED = re.compile(r"\s*>\s?")  # a line of a block quotation
_AROUND_WORDS = ".,:;!?()[]{}<>\"“”‘’'`*_/"
_FEW = 60  # lines: what stands in more of them is what the project is about, and says nothing of the topic
_TITLE = 60
_DIRECTIVES = ("@", "eslint", "nolint", "#[")
_COMMENT = re.compile(r"^\s*(?:///?!?|#|\*|/\*\*?|--)\s?")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the project and what stands there."""

    path: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(slots=True)
class Candidate:
    """A definition that the topic may touch. `reasons`: why, each true by count or by citation."""

    symbol: Symbol
    score: float
    reasons: list[str] = field(default_factory=list)
    by_research: bool = False
    shared: int = 0  # words of the thing that its name and its surroundings have
    in_place: bool = False  # it has a word of the place that the topic names


class Survey:
    """Looks at a project with one topic in mind; everything is computed when first asked for."""

    def __init__(self, sources: Sources, topic: Topic, evidence: Evidence) -> None:
        self.sources = sources
        self.topic = topic
        self.evidence = evidence
        self.words = sources.once(WordIndex)
        self._public: dict[Symbol, bool] = {}

    @cached_property
    def hits(self) -> list[Hit]:
        """The lines with words of the topic."""
        return self.words.hits(self.topic.stems)

    @property
    def words_needed(self) -> int:
        """How many words of the thing a line must have to speak of it: both of two, two of three, three of four."""
        return math.ceil(len(self.topic.thing_stems) * 2 / 3)

    def whole(self, *kinds: str) -> list[Hit]:
        """The lines of those kinds that speak of the thing that is asked for; those that say most of it first.

        The common ones of its words do not: "per-route request timeouts" is not where a route has a request.
        """
        wanted, needed = frozenset(self.topic.thing_stems), self.words_needed
        common = (part for part in wanted if self._lines_with[part] >= _LEAST_LINES)
        least = _SPOKEN * sum(self._rarity_in_lines[part] for part in common)
        found = [
            hit
            for hit in self.hits
            if hit.kind in kinds
            and needed
            and len(hit.stems & wanted) >= needed
            and self._says(hit, wanted) >= least
        ]
        return sorted(found, key=lambda hit: (self._is_beside(hit), -self.told(hit)))

    def _is_beside(self, hit: Hit) -> bool:
        """Whether it only loads the thing, or shows how it is used."""
        is_aside = hit.kind == "code" and not self.sources.is_product(hit.path)
        return is_aside or _IMPORT.match(hit.text) is not None

    def _says(self, hit: Hit, wanted: frozenset[str]) -> float:
        return sum(self._rarity_in_lines[part] for part in hit.stems & wanted)

    def told(self, hit: Hit) -> float:
        """How much of the topic a line says: each word counts by how few lines have it."""
        return sum(self._rarity_in_lines[part] for part in hit.stems)

    @cached_property
    def _rarity_in_lines(self) -> dict[str, float]:
        lines = self._lines_with
        return {part: math.log(2 + len(self.hits) / (lines[part] or 1)) for part in self.topic.stems}

    @cached_property
    def _lines_with(self) -> Counter[str]:
        return Counter(part for hit in self.hits for part in hit.stems)

    def alone(self, *kinds: str) -> dict[str, list[Hit]]:
        """Of each word of the thing that few lines have, the rarest first, the lines of those kinds; by its stem."""
        rare = sorted(
            (part for part in self.topic.thing_stems if 0 < self._lines_with[part] <= _FEW),
            key=lambda part: self._lines_with[part],
        )
        found = {part: [hit for hit in self.hits if part in hit.stems and hit.kind in kinds] for part in rare}
        return {part: hits for part, hits in found.items() if hits}

    def sentence(self, hit: Hit) -> Hit | None:
        """The hit with the whole paragraph or list item around it, cited where that begins; None for a table's row."""
        lines = self.sources.lines(hit.path)
        if hit.text.startswith(("|", "+--")):
            return None
        first = last = hit.line
        while first > max(1, hit.line - 4) and _continues(lines[first - 2], lines[first - 1]):
            first -= 1
        while last < min(len(lines), hit.line + 4) and _continues(lines[last - 1], lines[last]):
            last += 1
        text = " ".join(_QUOTED.sub("", line).strip() for line in lines[first - 1 : last])
        return replace(hit, line=first, text=text) if is_sentence(text) else None

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Definitions near the topic, by name, by file and by what research found; best first."""
        rarity = self._rarity()
        found = {
            (s.path, s.line): c for s in self.sources.symbols if (c := self._by_name(s, rarity)) is not None
        }
        top = max((candidate.score for candidate in found.values()), default=1.0)
        for item in self.evidence.of("code"):
            symbol = self.sources.symbol_at(item.source, item.line) if item.line else None
            if symbol is None or not self.sources.is_product(item.source):
                continue
            key = (symbol.path, symbol.line)
            if key not in found and item.operation == _ADVICE:
                continue  # it says how things are done here, not where
            candidate = found.setdefault(key, Candidate(symbol, 0.0))
            if not candidate.reasons or not candidate.reasons[-1].startswith("found by"):
                speaks = bool(candidate.shared) or self._speaks(symbol, item)
                candidate.by_research = item.operation != _ADVICE and speaks
                candidate.score += top * item.score
                candidate.reasons.append(f"found by {item.operation}")
        return sorted(found.values(), key=self._rank)

    def _speaks(self, symbol: Symbol, item: Item) -> bool:
        """Whether what research found has two words of the thing, or others for them; of one word that one."""
        shown = self.sources.lines(symbol.path)[symbol.line - 1 : symbol.line + _READ]
        stems = self.words.stems(" ".join((item.text, *shown)))
        parts = self.topic.thing_stems or self.topic.stems
        found = sum(
            part in stems or not self.topic.kin.get(part, frozenset()).isdisjoint(stems) for part in parts
        )
        return found >= min(2, len(parts))

    def _rank(self, candidate: Candidate) -> tuple[float, int, int, str, int]:
        """The best first; of equal ones what belongs to nothing else, then what is spoken of most."""
        symbol = candidate.symbol
        mentions = self.words.mentions(symbol.short_name, "code", "test", "documentation")
        return (-round(candidate.score, 6), symbol.name.count("."), -mentions, symbol.path, symbol.line)

    def _rarity(self) -> dict[str, float]:
        """How much a stem says: the fewer definitions have it in their names, the more."""
        total = len(self.sources.symbols) + 1
        wanted, counts = frozenset(self.topic.stems), Counter[str]()
        for symbol in self.sources.symbols:
            for part in wanted & self.words.stems(symbol.name):
                counts[part] += 1
        return {part: math.log(total / (counts[part] + 1)) + 0.1 for part in self.topic.stems}

    @cached_property
    def _spoken(self) -> frozenset[str]:
        """The stems of the topic, and of other words for its thing."""
        return frozenset(self.topic.stems).union(*self.topic.kin.values())

    def _by_name(self, symbol: Symbol, rarity: dict[str, float]) -> Candidate | None:
        own = self.words.stems(symbol.short_name)
        around = self.words.stems(symbol.name) | self.words.stems(symbol.path)
        if self._spoken.isdisjoint(own) and self._spoken.isdisjoint(around):
            return None
        there = [part for part in self.topic.stems if part in own or part in around]
        meant = [part for part in there if part not in SURFACE_WORDS or _is_all(part, symbol)]
        named = [part for part in meant if part in own]
        near = [part for part in meant if part not in own]
        akin = self._akin(own, around)
        if not named and not near and not akin:
            return None
        score = sum(rarity[part] for part in named) + 0.4 * sum(rarity[part] for part in near)
        score += _AKIN * sum(rarity[part] for part in akin)
        score *= _WHOLE + (1 - _WHOLE) * (len(named) + len(akin)) / max(1, len(own))
        score *= 1.0 if self.is_public(symbol) else 0.6
        score *= _INNER if self.is_inner(symbol) else 1.0
        if _is_error(symbol) and _FAULTS.isdisjoint(self.topic.stems):
            score *= _ASIDE
        reason = _reason(named or near, akin, self.topic, is_named=bool(named))
        matched = {*named, *near, *akin}
        return Candidate(
            symbol,
            score,
            [reason],
            shared=len(matched & set(self.topic.thing_stems)),
            in_place=bool(matched & set(self.topic.place_stems)),
        )

    def _akin(self, own: frozenset[str], around: frozenset[str]) -> list[str]:
        """Words of the thing that have another word for them in a name: a throttle is one word, not rate and limit."""
        free, found = set(own), []
        for part in self.topic.thing_stems:
            kin = sorted(self.topic.kin[part] & free) if part not in around else []
            if kin:
                free.discard(kin[0])
                found.append(part)
        return found

    @cached_property
    def surface(self) -> list[Symbol]:
        """Public definitions by how often tests and documentation mention them; only names that are defined once,
        since the mentions of others cannot be told apart."""
        defined = Counter(symbol.short_name for symbol in self.sources.symbols)
        ranked = [
            (self._spoken_of(symbol.name), symbol)
            for symbol in self.sources.symbols
            if len(symbol.name) > 2 and defined[symbol.name] == 1 and self.is_public(symbol)
        ]
        ranked.sort(key=lambda pair: -pair[0])
        return [symbol for mentions, symbol in ranked[:40] if mentions]

    def _spoken_of(self, name: str) -> float:
        """Both tests and documentation have to: what tests alone use in every line is a fixture."""
        return sum(math.log1p(self.words.mentions(name, kind)) for kind in ("test", "documentation"))

    @cached_property
    def extension_points(self) -> list[Symbol]:
        """Public definitions named as what others hook into, the most mentioned first; none where only weak names,
        such as a handler or a signal, are there: those mean something else as often."""
        found: dict[str, tuple[float, Symbol]] = {}
        for symbol in self.sources.symbols:
            words = split_name(symbol.short_name)
            is_strong = _hooks_in(words)
            if (not is_strong and _WEAK.isdisjoint(words)) or len(words) > 3 or not self.is_public(symbol):
                continue
            if symbol.short_name.endswith(_ERROR_ENDINGS):
                continue
            if self.is_inner(symbol):
                continue
            mentions = self.words.mentions(symbol.short_name, "code", "test", "documentation")
            weight = 3.0 if is_strong else 1.0
            score = weight * math.log1p(mentions) / len(words)
            if score > found.get(symbol.short_name, (0.0, symbol))[0]:
                found[symbol.short_name] = (score, symbol)
        ranked = [symbol for _, symbol in sorted(found.values(), key=lambda pair: -pair[0])]
        return ranked if any(is_mechanism(symbol) for symbol in ranked) else []

    def in_place(self, symbols: list[Symbol]) -> list[Symbol]:
        """Those that stand where the topic wants the thing, by their names and files, if any does; else all."""
        wanted = frozenset(self.topic.place_stems) - VAGUE_WORDS
        there = [s for s in symbols if wanted & (self.words.stems(s.name) | self.words.stems(s.path))]
        return there or symbols

    def is_inner(self, symbol: Symbol) -> bool:
        """Whether nobody outside of the function that it stands in can mean it."""
        return symbol.is_nested and not self._is_called_in_docs(symbol.short_name)

    def _is_called_in_docs(self, name: str) -> bool:
        """A method that a factory function makes is nested, and public all the same: documentation calls it."""
        call = f".{name}("
        return any(
            call in self.sources.text(path) for path in self.words.files_with(name, "documentation")[:10]
        )

    def is_public(self, symbol: Symbol) -> bool:
        """Whether users may name it, by the rules of its language. `_client.Client` is if its package exports it."""
        known = self._public.get(symbol)
        if known is None:
            known = self._public[symbol] = self._may_be_named(symbol)
        return known

    def _may_be_named(self, symbol: Symbol) -> bool:
        parts = symbol.name.split(".")
        if any(part.startswith(("_", "#")) for part in parts):
            return False
        if "internal" in symbol.path.split("/"):
            return symbol.language == "javascript" and self._face_with(parts[0], symbol.path) is not None
        if symbol.language == "go":
            return all(part[:1].isupper() for part in parts)
        if symbol.language == "rust":
            return "pub" in symbol.signature.split("fn")[0] or symbol.signature.startswith("impl")
        if not any(part.startswith("_") and part != "__init__.py" for part in symbol.path.split("/")):
            return True
        return symbol.language == "python" and (self._is_exported(symbol) or parts[0] in self._bases)

    def _faces(self, path: str) -> list[str]:
        """The `__init__.py` of its package and of those around it, the innermost first."""
        folders = path.split("/")[:-1]
        found = ["/".join([*folders[:depth], "__init__.py"]) for depth in range(len(folders), -1, -1)]
        return [each for each in found if self.sources.has(each)]

    def _is_exported(self, symbol: Symbol) -> bool:
        name = symbol.name.split(".")[0]
        return any(self.words.has(name, face) for face in self._faces(symbol.path))

    @cached_property
    def _bases(self) -> frozenset[str]:
        """The bases of exported classes: their methods are methods of these."""
        exported = (s for s in self.sources.symbols if s.language == "python" and self._is_exported(s))
        signatures = (_BASES.search(s.signature) for s in exported if "." not in s.name)
        return frozenset(word for found in signatures if found for word in re.findall(r"\w+", found[1]))

    def _face_with(self, name: str, path: str) -> str | None:
        """The outermost `index.ts` or `index.js` around a file of JavaScript that names `name`."""
        folders = path.split("/")[:-1]
        around = ("/".join([*folders[:depth], "index"]) for depth in range(len(folders) + 1))
        faces = (face + ending for face in around for ending in (".ts", ".js", ".mjs", ".tsx"))
        return next((face for face in faces if face != path and self.words.has(name, face)), None)

    def derived_from(self, symbol: Symbol) -> list[Symbol]:
        """The classes that name it as a base: what a new one would be modelled on."""
        if not symbol.signature.startswith(
            ("class ", "export class ", "abstract class ", "export abstract class ")
        ):
            return []
        base = re.compile(
            rf"\bclass\s+\w+\s*(?:\(|extends\b|.*\bimplements\b).*\b{re.escape(symbol.short_name)}\b"
        )
        return [
            each for each in self.sources.symbols if each.name != symbol.name and base.search(each.signature)
        ]

    def exported_at(self, symbol: Symbol) -> Place | None:
        """Where a package's face names it: the outermost `__init__.py`, or an export line of its own file.

        None for a method: not it is exported, but its class.
        """
        name = symbol.name
        if "." in name or symbol.is_nested:
            return None
        pattern = re.compile(rf"(?<![\w$.]){re.escape(name)}(?![\w$])")
        if symbol.language == "python":
            paths = self._faces(symbol.path)[::-1]
        elif symbol.language == "javascript":
            paths = [face] if (face := self._face_with(name, symbol.path)) else [symbol.path]
        else:
            return None
        for path in paths:
            for number, line in enumerate(self.sources.lines(path), 1):
                if pattern.search(line) and (
                    path != symbol.path or re.match(r"\s*(module\.)?exports?\b", line)
                ):
                    return Place(path, number, line.strip())
        return None

    def doc_of(self, symbol: Symbol) -> Place | None:
        """The first line of what its author says it does: a docstring, or the comment above."""
        lines = self.sources.lines(symbol.path)
        if symbol.language == "python":
            return _docstring(lines, symbol)
        first = symbol.line - 1
        while first > 0 and (_COMMENT.match(lines[first - 1]) or lines[first - 1].strip() == "*/"):
            first -= 1
        said = [
            _COMMENT.sub("", line).strip().rstrip("*/").strip() for line in lines[first : symbol.line - 1]
        ]
        for number, text in enumerate(said):
            if len(text.split()) > 2 and not text.startswith(_DIRECTIVES) and not _ATTRIBUTE.match(text):
                return Place(symbol.path, first + number + 1, _first_sentence(_paragraph(said[number:]), 0))
        return None

    @property
    def errors(self) -> list[tuple[str, str, Place]]:
        """The project's own error types: name, base ("" where the language has none), place."""
        return self.sources.once(_error_types)

    @cached_property
    def settings(self) -> list[Place]:
        """Definitions that hold configuration; the most mentioned first."""
        found = [
            s
            for s in self.sources.symbols
            if _SETTING.fullmatch(s.short_name) and self.is_public(s) and not s.signature.startswith("def ")
        ]
        found.sort(key=lambda s: -self.words.mentions(s.short_name, "code", "test", "documentation"))
        return [Place(s.path, s.line, s.signature) for s in found]

    @cached_property
    def environment_reads(self) -> list[Place]:
        """The lines of code that read environment variables."""
        return [
            Place(path, number, line.strip())
            for path in self.words.files_with_any(_ENVIRONMENT_WORDS, "code")
            if self.sources.is_product(path)
            for number, line in enumerate(self.sources.lines(path), 1)
            if _ENVIRONMENT.search(line)
        ]


def _error_types(sources: Sources) -> list[tuple[str, str, Place]]:
    found = []
    for path in filter(sources.is_product, sources.files("code")):
        for number, line in enumerate(sources.lines(path), 1):
            match = _ERROR.search(line) if "Err" in line or "Exception" in line else None
            if match:
                name = next(filter(None, match.group("py", "js", "go", "gotype", "rust", "code")), "")
                base = match["base"] or match["jsbase"] or ""
                if "Err" in name + base or "Exception" in name + base or match["code"]:
                    found.append((name, base, Place(path, number, line.strip())))
    return found


def _is_error(symbol: Symbol) -> bool:
    """Whether it is of a type of what can go wrong, by its name or its base."""
    bases = _BASES.search(symbol.signature)
    names = [*symbol.name.split("."), *(re.findall(r"\w+", bases[1]) if bases else ())]
    return any(name.endswith(_ERROR_ENDINGS) for name in names)


def _is_all(part: str, symbol: Symbol) -> bool:
    """Whether it is a whole name there: `_api.py` is about the API, `OpenAPIResponse` is not."""
    whole = (symbol.short_name, *re.split(r"[/.]", symbol.path))
    return any(stem(name.strip("_")) == part for name in whole)


def _reason(words: list[str], akin: list[str], topic: Topic, *, is_named: bool) -> str:
    shown = ", ".join(f"“{word}”" for word in topic.words_of(words))
    parts = [f"{'named after' if is_named else 'stands under'} {shown}"] if words else []
    if akin:
        parts.append("akin to " + ", ".join(f"“{word}”" for word in topic.words_of(akin)))
    return ", ".join(parts)


def is_mechanism(symbol: Symbol) -> bool:
    """Whether its name alone says that others hook in there: a middleware, a plugin, a mount."""
    return _hooks_in(split_name(symbol.short_name))


def _hooks_in(words: tuple[str, ...]) -> bool:
    """`use` alone is a hook (`app.use`); `UseLine` is about usage, and `useState` uses something."""
    return words == ("use",) or not _STRONG.isdisjoint(words)


def is_sentence(text: str, words: int = 5) -> bool:
    """Whether it has so many words, and is no list of names and paths; of what is written without spaces two characters
    count as one."""
    said = text.split()
    spoken = sum(word.strip(_AROUND_WORDS).replace("-", "").replace("'", "").isalpha() for word in said)
    unspaced = len(_UNSPACED.findall(text)) // 2
    return (
        len(said) + unspaced >= words and (spoken + unspaced) * 2 >= len(said) and not text.startswith(".. ")
    )


def _continues(line: str, following: str) -> bool:
    """Whether the next line goes on with what this one says: neither is empty, a heading, or a new item."""
    if not line.strip() or not following.strip() or _HEADING.match(line) or _HEADING.match(following):
        return False
    return not _ITEM.match(following)


def _docstring(lines: list[str], symbol: Symbol) -> Place | None:
    """The signature ends at the first line that ends with a colon; the text begins on the next one."""
    end = next(
        (
            n
            for n in range(symbol.line - 1, min(symbol.line + 25, len(lines)))
            if lines[n].rstrip().endswith((":", ": ..."))
        ),
        None,
    )
    if end is None or lines[end].rstrip().endswith("..."):  # of an overload: what follows is another's
        return None
    begins = next((n for n in range(end + 1, min(end + 3, len(lines))) if lines[n].strip()), None)
    if begins is None or not _DOC_START.match(lines[begins]):
        return None
    for number in range(begins, min(begins + 2, len(lines))):
        if _DOC_START.sub("", lines[number]).strip("\"' "):
            return Place(symbol.path, number + 1, _first_sentence(lines, number))
    return None


def _paragraph(lines: list[str]) -> list[str]:
    """Without what begins anew below a short line, such as a title."""
    if len(lines) > 1 and len(lines[0]) < _TITLE and lines[1][:1].isupper():
        return lines[:1]
    return lines


def _first_sentence(lines: list[str], first: int) -> str:
    """The line and those that it goes on in, up to the end of a sentence, of the paragraph or of the string.

    What goes on for more than four lines ends in `…`.
    """
    said: list[str] = []
    for line in lines[first : first + 4]:
        text = _DOC_START.sub("", line) if not said else line
        if said and text.startswith(_DIRECTIVES):
            break
        said.append(text.strip("\"' "))
        if not said[-1] or said[-1].endswith((".", ":", "!", "?")) or text.rstrip().endswith(('"""', "'''")):
            break
    else:
        following = lines[first + 4].strip("\"' ") if first + 4 < len(lines) else ""
        said += ["…"] if following else []
    return " ".join(filter(None, said))
