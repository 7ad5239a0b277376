"""Workflows built in Python: ids, edges, policies, and what is refused before anything runs."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from engine_harness import history, lines, make_supervisor

from sage_actors.messages.definition import InputSpec, Limits, RetryPolicy
from sage_actors.messages.errors import CycleError, DefinitionError
from sage_actors.supervisor.api import Supervisor, _StartOptions
from sage_actors.supervisor.core.plan import compile_plan
from sage_actors.supervisor.definitions.loading import load_dict
from sage_actors.supervisor.definitions.operation import POLICIES, Policies, operation
from sage_actors.supervisor.definitions.workflow import Workflow

pytestmark = pytest.mark.requirement("ORCH-003")


class Holder:
    def method(self) -> int:
        return 1

    @staticmethod
    def static(value: int) -> int:
        return value

    @classmethod
    def of_class(cls, value: int) -> str:
        return f"{cls.__name__} {value}"


@operation(timeout=30, retry=3)
def decorated(value: int = 1) -> int:
    return value


def loud(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def shouting(*args: Any, **kwargs: Any) -> list[Any]:
        return ["loud", function(*args, **kwargs)]

    return shouting


@operation(retry=2)
@loud
def loud_inside(value: int) -> int:
    return value


@loud
def loud_outside(value: int) -> int:
    return value


loud_echo = loud(ops.echo)
renamed = operation(ops.echo)


class Heir(Holder):
    class Inner:
        @staticmethod
        def double(value: int) -> int:
            return 2 * value

    @operation
    def bound(self, value: int) -> int:
        return value


async def waits(value: int = 1) -> int:
    return value


def takes_timeout(timeout: int) -> int:
    return timeout


def outcome_of(tmp_path: Path, flow: Workflow, **options: Any) -> Any:
    with make_supervisor(tmp_path) as supervisor:
        return supervisor.run(flow, timeout=60, **options)


# ---------------------------------------------------------------------- building


def test_nodes_that_are_given_the_same_policies_share_an_operation() -> None:
    """A worker is handed nodes of one operation together: each had one of its own, and went alone."""
    flow = Workflow("flow")
    for i in range(3):
        flow.add(ops.echo, id=f"a{i}", value=i, retry=RetryPolicy(max_attempts=2), on_failure="continue")
        flow.add("python", id=f"b{i}", call="json:dumps", arguments={"obj": i}, timeout=timedelta(seconds=3))
        flow.add("shell", id=f"c{i}", command=["true"])
    for i, fallback in enumerate((1, True, 1.0)):
        flow.add(ops.echo, id=f"d{i}", value=i, fallback=fallback)
    operations = [node.operation for node in flow.to_spec().nodes]
    assert len({id(each) for each in operations}) == 6
    assert [type(each.fallback) for each in operations[-3:]] == [int, bool, float]
    assert {each.retry.max_attempts for each in operations[0::3][:3]} == {2}


def test_ids_are_the_names_of_functions_numbered_where_taken() -> None:
    flow = Workflow("ids")
    made = [flow.add(ops.echo), flow.add(ops.echo), flow.add(ops.add, id="sum"), flow.add(ops.echo)]
    assert [node.id for node in made] == ["echo", "echo-2", "sum", "echo-3"]
    assert len(flow) == 4


def test_the_id_of_the_thousandth_node_is_found_as_fast_as_that_of_the_second() -> None:
    class Counted(dict[str, int]):
        asked = 0

        def __contains__(self, each: object) -> bool:
            self.asked += 1
            return super().__contains__(each)

    flow = Workflow("many")
    flow._numbers = taken = Counted()
    nodes = [flow.add(ops.echo, value=1) for _ in range(1000)]
    assert [nodes[0].id, nodes[999].id] == ["echo", "echo-1000"]
    assert taken.asked <= 3 * len(nodes)


def test_a_node_as_an_argument_is_an_edge_and_its_value_wherever_it_stands(tmp_path: Path) -> None:
    flow = Workflow("edges")
    one, two = flow.add(ops.echo, id="one", value=1), flow.add(ops.echo, id="two", value={"deep": [2]})
    flow.add(ops.echo, id="all", value={"plain": one, "list": [one, two], "map": {"x": (two, "y")}})
    outcome = outcome_of(tmp_path, flow)
    expected = {"plain": 1, "list": [1, {"deep": [2]}], "map": {"x": [{"deep": [2]}, "y"]}}
    assert outcome["all"] == expected


def test_text_may_hold_references_with_expressions(tmp_path: Path) -> None:
    flow = Workflow("text", inputs={"topic": "tea", "size": InputSpec(type="integer", required=True)})
    flow.add(ops.echo, id="data", value={"rows": [{"name": "a"}, {"name": "b"}]})
    flow.add(ops.echo, id="names", value="${data | rows[].name}")
    flow.add(ops.echo, id="text", value="about ${inputs.topic}: ${data | rows[0].name}, $${not}")
    flow.add(ops.echo, id="none", value="${data | missing.path}")
    flow.add(ops.echo, id="size", value="${inputs.size}")
    outcome = outcome_of(tmp_path, flow, inputs={"size": 3})
    assert outcome["names"] == ["a", "b"]
    assert outcome["text"] == "about tea: a, ${not}"
    assert outcome["none"] is None
    assert outcome["size"] == 3


def test_after_is_an_edge_without_a_value(tmp_path: Path) -> None:
    flow = Workflow("after")
    path = str(tmp_path / "order")
    first = flow.add(ops.note_order, id="first", path=path, name="first")
    flow.add(ops.note_order, id="second", path=path, name="second", after=[first])
    flow.add(ops.note_order, id="third", path=path, name="third", after=["second"])
    assert outcome_of(tmp_path, flow).status == "succeeded"
    assert Path(path).read_text().split() == ["first", "second", "third"]


def test_policies_of_a_decorator_count_and_those_of_a_node_override_them() -> None:
    flow = Workflow("policies")
    flow.add(decorated, id="own")
    flow.add(
        decorated,
        id="given",
        timeout=timedelta(minutes=2),
        retry=RetryPolicy(max_attempts=5, on=("OSError",)),
    )
    own, given = (node.operation for node in flow.to_spec().nodes)
    assert (own.timeout, own.retry.max_attempts) == (30.0, 3)
    assert (given.timeout, given.retry.max_attempts, given.retry.on) == (120.0, 5, ("OSError",))


def test_type_checkers_know_every_policy_and_every_option_of_a_run() -> None:
    assert set(Policies.__annotations__) == POLICIES
    start = inspect.signature(Supervisor.start).parameters
    assert set(_StartOptions.__annotations__) == start.keys() - {"self", "flow"}


def test_a_duration_may_be_a_timedelta_wherever_it_stands() -> None:
    flow = Workflow("durations")
    short, long = timedelta(milliseconds=100), timedelta(hours=1)
    cached = flow.add(decorated, cache={"ttl": long}, retry={"backoff": short, "max_delay": long})
    flow.add("wait", id="pause", seconds=short, after=[cached])
    work, pause = (node.operation for node in flow.to_spec().nodes)
    assert work.cache is not None
    assert (work.cache["ttl"], work.retry.backoff, work.retry.max_delay) == (3600.0, 0.1, 3600.0)
    assert pause.config["seconds"] == 0.1


@pytest.mark.parametrize(
    ("retry", "longest"),
    [
        ({"backoff": "5m"}, 300.0),
        (RetryPolicy(max_attempts=3, backoff=300), 300.0),
        ({"backoff": "5m", "max_delay": 20}, 20.0),
        ({"backoff": 2}, 60.0),
    ],
)
def test_a_wait_that_was_asked_for_is_not_shortened_by_a_default(retry: Any, longest: float) -> None:
    flow = Workflow("polling")
    flow.add(decorated, retry=retry)
    assert flow.to_spec().nodes[0].operation.retry.max_delay == longest


def test_policies_of_a_decorator_count_in_files_however_they_are_written(tmp_path: Path) -> None:
    said = {"id": "work", "type": "python", "call": "operations_engine:with_policies"}
    spec = load_dict({"name": "file", "nodes": [said]})
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(spec, timeout=60).raise_for_status()
        operation = history(tmp_path, "file").definition.nodes[0].operation
    assert (operation.timeout, operation.retry.max_attempts, operation.limits) == (300.0, 5, Limits(files=64))


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        (decorated, {"retries": 3}, "work.arguments.retries: .*did you mean 'retry'"),
        (decorated, {"valeu": 3}, "work.arguments.valeu: .*did you mean 'value'"),
        (decorated, {"topic": 3}, "work.arguments.topic: .*it has value"),
    ],
)
def test_a_keyword_that_is_neither_argument_nor_policy_is_refused(
    function: Any, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(DefinitionError, match=said):
        Workflow("typo").add(function, id="work", **given)
    Workflow("wrapped").add(loud_inside, id="work", anything=1)  # only its wrapper knows what it takes


def test_an_argument_without_its_name_is_not_taken_for_an_id() -> None:
    flow = Workflow("positions")
    with pytest.raises(DefinitionError, match=r"Node\(id='decorated'\).*the second is the id"):
        flow.add(ops.echo, flow.add(decorated))  # type: ignore[arg-type]


def test_a_decorated_function_is_still_a_function() -> None:
    assert decorated(4) == 4
    assert getattr(decorated, "__name__") == "decorated"  # noqa: B009 - mypy knows no such attribute
    assert "decorated" in repr(decorated)


def test_a_parameter_named_like_a_policy_is_the_functions_own(tmp_path: Path) -> None:
    flow = Workflow("names")
    flow.add(takes_timeout, timeout=7)
    flow.add(ops.echo, id="echo", arguments={"value": "from arguments"})
    outcome = outcome_of(tmp_path, flow)
    assert (outcome["takes_timeout"], outcome["echo"]) == (7, "from arguments")


def test_static_and_class_methods_and_async_functions_are_operations(tmp_path: Path) -> None:
    flow = Workflow("kinds")
    flow.add(Holder.static, id="static", value=2)
    flow.add(Holder.of_class, id="of_class", value=3)
    flow.add(waits, value=4)
    outcome = outcome_of(tmp_path, flow)
    assert (outcome["static"], outcome["of_class"], outcome["waits"]) == (2, "Holder 3", 4)


def test_what_runs_is_what_was_given(tmp_path: Path) -> None:
    flow = Workflow("same")
    flow.add(Heir.of_class, id="heir", value=1)
    flow.add(Heir.Inner.double, id="nested", value=1)
    flow.add(loud_inside, id="inside", value=2)
    flow.add(loud_outside, id="outside", value=3)
    flow.add(renamed, id="renamed", value=4)
    outcome = outcome_of(tmp_path, flow)
    assert [outcome[each] for each in ("heir", "nested", "inside", "outside", "renamed")] == [
        "Heir 1",
        2,
        ["loud", 2],
        ["loud", 3],
        4,
    ]


def test_a_workflow_is_the_same_as_its_file(tmp_path: Path) -> None:
    flow = Workflow("file", inputs={"n": 2}, concurrency=3, timeout="1m", description="said")
    numbers = flow.add(ops.numbers, id="numbers", count="${inputs.n}")
    each = flow.add(ops.echo_async, id="each", foreach=numbers, value="${item}", retry=2)
    flow.add(ops.echo, id="end", value=each, when="${numbers}", on_failure="continue")
    spec = load_dict(flow.to_dict())
    assert spec.to_dict() == flow.to_dict()
    with make_supervisor(tmp_path) as supervisor:
        one = supervisor.run(flow, run_id="python", timeout=60)
        two = supervisor.run(spec, run_id="file", timeout=60)
    assert one["end"] == two["end"] == [0, 1]


def test_operations_inside_a_sub_workflow_may_be_async_and_keep_their_policies(tmp_path: Path) -> None:
    inner = Workflow("inner", inputs={"n": 0})
    one = inner.add(ops.echo_async, id="one", value="${inputs.n}")
    inner.add(ops.decorated, id="two", path=str(tmp_path / "two"), after=[one])
    flow = Workflow("outer")
    flow.add("workflow", id="sub", definition=inner.to_dict(), inputs={"n": 5})
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=60)
        (tmp_path / "two").unlink()
        data = flow.to_dict()
        del data["nodes"][0]["definition"]["nodes"][1]["retry"]  # the decorator's own is found again
        again = supervisor.run(load_dict(data), run_id="file", timeout=60)
    assert outcome.status == again.status == "succeeded", (outcome.reason, again.reason)
    assert outcome["sub/one"] == again["sub/one"] == 5
    assert outcome["sub"] == {"two": "second"}


def test_a_call_by_name_takes_the_other_keywords_as_arguments(tmp_path: Path) -> None:
    flow = Workflow("named")
    flow.add("python", id="echo", call="operations_engine:echo", value=3, timeout=20)
    assert flow.to_spec().nodes[0].operation.timeout == 20
    assert outcome_of(tmp_path, flow)["echo"] == 3


def test_a_sub_workflow_is_given_as_an_object_a_file_or_a_map(tmp_path: Path) -> None:
    inner = Workflow("inner", inputs={"n": 0, "timeout": 1})
    inner.add(ops.echo, id="one", value=["${inputs.n}", "${inputs.timeout}"])
    (tmp_path / "inner.json").write_text(json.dumps(inner.to_dict()))
    flow = Workflow("outer")
    five = flow.add(ops.echo, id="five", value=5)
    made = flow.add(inner, n=five, timeout=2)
    flow.add("workflow", id="object", definition=inner, inputs={"n": five})
    flow.add("workflow", id="map", definition=inner.to_dict(), inputs={"n": five})
    flow.add("workflow", id="file", workflow=tmp_path / "inner.json", inputs={"n": five})
    flow.add(load_dict(inner.to_dict()), id="spec", n=five)
    outcome = outcome_of(tmp_path, flow)
    assert made.id == "inner"
    assert outcome["inner/one"] == [5, 2]
    for each in ("object", "map", "file", "spec"):
        assert outcome[f"{each}/one"] == [5, 1]


def test_a_node_may_be_a_fallback(tmp_path: Path) -> None:
    flow = Workflow("fallback")
    other = flow.add(ops.echo, id="other", value="plan B")
    flow.add("shell", id="fails", command=["false"], fallback=other)
    flow.add("shell", id="deep", command=["false"], fallback={"from": [other]})
    outcome = outcome_of(tmp_path, flow)
    assert (outcome["fails"], outcome["deep"]) == ("plan B", {"from": ["plan B"]})


def test_an_input_with_a_default_is_optional(tmp_path: Path) -> None:
    flow = Workflow("optional", inputs={"n": InputSpec(type="integer", default=3)})
    flow.add(ops.echo, value="${inputs.n}")
    assert outcome_of(tmp_path, flow)["echo"] == 3


def test_functions_named_as_references_begin_get_an_id_of_their_own() -> None:
    flow = Workflow("reserved")
    assert [flow.add(item).id, flow.add(item).id] == ["item-1", "item-2"]


# ---------------------------------------------------------------------- refused


def item() -> int:
    return 1


def größe() -> int:
    return 1


def closure() -> Callable[[], int]:
    def inner() -> int:
        return 1

    return inner


@pytest.mark.parametrize(
    ("function", "why", "hint"),
    [
        (lambda: 1, "a lambda", "define it at module level"),
        (closure(), "defined inside a function", "define it at module level"),
        (Holder().method, "a method of an object", "use a function"),
        (3, "no importable name", "use a function defined in a module"),
        (loud_echo, "operations_engine:echo is another object", "decorate where it is defined"),
        (operation(loud_echo), "operations_engine:echo is another object", "decorate where it is defined"),
        (Holder.method, "a method of an object", "make it a static method"),
        (Heir().bound, "a method of an object", "make it a static method"),
        (größe, "A-Z a-z 0-9 and _", "rename it"),
    ],
    ids=["lambda", "closure", "method", "number", "wrapped", "operation", "plain", "bound", "letters"],
)
def test_what_a_worker_could_not_import_is_refused_with_what_to_do(
    function: Any, why: str, hint: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        Workflow("refused").add(function, id="x")
    assert why in str(caught.value)
    assert hint in str(caught.value)


def test_a_function_that_is_not_where_it_says_is_refused_with_its_name(tmp_path: Path) -> None:
    flow = Workflow("gone")

    def here() -> None: ...

    here.__qualname__ = "not_there"
    flow.add(here, id="x")  # its module may still be on the way
    with make_supervisor(tmp_path) as supervisor, pytest.raises(DefinitionError, match="has no 'not_there'"):
        supervisor.run(flow, run_id="r", timeout=30)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ({"timeout": -1}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"retry": 0}, "retry"),
        ({"retry": {"attempts": 2}}, "attempts"),
        ({"on_failure": "explode"}, "on_failure"),
        ({"effect": "twice"}, "effect"),
        ({"trigger": "never"}, "trigger"),
        ({"limits": {"memory": "lots"}}, "memory"),
        ({"max_crashes": 0}, "max_crashes"),
    ],
    ids=lambda each: str(each),
)
def test_bad_policies_are_refused_and_named(policy: dict[str, Any], text: str) -> None:
    with pytest.raises(DefinitionError, match=text):
        Workflow("bad").add(ops.echo, id="x", **policy)
    with pytest.raises(DefinitionError, match=text):
        Workflow("bad").add(operation(**policy)(ops.echo), id="x")


def test_an_unknown_policy_of_a_decorator_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"@operation retries: unknown policy"):
        operation(retries=3)(ops.echo)  # type: ignore[call-overload]


def test_all_that_is_wrong_with_a_node_is_told_at_once() -> None:
    with pytest.raises(DefinitionError) as caught:
        Workflow("bad").add("shell", id="x", comand="ls", timeout=-1)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("node_id", ["", "a b", "a/b", "a[0]", "inputs", "item", "ü", "a\n", "a" * 201, 5])
def test_bad_ids_are_refused(node_id: Any) -> None:
    with pytest.raises(DefinitionError):
        Workflow("bad").add(ops.echo, id=node_id)


def test_an_id_is_taken_once() -> None:
    flow = Workflow("twice")
    flow.add(ops.echo, id="x")
    with pytest.raises(DefinitionError, match="already"):
        flow.add(ops.add, id="x")


def test_nodes_of_another_workflow_are_refused() -> None:
    stranger = Workflow("one").add(ops.echo, id="x")
    flow = Workflow("two")
    flow.add(ops.echo, id="x")
    with pytest.raises(DefinitionError, match="no node of this workflow"):
        flow.add(ops.echo, id="y", value=stranger)
    with pytest.raises(DefinitionError, match="no node of this workflow"):
        flow.add(ops.echo, id="z", after=[stranger])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"value": "${nope}"}, "bad.arguments.value: refers to an unknown node"),
        ({"value": "${ecko}"}, "did you mean 'echo'"),
        ({"value": "${inputs.nope}"}, "bad.arguments.value: unknown input"),
        ({"value": "${item}"}, "foreach"),
        ({"value": "${echo | [}"}, "JMESPath"),
        ({"when": "${nope}"}, "bad.when: refers to an unknown node"),
        ({"foreach": "${nope}"}, "bad.foreach: refers to an unknown node"),
        ({"fallback": "${nope}"}, "bad.fallback: refers to an unknown node"),
    ],
    ids=lambda each: str(each),
)
def test_references_to_nothing_are_refused_before_anything_runs(
    tmp_path: Path, arguments: dict[str, Any], text: str
) -> None:
    flow = Workflow("references", inputs={"topic": "tea"})
    flow.add(ops.mark, id="echo", path=str(tmp_path / "ran"))
    flow.add(ops.echo, id="bad", **arguments)
    with make_supervisor(tmp_path) as supervisor, pytest.raises(DefinitionError, match=text):
        supervisor.run(flow, run_id="r", timeout=30)
    assert not lines(tmp_path / "ran")
    assert not (tmp_path / ".sage" / "state" / "r").exists()


def test_a_cycle_is_told_as_a_path() -> None:
    flow = Workflow("cycle")
    flow.add(ops.echo, id="a", value="${b}")
    flow.add(ops.echo, id="b", value="${a}")
    with pytest.raises(CycleError) as caught:
        compile_plan(flow.to_spec())
    assert caught.value.cycle[0] == caught.value.cycle[-1]
    assert set(caught.value.cycle) == {"a", "b"}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"name": ""}, "name"),
        ({"name": "n" * 201}, "name"),
        ({"name": None}, "name: must be a text"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "abc"}, "timeout: 'abc' is no duration"),
        ({"inputs": {"n": InputSpec(type="integr")}}, "inputs.n.type"),
        ({"inputs": {"n": InputSpec(type="integer", default="x")}}, "inputs.n.default"),
        ({"inputs": {"a b": 1}}, "inputs.a b: bad name"),
    ],
    ids=str,
)
def test_a_workflow_says_what_a_file_may_say(given: dict[str, Any], text: str) -> None:
    with pytest.raises(DefinitionError, match=text):
        Workflow(**{"name": "bad", **given})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"when": "hello"}, "bad.when: must be one reference"),
        ({"when": True}, "bad.when: must be one reference"),
        ({"foreach": "${inputs.a} and ${inputs.a}"}, "bad.foreach: must be one reference"),
        ({"secret_outputs": True, "cache": True}, "bad.secret_outputs: cannot be combined"),
        (
            {"value": ["${x}", {"y": "cost ${5}"}]},
            r"(?s)bad.arguments.value\[0\].*bad.arguments.value\[1\].y.*`\$\$\{`",
        ),
    ],
    ids=lambda each: str(each)[:40],
)
def test_nodes_are_checked_as_those_of_files(tmp_path: Path, given: dict[str, Any], text: str) -> None:
    flow = Workflow("checked", inputs={"a": 1})
    flow.add(ops.echo, id="bad", **given)
    with make_supervisor(tmp_path) as supervisor, pytest.raises(DefinitionError, match=text):
        supervisor.run(flow, run_id="r", timeout=30)


@pytest.mark.parametrize(
    "workflow", ["missing.yaml", {"definition": {"name": "x"}}, {"definition": 5}], ids=str
)
def test_a_bad_sub_workflow_is_refused_where_it_is_added(workflow: Any) -> None:
    fields = workflow if isinstance(workflow, dict) else {"workflow": workflow}
    with pytest.raises(DefinitionError):
        Workflow("outer").add("workflow", **fields)


def test_after_takes_a_list_of_nodes() -> None:
    flow = Workflow("after")
    one: Any = flow.add(ops.echo, id="ab")
    for after in (one, "ab"):
        with pytest.raises(DefinitionError, match=r"next\.after: must be a list of nodes"):
            flow.add(ops.echo, id="next", after=after)


def test_a_node_of_another_workflow_is_told_by_its_place() -> None:
    stranger = Workflow("one").add(ops.echo, id="x")
    with pytest.raises(
        DefinitionError, match=r"two: 1 problem\n.*y\.arguments: 'x' is no node of this workflow"
    ):
        Workflow("two").add(ops.echo, id="y", value=[stranger])


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, "two"])
def test_a_concurrency_must_be_a_positive_number(concurrency: Any) -> None:
    with pytest.raises(DefinitionError, match="concurrency"):
        Workflow("bad", concurrency=concurrency)


def test_an_empty_workflow_is_refused(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor, pytest.raises(DefinitionError, match="no nodes"):
        supervisor.run(Workflow("empty"), run_id="r", timeout=30)


def test_inputs_are_checked_before_anything_runs(tmp_path: Path) -> None:
    flow = Workflow("inputs", inputs={"n": InputSpec(type="integer")})
    flow.add(ops.echo, value="${inputs.n}")
    with make_supervisor(tmp_path) as supervisor:
        for inputs in ({}, {"n": "x"}, {"n": 1, "m": 2}):
            with pytest.raises(DefinitionError):
                supervisor.run(flow, run_id="r", inputs=inputs)


@pytest.mark.parametrize("given", [(1, (2, 3)), [float("nan"), {"deep": float("nan")}]], ids=["tuple", "NaN"])
def test_the_same_inputs_again_continue_whatever_they_are(tmp_path: Path, given: Any) -> None:
    flow = Workflow("inputs", inputs={"given": None, "default": (1, 2)})
    flow.add(ops.echo, value=["${inputs.given | [1]}", "${inputs.default | [0]}"])
    results = []
    for _ in range(2):
        outcome = outcome_of(tmp_path, flow, run_id="r", inputs={"given": given})
        results.append(repr(outcome["echo"]))
    assert results[0] == results[1] == repr([[2, 3] if isinstance(given, tuple) else given[1], 1])


def test_what_is_added_later_is_not_in_a_specification_that_was_made_before() -> None:
    flow = Workflow("grows")
    flow.add(ops.echo, id="one", value=1)
    spec = flow.to_spec()
    flow.add(ops.echo, id="two", value=2)
    assert [node.id for node in spec.nodes] == ["one"]
    assert [node.id for node in flow.to_spec().nodes] == ["one", "two"]
