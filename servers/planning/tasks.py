"""The tasks of a plan, from the evidence: each with its files, its reason and its check, in an order that holds."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from sage_actors.servers.planning.build import build_tasks
from sage_actors.servers.planning.plan import Plan, run_of
from sage_actors.servers.specification.enhancement import FileFigures, measure
from sage_actors.servers.specification.models import Requirement, Task
from sage_actors.servers.specification.places import doc_files, spots
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.suspects import Investigation
from sage_actors.servers.specification.tests import find_tests, new_test_path

__all__ = ["check_order", "plan_tasks"]

_SUSPECTS = 3


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
        last = build_tasks(plan, settle)
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


def _fix(plan: Plan, settle: list[str]) -> list[str]:
    study = plan.study
    looked = Investigation(study)
    first = looked.suspects[0] if looked.suspects else None
    test, name = (
        (looked.failing_tests[0].path, looked.failing_tests[0].text) if looked.failing_tests else ("", "")
    )
    if not test and first is not None:
        tests = find_tests(first.path, study.sources, study.survey.words, first.symbol)
        test = tests[0].path if tests else new_test_path(first.path, study.sources)
    shown = [str(place) for place in looked.failing_tests[:2]] or ([test] if test else [])
    reproduced = plan.add(
        "Reproduce the error with a test that fails",
        needs=settle,
        files=shown,
        why=plan.ids("FR-1") or "the report",
        checked_by=f"it fails with the reported error: {run_of(study, test, name)}"
        if run_of(study, test)
        else "",
    )
    found = [
        plan.add(
            f"Rule in or out as the cause: {suspect.symbol.name if suspect.symbol else suspect.path}",
            needs=[reproduced],
            files=[f"{suspect.path}:{suspect.line}"],
            why="; ".join(suspect.reasons),
            checked_by="the failing test is explained by this line, or it is not",
        )
        for suspect in looked.suspects[:_SUSPECTS]
    ]
    if not found:
        found = [
            plan.add(
                "Find the cause",
                needs=[reproduced],
                files=[],
                why="no suspect was found: begin at the failing test",
                checked_by="a line of the project explains the failing test",
            )
        ]
    return [
        plan.add(
            "Mend the cause",
            needs=found,
            files=[f"{first.path}:{first.line}"] if first else [],
            why=plan.ids("FR-"),
            checked_by=run_of(study, test),
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
                    checked_by=run_of(study, new_test_path(figures.path, study.sources)),
                )
            ]
        symbols = [c.symbol for c in study.survey.candidates if c.symbol.path == figures.path][:3]
        last.append(
            plan.add(
                f"{study.topic.text}: {figures.path}",
                needs=needs,
                files=[*_worst(study, figures.path), *(f"{s.path}:{s.line}" for s in symbols)]
                or [f"{figures.path}:1"],
                why=", ".join(filter(None, [plan.ids("FR-1"), *_measured(study, figures)])),
                checked_by=run_of(study, figures.tests[0] if figures.tests else ""),
            )
        )
    if not last:
        last = [
            plan.add(
                study.topic.text, needs=settle, files=[], why=plan.ids("FR-"), checked_by=run_of(study, "")
            )
        ]
    return last


def _worst(study: Study, path: str) -> list[str]:
    """Its most complex functions, where they were measured: there it begins."""
    found = [each for each in study.evidence.measured.functions if each.path == path]
    return [f"{each.path}:{each.line}" for each in found[:2]]


def _measured(study: Study, figures: FileFigures) -> list[str]:
    hot = figures.hot
    if hot is None:
        return [f"{figures.branches} branches"]
    worst = f"{hot.worst_function} alone {hot.worst_complexity}" if hot.worst_function else ""
    return list(filter(None, [f"complexity {hot.complexity}", worst]))


def _finish(plan: Plan, last: list[str]) -> None:
    """Documentation and change log where the project has them, then all checks."""
    study = plan.study
    pages = doc_files(study, [spot.symbol for spot in spots(study)]) if study.kind == "feature" else []
    before = []
    if pages:
        before.append(
            plan.add(
                f"Write it down beside {', '.join(dict.fromkeys(page.text for page in pages))}",
                needs=last,
                files=[f"{page.path}:{page.line}" for page in pages],
                why=plan.resting_on("written down") or "the neighbours are documented there",
                checked_by="the names used there are those of the code",
            )
        )
    if (log := study.facts.changelog) is not None:
        before.append(
            plan.add(
                f"Tell of it in the change log, under or above {log.text}",
                needs=last,
                files=[f"{log.path}:{log.line}"],
                why=plan.resting_on("written down") or "the project keeps one",
                checked_by="the entry says what a user sees",
            )
        )
    before = before or list(last)
    if study.checks:
        plan.add(
            "Run all checks",
            needs=before,
            files=list(dict.fromkeys(check.source for check in study.checks)),
            why=plan.resting_on("own checks pass") or "the project's own checks",
            checked_by="; ".join(check.text for check in study.checks),
        )
