"""What a run saves and may spend: cache, digests and budgets, decided by the core and carried out for real."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from core_harness import Core
from engine_harness import history, lines, make_supervisor

from sage_actors.actors.cache.actor import whole_material
from sage_actors.actors.cache.store import CacheEntry, ResultCache
from sage_actors.messages.codec import pack, unpack
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.definitions.loading import load_dict
from sage_actors.supervisor.definitions.workflow import Workflow

PY = {"type": "python", "call": "m:f"}


def node(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, **PY, **fields}


def marked(tmp_path: Path, name: str = "flow", **policy: Any) -> Workflow:
    flow = Workflow(name)
    first = flow.add(ops.mark, id="first", path=str(tmp_path / "ran"), value={"n": 1}, cache=True, **policy)
    flow.add(ops.echo, id="second", value=first)
    return flow


# ---------------------------------------------------------------------- cache, for real


@pytest.mark.requirement("ORCH-019")
def test_the_same_operation_in_another_run_is_answered_by_the_cache(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(marked(tmp_path), run_id="one")
    with make_supervisor(tmp_path) as supervisor:
        events: list[Any] = []
        run = supervisor.start(marked(tmp_path), run_id="two")
        events = list(run.events())
        outcome = run.result(30)
    assert outcome["second"] == {"n": 1}
    assert lines(tmp_path / "ran") == 1
    assert outcome.counts["cached"] == 1
    cached = {each.node: each.data["cached"] for each in events if each.event == "node_succeeded"}
    assert cached == {"first": True, "second": False}
    assert history(tmp_path, "two").value("second") == {"n": 1}


def test_other_arguments_another_version_and_a_supervisor_without_cache_are_misses(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(marked(tmp_path), run_id="one")
        supervisor.run(marked(tmp_path, version="2"), run_id="two")
        flow = Workflow("other")
        flow.add(ops.mark, id="first", path=str(tmp_path / "ran"), value={"n": 2}, cache=True)
        supervisor.run(flow, run_id="three")
    assert lines(tmp_path / "ran") == 3
    with make_supervisor(tmp_path, cache=False) as supervisor:
        assert supervisor.run(marked(tmp_path), run_id="four").counts["cached"] == 0
    assert lines(tmp_path / "ran") == 4


def test_an_edited_source_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text("def answer():\n    return 1\n")
    spec = {"name": "flow", "nodes": [{"id": "a", "type": "python", "call": "steps:answer", "cache": True}]}
    for run_id, expected in (("one", 1), ("two", 2)):
        with make_supervisor(tmp_path) as supervisor:
            assert supervisor.run(load_dict(spec), run_id=run_id)["a"] == expected
        (tmp_path / "steps.py").write_text("def answer():\n    return 2\n")


def test_a_source_edited_while_a_supervisor_lives_is_kept_by_nobody(tmp_path: Path) -> None:
    source = tmp_path / "steps.py"
    source.write_text("def answer():\n    return 1\n")
    spec = {"name": "flow", "nodes": [{"id": "a", "type": "python", "call": "steps:answer", "cache": True}]}
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.run(load_dict(spec), run_id="one")["a"] == 1
        source.write_text("def answer():\n    return 2\n")
        supervisor.run(load_dict(spec), run_id="two")  # by a worker that has the first source
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.run(load_dict(spec), run_id="three")["a"] == 2


def test_bytecode_is_kept_of_settled_sources_alone(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    for name, age in (("package/__init__", 60), ("package/settled", 60), ("package/fresh", 0)):
        source = tmp_path / f"{name}.py"
        source.write_text("def answer():\n    return 1\n")
        written = time.time() - age
        os.utime(source, (written, written))
    calls = ("package.settled:answer", "package.fresh:answer")
    spec = {"nodes": [{"id": f"n{i}", "type": "python", "call": call} for i, call in enumerate(calls)]}
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.run(load_dict({"name": "flow", **spec})).status == "succeeded"
    kept = {each.name.partition(".")[0] for each in (tmp_path / "package/__pycache__").iterdir()}
    assert kept == {"__init__", "settled"}


def test_what_failed_or_has_an_effect_once_is_not_kept(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        flow = Workflow("once")
        flow.add(ops.mark, id="first", path=str(tmp_path / "ran"), cache=True, effect="once")
        for run_id in ("one", "two"):
            supervisor.run(flow, run_id=run_id)
        flow = Workflow("failing")
        flow.add(ops.boom, id="bad", cache=True)
        assert [supervisor.run(flow, run_id=f"bad{i}").status for i in range(2)] == ["failed", "failed"]
    assert lines(tmp_path / "ran") == 2


def test_without_durability_nothing_is_kept_and_nothing_needs_a_key(tmp_path: Path) -> None:
    with make_supervisor(tmp_path, durability="none", keys=None) as supervisor:
        assert supervisor.run(marked(tmp_path), run_id="one").status == "succeeded"
    assert not (tmp_path / ".sage" / "cache").exists()


def test_without_durability_the_whole_of_a_digest_is_kept_nowhere(tmp_path: Path) -> None:
    flow = Workflow("flow")
    flow.add(ops.echo, id="big", value={"findings": passages(200)}, digest={"max_bytes": 2000})
    with make_supervisor(tmp_path, durability="none", keys=None) as supervisor:
        assert supervisor.run(flow, run_id="one").status == "succeeded"
    assert not (tmp_path / ".sage" / "cache").exists()


def test_a_cache_that_cannot_be_used_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / ".sage").mkdir()
    (tmp_path / ".sage" / "cache").write_text("not a directory")
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.run(marked(tmp_path), run_id="one").status == "succeeded"


# ---------------------------------------------------------------------- digests, for real


def passages(count: int) -> list[dict[str, Any]]:
    """Many texts about nothing, and one about rate limits."""
    texts = [
        f"Paragraph {i} tells of gardens, rivers and the weather of year {1900 + i}. " * 3
        for i in range(count)
    ]
    texts[count // 2] = "The rate limiter counts requests of a client in a sliding window."
    return [{"text": text, "line": at} for at, text in enumerate(texts)]


@pytest.mark.requirement("ORCH-004")
def test_dependents_see_a_digest_and_the_whole_is_kept(tmp_path: Path) -> None:
    flow = Workflow("flow")
    whole = {"topic": "rate limiter", "findings": passages(200)}
    big = flow.add(
        ops.echo, id="big", value=whole, digest={"max_bytes": 2000, "query": "rate limiter requests"}
    )
    flow.add(ops.echo, id="seen", value=big)
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="one")
        cache = ResultCache(tmp_path / ".sage/cache", supervisor.keys())
    seen = outcome["seen"]
    assert seen["topic"] == "rate limiter"
    assert "sliding window" in seen["findings"][0]["text"]
    assert len(pack(seen)) < 2500
    assert outcome.measured["raw_bytes"] > 20 * outcome.measured["kept_bytes"] > 0
    assert outcome.measured["tokenizer"]
    entry = cache.get(cache.name_of(whole_material("one", "big")))
    assert entry is not None
    assert unpack(entry.value) == whole


def test_a_result_within_its_budget_is_left_as_it_is(tmp_path: Path) -> None:
    flow = Workflow("flow")
    flow.add(ops.echo, id="small", value={"a": [3, 1, 2]}, digest={"max_bytes": 2000})
    flow.add(ops.echo_async, id="async", value={"a": [3, 1, 2]}, digest={"max_bytes": 2000})
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="one")
    assert outcome["small"] == outcome["async"] == {"a": [3, 1, 2]}


# ---------------------------------------------------------------------- budgets, for real


@pytest.mark.requirement("ORCH-022")
def test_a_budget_pauses_before_what_would_overshoot_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    flow = Workflow("paid")
    before = None
    for name in ("a", "b", "c"):
        after: list[Any] = [] if before is None else [before]
        before = flow.add(ops.spend, id=name, tokens=60, budget={"tokens": 100}, after=after)
    with make_supervisor(tmp_path, max_tokens=150) as supervisor:
        outcome = supervisor.run(flow, run_id="one")
        assert outcome.status == "paused"
        assert "budget: b may use 100 tokens where 61 of 150 are used" in outcome.reason
    with make_supervisor(tmp_path, max_tokens=1000) as supervisor:
        outcome = supervisor.run(flow, run_id="one")
        assert outcome.status == "succeeded"
        assert outcome.tokens["input_tokens"] == 180


def test_a_budget_that_was_given_holds_over_a_resume_that_gives_none(tmp_path: Path) -> None:
    flow = Workflow("paid")
    first = flow.add(ops.spend, id="a", tokens=60)
    flow.add(ops.spend, id="b", tokens=60, after=[first])
    with make_supervisor(tmp_path, max_tokens=50) as supervisor:
        assert supervisor.run(flow, run_id="one").status == "paused"
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.resume("one").result(30).status == "paused"
        assert supervisor.run(flow, run_id="one").status == "paused"


def test_a_budget_that_a_resume_gave_holds_over_the_next(tmp_path: Path) -> None:
    """In both directions; an edit of the definition does not forget it either."""
    flow = Workflow("paid")
    last: list[Any] = []
    for name in "abcd":
        last = [flow.add(ops.spend, id=name, tokens=60, after=last)]
    for given, done in ((50, 1), (100, 2), (None, 2), (150, 3), (None, 3)):
        with make_supervisor(tmp_path, max_tokens=given) as supervisor:
            outcome = (
                supervisor.run(flow, run_id="one") if given == 50 else supervisor.resume("one").result(30)
            )
            assert (outcome.status, outcome.counts["succeeded"]) == ("paused", done), outcome.reason
    flow.add(ops.spend, id="e", tokens=60, after=last)
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.start(flow, run_id="one", accept_changes=True).result(30)
        assert (outcome.status, outcome.counts["succeeded"]) == ("paused", 3), outcome.reason


def test_the_budget_of_a_definition_holds_over_a_resume(tmp_path: Path) -> None:
    call = {"type": "python", "call": "operations_engine:spend", "arguments": {"tokens": 60}}
    nodes = [{"id": "a", **call}, {"id": "b", **call, "needs": ["a"]}]
    spec = load_dict({"name": "paid", "budget": {"tokens": 60}, "nodes": nodes})
    with make_supervisor(tmp_path) as supervisor:
        for _ in range(2):
            outcome = supervisor.run(spec, run_id="one")
            assert (outcome.status, outcome.reason) == (
                "paused",
                "budget: 61 tokens are used, of 60; resume with a larger budget "
                "(--max-tokens; max_tokens= or max_cost= of a Supervisor)",
            )
        assert supervisor.resume("one").result(30).status == "paused"
    assert history(tmp_path, "one").tokens["input_tokens"] == 60


# ---------------------------------------------------------------------- the decisions alone


def begin(core: Core, *nodes: dict[str, Any], **options: Any) -> RunCore:
    run = core.run({"nodes": list(nodes)}, cache=True, **options)
    core.ack()
    return run


def test_a_cacheable_node_waits_for_the_answer_and_no_longer() -> None:
    core = Core()
    run = begin(core, node("a", cache=True), node("b", needs=["a"]))
    ((number, question, stale),) = core.asked_cache
    assert (core.submitted, stale, question.label) == ([], False, "python m:f")
    run.cache_answered(number, None)
    core.engine.dispatch()
    assert [row[4] for _, row in core.submitted] == ["a"]
    run.cache_answered(number, CacheEntry("", pack(1), 0.0, 1e9))  # twice: the second is too late
    assert core.kept == {}


def test_a_hit_is_durable_before_its_dependents_start() -> None:
    core = Core()
    run = begin(core, node("a", cache=True), node("b", needs=["a"]))
    run.cache_answered(0, CacheEntry("", pack(1), 0.0, 1e9, usage={"input_tokens": 50}))
    core.engine.dispatch()
    assert core.submitted == []
    core.ack()
    assert [row[4] for _, row in core.submitted] == ["b"]
    assert (run.counts["cached"], run.measured["saved_tokens"], run.usage["input_tokens"]) == (1, 50, 0)


def test_a_node_that_failed_for_good_may_take_a_stale_result() -> None:
    core = Core()
    run = begin(core, node("a", cache={"stale_if_error": True}))
    run.cache_answered(0, None)
    core.engine.dispatch()
    ((worker, row),) = core.take()
    core.fail(worker, row)
    assert core.asked_cache[-1][2] is True
    run.cache_answered(0, CacheEntry("", pack("old"), 0.0, 1.0))
    core.ack()
    assert run.status == "succeeded"


def test_a_node_that_failed_and_finds_no_stale_result_fails() -> None:
    core = Core()
    run = begin(core, node("a", cache={"stale_if_error": True}))
    run.cache_answered(0, None)
    core.engine.dispatch()
    ((worker, row),) = core.take()
    core.fail(worker, row)
    run.cache_answered(0, None)
    core.ack()
    assert run.status == "failed"


def test_nodes_reserve_what_they_may_use_and_the_rest_wait() -> None:
    core = Core(workers=4)
    run = begin(
        core, *(node(name, budget={"tokens": 40}) for name in "abc"), max_tokens=100, concurrency=None
    )
    assert sorted(row[4] for _, row in core.submitted) == ["a", "b"]
    assert list(run.held.values()) == ["budget"]
    for worker, row in core.take():
        core.answer(worker, row)
    core.ack()
    assert "c" in [row[4] for _, row in core.submitted]


def test_money_is_reserved_as_tokens_are() -> None:
    core = Core()
    run = begin(core, node("a", budget={"cost": 2.0}), max_cost=1.5)
    assert core.submitted == []
    core.ack()
    assert run.status == "paused"
    assert "may use 2 where 0 of 1.5 is spent" in str(run.paused)


def test_an_error_that_the_endpoint_answered_with_is_no_failure_of_the_endpoint() -> None:
    for details, ok in (({"answered": True}, True), ({"status": 500}, False), (None, False)):
        core = Core()
        run = core.run({"nodes": [node("a", endpoint="api")]})
        core.ack()
        run.permit_granted(0, "api")
        core.engine.dispatch()
        ((worker, row),) = core.take()
        core.fail(worker, row, details=details)
        assert core.reported[-1][2] is ok
