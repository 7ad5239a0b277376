"""The command line from outside: real processes, real signals, real exit codes. What only looks is asked inside."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_harness import CommandLine, Inside, events, noted, on_terminal, shell, wait_until
from click.testing import CliRunner

from sage_actors.actors.pool import ahead
from sage_actors.messages.errors import UsageError
from sage_actors.supervisor.cli.main import cli

HEAVY = ("pydantic", "rich", "msgpack", "pykka", "cryptography", "psutil", "httpx", "jmespath", "yaml")
COMMANDS = [
    "run",
    "resume",
    "list",
    "status",
    "show",
    "history",
    "logs",
    "attach",
    "cancel",
    "approve",
    "resolve",
    "delete",
    "prune",
    "graph",
    "validate",
    "schema",
    "keys",
    "doctor",
]


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path)
    yield command_line
    command_line.close()


@pytest.fixture
def inside(sage: CommandLine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    return Inside(sage, capsys, monkeypatch)


# ------------------------------------------------------------------ help and usage


def test_help_loads_nothing_heavy_and_costs_little(sage: CommandLine) -> None:
    code = (
        "import sys\nfrom sage_actors.supervisor.cli.main import main\n"
        "try: main(['--help'])\nfinally: print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=sage.environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    loaded = set(eval(done.stderr))
    assert not [name for name in HEAVY if name in loaded]
    assert not [name for name in loaded if name.startswith("sage_actors.supervisor.cli_")]


def test_help_stays_far_below_a_second_of_cpu(sage: CommandLine) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    sage("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.6  # the budget of 0.15 is measured in bench/; this catches a heavy import anywhere


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = CliRunner().invoke(cli, [command, "--help"])
    assert done.exit_code == 0
    assert "Example" in done.output
    assert f"sage-actors {command}" in done.output


def test_help_names_every_command_and_how_to_complete_in_a_shell() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    assert all(f"\n  {command} " in text for command in COMMANDS)
    assert "_SAGE_ACTORS_COMPLETE" in text


def test_shell_completion_knows_the_commands(sage: CommandLine) -> None:
    asked = {"_SAGE_ACTORS_COMPLETE": "bash_complete", "COMP_WORDS": "sage-actors res", "COMP_CWORD": "1"}
    done = sage(code=None, environ=asked)
    assert "resume" in done.stdout
    assert "resolve" in done.stdout


def test_version_is_printed(sage: CommandLine) -> None:
    assert sage("--version").stdout.startswith("sage-actors ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["rum"], "run"),
        (["run"], "WORKFLOW"),
        (["run", "no-such-template"], "no-such-template"),
        (["run", "missing.json"], "missing.json"),
        (["run", "flow.json", "--durability", "loose"], "loose"),
        (["run", "flow.json", "--workers", "0"], "workers"),
        (["run", "flow.json", "--project", "nowhere"], "nowhere"),
        (["run", "flow.json", "-i", "novalue"], "KEY=VALUE"),
        (["run", "flow.json", "-i", "other=1"], "other"),
        (["run", "flow.json", "--fresh", "--resume"], "exclude"),
        (["run", "flow.json", "--run-id", "../evil"], "run id"),
        (["run", "flow.json", "--resume"], "flow"),
        (["resume", "nothing"], "nothing"),
        (["resume", "flow", "--run-id", "x"], "--from"),
        (["status", "nothing"], "nothing"),
        (["attach", "nothing"], "nothing"),
        (["cancel", "nothing"], "nothing"),
        (["approve", "nothing", "node"], "nothing"),
        (["approve", "nothing", "node", "--data", "{"], "JSON"),
        (["resolve", "nothing", "node"], "exactly one"),
        (["delete", "nothing", "--yes"], "nothing"),
        (["prune", "--older-than", "soon"], "30d"),
        (["prune", "--older-than", "99999999999d"], "too large"),
        (["approve", "r", "n", "--data", "NaN"], "must be JSON"),
        (["approve", "r", "n", "--data", "1e999"], "too large for a number"),
        (["approve", "r", "n", "--data", "1180591620717411303424"], "64 bits"),
        (["approve", "r", "n", "--data", '"\\ud800"'], "not valid Unicode"),
        (["resolve", "r", "n", "--result", "[1180591620717411303424]"], "64 bits"),
        (["keys", "export"], "--yes"),
    ],
)
def test_wrong_usage_exits_2_says_what_and_runs_nothing(
    sage: CommandLine, inside: Inside, args: list[str], said: str
) -> None:
    sage.flow(noted("a"))
    done = inside(*args, code=2)
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert sage.count("ran-a") == 0


# ------------------------------------------------------------------ definitions


@pytest.mark.requirement("ORCH-008")
def test_a_bad_file_reports_every_problem_exits_2_and_runs_nothing(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(
        noted("a"),
        shell("b", "true", needs=["c"]),
        shell("c", "true", needs=["b"]),
        {"id": "d", "type": "nonsense"},
        shell("e", "true", needs=["aa"], timeout=-1),
    )
    for command, args in (
        (sage, ["run", flow]),
        (inside, ["run", flow, "--json"]),
        (inside, ["validate", flow]),
    ):
        done = command(*args, code=2)
        assert done.stdout == ""
        for said in ("b -> c -> b", "nonsense", "aa", "timeout"):
            assert said in done.stderr
    assert sage.count("ran-a") == 0
    verdict = json.loads(inside("validate", flow, "--json", code=2).stdout)
    assert verdict["valid"] is False
    assert len(verdict["problems"]) >= 4
    assert all(problem["line"] for problem in verdict["problems"])


def test_validate_finds_a_python_call_that_cannot_be_imported(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow({"id": "a", "type": "python", "call": "no_such_module_here:function"})
    assert "no_such_module_here" in inside("validate", flow, code=2).stderr


@pytest.mark.requirement("ORCH-003")
def test_what_a_file_names_and_is_not_there_is_told_at_once_with_all_else(
    sage: CommandLine, inside: Inside
) -> None:
    call = {"type": "mcp", "server": "sage-research", "tool": "best_practices", "arguments": {"topic": "x"}}
    flow = sage.flow(
        noted("a"),
        {"id": "b", **call, "server": "sage-reserch"},
        {"id": "c", **call, "tool": "best_practises"},
        {"id": "d", "type": "skill", "skill": "nothere"},
        {"id": "e", **call, "arguments": {"topik": "x"}},
        shell("f", "true", needs=["aa"]),
    )
    for args in (["run", flow], ["validate", flow], ["templates", "check", flow]):
        done = inside(*args, code=2)
        for said in ("'sage-research'?", "'best_practices'?", "no skill 'nothere'", "'topic'?", "'aa'"):
            assert said in done.stderr + done.stdout
    verdict = json.loads(inside("validate", flow, "--json", code=2).stdout)
    assert [problem["place"] for problem in verdict["problems"] if not problem["line"]] == []
    assert sage.count("ran-a") == 0


@pytest.mark.requirement("ORCH-008")
@pytest.mark.parametrize("command", [["validate", "--json"], ["run"]], ids=" ".join)
def test_calls_that_cannot_be_imported_are_named_with_all_else_that_is_wrong(
    sage: CommandLine, command: list[str]
) -> None:
    inner = [{"id": "c", "type": "python", "call": "nowhere:c"}]
    nodes: list[dict[str, Any]] = [
        {"id": "a", "type": "python", "call": "nowhere:a", "needs": ["zz"]},
        {"id": "b", "type": "python", "call": "no call"},
        {"id": "json", "type": "python", "call": "json:loads", "arguments": {"s": "1"}, "needs": ["b", "s"]},
        {"id": "s", "type": "workflow", "definition": {"name": "s", "nodes": inner}, "needs": ["json"]},
    ]
    done = sage(*command, sage.flow(*nodes), code=2)
    said = done.stdout + done.stderr
    wrong = ("'zz'", "is 'no call'", "nowhere:a: ModuleNotFoundError", "nowhere:c: ModuleNotFoundError")
    assert [said.count(each) for each in wrong] == [1, 1, 1, 1], said
    for place in ("nodes[0].call", "nodes[1].call", "nodes[3].definition.nodes[0].call"):
        assert place in said
    assert "cycle: json -> s -> json" in said
    assert "json:loads" not in said


@pytest.mark.parametrize(
    ("command", "more"), [("validate", [shell("e", "true", needs=["zz"])]), ("run", [])], ids=str
)
def test_a_bad_call_has_its_place_and_line_also_where_all_else_is_well(
    sage: CommandLine, command: str, more: list[dict[str, Any]]
) -> None:
    (sage.project / "steps.py").write_text(
        "import functools\n"
        "def one(x, y=0, *, context): return x\n"
        "def given(f): return functools.wraps(f)(lambda **kw: f(db=1, **kw))\n"
        "@given\n"
        "def stored(x, db): return x\n"
    )
    call = {"type": "python", "call": "steps:one"}
    inner = {"name": "inner", "nodes": [{"id": "a", **call, "call": "steps:two"}]}
    (sage.project / "inner.json").write_text(json.dumps(inner, indent=1))
    phases = [
        {
            "id": "p",
            "operations": [
                {"id": "a", **call, "arguments": {"x": 1}},
                {"id": "b", **call, "arguments": {"xx": 1}},
                {"id": "c", "type": "workflow", "definition": inner},
                {"id": "d", "type": "workflow", "workflow": "inner.json"},
                {"id": "f", **call, "call": "steps:stored", "arguments": {"x": 1}},
                {"id": "g", **call, "call": "json:dumps", "arguments": {"obj": 1, "anything": 2}},
                {"id": "h", **call, "call": "operator:neg", "arguments": {"a": 1}},
                *more,
            ],
        }
    ]
    flow = sage.project / "flow.json"
    flow.write_text(json.dumps({"name": "flow", "phases": phases}, indent=1))
    said = sage(command, str(flow), code=2).stderr
    assert f"{flow}: 4 problems" in said
    assert said.count("  - line ") == 4
    here = "phases[0].operations"
    assert f"{here}[1].arguments.xx: steps:one takes no argument 'xx'" in said
    assert f"{here}[1].arguments: steps:one needs the argument 'x'" in said
    assert f"{here}[2].definition.nodes[0].call: steps:two: ImportError" in said
    if not more:
        inside = sage.project / "inner.json"
        assert f"{here}[3].workflow: {inside}: line 7: nodes[0].call: steps:two: ImportError" in said
    assert not any(f"{here}[{number}]" in said for number in (0, 4, 5, 6))


def test_validate_finds_a_sandbox_that_no_run_would_get(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(noted("a"), shell("b", "true", sandbox="trusted"))
    verdict = json.loads(inside("validate", flow, "--json", code=2).stdout)
    assert [(each["place"], bool(each["line"])) for each in verdict["problems"]] == [
        ("nodes[1].sandbox", True)
    ]
    assert "nodes[1].sandbox: is not trusted" in inside("run", flow, code=2).stderr


def test_validate_says_that_a_good_file_is_valid(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(
        noted("a"), {"id": "b", "type": "python", "call": "json:dumps", "arguments": {"obj": "${a}"}}
    )
    assert "2 nodes" in inside("validate", flow).stdout
    assert json.loads(inside("validate", flow, "--json").stdout)["valid"] is True
    assert sage.count("ran-a") == 0


@pytest.mark.requirement("ORCH-010")
def test_graph_shows_batches_and_what_depends_on_what(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(shell("A", "true"), shell("B", "true"), shell("C", "true", needs=["A", "B"]))
    text = inside("graph", flow).stdout
    assert "Batch 1: [A, B]" in text
    assert "Batch 2: [C]  C depends on [A, B]" in text
    assert json.loads(inside("graph", flow, "--json").stdout)["batches"] == [["A", "B"], ["C"]]


def test_schema_is_json_and_names_the_parts(inside: Inside) -> None:
    schema = json.loads(inside("schema").stdout)
    assert {"name", "phases", "nodes"} <= schema["properties"].keys()


def test_a_template_is_found_by_its_name(sage: CommandLine, inside: Inside) -> None:
    folder = sage.project / ".sage" / "templates"
    folder.mkdir(parents=True)
    (folder / "greet.yaml").write_text(
        "name: greet\ninputs: {topic: {type: string}}\nnodes:\n"
        "  - {id: hello, type: shell, command: [echo, '${inputs.topic}']}\n"
    )
    assert "--trust" in inside("run", "greet", "big world", code=2).stderr
    done = inside("run", "greet", "big world", "--json", "--trust")
    assert events(done.stdout)[0]["run_id"] == "greet-big-world"
    assert events(done.stdout)[-1]["results"]["hello"]["stdout"] == "big world\n"
    assert "greet" in inside("run", "greeet", code=2).stderr


def test_inputs_take_their_declared_type(sage: CommandLine, inside: Inside) -> None:
    flow = sage.write(
        "typed.json",
        {
            "name": "typed",
            "inputs": {"count": {"type": "integer"}, "deep": {"type": "object"}, "word": {"type": "string"}},
            "nodes": [
                {
                    "id": "a",
                    "type": "python",
                    "call": "json:dumps",
                    "arguments": {"obj": ["${inputs.count}", "${inputs.deep}", "${inputs.word}"]},
                }
            ],
        },
    )
    done = inside("run", flow, "-i", "count=3", "-i", 'deep={"x": [1]}', "-i", "word=7=7", "--json")
    assert json.loads(events(done.stdout)[-1]["results"]["a"]) == [3, {"x": [1]}, "7=7"]


# ------------------------------------------------------------------ run


def test_json_is_one_event_a_line_and_nothing_else(sage: CommandLine) -> None:
    flow = sage.flow(noted("a"), shell("b", "echo ${a | stdout} oops >&2", needs=["a"]))
    done = sage("run", flow, "--json")
    told = events(done.stdout)
    assert [told[0]["event"], told[-1]["event"]] == ["run_started", "run_finished"]
    assert told[0]["nodes"] == 2
    assert told[0]["resumed"] is False
    assert all({"event", "run_id", "time"} <= event.keys() for event in told)
    assert all(event["time"].endswith("+00:00") for event in told)
    assert [event["node"] for event in told if event["event"] == "node_succeeded"] == ["a", "b"]
    assert told[-1]["status"] == "succeeded"
    assert told[-1]["results"].keys() == {"b"}


def test_plain_lines_end_with_the_results_as_json(sage: CommandLine, inside: Inside) -> None:
    text = inside("run", sage.flow(noted("a"))).stdout
    assert "a: succeeded in" in text
    assert json.loads(text[text.index("{\n") :])["a"]["stdout"] == "a\n"


def test_quiet_prints_the_result_alone(sage: CommandLine) -> None:
    done = sage("run", sage.flow(noted("a")), "--quiet")
    assert json.loads(done.stdout)["a"]["stdout"] == "a\n"
    assert done.stderr == ""


def test_a_failed_run_exits_1_and_names_the_node_and_the_way_on(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(shell("bad", "echo why >&2; exit 3"), noted("after", needs=["bad"]), noted("beside"))
    for args in ([], ["--quiet"]):
        done = inside("run", flow, *args, code=1)
        assert "bad" in done.stderr
        assert "exit code 3" in done.stderr
        assert "sage-actors resume flow" in done.stderr
    assert (sage.count("ran-after"), sage.count("ran-beside")) == (0, 1)
    told = events(inside("run", flow, "--json", code=1).stdout)
    assert told[-1]["status"] == "failed"
    assert any(event["event"] == "node_skipped" and event["node"] == "after" for event in told)


def test_a_node_that_took_its_fallback_says_why(sage: CommandLine, inside: Inside) -> None:
    sage("run", sage.flow(shell("a", "exit 3", fallback="instead")))
    shown = inside("show", "flow", "a")
    assert shown.stdout == "instead\n"
    assert "a took its fallback: CommandFailed: " in shown.stderr
    assert "took its fallback: " in inside("status", "flow").stdout


def test_a_node_that_failed_in_python_shows_where(sage: CommandLine, inside: Inside) -> None:
    (sage.project / "steps.py").write_text(
        "def parse(text):\n    return number(text)\n\n\ndef number(text):\n    return int(text)\n"
    )
    flow = sage.flow({"id": "parse", "type": "python", "call": "steps:parse", "arguments": {"text": "x"}})
    assert "The traceback of parse: sage-actors show flow parse" in sage("run", flow, code=1).stderr
    shown = inside("show", "flow", "parse", code=1).stderr
    assert shown.count("  File ") == 2
    assert 'steps.py", line 2, in parse' in shown
    assert shown.endswith("ValueError: invalid literal for int() with base 10: 'x'\n")


def test_a_refusal_of_this_package_shows_no_frames_of_this_package(sage: CommandLine, inside: Inside) -> None:
    subprocess.run(["git", "init", "-q", str(sage.project)], check=True)
    flow = sage.flow({"id": "write", "type": "agent", "agent": "claude", "prompt": "x"})
    said = sage("run", flow, code=1).stderr
    assert "has no commit yet" in said
    assert "raceback" not in said
    assert "raceback" not in inside("show", "flow", "write", code=1).stderr


@pytest.mark.requirement("ORCH-017")
def test_a_failed_run_continues_and_keeps_what_was_done(sage: CommandLine) -> None:
    flow = sage.flow(noted("a"), shell("b", "test -e there", needs=["a"]))
    sage("run", flow, code=1)
    (sage.project / "there").touch()
    assert "continues" in sage("run", flow).stdout
    assert sage.count("ran-a") == 1


def test_mcp_is_loaded_ahead_unless_the_run_has_succeeded(
    sage: CommandLine, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> None:
        raise UsageError("it is loaded now")

    monkeypatch.setattr(ahead, "load_mcp", load)
    plain = sage.flow(noted("a"), name="plain")
    flow = sage.flow(noted("a"), description="mentions mcp")
    assert "loaded" in inside("run", flow, code=2).stderr  # nothing has run here yet
    sage("run", flow)
    inside("run", flow, "--quiet")
    assert "loaded" in inside("run", flow, "--fresh", code=2).stderr
    assert "loaded" in inside("run", flow, "--run-id", "other", code=2).stderr
    sage("run", plain)
    inside("run", plain, "--quiet")
    assert sage.count("ran-a") == 2


def test_a_run_that_succeeded_prints_its_result_again_and_runs_nothing(
    sage: CommandLine, inside: Inside
) -> None:
    flow = sage.flow(noted("a"))
    first = json.loads(inside("run", flow, "--quiet").stdout)
    assert json.loads(inside("run", flow, "--quiet").stdout) == first
    assert json.loads(inside("resume", "flow", "--quiet").stdout) == first
    told = events(inside("run", flow, "--json").stdout)
    assert told[-1]["status"] == "succeeded"
    assert told[-1]["results"] == first
    assert sage.count("ran-a") == 1


def test_fresh_archives_the_old_state_and_starts_anew(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(noted("a"))
    inside("run", flow)
    inside("run", flow, "--fresh")
    assert sage.count("ran-a") == 2
    assert len(list((sage.project / ".sage/state/archive").iterdir())) == 1


def test_an_edited_definition_needs_a_yes_where_there_is_no_terminal(
    sage: CommandLine, inside: Inside
) -> None:
    inside("run", sage.flow(noted("a"), noted("b", needs=["a"])))
    edited = sage.flow(noted("a"), shell("b", "echo changed", needs=["a"]))
    done = inside("run", edited, code=2)
    assert "b" in done.stderr
    assert "--accept-changes" in done.stderr
    assert "changed" in inside("run", edited, "--accept-changes", "--quiet").stdout
    assert sage.count("ran-a") == 1


def test_an_input_that_differs_is_said_to_differ(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(shell("a", "echo ${inputs.topic}"), inputs={"topic": {"type": "string"}})
    inside("run", flow, "Hello World")
    done = inside("run", flow, "hello-world", code=2)
    assert "another value of the input 'topic'" in done.stderr
    assert "another definition" not in done.stderr


def test_a_link_to_nowhere_is_called_one(sage: CommandLine, inside: Inside) -> None:
    (sage.project / "loop.yaml").symlink_to("loop.yaml")
    done = inside("validate", "loop.yaml", code=2)
    assert "is a link that leads to no file" in done.stderr
    assert "Did you mean" not in done.stderr


def test_resume_from_a_node_makes_a_new_run_that_keeps_the_rest(sage: CommandLine, inside: Inside) -> None:
    inside("run", sage.flow(noted("a"), noted("b", needs=["a"])))
    done = inside("resume", "flow", "--from", "b", "--json")
    assert events(done.stdout)[0]["run_id"] != "flow"
    assert (sage.count("ran-a"), sage.count("ran-b")) == (1, 2)


def test_durability_none_writes_nothing_and_needs_no_key(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(noted("a"))
    inside("run", flow, "--durability", "none", environ={"SAGE_STATE_KEY": "broken"})
    assert not (sage.project / ".sage" / "state" / "flow").exists()


def test_bytes_and_not_a_number_come_out_as_valid_json(sage: CommandLine, inside: Inside) -> None:
    (sage.project / "odd.py").write_text("def make():\n    return {'b': b'hi', 'n': float('nan')}\n")
    flow = sage.flow({"id": "a", "type": "python", "call": "odd:make"})
    told = events(inside("run", flow, "--json").stdout)
    assert told[-1]["results"]["a"] == {"b": {"$base64": "aGk="}, "n": None}
    assert json.loads(inside("show", "flow", "a").stdout) == {"b": {"$base64": "aGk="}, "n": None}


def test_a_reader_that_goes_away_leaves_a_run_that_can_be_continued(sage: CommandLine) -> None:
    flow = sage.flow(noted("a"), shell("b", "sleep 1", needs=["a"]), noted("c", needs=["b"]))
    process = sage.start("run", flow, "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 130
    assert process.stderr is not None
    said = process.stderr.read()
    assert "sage-actors resume flow" in said
    assert "Traceback" not in said
    sage("run", flow)
    assert sage.count("ran-a") == 1


@pytest.mark.parametrize(
    ("command", "full", "code", "said"),
    [
        (("run", "FLOW"), "stdout", 130, "Standard output cannot be written"),
        (("list",), "stdout", 5, "Error: standard output cannot be written: No space left"),
        (("run", "FLOW", "--fresh", "--json"), "stderr", 0, '"status":"succeeded"'),
        (("run", "nope.json"), "stderr", 2, ""),
    ],
)
def test_a_full_disk_behind_a_stream_is_told_by_the_other_and_by_the_exit_code(
    command: tuple[str, ...], full: str, code: int, said: str, sage: CommandLine, inside: Inside
) -> None:
    flow = sage.flow(noted("a"), shell("b", "sleep 1", needs=["a"]))
    if command != ("run", "FLOW"):
        inside("run", flow)
    words = [flow if each == "FLOW" else each for each in command]
    with open("/dev/full", "w") as device:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, full: device}
        done = subprocess.run(
            [sys.executable, "-m", "sage_actors", *words],
            **streams,
            cwd=sage.project,
            env=sage.environ,
            text=True,
            timeout=60,
        )
    assert done.returncode == code
    told = done.stdout or done.stderr or ""
    assert said in told
    assert "Traceback" not in told


def test_a_run_that_is_told_again_is_told_as_it_was(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(
        noted("a"), shell("b", "false", on_failure="continue"), shell("c", "true", when="${a | x}")
    )
    first, again = (events(inside("run", flow, "--json").stdout) for _ in range(2))
    assert again[-1]["counts"] == first[-1]["counts"]
    assert again[-1]["counts"].items() >= {"succeeded": 1, "failed": 1, "skipped": 1}.items()
    assert (again[0]["nodes"], again[0]["completed"]) == (3, 1)


def test_a_run_that_keeps_nothing_is_not_said_to_go_on(sage: CommandLine, inside: Inside) -> None:
    for node, code in ((shell("a", "exit 3"), 1), ({"id": "a", "type": "approval"}, 5)):
        done = inside("run", sage.flow(node), "--durability", "none", code=code)
        assert "it cannot be continued" in done.stderr
        assert "sage-actors resume" not in done.stderr


@pytest.mark.parametrize("command", [("list",), ("graph", "feature"), ("run", "nope.json")])
def test_a_command_whose_output_nobody_reads_ends_as_by_sigpipe(
    command: tuple[str, ...], sage: CommandLine
) -> None:
    process = sage.start(*command)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(30) == (2 if command[0] == "run" else 141)
    assert "Traceback" not in said


def test_an_empty_run_id_is_none(sage: CommandLine, inside: Inside) -> None:
    assert "'' is no run id" in inside("run", sage.flow(noted("a")), "--run-id", "", code=2).stderr
    assert sage.count("ran-a") == 0


def test_a_text_is_shown_to_a_program_as_it_is(sage: CommandLine) -> None:
    (sage.project / "odd.py").write_text("def make():\n    return '\\x1b[1mbold\\x1b[0m'\n")
    sage("run", sage.flow({"id": "a", "type": "python", "call": "odd:make"}))
    assert sage("show", "flow", "a").stdout == "\x1b[1mbold\x1b[0m\n"


def test_a_budget_of_tokens_pauses_the_run_with_5_and_holds_over_a_resume(
    sage: CommandLine, inside: Inside
) -> None:
    (sage.project / "paid.py").write_text(
        "import time\n"
        "def call(context):\n"
        "    time.sleep(0.5)\n"
        "    context.usage(input_tokens=60, output_tokens=10)\n"
        "    return 1\n"
    )
    nodes: list[dict[str, Any]] = [{"id": f"n{i}", "type": "python", "call": "paid:call"} for i in range(3)]
    for before, node in itertools.pairwise(nodes):
        node["needs"] = [before["id"]]
    flow = sage.flow(*nodes)
    done = inside("run", flow, "--max-tokens", "70", "--json", code=5)
    assert "budget" in done.stderr
    assert "budget" in events(done.stdout)[-1]["reason"]
    succeeded = [event["node"] for event in events(done.stdout) if event["event"] == "node_succeeded"]
    assert succeeded[0] == "n0"
    assert len(succeeded) < 3
    assert "budget" in inside("resume", "flow", "--max-tokens", "70", code=5).stderr
    assert (
        events(inside("run", flow, "--max-tokens", "1000", "--json").stdout)[-1]["tokens"]["input_tokens"]
        == 180
    )


# ------------------------------------------------------------------ on a terminal


@pytest.mark.requirement("ORCH-010")
def test_a_terminal_shows_phases_what_runs_and_the_result(sage: CommandLine) -> None:
    flow = sage.write(
        "phased.json",
        {
            "name": "phased",
            "phases": [
                {
                    "id": "first",
                    "name": "Do the first",
                    "dependencies": [],
                    "operations": [shell("a", "sleep 0.5")],
                },
                {"id": "second", "dependencies": ["first"], "operations": [shell("b", "echo found")]},
            ],
        },
    )
    code, sent = on_terminal(sage, "run", flow)
    assert code == 0
    assert "Do the first" in sent
    assert "first/a" in sent
    assert "2/2" in sent
    assert '"second/b"' in sent


def test_a_terminal_never_gets_the_control_characters_of_an_operation(sage: CommandLine) -> None:
    flow = sage.flow(
        shell("evil", ["printf", r"\033]0;owned\007\033[2J"]), shell("bad", ["sh", "-c", "exit 3"])
    )
    for args in (["run", flow], ["run", flow, "--plain"], ["logs", "flow"], ["show", "flow", "evil"]):
        _, sent = on_terminal(sage, *args)
        assert "\033]0;" not in sent
        assert "\033[2J" not in sent


def test_a_terminal_is_asked_about_changes_and_no_changes_nothing(sage: CommandLine, inside: Inside) -> None:
    sage("run", sage.flow(noted("a")))
    edited = sage.flow(shell("a", "echo changed"))
    code, sent = on_terminal(sage, "run", edited, answer="n\n")
    assert code == 2
    assert "a will run again" in sent
    assert json.loads(inside("show", "flow", "a").stdout)["stdout"] == "a\n"
    code, sent = on_terminal(sage, "run", edited, answer="y\n")
    assert code == 0
    assert "changed" in sent


def test_a_terminal_is_offered_to_follow_a_run_of_another_process(sage: CommandLine) -> None:
    flow = sage.flow(shell("slow", "echo x >> started; while [ ! -e go ]; do sleep 0.05; done"))
    process = sage.start("run", flow)
    wait_until(lambda: sage.count("started"), what="it runs")
    code, sent = on_terminal(sage, "run", flow, "--plain", answer="n\n")
    assert code == 3
    assert "sage-actors attach flow" in sent
    (sage.project / "go").touch()
    assert process.wait(30) == 0
    process.communicate()


# ------------------------------------------------------------------ interruptions


def _running(sage: CommandLine, *extra: str) -> tuple[subprocess.Popen[str], str]:
    """A run whose first node is done and whose second executes."""
    flow = sage.flow(
        noted("a"), shell("slow", "echo x >> started; sleep 30", needs=["a"]), noted("end", needs=["slow"])
    )
    process = sage.start("run", flow, *extra)
    wait_until(lambda: sage.count("started") or process.poll() is not None, what="the slow node starts")
    return process, flow


def _unblock(sage: CommandLine) -> str:
    """The same flow with the same fingerprint cannot be faster: so another file, whose slow node is short."""
    return sage.flow(noted("a"), shell("slow", "true", needs=["a"]), noted("end", needs=["slow"]))


@pytest.mark.requirement("ORCH-017")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_with_grace_and_says_how_to_continue(sage: CommandLine, number: int) -> None:
    process, _ = _running(sage, "--json")
    process.send_signal(number)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 130
    assert "sage-actors resume flow" in err
    told = events(out)
    assert {"run_paused", "run_finished"} <= {event["event"] for event in told}
    assert told[-1]["status"] == "paused"
    sage("run", _unblock(sage), "--accept-changes")
    assert (sage.count("ran-a"), sage.count("ran-end")) == (1, 1)


def test_a_signal_after_the_end_of_a_run_leaves_its_exit_code(sage: CommandLine) -> None:
    codes = []
    flow = sage.flow(noted("a"))
    for number in range(8):
        process = sage.start("run", flow, "--run-id", f"r{number}", "--json")
        assert process.stdout is not None
        while "run_finished" not in process.stdout.readline():
            pass
        time.sleep(0.04 * number)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        codes.append(process.returncode)
    # 130: it came just when the run was over and its result not yet told.
    assert set(codes) <= {0, 130}, codes
    assert codes.count(0) >= 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_a_run_begins_ends_the_command_as_an_interruption(
    sage: CommandLine, number: int
) -> None:
    flow = sage.project / "flow.json"
    os.mkfifo(flow)  # so that it waits for its definition
    process = sage.start("run", str(flow), "--run-id", "r")
    with open(flow, "w"):
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (130, "Interrupted.")
    assert "no run" in sage("status", "r", code=2).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_module_is_imported_does_not_wait_for_it(sage: CommandLine, number: int) -> None:
    (sage.project / "slow.py").write_text(
        "import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(100)\ndef f(): pass\n"
    )
    process = sage.start("run", sage.flow({"id": "a", "type": "python", "call": "slow:f"}), "--run-id", "r")
    wait_until((sage.project / "importing").exists)
    begun = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (130, "Interrupted.")
    assert time.monotonic() - begun < 20
    assert "no run" in sage("status", "r", code=2).stderr


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.03])
def test_a_signal_while_a_run_is_being_made_stops_it_when_it_is(sage: CommandLine, delay_s: float) -> None:
    """Half a supervisor, or half an admission, cannot be stopped: it ran on to the end, or hung for 15 s."""
    commands = ("true", "sleep 20", "true")
    needs: list[dict[str, Any]] = [{}, {"needs": ["n0"]}, {"needs": ["n1"]}]
    flow = sage.flow(
        *({"id": f"n{i}", "type": "shell", "command": c, **needs[i]} for i, c in enumerate(commands))
    )
    process = sage.start("run", flow, "--run-id", "r", "--plain")
    wait_until((sage.project / ".sage" / "state" / "r").exists)
    time.sleep(delay_s)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "continue with: sage-actors resume r" in said
    assert time.monotonic() - begun < 12  # the grace, at most
    assert "paused" in sage("status", "r").stdout


def test_a_directory_that_was_removed_under_the_caller_is_said(sage: CommandLine) -> None:
    gone = sage.project / "gone"
    gone.mkdir()
    command = f"rmdir {gone}; exec {sys.executable} -P -m sage_actors list"
    done = subprocess.run(
        command, shell=True, cwd=gone, env=sage.environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "Error: the current directory has been removed; change to one that is there\n"


def test_closed_standard_streams_lead_nowhere(sage: CommandLine) -> None:
    flow = sage.flow({"id": "a", "type": "shell", "command": "echo done >> ran"})
    for number, closing in enumerate(("<&-", ">&-", "2>&-", "<&- >&- 2>&-")):
        command = f"{sys.executable} -m sage_actors run {flow} --run-id r{number} {closing}"
        done = subprocess.run(
            command, shell=True, cwd=sage.project, env=sage.environ, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
    assert sage.count("ran") == 4


def test_a_reader_of_both_streams_that_goes_away_leaves_a_run_that_can_be_continued(
    sage: CommandLine,
) -> None:
    flow = sage.flow(
        {"id": "a", "type": "shell", "command": "sleep 0.5"},
        {"id": "b", "type": "shell", "command": "sleep 0.5", "needs": ["a"]},
        {"id": "c", "type": "shell", "command": "sleep 5", "needs": ["b"]},
    )
    command = (
        f"({sys.executable} -m sage_actors run {flow} --run-id r --plain; echo $? > code) 2>&1 | head -1"
    )
    subprocess.run(
        command, shell=True, cwd=sage.project, env=sage.environ, capture_output=True, timeout=60, check=True
    )
    wait_until((sage.project / "code").exists)
    wait_until(lambda: (sage.project / "code").read_text().endswith("\n"))
    assert (sage.project / "code").read_text() == "130\n"
    assert "paused" in sage("status", "r").stdout


def test_a_bare_name_never_means_a_file(sage: CommandLine) -> None:
    """A repository may hold a file of any name: typing it is no consent to what it does."""
    sage.write("deploy", {"name": "x", "nodes": [{"id": "a", "type": "shell", "command": "touch ran"}]})
    said = sage("run", "deploy", code=2).stderr
    assert "./deploy" in said
    assert not (sage.project / "ran").exists()
    sage("run", "./deploy", "--run-id", "r")
    assert (sage.project / "ran").exists()


def test_two_signals_stop_at_once(sage: CommandLine, inside: Inside) -> None:
    process, _ = _running(sage)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while "Stopping" not in (line := process.stdout.readline()):
        assert line, "it ended without a word"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=4)
    assert process.returncode == 130
    assert json.loads(inside("status", "flow", "--json").stdout)["status"] == "paused"


@pytest.mark.requirement("ORCH-017")
def test_a_killed_run_continues_where_it_stood(sage: CommandLine, inside: Inside) -> None:
    process, _ = _running(sage)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert json.loads(inside("status", "flow", "--json").stdout)["status"] == "interrupted"
    sage("run", _unblock(sage), "--accept-changes")
    assert (sage.count("ran-a"), sage.count("ran-end")) == (1, 1)


def test_a_second_process_on_one_run_exits_3(sage: CommandLine) -> None:
    process, flow = _running(sage)
    try:
        for args in (
            ["run", flow],
            ["resume", "flow"],
            ["run", flow, "--fresh"],
            ["delete", "flow", "--yes"],
        ):
            done = sage(*args, code=3)
            assert "flow" in done.stderr
            assert done.stdout == ""
        assert sage.count("ran-a") == 1
    finally:
        process.kill()
        process.communicate()


def test_a_stopped_owner_is_named_with_what_to_do(sage: CommandLine, inside: Inside) -> None:
    """Ctrl-Z in another terminal: `cancel` waited for a minute and a half, `attach` for ever."""
    process, flow = _running(sage)
    follower = sage.start("attach", "flow")
    try:
        assert follower.stdout is not None
        follower.stdout.readline()  # it follows
        process.send_signal(signal.SIGSTOP)
        hint = f"kill -CONT {process.pid}"
        assert hint in follower.stdout.readline()
        assert hint in inside("status", "flow").stdout
        assert hint in inside("run", flow, code=3).stderr
        said = inside("cancel", "flow", code=3).stderr
        assert hint in said
        assert "does it if it goes on" in said
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=30)
        assert (process.returncode, follower.wait(30)) == (1, 1)
    finally:
        process.kill()
        follower.kill()
        process.communicate()
        follower.communicate()


# ------------------------------------------------------------------ keys and damage


def test_a_wrong_key_exits_4_and_a_bad_one_never_falls_through(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(noted("a"))
    sage("run", flow)
    other = {"SAGE_STATE_KEY": "sak1-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}
    for args in (["run", flow], ["resume", "flow"], ["status", "flow"], ["show", "flow"]):
        command = sage if args[0] == "run" else inside
        assert "key" in command(*args, code=4, environ=other).stderr
        typo = command(*args, code=4, environ={"SAGE_STATE_KEY": "secret-typo"})
        assert "secret-typo" not in typo.stderr
    assert "unreadable" in inside("list", environ=other).stdout
    assert sage.count("ran-a") == 1


@pytest.mark.parametrize(
    "again",
    [
        ["run", "flow.json", "--repair"],
        ["resume", "flow", "--repair"],
        ["resume", "flow", "--repair", "--max-tokens", "100"],
        ["resume", "flow", "--repair", "--from", "b"],
    ],
    ids=lambda again: " ".join(again),
)
def test_damage_exits_4_with_file_and_offset_and_repair_continues(
    sage: CommandLine, inside: Inside, again: list[str]
) -> None:
    """`resume --repair` looked at the inputs of the run before it was repaired, and was told to use --repair."""
    flow = sage.flow(noted("a"), noted("b", needs=["a"]))
    sage("run", flow)
    (journal,) = (sage.project / ".sage/state/flow").glob("journal-*")
    data = bytearray(journal.read_bytes())
    data[len(data) * 4 // 5] ^= 1
    journal.write_bytes(data)
    for command in (["run", flow], ["resume", "flow"], ["status", "flow"], ["resume", "flow", "--from", "b"]):
        done = inside(*command, code=4)
        assert journal.name in done.stderr
        assert "--repair" in done.stderr
    assert "repaired: " in sage(*again).stdout
    assert sage.count("ran-a") <= 2
    inside("status", "flow")


def test_keys_are_described_never_shown_but_by_export(sage: CommandLine, inside: Inside) -> None:
    assert "key" in sage("keys", "show", code=4).stderr
    sage("keys", "create")
    secret = sage("keys", "export", "--yes").stdout.strip()
    assert secret.startswith("sak1-")
    facts = json.loads(sage("keys", "show", "--json").stdout)
    assert facts["source"] == "file"
    sage("run", sage.flow(noted("a")))
    sage("keys", "rotate")
    rotated = json.loads(sage("keys", "show", "--json").stdout)
    assert rotated["seals"] != facts["seals"]
    assert facts["seals"] in rotated["opens"]
    inside("show", "flow")
    for args in (["keys"], ["keys", "show"], ["doctor"]):
        done = sage(*args)
        assert secret[5:] not in done.stdout + done.stderr
    assert "exists" in sage("keys", "create", code=4).stderr


# ------------------------------------------------------------------ people


APPROVAL = {"id": "ok", "type": "approval", "message": "Publish it?", "needs": ["a"]}


@pytest.mark.requirement("ORCH-017")
def test_a_pause_for_two_reasons_has_an_answer_for_each(sage: CommandLine, inside: Inside) -> None:
    dying = shell("pay", "kill -9 $PPID; sleep 5", effect="once")
    done = inside("run", sage.flow({"id": "ok", "type": "approval"}, dying), code=5)
    assert "sage-actors resolve flow pay --retry" in done.stderr
    assert "sage-actors approve flow ok\n" in done.stderr


def test_an_approval_pauses_with_5_and_another_process_answers_it(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(noted("a"), APPROVAL, shell("last", "echo v${ok | data.version}"))
    done = sage("run", flow, code=5)
    assert "sage-actors approve flow ok" in done.stderr
    assert "Publish it?" in done.stdout
    assert "nope" in inside("approve", "flow", "nope", code=2).stderr
    sage("approve", "flow", "ok", "--data", '{"version": 3}')
    assert json.loads(sage("resume", "flow", "--quiet").stdout)["last"]["stdout"] == "v3\n"
    assert sage.count("ran-a") == 1
    decisions = [each for each in events(inside("history", "flow", "--json").stdout) if "kind" in each]
    assert [each["kind"] for each in decisions] == ["approve"]


def test_a_rejection_fails_the_run(sage: CommandLine, inside: Inside) -> None:
    inside("run", sage.flow(noted("a"), APPROVAL, noted("last", needs=["ok"])), code=5)
    inside("approve", "flow", "ok", "--reject")
    inside("resume", "flow", code=1)
    assert sage.count("ran-last") == 0


def test_a_node_in_doubt_pauses_and_a_person_resolves_it(sage: CommandLine, inside: Inside) -> None:
    once = shell("pay", "echo x >> started; sleep 30", effect="once")
    process = sage.start("run", sage.flow(once, noted("last", needs=["pay"])))
    wait_until(lambda: sage.count("started"), what="the payment starts")
    process.kill()
    process.communicate()
    done = sage("resume", "flow", code=5)
    assert "sage-actors resolve flow pay" in done.stderr
    inside("resolve", "flow", "pay", "--result", '{"paid": true}')
    sage("resume", "flow")
    assert (sage.count("started"), sage.count("ran-last")) == (1, 1)
    assert json.loads(inside("show", "flow", "pay").stdout) == {"paid": True}


def test_a_live_run_is_followed_answered_and_cancelled_from_another_process(
    sage: CommandLine, inside: Inside
) -> None:
    flow = sage.flow(
        noted("a"),
        APPROVAL,
        shell("slow", "echo x >> started; sleep 300", needs=["a"]),
        noted("z", needs=["ok"]),
    )
    process = sage.start("run", flow)
    wait_until(lambda: sage.count("started"), what="the slow node starts")
    follower = sage.start("attach", "flow", "--json")
    assert follower.stdout is not None
    first = json.loads(follower.stdout.readline())
    assert first["event"] == "run_status"
    assert first["running"] == ["slow"]
    inside("approve", "flow", "ok")
    wait_until(lambda: sage.count("ran-z"), what="what waited for the approval runs")
    wait_until(
        lambda: json.loads(inside("status", "flow", "--json").stdout)["running"] == ["slow"],
        what="only the slow one is left",
    )
    status = json.loads(inside("status", "flow", "--json").stdout)
    assert status["status"] == "running"
    sage("cancel", "flow")
    assert process.wait(30) == 1
    rest = [json.loads(line) for line in follower.stdout]
    assert follower.wait(30) == 1
    assert "z" in {event.get("node") for event in rest}
    assert rest[-1]["status"] == "cancelled"
    assert list(sage.runtime.glob("sage-actors/*")) == []
    assert json.loads(inside("status", "flow", "--json").stdout)["status"] == "cancelled"


# ------------------------------------------------------------------ looking, and clearing away


def test_looking_at_a_run_shows_states_errors_output_and_records(sage: CommandLine, inside: Inside) -> None:
    flow = sage.flow(noted("a"), shell("bad", "echo to-stderr >&2; exit 3", needs=["a"]))
    inside("run", flow, code=1)
    assert "flow" in inside("list").stdout
    (row,) = json.loads(inside("list", "--json").stdout)
    assert (row["run_id"], row["status"], row["total"]) == ("flow", "failed", 2)
    assert "exit code 3" in inside("status", "flow").stdout
    facts = json.loads(inside("status", "flow", "--json").stdout)
    assert {node["id"]: node["state"] for node in facts["nodes"]} == {"a": "succeeded", "bad": "failed"}
    assert json.loads(inside("show", "flow", "a").stdout)["stdout"] == "a\n"
    assert "exit code 3" in inside("show", "flow", "bad", code=1).stderr
    assert "a?" in inside("show", "flow", "aa", code=2).stderr.replace("'", "")
    assert "bad | to-stderr" in inside("logs", "flow").stdout
    assert inside("logs", "flow", "bad").stdout == "to-stderr\n"
    records = events(inside("history", "flow", "--json").stdout)
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    assert "run_admitted" in inside("history", "flow").stdout


def test_logs_follow_a_live_run_to_its_end_without_a_line_twice(sage: CommandLine) -> None:
    flow = sage.flow(shell("talk", "echo one; echo x >> started; sleep 2; echo two; sleep 1; echo three"))
    process = sage.start("run", flow)
    wait_until(lambda: sage.count("started"), what="it talks")
    assert sage("logs", "flow", "talk", "-f").stdout.split() == ["one", "two", "three"]
    assert process.wait(30) == 0
    process.communicate()


def test_delete_asks_first_and_prune_goes_by_age(sage: CommandLine, inside: Inside) -> None:
    for name in ("one", "two", "three"):
        inside("run", sage.flow(noted("a"), name=name))
    assert "--yes" in inside("delete", "one", code=2).stderr
    inside("delete", "one", "--yes")
    assert "one" not in inside("list").stdout
    old = next((sage.project / ".sage/state/two").glob("journal-*"))
    os.utime(old, (1_000_000_000, 1_000_000_000))
    assert json.loads(inside("prune", "--older-than", "30d", "--dry-run", "--json").stdout) == {
        "would_be_deleted": ["two"]
    }
    assert "--yes" in inside("prune", "--older-than", "30d", code=2).stderr
    inside("prune", "--older-than", "30d", "--yes")
    assert [row["run_id"] for row in json.loads(inside("list", "--json").stdout)] == ["three"]


def test_prune_tells_apart_what_it_asks_about(sage: CommandLine, inside: Inside) -> None:
    inside("run", sage.flow(noted("a"), name="one"))
    inside("run", sage.flow(noted("a"), name="one"), "--fresh")
    for journal in (sage.project / ".sage/state").rglob("journal-*"):
        os.utime(journal, (1_000_000_000, 1_000_000_000))
    code, sent = on_terminal(sage, "prune", "--older-than", "30d", answer="n\n")
    assert code == 1
    assert "Delete 1 run and 1 archived run for good?" in sent


def test_a_project_whose_path_is_no_text_is_refused(sage: CommandLine) -> None:
    project = os.path.join(os.fsencode(sage.project), b"\xff")
    os.mkdir(project)
    with open(os.path.join(project, b"flow.json"), "w") as file:
        json.dump({"name": "flow", "nodes": [noted("a")]}, file)
    command = [sys.executable, "-m", "sage_actors", "run", "flow.json"]
    done = subprocess.run(command, cwd=project, env=sage.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "is no Unicode" in done.stderr


def test_another_project_is_named_by_an_option_and_in_the_hints(sage: CommandLine, inside: Inside) -> None:
    other = sage.home / "other project"
    other.mkdir()
    flow = sage.flow(shell("bad", "exit 1"))
    done = inside("run", flow, "--project", str(other), code=1)
    assert f"--project '{other}'" in done.stderr
    assert "flow" in inside("list", "--project", str(other)).stdout
    assert "no runs" in inside("list").stdout
