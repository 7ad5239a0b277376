"""Code quality: measures counted by hand in five languages, churn from a real history, hot spots in order."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from sage_actors.servers.patterns.scan import Sources
from sage_actors.servers.patterns.server import create_server
from sage_actors.servers.quality.quality import QualityResult, measure_quality
from sage_actors.servers.settings import ServerSettings

pytestmark = pytest.mark.requirement("ORCH-018")

PYTHON = """def plain(a, b=1, *args, c, **rest):
    return a


class Box:
    def busy(self, x, y):
        if x and y or x > 2:           # if, and, or: 3
            for each in x:             # 1
                try:
                    pass
                except (A, B):         # 1
                    pass
        elif y:                        # 1
            while x:                   # 1
                x -= 1
        else:
            x = 1 if y else 2          # 1
        assert x
        return [z for z in x if z]     # 2

    def choose(self, x):
        match x:
            case 1:                    # 1
                return 1
            case _ if x > 3:           # 1
                return 2
            case _:
                return 3

    def outer(self):
        def inner():
            if self: pass              # 1, of inner
        with a:
            with b:
                if c: pass             # 1
        return lambda q: q or 1        # 1
"""
TYPESCRIPT = """export function busy(a: number, b?: string, ...rest: any[]) {
  if (a && b || a > 2) {            // 3
    for (const x of rest) { }       // 1
  } else if (b) {                   // 1
    while (a) { a--; }              // 1
  }
  switch (a) { case 1: break; case 2: break; default: }   // 2
  try { } catch (e) { }             // 1
  const c = a ? 1 : 2;              // 1
  return rest.map((x) => x ?? 1);   // 1
}
class Box { method(a) { return 1; } handler = (a, b) => { do { } while (a); } }
const arrow = x => x;
"""
GO = """package a

func busy(a, b int, c string) int {
	if a > 1 && b > 2 { // 2
		for { // 1
		}
	} else if b > 3 { // 1
	}
	switch a {
	case 1, 2: // 1
	default:
	}
	select {
	case <-ch: // 1
	}
	func() {
		if c != "" { // 1
		}
	}()
	return 1
}

func (s *Server) Close() {}
"""
RUST = """pub fn busy(a: u8, b: u8) -> u8 {
    if a > 1 && b > 2 { // 2
        for x in 0..a { // 1
        }
    } else if b > 3 { // 1
        while a > 1 {} // 1
    }
    match a {
        1 => 1, // 1
        2 | 3 => 2, // 1
        _ => 3,
    }
}

impl Server {
    fn close(&self) { loop {} } // 1
}
"""


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


def measured(project: Path, path: str = ".", **options: Any) -> QualityResult:
    sources = Sources(project)
    return measure_quality(sources, (sources.project / path).resolve(), **options)


def functions(project: Path) -> dict[str, tuple[int, int, int, int]]:
    """name: (complexity, nesting, parameters, line)"""
    return {
        each.name: (each.complexity, each.nesting, each.parameters, each.line)
        for each in measured(project, top=100).complex_functions
    }


def git(project: Path, *arguments: str, date: str = "2024-05-01T12:00:00", author: str = "Ada") -> None:
    environment = os.environ | {
        "GIT_AUTHOR_DATE": date,
        "GIT_COMMITTER_DATE": date,
        "GIT_AUTHOR_NAME": author,
        "GIT_COMMITTER_NAME": author,
        "GIT_AUTHOR_EMAIL": f"{author}@example.com",
        "GIT_COMMITTER_EMAIL": f"{author}@example.com",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    subprocess.run(["git", "-C", str(project), *arguments], check=True, env=environment, capture_output=True)


def commit(project: Path, files: Mapping[str, str], **when: str) -> None:
    write(project, files)
    git(project, "add", "--all")
    git(project, "commit", "-q", "-m", "change", **when)


def test_python_is_measured_as_counted_by_hand(tmp_path: Path) -> None:
    assert functions(write(tmp_path, {"a.py": PYTHON})) == {
        "plain": (1, 0, 4 + 1, 1),
        "Box.busy": (11, 3, 2, 6),
        "Box.choose": (3, 1, 1, 21),
        "Box.outer": (3, 3, 0, 30),
        "Box.inner": (2, 1, 0, 31),
    }


def test_typescript_is_measured_as_counted_by_hand(tmp_path: Path) -> None:
    assert functions(write(tmp_path, {"a.ts": TYPESCRIPT})) == {
        "busy": (12, 2, 3, 1),
        "Box.method": (1, 0, 1, 12),
        "Box.handler": (2, 1, 2, 12),
        "arrow": (1, 0, 1, 13),
    }


def test_go_is_measured_as_counted_by_hand(tmp_path: Path) -> None:
    assert functions(write(tmp_path, {"a.go": GO})) == {
        "busy": (8, 2, 3, 3),
        "Server.Close": (1, 0, 0, 23),
    }


def test_rust_is_measured_as_counted_by_hand(tmp_path: Path) -> None:
    assert functions(write(tmp_path, {"src/a.rs": RUST})) == {
        "busy": (8, 2, 2, 1),
        "Server::close": (2, 1, 0, 16),
    }


def test_a_chain_of_else_if_nests_no_deeper(tmp_path: Path) -> None:
    chain = "def f(a):\n    if a: pass\n" + "    elif a: pass\n" * 30
    script = "function f(a) { if (a) {} " + "else if (a) {} " * 30 + "}\n"
    write(
        tmp_path,
        {"a.py": chain, "b.js": script, "c.go": "package c\nfunc G(a bool) { if a {} else if a {} }\n"},
    )
    assert functions(tmp_path)["f"][:2] == (32, 1)
    assert functions(tmp_path)["G"][:2] == (3, 1)
    assert {each.nesting for each in measured(tmp_path).complex_functions} == {1}


def test_hot_spots_are_complexity_times_commits(tmp_path: Path) -> None:
    git(tmp_path.parent, "init", "-q", str(tmp_path))
    busy = "def f(a):\n" + "    if a: pass\n" * 9
    commit(
        tmp_path,
        {"often.py": "def g(a):\n    if a: pass\n", "complex.py": busy, "old.py": busy},
        date="2022-01-01T00:00:00",
    )
    for day in range(1, 7):
        commit(
            tmp_path, {"often.py": f"def g(a):\n    if a: return {day}\n"}, date=f"2024-05-0{day}T00:00:00"
        )
    commit(tmp_path, {"complex.py": busy + "    return 1\n"}, date="2024-05-09T00:00:00", author="Bob")
    found = measured(tmp_path)
    assert [(each.file, each.complexity, each.commits, each.score) for each in found.hot_spots] == [
        ("often.py", 2, 6, 12),
        ("complex.py", 10, 1, 10),
        ("old.py", 10, 0, 0),
    ]
    assert found.hot_spots[1].authors == 1
    assert found.hot_spots[1].last_changed == "2024-05-09"
    assert found.churn == "7 commits without merges, in the twelve months up to 2024-05-09"
    assert found.evidence_level == "measured"


def test_authors_are_counted_once(tmp_path: Path) -> None:
    git(tmp_path.parent, "init", "-q", str(tmp_path))
    for number, author in enumerate(("Ada", "Bob", "Ada", "Çelik")):
        commit(tmp_path, {"größe.py": f"x = {number}\n"}, author=author)
    (spot,) = measured(tmp_path).hot_spots
    assert (spot.file, spot.commits, spot.authors) == ("größe.py", 4, 3)


def test_churn_is_of_the_project_where_the_repository_is_larger(tmp_path: Path) -> None:
    git(tmp_path.parent, "init", "-q", str(tmp_path))
    commit(tmp_path, {"inner/a.py": "x = 1\n", "outer.py": "x = 1\n"})
    (spot,) = measured(tmp_path / "inner").hot_spots
    assert (spot.file, spot.commits) == ("a.py", 1)


@pytest.mark.parametrize("with_repository", [False, True])
def test_without_a_history_complexity_alone_ranks(tmp_path: Path, with_repository: bool) -> None:
    if with_repository:  # without a commit
        git(tmp_path.parent, "init", "-q", str(tmp_path))
    found = measured(write(tmp_path, {"a.py": "x = 1\n", "b.py": PYTHON}))
    assert [each.file for each in found.hot_spots] == ["b.py", "a.py"]
    assert found.hot_spots[0].commits is None
    assert found.hot_spots[0].score == found.hot_spots[0].complexity == 20
    assert any("churn: not determined" in each for each in found.notes)


def test_tests_nearby_are_found_by_name(tmp_path: Path) -> None:
    code = "def f(): pass\n"
    script = "export function f() { return 1; }\n"
    write(
        tmp_path,
        {
            "pkg/client.py": code,
            "pkg/server.py": code,
            "pkg/cache.py": code,
            "pkg/alone.py": code,
            "pkg/widgets/__init__.py": code,
            "tests/test_client.py": code,
            "tests/test_pkg_server.py": code,
            "tests/test_cache_expiry.py": code,
            "tests/test_widgets.py": code,
            "web/store.ts": script,
            "web/store.test.ts": script,
            "net/dial.go": "package net\nfunc Dial() {}\n",
            "net/dial_test.go": "package net\n",
            "src/inline.rs": "fn f() {}\n#[cfg(test)]\nmod tests {\n  #[test]\n  fn works() {}\n}\n",
        },
    )
    found = {each.file: each.tests for each in measured(tmp_path, top=50).hot_spots}
    assert found == {
        "pkg/client.py": ["tests/test_client.py"],
        "pkg/server.py": ["tests/test_pkg_server.py"],
        "pkg/cache.py": ["tests/test_cache_expiry.py"],
        "pkg/alone.py": [],
        "pkg/widgets/__init__.py": ["tests/test_widgets.py"],
        "web/store.ts": ["web/store.test.ts"],
        "net/dial.go": ["net/dial_test.go"],
        "src/inline.rs": ["src/inline.rs"],
    }
    assert measured(tmp_path, top=50).without_tests == ["pkg/alone.py"]
    assert measured(tmp_path, "pkg/client.py").hot_spots[0].tests == ["tests/test_client.py"]


def test_functions_that_repeat_each_other_are_found(tmp_path: Path) -> None:
    body = "".join(f"    x{number} = {number}\n" for number in range(8))
    write(
        tmp_path,
        {
            "a.py": f"def one():\n{body}\n\ndef two(a):\n{body}",
            "b.py": "def three():\n" + body.replace("    ", "        "),
            "c.py": f"def other():\n{body}    return 1\n",
        },
    )
    (repetition,) = measured(tmp_path).repetitions
    assert repetition.places == ["a.py:1", "a.py:12", "b.py:1"]
    assert repetition.lines == 9


def test_todos_are_comments_only(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.py": "# TODO: one\nx = 'TODO'\n# a note on TODOS\ny = 1  # FIXME(ada) two\n",
            "b.go": "package b\n// HACK three\n/* XXX four */\n",
        },
    )
    assert sorted((each.file, each.line) for each in measured(tmp_path).todos) == [
        ("a.py", 1),
        ("a.py", 4),
        ("b.go", 2),
        ("b.go", 3),
    ]


def test_a_topic_looks_at_what_is_named_after_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "limits.py": "class RateLimiter:\n    def allow_request(self): pass\n",
            "other.py": PYTHON,
        },
    )
    found = measured(tmp_path, topic="rate limiting of requests")
    assert [each.file for each in found.hot_spots] == ["limits.py"]
    assert (found.files, found.functions) == (2, 6)
    nothing = measured(tmp_path, topic="zebra crossing")
    assert len(nothing.hot_spots) == 2
    assert any("the whole is ranked" in each for each in nothing.notes)


def test_every_citation_leads_to_a_function(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": PYTHON, "b.ts": TYPESCRIPT, "c.go": GO, "src/d.rs": RUST})
    for place in measured(tmp_path, top=100).citations:
        name, _, line = place.rpartition(":")
        text = (tmp_path / name).read_text().splitlines()[int(line) - 1]
        assert any(word in text for word in ("def ", "function ", "func ", "fn ", "=>", "method"))


def test_what_is_not_measured_is_named(tmp_path: Path) -> None:
    found = measured(write(tmp_path, {"old.py": "print 'x'\n", "new.py": "x = 1\n"}))
    assert found.files == 1
    assert found.skipped[0].startswith("old.py: not Python 3")
    empty = measured(write(tmp_path / "empty", {"readme.md": "x"}))
    assert empty.evidence_level == "none"
    assert empty.hot_spots == []


def test_the_tool_answers_in_its_schema(tmp_path: Path) -> None:
    async def ask() -> Any:
        async with Client(create_server(ServerSettings(tmp_path))) as client:
            return await client.call_tool("code_quality", {"topic": "box", "top": 2})

    write(tmp_path, {"box.py": PYTHON})
    result = asyncio.run(ask())
    assert not result.is_error
    assert result.structured_content["hot_spots"][0]["worst_function"] == "Box.busy"
    assert len(result.structured_content["complex_functions"]) == 2
    assert "McCabe" in result.structured_content["method"]
    tokens = result.structured_content["tokens"]
    assert tokens["kept_tokens"] > 0
    assert tokens["tokenizer"]
