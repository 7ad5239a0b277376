"""The registry of operation types."""

from __future__ import annotations

from importlib import import_module

import pytest

from sage_actors.actors.operations.types import OPERATION_TYPES, RunnerSettings, create_runner, worker_kind
from sage_actors.messages.errors import UsageError

SETTINGS = RunnerSettings(project=".")


def test_every_type_that_workers_execute_has_a_class_that_exists() -> None:
    for each in OPERATION_TYPES.values():
        assert each.by_engine == (each.runner == "")
        if each.runner:
            module, _, name = each.runner.partition(":")
            assert callable(getattr(import_module(module), name).run)


def test_types_of_the_engine_have_no_worker() -> None:
    for name in ("approval", "wait", "workflow"):
        assert worker_kind(name) == "engine"
        with pytest.raises(UsageError, match=name):
            create_runner({"type": name}, SETTINGS)


def test_an_operation_with_limits_is_alone_in_its_worker() -> None:
    assert worker_kind("python", is_async=True) == "async"
    assert worker_kind("python", is_async=True, alone=True) == "own"
    assert worker_kind("python") == "blocking"
    assert worker_kind("http", alone=True) == "own"
    assert worker_kind("http") == "async"
    assert worker_kind("shell", is_async=True) == "own"


def test_an_unknown_type_is_refused() -> None:
    for spec in ({"type": "dance"}, {}):
        with pytest.raises(UsageError, match="no worker can execute"):
            create_runner(spec, SETTINGS)


def test_a_runner_is_made_from_its_spec() -> None:
    assert create_runner({"type": "python", "call": "math:sqrt"}, SETTINGS).is_async is False
    with pytest.raises(ImportError, match="no_such_thing"):
        create_runner({"type": "python", "call": "math:no_such_thing"}, SETTINGS)
