"""Patterns as data: what a project does habitually, with its counts, and the lines that show it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_actors.messages.findings import EvidenceLevel, Provenance, TokenCount

__all__ = [
    "CATEGORIES",
    "Category",
    "DetectedContext",
    "Example",
    "ExtractResult",
    "LanguagePatterns",
    "LoadResult",
    "Pattern",
    "PatternSet",
    "ProgressiveResult",
    "RelevantResult",
    "SkippedFile",
    "lower_bound",
]

Category = Literal[
    "naming",
    "types",
    "testing",
    "errorHandling",
    "logging",
    "architecture",
    "documentation",
    "concurrency",
    "imports",
    "style",
    "tooling",
]
CATEGORIES: tuple[Category, ...] = Category.__args__  # type: ignore[attr-defined]

_Z_95 = 1.959964


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Example(_Data):
    """A line that shows a pattern. `file` is relative to the project."""

    file: str
    line: int = Field(ge=1)
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Pattern(_Data):
    """One habit, in one sentence. `count` of `total` sightings show it."""

    name: str = Field(description="category.habit, such as naming.functions")
    category: Category
    language: str = Field(description="python, typescript (with JavaScript), go, rust, or project")
    statement: str
    count: int = Field(ge=0)
    total: int = Field(ge=0)
    percentage: float = Field(ge=0, le=100)
    confidence: float = Field(
        ge=0,
        le=1,
        description="of a share: the lower end of its 95 % Wilson interval, so that three of three is less than "
        "300 of 300; of a list or a measure: the share of the sources that was read",
    )
    values: dict[str, int] = Field(
        default_factory=dict, description="what was seen, and how often; most first"
    )
    citations: list[Example] = Field(default_factory=list)
    relevance: float | None = Field(None, ge=0, le=1, description="to a topic, where one was asked for")


class LanguagePatterns(_Data):
    """The patterns of one language. `confidence`: the mean of theirs."""

    files: int
    confidence: float
    statements: list[str] = Field(description="one sentence a pattern, with a place that shows it")


class SkippedFile(_Data):
    """A source that was found and not counted."""

    path: str
    reason: str


class PatternSet(_Data):
    """What is saved for a repository. `state`: changes when a source that was read changes."""

    format: Literal[1] = 1
    repo_name: str
    root: str = Field(description="relative to the project; . for all of it")
    state: str
    files_found: int
    files_sampled: int
    files_analyzed: int
    source_bytes: int
    primary_language: str | None
    overall_confidence: float
    languages: dict[str, int] = Field(description="files that were read, of each language")
    patterns: list[Pattern]
    skipped: list[SkippedFile]


class _Answer(_Data):
    citations: list[str] = Field(description="file:line, each once")
    provenance: Provenance = "local"
    evidence_level: EvidenceLevel
    tokens: TokenCount
    notes: list[str] = Field(default_factory=list, description="what was not determined, and why")


class ExtractResult(_Answer):
    """What was extracted, and where it is saved. A language without files is null."""

    success: bool
    repoName: str
    savedPath: str = Field(description="relative to the project")
    filesAnalyzed: int
    primaryLanguage: str | None
    overallConfidence: float
    pythonPatterns: LanguagePatterns | None
    typescriptPatterns: LanguagePatterns | None = Field(description="of TypeScript and JavaScript")
    goPatterns: LanguagePatterns | None
    rustPatterns: LanguagePatterns | None
    projectPatterns: LanguagePatterns | None = Field(description="layout and tools, whatever the language")
    filesFound: int
    skipped: list[SkippedFile]


class LoadResult(_Answer):
    """What was saved before."""

    success: bool
    patterns: list[PatternSet]


class DetectedContext(_Data):
    """What the path of a file says about it."""

    fileType: str
    feature: str
    domain: str


class ProgressiveResult(_Answer):
    """The patterns for work on one file, as many as the level asks for."""

    success: bool
    filePath: str
    detectedContext: DetectedContext
    loadingLevel: Literal["critical", "core", "extended"]
    tokenCount: int
    reductionPercentage: float = Field(description="tokens left out, of those of all saved patterns")
    loadTimeMs: float
    patterns: list[Pattern]


class RelevantResult(_Answer):
    """Patterns for a topic, the most relevant first."""

    topic: str
    summary: str
    primaryLanguage: str | None
    patterns: list[Pattern]


def lower_bound(count: int, total: int) -> float:
    """The lower end of the 95 % interval of a share: E. B. Wilson, JASA 22 (158), 1927. 0 where nothing was seen."""
    if total <= 0:
        return 0.0
    share, z2 = count / total, _Z_95**2
    spread = _Z_95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return round(max(0.0, (share + z2 / (2 * total) - spread) / (1 + z2 / total)), 3)
