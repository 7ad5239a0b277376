"""Sessions with real servers, hostile ones included: each fault ends one call, with a reason."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp_harness import RAW, McpProject, eventually, with_sessions

from sage_actors.actors.mcp.backoff import Backoff
from sage_actors.actors.operations.mcp import sessions_of


@pytest.fixture
def mcp(tmp_path: Path) -> McpProject:
    return McpProject(tmp_path)


# One session for all


@pytest.mark.requirement("ORCH-018")
def test_all_calls_share_one_process_that_is_started_once(mcp: McpProject) -> None:
    mcp.add_raw("slow")

    async def body() -> tuple[list[Any], list[Any]]:
        tasks = [mcp.task("raw", "pid") for _ in range(20)]
        return await asyncio.gather(*map(mcp.run, tasks)), [task.used for task in tasks]

    pids, used = with_sessions(mcp.project, body)
    assert len(set(pids)) == 1
    starts = [each["server_starts"] for each in used if each]
    assert starts == [{"raw": 1}]


def test_calls_run_in_parallel_on_one_session(mcp: McpProject) -> None:
    mcp.add_raw()

    async def body() -> float:
        await mcp.call("raw", "echo", text="warm")
        started = time.monotonic()
        assert await asyncio.gather(*(mcp.call("raw", "late", after=0.3) for _ in range(30))) == ["late"] * 30
        return time.monotonic() - started

    assert with_sessions(mcp.project, body) < 3.0  # one after the other: 9 s


def test_servers_end_with_their_sessions(mcp: McpProject) -> None:
    mcp.add_raw()
    pid = int(with_sessions(mcp.project, lambda: mcp.call("raw", "pid")))
    assert not psutil.pid_exists(pid)


def test_a_loop_that_ends_without_closing_leaves_no_process(mcp: McpProject) -> None:
    mcp.add_raw()
    pid = int(asyncio.run(mcp.call("raw", "pid")))
    assert not psutil.pid_exists(pid)


# Starts


def test_a_server_that_ends_at_once_says_why_and_is_tried_again(mcp: McpProject, tmp_path: Path) -> None:
    mcp.add_raw("once", str(tmp_path / "flag"))

    async def body() -> tuple[Any, Any]:
        return await mcp.error("raw", "echo", text="a"), await mcp.call("raw", "echo", text="b")

    error, value = with_sessions(mcp.project, body)
    assert type(error).__name__ == "ServerStartFailed"
    assert error.retryable
    assert "exited with code 1" in str(error)
    assert "not this time" in str(error)
    assert value == "b"


def test_a_failed_start_is_told_to_all_who_wait(mcp: McpProject) -> None:
    mcp.add_raw("die")

    async def body() -> list[Any]:
        return await asyncio.gather(*(mcp.error("raw", "echo", text="x") for _ in range(5)))

    errors = with_sessions(mcp.project, body)
    assert all("no licence" in str(error) for error in errors)


def test_a_server_that_always_ends_at_once_is_left_alone_for_a_while(mcp: McpProject) -> None:
    mcp.add_raw("die")

    async def body() -> list[Any]:
        return [await mcp.error("raw", "echo", text="x") for _ in range(5)]

    *starts, last = with_sessions(mcp.project, body)
    assert all("times in a row" not in str(error) for error in starts)
    assert "4 times in a row" in str(last)
    assert "no licence" in str(last)
    assert 1 < last.retry_after <= 2


@pytest.mark.parametrize("mode", ["silent", "garbage"])
def test_a_server_that_does_not_greet_is_given_up_and_ended(mcp: McpProject, mode: str) -> None:
    mcp.add_raw(mode, startup_timeout_ms=400)
    error = with_sessions(mcp.project, lambda: mcp.error("raw", "echo", text="x"))
    assert "did not answer within 0.4 s" in str(error)
    assert ("Welcome to this server!" in str(error)) == (mode == "garbage")


def test_a_command_that_is_not_there_is_not_tried_again(mcp: McpProject) -> None:
    mcp.configure({"raw": {"command": "no-such-program-here"}})
    error = with_sessions(mcp.project, lambda: mcp.error("raw", "echo", text="x"))
    assert not error.retryable
    assert "its program cannot be started" in str(error)
    assert "no-such-program-here" in str(error)


def test_who_gives_up_while_a_server_starts_does_not_take_the_start_along(mcp: McpProject) -> None:
    mcp.add_raw("slow")

    async def body() -> str:
        hasty = asyncio.create_task(mcp.call("raw", "echo", text="a"))
        patient = asyncio.create_task(mcp.call("raw", "echo", text="b"))
        await asyncio.sleep(0.1)
        hasty.cancel()
        return str(await patient)

    assert with_sessions(mcp.project, body) == "b"


def test_a_failed_start_names_variables_that_are_not_set(mcp: McpProject) -> None:
    mcp.configure({"raw": {"command": sys.executable, "args": [*RAW, "die", "${NOBODY_SET_THIS}"]}})
    error = with_sessions(mcp.project, lambda: mcp.error("raw", "echo", text="x"))
    assert "variables that are not set: NOBODY_SET_THIS" in str(error)


# Deaths


def test_a_server_that_dies_in_a_call_is_started_again_and_the_call_repeated(
    mcp: McpProject, tmp_path: Path
) -> None:
    mcp.add_raw()
    task = mcp.task("raw", "die_once", flag=str(tmp_path / "flag"))
    assert with_sessions(mcp.project, lambda: mcp.run(task)) == "the second time"
    assert task.used is not None
    assert task.used["server_starts"] == {"raw": 2}


def test_a_call_that_may_happen_once_only_is_not_repeated(tmp_path: Path) -> None:
    mcp = McpProject(tmp_path, effect="once")
    mcp.add_raw()

    async def body() -> tuple[Any, Any]:
        error = await mcp.error("raw", "die_once", flag=str(tmp_path / "flag"))
        return error, await mcp.call("raw", "echo", text="alive")

    error, value = with_sessions(mcp.project, body)
    assert type(error).__name__ == "ServerDied"
    assert error.retryable
    assert "exited with code 7" in str(error)
    assert value == "alive"


def test_a_call_that_always_kills_the_server_is_repeated_once_only(mcp: McpProject) -> None:
    mcp.add_raw()

    async def body() -> Any:
        await mcp.call("raw", "echo", text="warm")
        return await mcp.error("raw", "die")

    error = with_sessions(mcp.project, body)
    assert type(error).__name__ == "ServerDied"
    assert "something broke inside" in str(error)


def test_all_calls_of_a_killed_server_are_answered(mcp: McpProject) -> None:
    mcp.add_raw()

    async def body() -> list[Any]:
        pid = int(await mcp.call("raw", "pid"))
        calls = [asyncio.create_task(mcp.call("raw", "late", after=0.5)) for _ in range(10)]
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        return await asyncio.gather(*calls)

    assert with_sessions(mcp.project, body) == ["late"] * 10


def test_a_server_that_ends_between_calls_is_started_again(mcp: McpProject) -> None:
    mcp.add_raw()

    async def body() -> str:
        assert await mcp.call("raw", "die_later") == "still here"
        return str(await mcp.call("raw", "echo", text="again"))

    assert with_sessions(mcp.project, body) == "again"


def test_a_server_that_exits_ends_though_its_child_holds_the_output(tmp_path: Path) -> None:
    mcp = McpProject(tmp_path, effect="once")
    mcp.add_raw()
    error = with_sessions(tmp_path, lambda: mcp.error("raw", "orphan"))
    assert type(error).__name__ == "ServerDied"
    assert "exited with code 4" in str(error)


def test_a_server_that_closed_its_input_is_started_again(tmp_path: Path) -> None:
    mcp = McpProject(tmp_path, effect="once")
    mcp.add_raw()

    async def body() -> tuple[Any, Any]:
        deaf = asyncio.create_task(mcp.error("raw", "deaf"))
        await asyncio.sleep(0.5)
        return await mcp.error("raw", "echo", text="x"), await deaf

    for error in with_sessions(tmp_path, body):
        assert type(error).__name__ == "ServerDied"
        assert "closed its input" in str(error)


def test_a_server_that_reads_no_more_holds_up_nobody_for_long(mcp: McpProject) -> None:
    mcp.add_raw()

    async def body() -> str:
        assert await mcp.call("raw", "stuck") == "stuck now"
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await mcp.call("raw", "echo", text="x" * 1_000_000)
        return str(await mcp.call("raw", "echo", text="free"))

    assert with_sessions(mcp.project, body) == "free"


def test_a_server_that_answers_nobody_any_more_is_started_anew(mcp: McpProject) -> None:
    mcp.add_raw()

    async def body() -> tuple[str, str]:
        before = await mcp.call("raw", "pid")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await mcp.call("raw", "never")
        return str(before), str(await mcp.call("raw", "pid"))

    before, after = with_sessions(mcp.project, body)
    assert before != after


def test_the_backoff_grows_to_a_bound_and_forgets_after_a_steady_life() -> None:
    now = [0.0]
    backoff = Backoff(lambda: now[0])
    waits = []
    for _ in range(10):
        backoff.failed()
        waits.append(backoff.wait_s)
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    now[0] += 29
    assert backoff.wait_s == 1.0
    backoff.failed(lived_s=60)
    assert (backoff.failures, backoff.wait_s) == (1, 0.0)


# Hostile servers: that call alone ends, with a reason, and the session serves the next


@pytest.mark.parametrize(
    ("tool", "arguments", "kind", "text"),
    [
        ("other_id", {}, "TimeoutExceeded", "did not answer in time"),
        ("never", {}, "TimeoutExceeded", "did not answer in time"),
        ("lying", {}, "BadAnswer", "Invalid structured content"),
        ("malformed", {}, "BadAnswer", "what the protocol does not allow"),
        ("code", {"code": -32603, "message": "zod says no"}, "ToolError", "zod says no"),
        ("code", {"code": -32001}, "TimeoutExceeded", ""),
        ("code", {"code": -32000, "message": "own trouble"}, "ToolError", "own trouble"),
        ("code", {"code": -32602, "message": "bad"}, "ToolUnusable", "it takes text (required), count"),
        ("code", {"code": -32600, "message": "Elicitation not supported"}, "InputNeeded", "nobody to ask"),
        ("ecko", {}, "ToolUnusable", "did you mean 'echo'?"),
        ("huge", {"bytes": 18 << 20, "id": "first"}, "LimitExceeded", "the limit is 16777216"),
        ("huge", {"bytes": 18 << 20, "id": "last"}, "LimitExceeded", "the limit is 16777216"),
        ("result", {"result": {"content": [{"type": "image", "data": "?", "mimeType": "a/b"}]}}, "BadAnswer", "base64"),
        ("result", {"result": {"content": [{"type": "text", "text": "no!"}], "isError": True}}, "ToolError", "no!"),
    ],
)  # fmt: skip
def test_a_bad_answer_ends_one_call_and_the_session_lives_on(
    mcp: McpProject, tool: str, arguments: dict[str, Any], kind: str, text: str
) -> None:
    mcp.add_raw(request_timeout_ms=500)

    async def body() -> tuple[Any, Any, Any]:
        before = await mcp.call("raw", "pid")
        return await mcp.error("raw", tool, **arguments), before, await mcp.call("raw", "pid")

    error, before, after = with_sessions(mcp.project, body)
    assert type(error).__name__ == kind
    assert text in str(error)
    assert error.retryable == (kind in ("TimeoutExceeded", "ToolError"))
    assert before == after


def test_an_answer_of_100_mb_is_refused_in_bounded_memory(mcp: McpProject) -> None:
    mcp.add_raw()

    async def body() -> tuple[Any, int]:
        await mcp.call("raw", "echo", text="warm")
        before = psutil.Process().memory_info().rss
        peak = 0

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, psutil.Process().memory_info().rss)
                await asyncio.sleep(0.002)

        watcher = asyncio.create_task(watch())
        error = await mcp.error("raw", "huge", bytes=100 << 20, id="last")
        watcher.cancel()
        return error, peak - before

    error, grown = with_sessions(mcp.project, body)
    assert type(error).__name__ == "LimitExceeded"
    assert grown < 60 << 20


def test_a_huge_message_without_an_id_ends_the_session_not_the_worker(tmp_path: Path) -> None:
    mcp = McpProject(tmp_path, effect="once")
    mcp.add_raw()

    async def body() -> tuple[Any, Any]:
        error = await mcp.error("raw", "huge", bytes=18 << 20, id="nowhere")
        return error, await mcp.call("raw", "echo", text="next")

    error, value = with_sessions(mcp.project, body)
    assert type(error).__name__ == "ServerDied"
    assert "no id in it" in str(error)
    assert value == "next"


def test_an_answer_just_below_the_limit_passes(mcp: McpProject) -> None:
    mcp.add_raw()
    value = with_sessions(mcp.project, lambda: mcp.call("raw", "huge", bytes=15 << 20, id="first"))
    assert len(value) == 15 << 20


def test_garbage_on_stdout_is_told_and_the_answer_behind_it_counts(mcp: McpProject) -> None:
    mcp.add_raw()
    assert with_sessions(mcp.project, lambda: mcp.call("raw", "garbage")) == "after the garbage"
    told = [line for line in mcp.services.logged if "no JSON-RPC message" in line]
    assert 1 <= len(told) <= 5
    assert "what is this?" in told[0]


def test_progress_that_goes_backwards_is_passed_on_as_it_increases(mcp: McpProject) -> None:
    mcp.add_raw()
    assert with_sessions(mcp.project, lambda: mcp.call("raw", "backwards")) == "done"
    fractions = [report["fraction"] for report in mcp.services.reports]
    assert fractions == sorted(set(fractions))
    assert fractions[0] == 0.1
    assert len(fractions) > 1  # those that come too close to each other are one


def test_a_flood_of_notifications_does_not_keep_other_servers_waiting(mcp: McpProject) -> None:
    one = {"command": sys.executable, "args": RAW}
    mcp.configure({"raw": one, "calm": one})

    async def body() -> str:
        await mcp.call("calm", "echo", text="warm")
        flood = asyncio.create_task(mcp.call("raw", "flood", messages=3000))
        await eventually(lambda: mcp.services.logged)
        assert await mcp.call("calm", "echo", text="me too") == "me too"
        assert not flood.done()
        return str(await flood)

    assert with_sessions(mcp.project, body) == "done"


def test_a_flood_on_stderr_is_read_and_cut(mcp: McpProject) -> None:
    mcp.add_raw()
    assert with_sessions(mcp.project, lambda: mcp.call("raw", "noisy", bytes=8 << 20)) == "done"
    assert max(map(len, mcp.services.logged)) < 5000
    assert all("[raw] " in line for line in mcp.services.logged)


# What reaches the server


def test_a_cancelled_call_is_cancelled_at_the_server(mcp: McpProject) -> None:
    mcp.add_raw()

    async def body() -> list[int]:
        await mcp.call("raw", "echo", text="warm")
        call = asyncio.create_task(mcp.call("raw", "never"))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return list(await mcp.call("raw", "was_cancelled"))

    assert len(with_sessions(mcp.project, body)) == 1


def test_a_server_gets_its_own_variables_and_never_the_state_key(
    mcp: McpProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_STATE_KEY", "sak1-secret")
    monkeypatch.setenv("OTHER_SECRET", "other")
    monkeypatch.setenv("WANTED", "given")
    (tmp_path / "sub").mkdir()
    env = {"MINE": "${WANTED}", "SAGE_STATE_KEY": "x", "STOLEN": "${SAGE_STATE_KEY}"}
    mcp.add_raw("env", str(tmp_path / "seen"), env=env, cwd="sub")
    with_sessions(mcp.project, lambda: mcp.call("raw", "echo", text="x"))
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["env"]["MINE"] == "given"
    assert seen["env"]["STOLEN"] == "${SAGE_STATE_KEY}"
    assert not {"SAGE_STATE_KEY", "OTHER_SECRET"} & set(seen["env"])
    assert "sak1-secret" not in json.dumps(seen)
    assert seen["cwd"] == str((tmp_path / "sub").resolve())


def test_no_session_is_made_twice_for_one_loop(tmp_path: Path) -> None:
    async def body() -> bool:
        return sessions_of(tmp_path) is sessions_of(tmp_path)

    assert asyncio.run(body())
