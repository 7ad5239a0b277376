"""What operations experience in real worker processes, of both kinds."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pool_harness import PoolHarness, pid_exists, wait_until

from sage_actors.actors.operations.http import retry_after_s
from sage_actors.actors.pool.protocol import (
    GivenBack,
    GuardEnded,
    GuardRequest,
    Inspected,
    Logs,
    Progress,
    Results,
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolHarness]:
    with PoolHarness(tmp_path_factory.mktemp("project")) as harness:
        yield harness


@pytest.fixture(scope="module")
def worker(pool: PoolHarness) -> int:
    return pool.worker()


@pytest.fixture(scope="module")
def async_worker(pool: PoolHarness) -> int:
    return pool.worker("async")


def test_a_result_comes_back(pool: PoolHarness, worker: int) -> None:
    value = {"a": [1, 2.5, None, True, "ü", b"\xff"], "b": {"c": -(2**63)}}
    assert pool.value(pool.submit(worker, "echo", value=value)) == value


def test_an_exception_is_a_failure_with_the_users_frames_only(pool: PoolHarness, worker: int) -> None:
    error = pool.error(pool.submit(worker, "fail", text="no luck"))
    assert (error["type"], error["message"], error["retryable"]) == ("ValueError", "no luck", True)
    assert "in fail" in error["traceback"]
    assert error["traceback"].count("  File ") == 1  # none of ours


def test_an_exception_can_say_when_to_try_again(pool: PoolHarness, worker: int) -> None:
    error = pool.error(pool.submit(worker, "fail_with", retry_after=2.5))
    assert error["retry_after"] == 2.5
    assert error["details"] == {"status": 429}


@pytest.mark.parametrize("arguments", [{}, {"left": 1}, {"left": 1, "right": 2, "more": 3}])
def test_a_call_that_does_not_fit_is_not_retried(
    pool: PoolHarness, worker: int, arguments: dict[str, int]
) -> None:
    error = pool.error(pool.submit(worker, "add", **arguments))
    assert (error["type"], error["retryable"]) == ("TypeError", False)


def test_a_type_error_inside_an_operation_may_be_retried(pool: PoolHarness, worker: int) -> None:
    error = pool.error(pool.submit(worker, "fail_inside"))
    assert (error["type"], error["retryable"]) == ("TypeError", True)


def test_sys_exit_fails_the_node_and_not_the_worker(pool: PoolHarness, worker: int) -> None:
    error = pool.error(pool.submit(worker, "leave"))
    assert error["type"] == "SystemExit"
    assert "enough" in error["message"]
    assert pool.value(pool.submit(worker, "echo", value=1)) == 1


def test_a_result_that_cannot_be_carried_names_node_type_and_path(pool: PoolHarness, worker: int) -> None:
    key = pool.submit(worker, "unpackable")
    error = pool.error(key)
    assert (error["type"], error["retryable"]) == ("ResultError", False)
    for part in (f"node-{key[1]}", "value['rows'][1]['when']", "builtins.object"):
        assert part in error["message"]


def test_a_result_that_is_too_large_fails_and_the_largest_passes(pool: PoolHarness, worker: int) -> None:
    error = pool.error(pool.submit(worker, "large", size=61 * 1024 * 1024))
    assert (error["type"], error["retryable"]) == ("LimitExceeded", False)
    assert error["details"]["kind"] == "result"
    assert error["details"]["limit"] == 60 * 1024 * 1024 < error["details"]["seen"]
    size = 60 * 1024 * 1024 - 16
    assert len(pool.value(pool.submit(worker, "large", size=size))) == size


def test_arguments_larger_than_a_socket_buffer_arrive(pool: PoolHarness, worker: int) -> None:
    value = [b"x" * 5_000_000] * 6
    assert pool.value(pool.submit(worker, "echo", value=value)) == value


@pytest.mark.parametrize("name", ["no_such_name", "PLAIN"])
def test_a_call_that_is_not_there_is_an_import_error(pool: PoolHarness, worker: int, name: str) -> None:
    error = pool.error(pool.submit(worker, name))
    assert (error["type"], error["retryable"]) == ("ImportError", False)
    assert name in error["message"]


def test_workers_run_in_the_project_without_the_state_key(tmp_path: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "SAGE_STATE_KEY": "secret", "SAGE_TEST_VARIABLE": "kept"}
    with PoolHarness(tmp_path, environ=environ) as pool:
        worker = pool.worker()
        found = pool.value(pool.submit(worker, "where_am_i"))
        assert found["cwd"] == str(tmp_path.resolve())
        assert (found["key"], found["other"], found["main_thread"]) == (None, "kept", True)
        assert found["session"] == found["pid"] == pool.pid(worker)


def test_each_operation_starts_in_the_project_wherever_the_one_before_it_went(
    pool: PoolHarness, worker: int, tmp_path: Path
) -> None:
    project = pool.value(pool.submit(worker, "wander", to=str(tmp_path)))[0]
    assert pool.value(pool.submit(worker, "wander", to=str(tmp_path))) == [project, str(tmp_path)]
    assert pool.value(pool.submit(worker, "wander", to="."))[0] == project


def test_each_coroutine_starts_in_the_project_and_those_beside_it_come_back_with_its_end(
    pool: PoolHarness, async_worker: int, tmp_path: Path
) -> None:
    project = pool.value(pool.submit(async_worker, "wander_async", to="."))[0]
    assert pool.value(pool.submit(async_worker, "wander_async", to=str(tmp_path))) == [project, str(tmp_path)]
    assert pool.value(pool.submit(async_worker, "wander_async", to="."))[0] == project


def test_the_projects_own_modules_are_found(tmp_path: Path) -> None:
    (tmp_path / "steps_of_mine.py").write_text("def step(x): return x + 1\n")
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        pool.define("step", {"type": "python", "call": "steps_of_mine:step"})
        assert pool.value(pool.submit(worker, "step", x=1)) == 2


def test_an_operation_of_the_main_script_runs_without_running_the_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\ndef mine(x): return [x, __name__]\n"
        "if __name__ == '__main__':\n    open('ran', 'w').write('x')\n"
    )
    with PoolHarness(tmp_path, main_path=str(script)) as pool:
        worker = pool.worker()
        pool.define("mine", {"type": "python", "call": "__main__:mine"})
        assert pool.value(pool.submit(worker, "mine", x=1)) == [1, "__mp_main__"]
    assert not (tmp_path / "ran").exists()


def test_a_context_knows_its_attempt(pool: PoolHarness, worker: int, async_worker: int) -> None:
    for each in (worker, async_worker):
        key = pool.submit(each, "describe", timeout=60.0)
        node = f"node-{key[1]}"
        found = pool.value(key)
        assert (found["run_id"], found["node_id"], found["attempt"]) == ("run-1", node, 1)
        assert found["key"] == f"run-1:uuid:{node}"
        assert found["deadline"] is True
        assert found["cancelled"] is False


def test_progress_log_and_usage_are_reported(pool: PoolHarness, worker: int) -> None:
    key = pool.submit(worker, "report")
    assert pool.row(key)[6] == {"input_tokens": 11, "output_tokens": 2, "cost": 0.5}
    progress = pool.wait_for(Progress)
    assert progress.rows == [[*key, {"fraction": 0.5, "message": "half", "step": 3}]]
    assert pool.output(key, "log") == "INFO a line of log\n"


def test_usage_of_a_failed_attempt_is_reported(pool: PoolHarness, worker: int) -> None:
    row = pool.row(pool.submit(worker, "use_and_fail"))
    assert (row[3], row[6]["input_tokens"]) == (1, 5)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("usage", {"input_tokens": 2**62}),
        ("usage", {"output_tokens": -1}),
        ("usage", {"cost": float("nan")}),
        ("usage", {"cost": float("inf")}),
        ("usage", {"cost": -0.5}),
        ("progress", {"fraction": float("nan")}),
        ("progress", {"fraction": 2.0}),
        ("progress", {"fraction": -0.1}),
    ],
    ids=str,
)
def test_figures_that_cannot_be_are_refused_and_change_nothing(
    pool: PoolHarness, worker: int, method: str, given: dict[str, float]
) -> None:
    row = pool.row(pool.submit(worker, "misreport", method=method, given=given))
    assert (row[3], row[5]["type"]) == (1, "UsageError")
    assert f"context.{method}" in row[5]["message"]
    assert row[6] == {"input_tokens": 1, "output_tokens": 0, "cost": 0.0}


@pytest.mark.requirement("ORCH-005")
@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_a_guard_asks_and_reports(pool: PoolHarness, worker: int, async_worker: int, kind: str) -> None:
    number, name = (worker, "guarded") if kind == "blocking" else (async_worker, "guarded_async")
    key = pool.submit(number, name, endpoint="api")
    request = pool.wait_for(GuardRequest)
    assert (request.worker, request.run, request.node, request.attempt) == (number, *key)
    assert request.endpoint == "api"
    pool.pool.permit(number, request.token, True)
    assert pool.value(key) == "called"
    ended = pool.wait_for(GuardEnded)
    assert (ended.endpoint, ended.token, ended.ok) == ("api", request.token, True)


def test_a_guard_reports_failure_and_refusal(pool: PoolHarness, worker: int) -> None:
    key = pool.submit(worker, "guarded", endpoint="api", broken=True)
    request = pool.wait_for(GuardRequest)
    pool.pool.permit(worker, request.token, True)
    assert pool.error(key)["type"] == "ConnectionError"
    assert pool.wait_for(GuardEnded).ok is False
    key = pool.submit(worker, "guarded", endpoint="api")
    request = pool.wait_for(GuardRequest)
    pool.pool.permit(worker, request.token, False, {"message": "open until noon", "retry_after": 9.0})
    error = pool.error(key)
    assert (error["type"], error["message"], error["retry_after"]) == (
        "BreakerOpenError",
        "open until noon",
        9.0,
    )


def test_a_permit_for_a_cancelled_task_is_handed_back(pool: PoolHarness, async_worker: int) -> None:
    key = pool.submit(async_worker, "guarded_async", endpoint="api")
    request = pool.wait_for(GuardRequest)
    pool.pool.cancel(async_worker, [key])
    assert pool.error(key)["type"] == "OperationCancelled"
    pool.pool.permit(async_worker, request.token, True)
    assert pool.wait_for(GuardEnded, lambda event: event.token == request.token).ok is True


def test_output_of_every_origin_is_booked_to_its_attempt(pool: PoolHarness, worker: int) -> None:
    keys = pool.submit_many(worker, "say_everywhere", [{"name": name} for name in "abc"])
    for key, name in zip(keys, "abc", strict=True):
        pool.row(key)
        assert pool.output(key, "stdout") == f"print {name}\nwrite {name}\nchild {name}\npartial {name}"
        assert pool.output(key, "stderr") == f"error {name}\n"


def test_output_comes_before_its_result(pool: PoolHarness, worker: int) -> None:
    start = len(pool.seen)
    key = pool.submit(worker, "say", text="first this")
    pool.row(key)
    kinds = [type(event) for event in pool.seen[start:] if isinstance(event, (Logs, Results))]
    assert kinds == [Logs, Results]


def test_prints_of_short_operations_are_not_mixed_up(pool: PoolHarness, worker: int) -> None:
    keys = pool.submit_many(worker, "say", [{"text": f"line {number}"} for number in range(300)])
    pool.row(keys[-1])
    assert [pool.output(key) for key in keys] == [f"line {number}\n" for number in range(300)]


def test_c_code_that_prints_under_the_interpreter_lock_does_not_hang(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        pool.value(pool.submit(worker, "print_from_c", size=300_000))


def test_output_is_cut_at_a_mebibyte_an_attempt(pool: PoolHarness, worker: int) -> None:
    key = pool.submit(worker, "shout", count=30_000)
    pool.row(key)
    text = pool.output(key)
    assert 1024 * 1024 <= len(text) < 1024 * 1024 + 200
    assert "output cut" in text[-100:]
    key = pool.submit(worker, "say", text="still heard")
    pool.row(key)
    assert pool.output(key) == "still heard\n"


def test_prints_on_one_event_loop_are_told_apart(pool: PoolHarness, async_worker: int) -> None:
    names = [f"task{number}" for number in range(20)]
    keys = pool.submit_many(async_worker, "say_slowly", [{"name": name} for name in names])
    for key, name in zip(keys, names, strict=True):
        pool.row(key)
        assert pool.output(key) == "".join(f"{name} {number}\n" for number in range(3))


def test_what_has_not_started_is_given_back_and_the_rest_ends(
    pool: PoolHarness, worker: int, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    slow = pool.submit(worker, "touch_and_sleep", path=str(started), seconds=0.5)
    waiting = pool.submit_many(worker, "echo", [{"value": number} for number in range(5)])
    wait_until(started.exists)
    pool.pool.give_back(worker)
    assert pool.wait_for(GivenBack).keys == waiting
    pool.value(slow)
    pool.pool.give_back(worker)
    assert pool.wait_for(GivenBack).keys == []


def test_a_finished_result_is_not_held_back_by_a_long_task(pool: PoolHarness, worker: int) -> None:
    quick = pool.submit_many(worker, "nothing", [{}] * 3)
    slow = pool.submit(worker, "sleep", seconds=2.0)
    for key in quick:
        pool.row(key, timeout_s=1.5)
    pool.value(slow)


def test_a_blocking_operation_sees_that_it_is_cancelled(
    pool: PoolHarness, worker: int, tmp_path: Path
) -> None:
    key = pool.submit(worker, "wait_for_cancel", started=str(tmp_path / "started"))
    waiting = pool.submit(worker, "echo")
    wait_until((tmp_path / "started").exists)
    pool.pool.cancel(worker, [key, waiting])
    assert pool.value(key) == "saw it"
    assert pool.error(waiting)["type"] == "OperationCancelled"


def test_a_coroutine_function_runs_in_a_blocking_worker_too(pool: PoolHarness, worker: int) -> None:
    assert pool.value(pool.submit(worker, "sleep_async", seconds=0.01)) == 0.01
    assert pool.error(pool.submit(worker, "fail_async"))["type"] == "ValueError"


def test_five_hundred_coroutines_wait_at_once(pool: PoolHarness, async_worker: int) -> None:
    begun = time.monotonic()
    keys = pool.submit_many(async_worker, "sleep_async", [{"seconds": 0.5}] * 500)
    for key in keys:
        pool.value(key)
    assert time.monotonic() - begun < 50  # one by one: 250 s


def test_what_ended_just_before_another_blocked_the_loop_is_told_meanwhile(pool: PoolHarness) -> None:
    number = pool.worker("async")
    pool.value(pool.submit(number, "block_at_once", seconds=0.0))
    seconds = [*[0.0] * 40, 60.0]
    *ended, _ = pool.submit_many(number, "block_at_once", [{"seconds": each} for each in seconds])
    for key in ended:
        assert pool.value(key, timeout_s=5.0) == 0.0
    pool.pool.kill(number, "cancelled", grace_s=0.0)
    pool.lost(number)


def test_a_plain_function_in_an_async_worker_blocks_nobody(pool: PoolHarness, async_worker: int) -> None:
    slow = pool.submit(async_worker, "sleep", seconds=1.0)
    quick = pool.submit(async_worker, "sleep_async", seconds=0.01)
    pool.value(quick, timeout_s=0.9)
    assert pool.value(slow) == 1.0


def test_an_async_timeout_is_a_failure_of_that_node_alone(pool: PoolHarness, async_worker: int) -> None:
    late = pool.submit(async_worker, "sleep_async", timeout=0.05, seconds=30)
    fine = pool.submit(async_worker, "sleep_async", timeout=30.0, seconds=0.2)
    error = pool.error(late)
    assert (error["type"], error["retryable"]) == ("TimeoutExceeded", True)
    assert pool.value(fine) == 0.2


def test_a_cancelled_coroutine_cleans_up(pool: PoolHarness, async_worker: int, tmp_path: Path) -> None:
    started, cleaned = tmp_path / "started", tmp_path / "cleaned"
    key = pool.submit(async_worker, "clean_up_async", started=str(started), cleaned=str(cleaned))
    wait_until(started.exists)
    pool.pool.cancel(async_worker, [key])
    assert pool.error(key)["type"] == "OperationCancelled"
    assert cleaned.exists()


def test_inspection_says_what_a_call_is(pool: PoolHarness) -> None:
    names = ("decorated", "describe", "PLAIN")
    calls = [*(f"operations:{name}" for name in names), "no_such_module:x", "nonsense"]
    pool.pool.inspect(calls, 11)
    infos = pool.wait_for(Inspected, lambda event: event.token == 11).infos
    assert [info["call"] for info in infos] == calls
    assert [info["ok"] for info in infos] == [True, True, False, False, False]
    assert infos[0]["is_async"] is True
    assert infos[0]["policy"] == {"timeout": 3, "retry": 2}
    assert (infos[1]["is_async"], infos[1]["accepts_context"]) == (False, True)
    assert "no_such_module" in infos[3]["error"]


def test_an_import_that_kills_is_found_among_others(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os; os._exit(9)\n")
    with PoolHarness(tmp_path) as pool:
        pool.pool.inspect(["operations:echo", "deadly:f", "operations:add"], 1)
        infos = pool.wait_for(Inspected).infos
    assert [info["ok"] for info in infos] == [True, False, True]
    assert "code 9" in infos[1]["error"]


# shell


def test_a_command_as_a_list_is_not_interpreted(pool: PoolHarness, worker: int) -> None:
    words = ["printf", "%s|", "a b", "$HOME", "; rm -rf /", "'\"`"]
    result = pool.value(pool.submit_config(worker, "shell", {"command": words}))
    assert result == {"exit_code": 0, "stdout": "a b|$HOME|; rm -rf /|'\"`|", "stderr": ""}


def test_a_command_as_a_string_is_for_the_shell(pool: PoolHarness, worker: int) -> None:
    config = {"command": 'cat; echo "$NAME" >&2', "stdin": "fed ü", "env": {"NAME": "x y"}}
    key = pool.submit_config(worker, "shell", config)
    assert pool.value(key) == {"exit_code": 0, "stdout": "fed ü", "stderr": "x y\n"}
    assert pool.output(key, "stdout") == "fed ü"
    assert pool.output(key, "stderr") == "x y\n"


def test_a_failing_command_is_a_failure_unless_unchecked(pool: PoolHarness, worker: int) -> None:
    command = "echo one >&2; echo two >&2; exit 3"
    error = pool.error(pool.submit_config(worker, "shell", {"command": command}))
    assert (error["type"], error["retryable"]) == ("CommandFailed", True)
    assert error["details"] == {"exit_code": 3, "stderr": "one\ntwo"}
    result = pool.value(pool.submit_config(worker, "shell", {"command": command, "check": False}))
    assert result == {"exit_code": 3, "stdout": "", "stderr": "one\ntwo\n"}
    result = pool.value(pool.submit_config(worker, "shell", {"command": "kill -9 $$", "check": False}))
    assert result["exit_code"] == -9


def test_huge_output_keeps_its_end(pool: PoolHarness, worker: int) -> None:
    script = f"{sys.executable} -c \"print('x' * 25_000_000 + 'the end')\""
    result = pool.value(pool.submit_config(worker, "shell", {"command": script}))
    assert result["stdout"].endswith("xxthe end\n")
    assert result["stdout"].startswith("[cut: the last")
    assert len(result["stdout"]) < 10_500_000


def test_a_command_that_ignores_large_stdin_is_no_error(pool: PoolHarness, worker: int) -> None:
    config = {"command": "exec <&-; echo done", "stdin": "x" * 1_000_000}
    assert pool.value(pool.submit_config(worker, "shell", config))["stdout"] == "done\n"


def test_bytes_that_are_no_text_are_replaced(pool: PoolHarness, worker: int) -> None:
    result = pool.value(pool.submit_config(worker, "shell", {"command": r"printf 'a\377b'"}))
    assert result["stdout"] == "a\N{REPLACEMENT CHARACTER}b"


def test_a_background_child_does_not_hold_the_command_and_ends_with_the_worker(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        begun = time.monotonic()
        key = pool.submit_config(pool.worker(), "shell", {"command": "sleep 60 & echo $!"})
        child = int(pool.value(key)["stdout"])
        assert time.monotonic() - begun < 20
        assert pid_exists(child)
    assert not pid_exists(child)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"command": ["no-such-program"]}, "no-such-program"),
        ({}, "command"),
        ({"command": []}, "command"),
    ],
)
def test_a_command_that_cannot_start_says_so(
    pool: PoolHarness, worker: int, config: dict[str, Any], word: str
) -> None:
    assert word in pool.error(pool.submit_config(worker, "shell", config))["message"]


# http


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/json":
            self._answer(200, b'{"path": "%s"}' % self.path.encode(), "application/json; charset=utf-8")
        elif path == "/busy":
            self._answer(429, b"slow down", "text/plain", ("Retry-After", "17"))
        elif path == "/moved":
            self._answer(302, b"", "text/plain", ("Location", "/json"))
        elif path == "/away":
            self._answer(302, b"", "text/plain", ("Location", "http://127.0.0.1:1/json"))
        elif path == "/bytes":
            self._answer(200, b"\xff\xfe\x00", "application/octet-stream")
        elif path == "/liar":
            self._answer(200, b"{not json", "application/json")
        else:
            self._answer(404, b"nothing here", "text/plain")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers.get("Content-Type", "text/plain")
        self._answer(201, body, kind, ("X-Seen", self.headers["X-Mine"]))

    def _answer(self, status: int, body: bytes, kind: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not into the test's output."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_http_gives_status_headers_and_parsed_body(pool: PoolHarness, async_worker: int, url: str) -> None:
    key = pool.submit_config(async_worker, "http", {"url": f"{url}/json", "query": {"q": "a b"}})
    result = pool.value(key)
    assert (result["status"], result["body"]) == (200, {"path": "/json?q=a+b"})
    assert result["headers"]["content-type"].startswith("application/json")


def test_http_sends_headers_and_json(pool: PoolHarness, async_worker: int, url: str) -> None:
    config = {"method": "post", "url": url, "json": {"a": [1]}, "headers": {"X-Mine": "me"}}
    result = pool.value(pool.submit_config(async_worker, "http", config))
    assert (result["status"], result["body"], result["headers"]["x-seen"]) == (201, {"a": [1]}, "me")


def test_http_too_many_requests_says_when_to_come_back(
    pool: PoolHarness, async_worker: int, url: str
) -> None:
    error = pool.error(pool.submit_config(async_worker, "http", {"url": f"{url}/busy?key=secret"}))
    assert (error["type"], error["retryable"], error["retry_after"]) == ("RequestFailed", True, 17.0)
    assert "secret" not in error["message"]
    assert "slow down" in error["message"]


def test_http_not_found_is_final_unless_accepted(pool: PoolHarness, async_worker: int, url: str) -> None:
    config: dict[str, Any] = {"url": f"{url}/nowhere"}
    assert pool.error(pool.submit_config(async_worker, "http", config))["retryable"] is False
    config["raise_for_status"] = False
    assert pool.value(pool.submit_config(async_worker, "http", config))["status"] == 404


def test_http_bodies_that_are_no_text_or_no_json_survive(
    pool: PoolHarness, async_worker: int, url: str
) -> None:
    body = pool.value(pool.submit_config(async_worker, "http", {"url": f"{url}/bytes"}))["body"]
    assert body == b"\xff\xfe\x00"
    body = pool.value(pool.submit_config(async_worker, "http", {"url": f"{url}/liar"}))["body"]
    assert body == "{not json"


def test_http_follows_redirects_on_the_host_only(pool: PoolHarness, async_worker: int, url: str) -> None:
    result = pool.value(pool.submit_config(async_worker, "http", {"url": f"{url}/moved"}))
    assert (result["status"], result["body"]) == (200, {"path": "/json"})
    assert pool.value(pool.submit_config(async_worker, "http", {"url": f"{url}/away"}))["status"] == 302


def test_http_in_a_blocking_worker_and_without_a_server(pool: PoolHarness, worker: int, url: str) -> None:
    assert pool.value(pool.submit_config(worker, "http", {"url": f"{url}/json"}))["status"] == 200
    error = pool.error(pool.submit_config(worker, "http", {"url": "http://127.0.0.1:1/"}))
    assert (error["type"], error["retryable"]) == ("ConnectError", True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 30 ", 30.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("9" * 400, 999999999.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, 60.0) == seconds


def test_imports_do_not_count_against_a_timeout(tmp_path: Path) -> None:
    """The module takes longer to import than the node may take; the function itself is quick."""
    from sage_actors import Supervisor, load

    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(2.0)\ndef quick(): return 1\n")
    path = tmp_path / "flow.json"
    node = {"id": "a", "type": "python", "call": "slow_to_import:quick", "timeout": 1.5}
    path.write_text(json.dumps({"name": "x", "nodes": [node]}))
    with Supervisor(tmp_path, durability="none") as supervisor:
        outcome = supervisor.run(load(path), timeout=60)
    assert outcome.raise_for_status()["a"] == 1
    assert outcome.busy_seconds < 1.5
