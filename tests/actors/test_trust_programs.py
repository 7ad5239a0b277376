"""Which programs of a project a command executes: their content is part of what a user consents to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sage_actors.actors.trust.programs import named_modules, named_programs

pytestmark = pytest.mark.requirement("ORCH-023")

FILES = (
    *(
        "tools/server.py",
        "tools/__main__.py",
        "package/__init__.py",
        "package/server.py",
        "package/__main__.py",
    ),
    *(
        "before.js",
        "index.js",
        "package.json",
        "run.sh",
        "lib.so",
        "Makefile",
        "node_modules/.bin/server-files",
    ),
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in (*FILES, "notes.sqlite", "data.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for name in ("tools/server", "node_modules/.bin/server-files"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def named(project: Path, *words: str, cwd: str = "", **env: str) -> set[str]:
    return set(named_programs(words, env, directory=project / cwd, project=project))


@pytest.mark.parametrize(
    ("words", "env", "executed"),
    [
        (["./tools/server"], {}, "tools/server"),
        (["python", "tools/server.py"], {}, "tools/server.py"),
        (["python", "-m", "package.server"], {}, "package/server.py"),
        (["python", "-m", "package.server"], {}, "package/__init__.py"),
        (["python", "-mpackage"], {}, "package/__main__.py"),
        (["python3.12", "tools"], {}, "tools/__main__.py"),
        (["/usr/bin/env", "node", "."], {}, "index.js"),
        (["sh", "-c", "cd / && exec './run.sh'; true"], {}, "run.sh"),
        (["node", "x"], {"NODE_OPTIONS": "--require ./before.js"}, "before.js"),
        (["bash", "-c", "true"], {"BASH_ENV": "run.sh"}, "run.sh"),
        (["x"], {"LD_PRELOAD": "./lib.so"}, "lib.so"),
        (["server"], {"PATH": "/usr/bin:tools"}, "tools/server"),
        (["npm", "start"], {}, "package.json"),
        (["make", "server"], {}, "Makefile"),
        (["npx", "-y", "server-files", "."], {}, "node_modules/.bin/server-files"),
        (["uv", "--directory", "tools", "run", "server.py"], {}, "tools/server.py"),
        (["x"], {"PYTHONPATH": "tools:package", "START": "server.py"}, "tools/server.py"),
    ],
)
def test_what_a_command_executes_is_found(
    project: Path, words: list[str], env: dict[str, str], executed: str
) -> None:
    before = named_programs(words, env, directory=project, project=project)
    assert executed in before
    with (project / executed).open("a") as file:
        file.write("changed")
    assert named_programs(words, env, directory=project, project=project)[executed] != before[executed]


def test_a_relative_folder_in_the_users_own_path_counts(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}tools")
    assert named(project, "server") == {"tools/server"}


def test_data_is_no_program(project: Path) -> None:
    assert (
        named(project, "notes", "--database", "notes.sqlite", "data.csv", URL="sqlite:///notes.sqlite")
        == set()
    )


def test_a_bare_command_is_not_a_file_of_the_directory(project: Path) -> None:
    assert named(project, "run.sh") == set()


def test_both_ends_of_a_link_count_and_what_is_outside_does_not(project: Path, tmp_path: Path) -> None:
    (project / "link.py").symlink_to("tools/server.py")
    (project / "out.py").symlink_to("/etc/passwd")
    assert named(project, "python", "link.py", "/etc/passwd") == {"link.py", "tools/server.py"}
    assert named(project, "python", "out.py") == {"out.py"}


@pytest.mark.parametrize("word", ["a" * 10_000, "\udcff", "\0", "..", "/", "", "=", "-m", "\n", "../" * 500])
def test_any_word_is_taken(project: Path, word: str) -> None:
    named(project, "x", word, OPTION=word)


def test_a_fifo_holds_nobody_up(project: Path) -> None:
    os.mkfifo(project / "pipe.sh")
    assert named(project, "sh", "pipe.sh") == set()


def test_many_words_take_no_time_to_speak_of(project: Path, count_calls: Any) -> None:
    named(project, "sh", "-c", "word " * 100_000)
    assert count_calls() < 100_000


@pytest.mark.parametrize(
    "words",
    [
        ("bash", "start"),
        ("python3", "-W", "ignore", "-u", "start", "data.csv"),
        ("sh", "-c", "cd tools && exec /bin/bash ../start"),
        ("sh", "-c", "python < start"),
        ("make", "-f", "start"),
    ],
)
def test_what_an_interpreter_is_given_is_executed_whatever_its_name(
    project: Path, words: tuple[str, ...]
) -> None:
    (project / "start").write_text("echo hello")
    found = named(project, *words)
    assert "start" in found
    assert "data.csv" not in found
    assert "data.csv" not in named(project, "python", "-m", "package.server", "data.csv")


def test_no_number_of_words_or_folders_hides_a_program(project: Path, count_calls: Any) -> None:
    words = " ".join(f"w{number}" for number in range(5_000))
    assert "run.sh" in named(project, "sh", "-c", f": {words}; ./run.sh")
    for number in range(20):
        (project / f"decoy{number}").mkdir()
    decoys = " ".join(f"decoy{number}" for number in range(20))
    assert "tools/server.py" in named(project, "sh", "-c", f": {words} {decoys}; cd tools; python server.py")
    assert count_calls() < 1_000


@pytest.fixture
def count_calls(monkeypatch: pytest.MonkeyPatch) -> Any:
    """How often a file was looked at."""
    seen = []
    original = Path.is_file

    def is_file(self: Path) -> bool:
        seen.append(self)
        return original(self)

    monkeypatch.setattr(Path, "is_file", is_file)
    return lambda: len(seen)


def test_the_modules_of_functions_are_found_where_workers_look(project: Path) -> None:
    found = named_modules(
        ["package.server:run", "os:getpid", "no module"], folders=[project], project=project
    )
    assert set(found) == {"package/__init__.py", "package/server.py"}
