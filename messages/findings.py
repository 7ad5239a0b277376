"""What research finds, as data: every finding says where it stands, every result what it rests on.

These models are also the output schemas of the sage servers' tools.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_actors.messages.packing import utf8_bytes
from sage_actors.messages.tokens import count_tokens, tokenizer_name

__all__ = ["Citation", "EvidenceLevel", "Finding", "Provenance", "ResearchResult", "TokenCount"]

EvidenceLevel = Literal["measured", "cited", "inferred", "none"]
"""measured: counted in the code. cited: passages with their place. inferred: a model's words about cited passages.
none: nothing was found, and nothing is claimed."""

Provenance = str
"""Who made it: `local`, `cache`, `mcp:<server>`, `llm:<model>` or `agent:<command>`."""


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Citation(_Data):
    """Where something stands. `source`: a path relative to the project, `git:<commit>` or `package:<name>`."""

    source: str
    line: int | None = Field(None, ge=1, description="of the file, from 1")

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


class Finding(_Data):
    """One piece of evidence. `score`: relevance to the topic, higher is better, comparable within one result."""

    text: str
    kind: str = Field(
        description="documentation, code, test, history, todo, dependency, skill, configuration"
    )
    citation: Citation
    score: float = 0.0


class TokenCount(_Data):
    """What was looked at and what of it was kept, in bytes and in tokens of the named tokenizer."""

    raw_bytes: int = Field(ge=0)
    kept_bytes: int = Field(ge=0)
    raw_tokens: int = Field(ge=0)
    kept_tokens: int = Field(ge=0)
    tokenizer: str

    @classmethod
    def of(cls, raw: str, kept: str) -> TokenCount:
        """The count of two texts: what was looked at, and what of it is passed on."""
        return cls(
            raw_bytes=utf8_bytes(raw),
            kept_bytes=utf8_bytes(kept),
            raw_tokens=count_tokens(raw),
            kept_tokens=count_tokens(kept),
            tokenizer=tokenizer_name(max(len(raw), len(kept))),
        )


class ResearchResult(_Data):
    """What one research operation found. `notes`: what was not determined, and why; nothing is invented."""

    operation: str
    topic: str
    summary: str = Field("", description="a sentence or two on what was found and where it was looked for")
    findings: list[Finding]
    citations: list[str] = Field(description="of the findings, as file:line, each once")
    provenance: Provenance
    evidence_level: EvidenceLevel
    tokens: TokenCount
    notes: list[str] = Field(default_factory=list)
