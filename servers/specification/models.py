"""What the tools that write documents return: the schemas of their results."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_actors.messages.findings import EvidenceLevel, Provenance, TokenCount

__all__ = [
    "DocumentResult",
    "PlanResult",
    "Requirement",
    "Section",
    "SpecificationResult",
    "Task",
    "TouchedPlace",
]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Section(_Data):
    """One section of a document. `undetermined`: why it says nothing; "" where it has evidence."""

    title: str
    undetermined: str = ""


class Requirement(_Data):
    """What has to hold. Everything but what was asked for rests on places of the project."""

    id: str = Field(description="FR-1, NFR-1, ...: stable for the same project state and topic")
    text: str = Field(description="Markdown")
    status: Literal["asked", "from evidence", "proposed"]
    rests_on: list[str] = Field(default_factory=list, description="file:line")
    acceptance: list[str] = Field(default_factory=list, description="Markdown")


class TouchedPlace(_Data):
    """Code that the topic touches, and why it is thought so."""

    path: str
    line: int = Field(ge=1)
    symbol: str
    reason: str


class Task(_Data):
    """One step of a plan. `needs`: ids of tasks that come before."""

    id: str
    title: str
    needs: list[str] = Field(default_factory=list)
    files: list[str] = Field(default_factory=list, description="file:line, or a path that is to be made")
    why: str = ""
    checked_by: str = Field(default="", description="a command, or what to look at")
    skill: str | None = None


class DocumentResult(_Data):
    """A document that was written. `path` is relative to the project."""

    path: str
    slug: str
    kind: Literal["feature", "bugfix", "enhancement"]
    document: Literal["created", "replaced", "unchanged"]
    backup: str | None = Field(
        None,
        description="where the one that was there was kept: a person's, or another topic's",
    )
    sections: list[Section]
    citations: list[str] = Field(description="file:line, each once")
    provenance: Provenance
    evidence_level: EvidenceLevel
    tokens: TokenCount
    notes: list[str] = Field(default_factory=list, description="what was left out or not determined, and why")


class SpecificationResult(DocumentResult):
    """docs/specs/<slug>/spec.md."""

    requirements: list[Requirement]
    places: list[TouchedPlace]
    open_questions: list[str]


class PlanResult(DocumentResult):
    """docs/specs/<slug>/plan.md; the tasks are in an order that their `needs` allow."""

    tasks: list[Task]
    risks: list[str]
    commands: list[str]
