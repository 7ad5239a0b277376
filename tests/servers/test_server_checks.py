"""Checks: found where the project declares them, and run without leaving anything behind."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from spec_projects import go_project, monorepo, python_project, rust_project, ts_project, write

from sage_actors.servers.corpus.sources import Sources
from sage_actors.servers.implementation.check_runner import run_check
from sage_actors.servers.implementation.checks import Check, best_check, best_of_each_part, detect_checks
from sage_actors.servers.specification.tests import find_tests, narrowed, new_test_path
from sage_actors.servers.specification.words import WordIndex


def found(project: Path) -> dict[str, Check]:
    return {check.text: check for check in detect_checks(Sources(project))}


def test_python_checks_come_from_pyproject_and_are_confirmed_by_ci(tmp_path: Path) -> None:
    checks = found(python_project(tmp_path))
    assert list(checks) == ["python -m pytest -q", "ruff check ."]
    assert checks["python -m pytest -q"].source == "pyproject.toml:11"
    assert checks["python -m pytest -q"].confirmed_by == ".github/workflows/ci.yml:4"
    assert checks["ruff check ."].confirmed_by is None


def test_typescript_checks_come_from_the_scripts_with_the_package_manager_of_the_lock_file(
    tmp_path: Path,
) -> None:
    project = ts_project(tmp_path)
    assert {text: check.source for text, check in found(project).items()} == {
        "npm test": "package.json:7",
        "npm run lint": "package.json:8",
    }
    write(project, {"pnpm-lock.yaml": "lockfileVersion: 9\n"})
    assert "pnpm test" in found(project)


def test_go_and_rust_checks_come_from_their_manifests(tmp_path: Path) -> None:
    (tmp_path / "go").mkdir()
    (tmp_path / "rust").mkdir()
    assert found(go_project(tmp_path / "go"))["go test ./..."].source == "go.mod:1"
    assert found(rust_project(tmp_path / "rust"))["cargo test"].source == "Cargo.toml:1"


def test_a_makefile_is_a_check_but_not_the_best_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "Makefile": "VAR := 1\ntest:\n\tpytest\nlint: x\n\truff\nbuild:\n\tcc\n",
            "tox.ini": "[tox]\nenvlist = py\n[pytest]\n",
        },
    )
    checks = detect_checks(Sources(tmp_path))
    assert [check.name for check in checks] == ["pytest", "make test", "tox", "make lint"]
    best = best_check(checks, "test")
    assert best is not None
    assert best.name == "pytest"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"package.json": "{"},
        {"package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'},
        {"pyproject.toml": "[[["},
    ],
)
def test_a_project_that_declares_nothing_readable_has_no_checks(
    tmp_path: Path, files: dict[str, str]
) -> None:
    assert detect_checks(Sources(write(tmp_path, files))) == []


def test_the_parts_of_a_monorepo_have_checks_that_run_in_their_folders(tmp_path: Path) -> None:
    checks = found(monorepo(tmp_path))
    assert list(checks) == [
        "(cd tool && go test ./...)",
        "(cd packages/web && npm test)",
        "(cd services/api && python -m pytest -q)",
        "(cd tool && go vet ./...)",
        "(cd services/api && ruff check .)",
    ]
    assert checks["(cd packages/web && npm test)"].source == "packages/web/package.json:4"
    assert [each.folder for each in best_of_each_part([*checks.values()], "lint")] == ["tool", "services/api"]


def test_what_the_main_folder_runs_for_its_parts_is_not_said_twice(tmp_path: Path) -> None:
    members = {
        "Cargo.toml": "[workspace]\n",
        "core/Cargo.toml": "[package]\n",
        "pyproject.toml": "[tool.ruff]\n",
    }
    write(monorepo(tmp_path), members)
    assert [text for text in found(tmp_path) if "cargo" in text or "ruff" in text] == [
        "cargo test",
        "ruff check .",
        "cargo check",
    ]


def test_a_file_is_checked_by_its_part_and_in_its_language(tmp_path: Path) -> None:
    checks = detect_checks(Sources(monorepo(tmp_path)))
    test = "services/api/tests/test_handler.py"
    assert narrowed(best_check(checks, "test", test), test, "test_it") == (
        "(cd services/api && python -m pytest -q tests/test_handler.py::test_it)"
    )
    assert best_check(checks, "test", "other/a.py") is None
    write(
        tmp_path, {"package.json": '{"scripts": {"test": "node --test"}}', "test_a.py": "def test_a(): ...\n"}
    )
    checks = detect_checks(Sources(tmp_path))
    assert narrowed(best_check(checks, "test", "test_a.py"), "test_a.py") == "python -m pytest -q test_a.py"
    assert narrowed(best_check(checks, "test", "a.test.js"), "a.test.js") == "npm test -- a.test.js"


def test_a_check_of_a_part_runs_in_its_folder(tmp_path: Path) -> None:
    part = write(tmp_path, {"part/here": ""}) / "part"
    check = script(part, "ls").model_copy(update={"folder": "part"})
    assert asyncio.run(run_check(tmp_path, check)).tail == "check\nhere\n"


def test_functions_named_test_are_run_by_pytest_and_cases_by_unittest(tmp_path: Path) -> None:
    (check,) = detect_checks(Sources(write(tmp_path, {"tests/test_a.py": "x = 1\ndef test_a(): ...\n"})))
    assert (check.name, check.source) == ("pytest", "tests/test_a.py:2")
    write(tmp_path, {"tests/test_b.py": "import unittest\n"})
    assert detect_checks(Sources(tmp_path))[0].name == "unittest"


def test_unittest_is_told_of_names_that_it_does_not_find_by_itself(tmp_path: Path) -> None:
    write(tmp_path, {"shop/test/stock_test.py": "import unittest\n", "shop/test/tea_test.py": ""})
    check = detect_checks(Sources(tmp_path))[0]
    assert check.command == ["python", "-m", "unittest", "discover", "-p", "*_test.py"]
    assert check.text == "python -m unittest discover -p '*_test.py'"
    assert narrowed(check, "shop/test/tea_test.py") == "python -m unittest shop.test.tea_test"


def test_tests_belong_to_a_source_by_name_then_by_mention(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    write(project, {"tests/test_more.py": "from shop.errors import NotFound\ndef test_it(): pass\n"})
    sources = Sources(project)
    words = WordIndex(sources)
    assert [test.path for test in find_tests("src/shop/client.py", sources, words, None)] == [
        "tests/test_client.py"
    ]
    symbol = next(s for s in sources.symbols_of("src/shop/errors.py") if s.name == "NotFound")
    (by_mention,) = find_tests("src/shop/errors.py", sources, words, symbol)
    assert (by_mention.path, by_mention.line) == ("tests/test_more.py", 1)
    assert new_test_path("src/shop/errors.py", sources) == "tests/test_errors.py"


def test_the_test_command_is_narrowed_as_its_tool_allows() -> None:
    def check(*command: str) -> Check:
        return Check(name="x", kind="test", command=list(command), source="a:1")

    assert (
        narrowed(check("python", "-m", "pytest", "-q"), "tests/test_a.py")
        == "python -m pytest -q tests/test_a.py"
    )
    assert narrowed(check("go", "test", "./..."), "pkg/a_test.go") == "go test ./pkg"
    assert narrowed(check("cargo", "test"), "tests/api.rs") == "cargo test --test api"
    assert narrowed(check("npm", "test"), "test/a.js") == "npm test -- test/a.js"
    assert narrowed(check("make", "test"), "tests/test_a.py") == "make test"
    assert narrowed(None, "x") == ""


def script(project: Path, body: str) -> Check:
    path = project / "check"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return Check(name="./check", kind="test", command=["./check"], source="check:1")


def test_a_check_passes_or_fails_by_its_exit_code_and_shows_its_end(tmp_path: Path) -> None:
    passed = asyncio.run(run_check(tmp_path, script(tmp_path, "echo fine")))
    assert (passed.status, passed.exit_code, passed.tail) == ("passed", 0, "fine\n")
    failed = asyncio.run(run_check(tmp_path, script(tmp_path, "seq 1 200000; exit 3")))
    assert (failed.status, failed.exit_code) == ("failed", 3)
    assert failed.tail.endswith("200000\n")
    assert len(failed.tail) <= 4000


def test_a_program_that_is_not_installed_is_missing(tmp_path: Path) -> None:
    check = Check(name="x", kind="lint", command=["no-such-linter"], source="a:1")
    assert asyncio.run(run_check(tmp_path, check)).status == "missing"
    module = Check(name="x", kind="lint", command=["python", "-m", "no_such_module"], source="a:1")
    assert asyncio.run(run_check(tmp_path, module)).status == "missing"


def test_a_check_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    check = script(tmp_path, "sleep 1000 & echo $! > child; wait")
    began = time.monotonic()
    result = asyncio.run(run_check(tmp_path, check, limit_s=1.0))
    assert (result.status, result.exit_code) == ("timeout", None)
    assert time.monotonic() - began < 10
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while is_running(child):
        assert time.monotonic() < deadline, "the check's child is still there"
        time.sleep(0.01)


def test_what_a_check_leaves_in_the_background_is_ended_with_it(tmp_path: Path) -> None:
    result = asyncio.run(run_check(tmp_path, script(tmp_path, "sleep 1000 & echo $! > child"), limit_s=30))
    assert result.status == "passed"
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while is_running(child):
        assert time.monotonic() < deadline, "the check's child is still there"
        time.sleep(0.01)


def test_a_cancelled_check_leaves_nothing_running(tmp_path: Path) -> None:
    check = script(tmp_path, "sleep 1000 & echo $! > child.tmp; mv child.tmp child; wait")

    async def cancel() -> None:
        task = asyncio.create_task(run_check(tmp_path, check))
        async with asyncio.timeout(20):
            while not (tmp_path / "child").exists():
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while is_running(child):
        assert time.monotonic() < deadline, "the check's child is still there"
        time.sleep(0.01)


def test_a_check_does_not_see_the_keys_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    result = asyncio.run(run_check(tmp_path, script(tmp_path, "env")))
    assert "sk-secret" not in result.tail
    assert "PATH=" in result.tail


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return not Path("/proc/self").exists()
    return state != "Z"
