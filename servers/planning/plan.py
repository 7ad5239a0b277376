"""A plan while it is made: tasks are numbered as they are added, each with its files, its reason and its check."""

from __future__ import annotations

from dataclasses import dataclass, field

from sage_actors.servers.specification.models import Requirement, Task
from sage_actors.servers.specification.places import Spot
from sage_actors.servers.specification.study import SkillHint, Study
from sage_actors.servers.specification.tests import narrowed, test_file_for

__all__ = ["Plan", "place_of", "run_of", "test_file_of"]


@dataclass
class Plan:
    """Tasks are numbered as they are added; what they need must have been added before."""

    study: Study
    requirements: list[Requirement]
    tasks: list[Task] = field(default_factory=list)

    def add(self, title: str, *, needs: list[str], files: list[str], why: str, checked_by: str) -> str:
        """The id of the new task."""
        made = f"T{len(self.tasks) + 1}"
        self.tasks.append(
            Task(
                id=made,
                title=title,
                needs=list(dict.fromkeys(needs)),
                files=list(dict.fromkeys(filter(None, files))),
                why=why,
                checked_by=checked_by,
                skill=_skill_for(title, self.study.skills),
            )
        )
        return made

    def ids(self, *prefixes: str) -> str:
        """The ids of the requirements of those kinds, as text; "" where there are none."""
        return ", ".join(r.id for r in self.requirements if r.id.startswith(prefixes))

    def resting_on(self, word: str) -> str:
        """The ids of requirements that speak of `word`."""
        return ", ".join(r.id for r in self.requirements if word in r.text)


def place_of(spot: Spot) -> str:
    return f"{spot.symbol.path}:{spot.symbol.line}"


def test_file_of(study: Study, spot: Spot) -> str:
    """Where a test of it goes."""
    return test_file_for(spot.symbol.path, spot.tests, study.sources)


def run_of(study: Study, test: str, name: str = "") -> str:
    if test:
        return narrowed(study.test_check_of(test), test, name)
    return study.test_check.text if study.test_check else ""


def _skill_for(title: str, skills: list[SkillHint]) -> str | None:
    """The skill that shares most words with the task, if it shares two, or its name shares one."""
    words = {word.lower().strip(":,.") for word in title.split() if len(word) > 3}
    best, most = None, 0
    for skill in skills:
        name = set(skill.name.lower().replace("-", " ").replace("_", " ").split())
        shared = len(words & set(skill.description.lower().split())) + 2 * len(words & name)
        if shared > max(most, 1):
            best, most = skill.name, shared
    return best
