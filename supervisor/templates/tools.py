"""What upstream's operation names mean here: a table of names, the tool of each, and what a step needs first.

Upstream's templates name operations (`marketResearch`, `spec`, `regression`) and leave open what they call. Names
are compared without case and punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sage_actors.supervisor.core.graph import nearest

__all__ = ["KINDS", "ToolStep", "named_tool", "near_names"]

Role = Literal["research", "patterns", "skills", "specification", "planning", "implementation", "validation"]

KINDS: dict[str, str] = {
    "feature": "feature",
    "featuredevelopment": "feature",
    "bugfix": "bugfix",
    "bug": "bugfix",
    "enhancement": "enhancement",
}
"""The kind of a workflow by its name; any other is a feature."""


@dataclass(frozen=True, slots=True)
class ToolStep:
    """One tool. role: what its result is for later steps. topic: the argument that takes the topic, if any.

    parameters: further arguments that a template may give. inexact: how it differs from what was asked for.
    """

    server: str
    tool: str
    role: Role
    topic: str = "topic"
    timeout: float = 60
    parameters: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    inexact: str = ""

    @property
    def is_research(self) -> bool:
        """Whether the run goes on without it."""
        return self.role in ("research", "patterns", "skills")


def _research(tool: str, top: int, *, topic: str = "topic", inexact: str = "") -> ToolStep:
    parameters = frozenset({"top", "max_bytes"})
    return ToolStep(
        "sage-research",
        tool,
        "research",
        topic,
        parameters=parameters,
        defaults={"top": top},
        inexact=inexact,
    )


_MARKET = _research("market_research", 5)
_COMPETITIVE = _research("competitive_analysis", 3)
_PRACTICES = _research("best_practices", 5)
_CODE = _research("code_search", 10)
_ERROR = ToolStep("sage-research", "error_analysis", "research", "error", parameters=frozenset({"max_bytes"}))
_SIMILAR = _research("similar_changes", 5)
_SKILLS = ToolStep(
    "sage-research", "skills_search", "skills", parameters=frozenset({"top"}), defaults={"top": 5}
)
_PATTERNS = ToolStep("sage-patterns", "relevant_patterns", "patterns")
_QUALITY = ToolStep(
    "sage-patterns",
    "code_quality",
    "research",
    parameters=frozenset({"path"}),
    defaults={"path": "."},
    timeout=120,
)
_PROFILE = ToolStep(
    "sage-patterns",
    "code_quality",
    "research",
    parameters=frozenset({"path"}),
    defaults={"path": "."},
    timeout=120,
    inexact="no run time is measured; size, complexity and churn are",
)
_SPECIFY = ToolStep(
    "sage-specification",
    "specification_create",
    "specification",
    timeout=300,
    parameters=frozenset({"slug", "kind", "output"}),
)
_PLAN = ToolStep(
    "sage-planning",
    "planning_generate",
    "planning",
    timeout=300,
    parameters=frozenset({"slug", "kind", "output"}),
)
_IMPLEMENT = ToolStep(
    "sage-implementation",
    "implementation_execute",
    "implementation",
    timeout=3600,
    parameters=frozenset({"slug", "kind"}),
)
_VALIDATE = ToolStep(
    "sage-implementation", "validation_run", "validation", "", timeout=1800, parameters=frozenset({"slug"})
)

_NAMES: tuple[tuple[str, ToolStep], ...] = (
    ("research market marketResearch", _MARKET),
    ("competitive competitors competitiveAnalysis alternatives", _COMPETITIVE),
    ("practices bestPractices solutions standards standardsLoader loadStandards", _PRACTICES),
    ("code codeAnalysis codeSearch", _CODE),
    ("error errorAnalysis errorTracking", _ERROR),
    ("similar similarBugs similarChanges history", _SIMILAR),
    ("skill skills skillDiscovery skillsSearch", _SKILLS),
    ("pattern patterns patternAnalysis patternExtraction extractPatterns relevantPatterns", _PATTERNS),
    ("quality codeQuality detection", _QUALITY),
    ("performance performanceProfile profile", _PROFILE),
    ("spec specify specification specificationCreate create", _SPECIFY),
    ("plan planning planningGenerate generate", _PLAN),
    ("implement implementation implementationExecute execute fix", _IMPLEMENT),
    ("test tests testing regression validate validation validationRun", _VALIDATE),
)
_TABLE = {name.lower(): step for names, step in _NAMES for name in names.split()}
REQUIRES: dict[Role, tuple[Role, ...]] = {
    "planning": ("specification",),
    "implementation": ("specification", "planning"),
}
"""Which steps must have been made before; where a template leaves them out they are added."""

STEP_OF: dict[Role, ToolStep] = {"specification": _SPECIFY, "planning": _PLAN}


def named_tool(name: str) -> ToolStep | None:
    """The tool that upstream's operation `name` stands for.

    >>> named_tool("Best-Practices").tool
    'best_practices'
    """
    return _TABLE.get(re.sub(r"[^a-z0-9]", "", name.lower()))


def near_names(name: str, more: Iterable[str] = ()) -> str:
    """Which operation may have been meant."""
    known = [*(each for names, _ in _NAMES for each in names.split()), *more]
    return nearest(name, known, otherwise=f"known are {', '.join(names.split()[-1] for names, _ in _NAMES)}")
