"""The tasks of a plan, from the evidence: each with its files, its reason and its check, in an order that holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from sage_actors.servers.specification.enhancement import measure
from sage_actors.servers.specification.models import Requirement, Task
from sage_actors.servers.specification.places import Spot, doc_files, spots
from sage_actors.servers.specification.study import SkillHint, Study
from sage_actors.servers.specification.suspects import Investigation
from sage_actors.servers.specification.tests import find_tests, narrowed, new_test_path

__all__ = ["Plan", "check_order", "plan_tasks"]


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
                files=list(dict.fromkeys(files)),
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


def check_order(tasks: list[Task]) -> list[Task]:
    """The tasks in an order that their needs allow, otherwise as they stand.

    Raises:
        ValueError: a task needs one that is not there, or they need each other in a circle.
    """
    known = {task.id: task for task in tasks}
    missing = sorted({need for task in tasks for need in task.needs} - set(known))
    if missing or len(known) != len(tasks):
        raise ValueError(
            f"tasks that are needed are not in the plan: {', '.join(missing) or 'an id stands twice'}"
        )
    place = {task.id: number for number, task in enumerate(tasks)}
    sorter = TopologicalSorter({task.id: task.needs for task in tasks})
    try:
        sorter.prepare()
    except CycleError as error:
        raise ValueError(f"the tasks need each other: {' -> '.join(error.args[1])}") from error
    ordered: list[Task] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=place.__getitem__)
        first = ready.pop(0)
        ordered.append(known[first])
        sorter.done(first)
    return ordered


def plan_tasks(study: Study, requirements: list[Requirement], questions: list[str]) -> list[Task]:
    """The plan of the study's kind. What no evidence asks for is not in it."""
    plan = Plan(study, requirements)
    settle = _settle(plan, questions)
    if study.kind == "bugfix":
        last = _fix(plan, settle)
    elif study.kind == "enhancement":
        last = _enhance(plan, settle)
    else:
        last = _build(plan, settle)
    _finish(plan, last)
    return check_order(plan.tasks)


def _settle(plan: Plan, questions: list[str]) -> list[str]:
    if not questions:
        return []
    numbers = "1" if len(questions) == 1 else f"1 to {len(questions)}"
    return [
        plan.add(
            f"Answer the open questions of the specification ({numbers})",
            needs=[],
            files=[],
            why="what follows depends on the answers",
            checked_by="each has an answer in spec.md",
        )
    ]


def _place(spot: Spot) -> str:
    return f"{spot.symbol.path}:{spot.symbol.line}"


def _test_file(study: Study, spot: Spot) -> str:
    """The test file by its name; else where a new one would stand; else one that mentions it."""
    named = [test.path for test in spot.tests if test.reason != f"it mentions `{spot.symbol.short_name}`"]
    new = new_test_path(spot.symbol.path, study.sources)
    return (named or [new])[0] or next((test.path for test in spot.tests), "")


def _run(study: Study, test: str) -> str:
    return narrowed(study.test_check, test) if test else (study.test_check.text if study.test_check else "")


def _build(plan: Plan, settle: list[str]) -> list[str]:
    """A failing test, then the work at the place that was found, then its public face."""
    study = plan.study
    found = spots(study)
    hooks = [spot for spot in found if spot.role.startswith("a way")]
    close = [spot for spot in found if spot.role == "near the topic"]
    begin = (
        close[:1] if close and any(study.topic.word_of(s) for s in study.topic.thing_stems) else []
    ) or hooks[:1]
    begin = begin or found[:1]
    test = _test_file(study, begin[0]) if begin else ""
    thing = study.topic.text
    written = plan.add(
        f"Write a failing test for: {thing}",
        needs=settle,
        files=[test] if test else [],
        why=plan.ids("FR-1") or "what was asked",
        checked_by=f"it fails: {_run(study, test)}" if _run(study, test) else "",
    )
    read = list(dict.fromkeys(_place(spot) for spot in (*close[:3], *hooks[:2])))
    done = plan.add(
        f"Implement it: {thing}",
        needs=[written],
        files=read,
        why=", ".join(
            filter(
                None, [plan.ids("FR-"), plan.resting_on("raised as") or plan.resting_on("errors are defined")]
            )
        ),
        checked_by=_run(study, test),
    )
    exported = [place for spot in found if (place := study.survey.exported_at(spot.symbol)) is not None]
    if exported:
        face = [str(place) for place in exported[:2]]
        done = plan.add(
            "Export what is public of it where the others are exported",
            needs=[done],
            files=face,
            why=f"{exported[0]} exports the present ones",
            checked_by=_run(study, ""),
        )
    return [done]


def _fix(plan: Plan, settle: list[str]) -> list[str]:
    study = plan.study
    looked = Investigation(study)
    first = looked.suspects[0] if looked.suspects else None
    test = looked.failing_tests[0].path if looked.failing_tests else ""
    if not test and first is not None:
        tests = find_tests(first.path, study.sources, study.survey.words, first.symbol)
        test = tests[0].path if tests else new_test_path(first.path, study.sources)
    shown = [str(place) for place in looked.failing_tests[:2]] or ([test] if test else [])
    reproduced = plan.add(
        "Reproduce the error with a test that fails",
        needs=settle,
        files=shown,
        why=plan.ids("FR-1") or "the report",
        checked_by=f"it fails with the reported error: {_run(study, test)}" if _run(study, test) else "",
    )
    suspects = [f"{s.path}:{s.line}" for s in looked.suspects[:4]]
    found = plan.add(
        "Find the cause among the suspects",
        needs=[reproduced],
        files=suspects,
        why="; ".join(first.reasons) if first else "no suspect was found: begin at the failing test",
        checked_by="the failing test explains itself by one of these lines",
    )
    return [
        plan.add(
            "Mend the cause",
            needs=[found],
            files=suspects[:1],
            why=plan.ids("FR-"),
            checked_by=_run(study, test),
        )
    ]


def _enhance(plan: Plan, settle: list[str]) -> list[str]:
    """Files without tests get them first; then one task a file, so that each can be judged and taken back."""
    study, last = plan.study, list[str]()
    for figures in measure(study)[:4]:
        needs = list(settle)
        if not figures.tests:
            needs = [
                plan.add(
                    f"Pin down by tests what {figures.path} does today",
                    needs=settle,
                    files=[new_test_path(figures.path, study.sources), f"{figures.path}:1"],
                    why="no test was found for it",
                    checked_by=_run(study, new_test_path(figures.path, study.sources)),
                )
            ]
        symbols = [c.symbol for c in study.survey.candidates if c.symbol.path == figures.path][:3]
        last.append(
            plan.add(
                f"{study.topic.text}: {figures.path}",
                needs=needs,
                files=[f"{s.path}:{s.line}" for s in symbols] or [f"{figures.path}:1"],
                why=", ".join(filter(None, [plan.ids("FR-1"), f"{figures.branches} branches"])),
                checked_by=_run(study, figures.tests[0] if figures.tests else ""),
            )
        )
    if not last:
        last = [
            plan.add(
                study.topic.text, needs=settle, files=[], why=plan.ids("FR-"), checked_by=_run(study, "")
            )
        ]
    return last


def _finish(plan: Plan, last: list[str]) -> None:
    """Documentation and change log where the project has them, then all checks."""
    study = plan.study
    pages = doc_files(study, [spot.symbol for spot in spots(study)]) if study.kind == "feature" else []
    facts = [*pages, *([study.facts.changelog] if study.facts.changelog else [])]
    before = list(last)
    if facts:
        before = [
            plan.add(
                "Write it down",
                needs=last,
                files=[f"{fact.path}:{fact.line}" for fact in facts],
                why=plan.resting_on("written down") or "the neighbours are documented there",
                checked_by="the names used there are those of the code",
            )
        ]
    if study.checks:
        plan.add(
            "Run all checks",
            needs=before,
            files=list(dict.fromkeys(check.source for check in study.checks)),
            why=plan.resting_on("own checks pass") or "the project's own checks",
            checked_by="; ".join(check.text for check in study.checks),
        )


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
