"""The server sage-patterns: what a project does habitually, counted in its sources, and how good its code is."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from sage_actors.messages.findings import TokenCount
from sage_actors.messages.units import counted
from sage_actors.servers.patterns.about import languages_about
from sage_actors.servers.patterns.extract import extract
from sage_actors.servers.patterns.model import (
    ExtractResult,
    LanguagePatterns,
    LoadResult,
    Pattern,
    PatternSet,
    ProgressiveResult,
    RelevantResult,
)
from sage_actors.servers.patterns.relevance import context_of, rank, with_examples, within_level
from sage_actors.servers.patterns.scan import OutsideProjectError, Sources, contained
from sage_actors.servers.patterns.store import (
    DEFAULT_FOLDER,
    NoPlaceError,
    check_folder,
    find_saved,
    load_saved,
    save,
)
from sage_actors.servers.quality.quality import QualityResult, measure_quality
from sage_actors.servers.sage_server import SageServer
from sage_actors.servers.settings import ServerSettings

__all__ = ["create_server"]

_READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
_WRITES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_INSTRUCTIONS = (
    "Patterns of this project, counted in its sources (Python, TypeScript and JavaScript, Go, Rust): every statement "
    "has its count and places as file:line. Nothing is guessed and no code is run. relevant_patterns is what to ask "
    "before writing code; code_quality finds what to change with care."
)
_SHOWN_SKIPPED = 20
_MAX_FILES = 1000
_ENOUGH_FILES, _ENOUGH_BYTES = 200, 2_000_000
"""Of a share that is counted in so much the interval is narrow; more would cost seconds and change nothing."""

Level = Literal["critical", "core", "extended"]
Percentage = Annotated[float, Field(gt=0, le=100)]
FileLimit = Annotated[int, Field(ge=1, le=20_000)]


def create_server(settings: ServerSettings) -> MCPServer:
    """The server, for `settings.project` only: paths that lead out of it are refused."""
    tools = _Tools(settings.project.resolve(), Sources(settings.project))
    server = SageServer("sage-patterns", instructions=_INSTRUCTIONS)
    server.tool(annotations=_WRITES)(tools.extract_patterns)
    server.tool(annotations=_READS)(tools.load_patterns)
    server.tool(annotations=_READS)(tools.display_patterns)
    server.tool(annotations=_READS)(tools.load_patterns_progressive)
    server.tool(annotations=_WRITES)(tools.relevant_patterns)
    server.tool(annotations=_READS)(tools.code_quality)
    return server


@dataclass(slots=True)
class _Tools:
    """The tools of one project. Their docstrings are what a client reads."""

    project: Path
    sources: Sources

    def extract_patterns(
        self,
        repoPath: str = ".",
        outputDir: str = DEFAULT_FOLDER,
        samplePercentage: Percentage = 50,
        maxFiles: FileLimit = _MAX_FILES,
    ) -> ExtractResult:
        """Counts the coding patterns of a repository and saves them as JSON.

        repoPath: the project or a folder in it, relative to the project. outputDir: where to save, in the project,
        but not in .git, .claude and their like. A file that holds no patterns is not replaced.
        samplePercentage: of the sources, drawn by the hash of their path, so that the same are drawn each time.
        Covers Python, TypeScript and JavaScript, Go, Rust: naming, types, testing, error handling, logging,
        architecture, documentation, concurrency, imports, style, and configured checks. What cannot be parsed is
        counted and named under `skipped`. Runs no code of the repository.
        """
        root = self._folder(repoPath)
        try:
            check_folder(self.project, outputDir)
            found = extract(self.sources, root, sample_percentage=samplePercentage, max_files=maxFiles)
            saved = save(self.project, outputDir, found)
        except (OutsideProjectError, NoPlaceError) as error:
            raise ToolError(str(error)) from error
        except OSError as error:
            raise ToolError(
                f"the patterns cannot be saved in {outputDir}: {error.strerror or error}"
            ) from error
        return _extracted(found, saved)

    def load_patterns(self, patternsDir: str | None = None) -> LoadResult:
        """Loads the patterns that were saved.

        patternsDir: a folder in the project; without one .sage/patterns, then upstream's .sage/agent/examples.
        Files that hold no patterns are named in `notes`; TypeScript files are never run.
        """
        self._inside(patternsDir)
        loaded = load_saved(self.project, patternsDir)
        patterns = [each for one in loaded.sets for each in one.patterns]
        text = "".join(each.model_dump_json() for each in loaded.sets)
        return LoadResult(
            success=bool(loaded.sets),
            patterns=loaded.sets,
            citations=_cited(patterns),
            provenance="cache",
            evidence_level="measured" if patterns else "none",
            tokens=TokenCount.of(text, text),
            notes=loaded.notes or ([] if loaded.sets else [_NOTHING_SAVED]),
        )

    def display_patterns(self, patternsDir: str | None = None) -> str:
        """Shows the saved patterns as plain text: one line a pattern, with its share and a place that shows it."""
        self._inside(patternsDir)
        loaded = load_saved(self.project, patternsDir)
        return "\n\n".join([_displayed(each) for each in loaded.sets] + loaded.notes) or _NOTHING_SAVED

    def load_patterns_progressive(
        self, filePath: str, level: Level = "core", patternsDir: str | None = None
    ) -> ProgressiveResult:
        """Loads the saved patterns that matter for work on one file, which need not exist yet.

        level: critical (naming, types), core (and errors, tests, imports, logging) or extended (all). For a test
        file the patterns of testing always come.
        """
        began = time.perf_counter()
        path = self._inside(filePath).relative_to(self.project).as_posix()
        if path == ".":
            raise ToolError("`filePath` names the project itself; give the path of the file to work on")
        self._inside(patternsDir)
        loaded = load_saved(self.project, patternsDir)
        chosen = within_level(loaded.sets, path, level)
        everything = "".join(pattern.model_dump_json() for each in loaded.sets for pattern in each.patterns)
        tokens = TokenCount.of(everything, "".join(each.model_dump_json() for each in chosen))
        reduction = 100 * (1 - tokens.kept_tokens / tokens.raw_tokens) if tokens.raw_tokens else 0.0
        return ProgressiveResult(
            success=bool(loaded.sets),
            filePath=path,
            detectedContext=context_of(path),
            loadingLevel=level,
            tokenCount=tokens.kept_tokens,
            reductionPercentage=round(max(0.0, reduction), 1),
            loadTimeMs=round(1000 * (time.perf_counter() - began), 1),
            patterns=chosen,
            citations=_cited(chosen),
            provenance="cache",
            evidence_level="measured" if chosen else "none",
            tokens=tokens,
            notes=loaded.notes if loaded.sets else [*loaded.notes, _NOTHING_SAVED],
        )

    def relevant_patterns(
        self,
        topic: Annotated[str, Field(min_length=1)],
        top: Annotated[int, Field(ge=1, le=100)] = 10,
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ) -> RelevantResult:
        """The patterns to follow when writing code about a topic, each with `relevance` (0 to 1) and examples.

        Extracts them first unless they are saved for the present state of the sources. What everybody needs who
        writes code here (test framework, naming, error style, layout) always ranks high; the rest by the topic. In a
        project of several languages those count in which the code is that the topic is about.
        threshold: leave out what is less relevant (upstream's workflow keeps above 0.8).
        """
        found, is_saved, notes = self._present()
        about = languages_about(self.project, topic)
        chosen = rank(found, topic, top=top, threshold=threshold, languages=about)
        everything = "".join(each.model_dump_json() for each in found.patterns)
        return RelevantResult(
            topic=topic,
            summary=_summary(found, len(chosen)),
            primaryLanguage=found.primary_language,
            patterns=chosen,
            citations=_cited(chosen),
            provenance="cache" if is_saved else "local",
            evidence_level="measured" if chosen else "none",
            tokens=TokenCount.of(everything, "".join(each.model_dump_json() for each in chosen)),
            notes=notes + _what_is_missing(found),
        )

    def code_quality(
        self,
        topic: str = "",
        path: str = ".",
        top: Annotated[int, Field(ge=1, le=200)] = 15,
    ) -> QualityResult:
        """Measures the code and ranks its hot spots: files that are complex and change often.

        topic: look first at files and functions whose names are about it. path: a folder or file in the project.
        Gives for files and functions: lines, cyclomatic complexity, nesting, parameters, tests nearby, TODOs,
        functions that repeat each other, and from git the commits and authors of the last twelve months.
        """
        root = self._inside(path)
        return measure_quality(self.sources, root, topic=topic, top=top)

    def _present(self) -> tuple[PatternSet, bool, list[str]]:
        """The patterns of the sources as they are now, whether they were saved, and what went wrong in saving."""
        state = self.sources.state(self.project, max_files=_ENOUGH_FILES, max_bytes=_ENOUGH_BYTES)
        saved = find_saved(self.project, ".", state)
        if saved is not None:
            return saved, True, []
        found = extract(
            self.sources,
            self.project,
            sample_percentage=100,
            max_files=_ENOUGH_FILES,
            max_bytes=_ENOUGH_BYTES,
        )
        try:
            save(self.project, DEFAULT_FOLDER, found)
        except (OSError, OutsideProjectError, NoPlaceError) as error:
            return found, False, [f"the patterns could not be saved for the next time: {error}"]
        return found, False, []

    def _folder(self, path: str) -> Path:
        root = self._inside(path)
        if not root.is_dir():
            raise ToolError(f"there is no folder {path!r} in the project; name one that exists")
        return root

    def _inside(self, path: str | None) -> Path:
        try:
            return contained(self.project, path or ".")
        except OutsideProjectError as error:
            raise ToolError(str(error)) from error


_NOTHING_SAVED = "no patterns are saved yet; call extract_patterns first"


def _extracted(found: PatternSet, saved: str) -> ExtractResult:
    of = {
        language: _language(found, language) for language in ("python", "typescript", "go", "rust", "project")
    }
    kept = "".join(each.model_dump_json() for each in of.values() if each is not None)
    return ExtractResult(
        success=True,
        repoName=found.repo_name,
        savedPath=saved,
        filesAnalyzed=found.files_analyzed,
        primaryLanguage=found.primary_language,
        overallConfidence=found.overall_confidence,
        pythonPatterns=of["python"],
        typescriptPatterns=of["typescript"],
        goPatterns=of["go"],
        rustPatterns=of["rust"],
        projectPatterns=of["project"],
        filesFound=found.files_found,
        skipped=found.skipped[:_SHOWN_SKIPPED],
        citations=_cited(found.patterns, of_each=1),
        evidence_level="measured" if found.patterns else "none",
        tokens=TokenCount.of("".join(each.model_dump_json() for each in found.patterns), kept),
        notes=_what_is_missing(found),
    )


def _language(found: PatternSet, language: str) -> LanguagePatterns | None:
    patterns = [each for each in found.patterns if each.language == language]
    if not patterns:
        return None
    return LanguagePatterns(
        files=found.languages.get(language, found.files_analyzed),
        confidence=round(sum(each.confidence for each in patterns) / len(patterns), 3),
        statements=[_stated(each) for each in patterns],
    )


def _stated(pattern: Pattern) -> str:
    where = f" [{pattern.citations[0]}]" if pattern.citations else ""
    return pattern.statement + where


def _displayed(found: PatternSet) -> str:
    lines = [
        f"{found.repo_name}: {found.files_analyzed} of {found.files_found} sources read, "
        f"mostly {found.primary_language or 'nothing that is known'}"
    ]
    for language in ("python", "typescript", "go", "rust", "project"):
        patterns = [each for each in found.patterns if each.language == language]
        if patterns:
            lines += ["", language]
            lines += [f"  {each.name:<28}{_stated(with_examples(each, ''))}" for each in patterns]
    return "\n".join(lines)


def _summary(found: PatternSet, chosen: int) -> str:
    if not found.files_analyzed:
        return "No source in Python, TypeScript, JavaScript, Go or Rust was found to learn from."
    return (
        f"{chosen} of {len(found.patterns)} patterns, counted in {found.files_analyzed} of {found.files_found} "
        f"sources, mostly {found.primary_language}."
    )


def _what_is_missing(found: PatternSet) -> list[str]:
    notes = []
    if found.files_sampled < found.files_found:
        notes.append(
            f"{found.files_sampled} of {found.files_found} sources were drawn, by the hash of their path"
        )
    if found.skipped:
        named = "; ".join(f"{each.path}: {each.reason}" for each in found.skipped[:3])
        notes.append(f"{counted(len(found.skipped), 'source was', 'sources were')} not counted ({named})")
    if not found.files_analyzed:
        notes.append("patterns: not determined, because no source of a known language could be read")
    return notes


def _cited(patterns: Iterable[Pattern], *, of_each: int = 3) -> list[str]:
    return list(dict.fromkeys(str(place) for each in patterns for place in each.citations[:of_each]))
