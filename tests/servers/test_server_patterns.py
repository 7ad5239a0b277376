"""The patterns server: counts that are exactly right in five languages, and nothing that a repository can break."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp_types import CallToolResult

from sage_actors.servers.patterns.extract import extract
from sage_actors.servers.patterns.facts import is_test_path, name_style
from sage_actors.servers.patterns.model import Pattern, PatternSet, lower_bound
from sage_actors.servers.patterns.scan import MAX_FILE_BYTES, OutsideProjectError, Sources, contained
from sage_actors.servers.patterns.server import create_server
from sage_actors.servers.patterns.summary import percent
from sage_actors.servers.settings import ServerSettings

pytestmark = pytest.mark.requirement("ORCH-018")

PYTHON = {
    "shop/__init__.py": '"""A shop."""\n',
    "shop/errors.py": '''"""What can go wrong."""

class ShopError(Exception):
    """Base."""

class SoldOut(ShopError):
    """Nothing is left."""
''',
    "shop/stock_keeping.py": '''"""Keeps the stock."""
from __future__ import annotations

import logging
from dataclasses import dataclass

import httpx

from shop.errors import SoldOut

LIMIT = 10
_log = logging.getLogger(__name__)


@dataclass
class StockItem:
    """One item."""

    name: str
    left: int | None = None

    def take_one(self, count: int) -> int:
        """Takes some.

        Args:
            count: how many.
        """
        try:
            return int(self.name)
        except ValueError as cause:
            raise SoldOut("x") from cause

    def badName(self, x):
        raise ValueError(f"no {x:>3}")


async def fetch_all(url: str) -> bytes:
    _log.info("fetch")
    return b""


def _private_help(x): return x
''',
    "shop/legacy.py": "print 'python 2'\n",
    "tests/test_stock_keeping.py": """import pytest
from shop.stock_keeping import StockItem


@pytest.fixture
def item(tmp_path):
    return StockItem("a")


def test_take(item):
    with pytest.raises(Exception):
        item.take_one(1)
    assert item.name == "a"


def test_name(item, monkeypatch):
    assert item.name
    assert True
""",
    "pyproject.toml": "[project]\nname = 'shop'\n[tool.ruff]\nline-length = 100\n[project.scripts]\nshop = 'x:y'\n",
}
TYPESCRIPT = {
    "src/userStore.ts": """import { readFile } from 'fs';
import axios from 'axios';
import { helper } from './helper';

export class StoreError extends Error {}

export interface UserRecord { name: string }
type Shape = { a: number };
const MAX_USERS = 5;

/** Loads a user. */
export async function loadUser(id: string): Promise<any> {
  try {
    return await axios.get(id);
  } catch (error) {
    throw new StoreError('x');
  }
}

export const saveUser = (user: UserRecord) => {
  console.log('saved');
  if (user && user.name) { return 1; } else if (MAX_USERS) { return 2; }
  return user ? 3 : 4;
};
""",
    "src/helper.js": "const os = require('os');\nmodule.exports = { help_me: function (a, b) { return a; } };\n",
    "src/view.tsx": 'export function UserView(props: { a: string }): Element { return <p title="x">{props.a}</p>; }\n',
    "src/userStore.test.ts": """import { describe, it, expect, vi } from 'vitest';
describe('store', () => {
  beforeEach(() => {});
  it('loads', () => { expect(1).toBe(1); expect(2).toBe(2); });
});
""",
}
GO = {
    "go.mod": "module example.com/shop\n\ngo 1.22\n",
    "main.go": """// Package main is the shop.
package main

import (
	"errors"
	"fmt"

	"example.com/shop/stock"
	"github.com/google/uuid"
)

var ErrGone = errors.New("gone")

// Load loads.
func Load(name string, left, right int) (string, error) {
	v, err := stock.Find(name)
	if err != nil {
		return "", fmt.Errorf("load %s: %w", name, err)
	}
	if err := check(v); err != nil {
		return "", err
	}
	for i := 0; i < left && i < right; i++ {
		switch i {
		case 1:
			panic("one")
		default:
		}
	}
	return uuid.NewString(), nil
}

func main() {
	go Load("a", 1, 2)
	if _, err := Load("b", 1, 2); err != nil {
		panic(err)
	}
}
""",
    "stock/stock.go": """package stock

type Item struct{}

// NotFoundError says so.
type NotFoundError struct{}

func (e *NotFoundError) Error() string { return "x" }
func (i Item) Name() string { return "" }
""",
    "stock/stock_test.go": """package stock

import "testing"

func TestName(t *testing.T) {
	for _, c := range []struct{ a int }{{1}} {
		t.Run("x", func(t *testing.T) { t.Errorf("%d", c.a) })
	}
}

func TestOther(t *testing.T) { t.Fatal("x") }
""",
}
RUST = {
    "Cargo.toml": '[package]\nname = "shop"\n',
    "src/lib.rs": """//! The shop.
use std::sync::Arc;
use serde::Serialize;
use crate::stock::Item;

const MAX_ITEMS: usize = 3;

/// An error.
#[derive(Debug, thiserror::Error)]
pub enum StoreError { #[error("x")] Gone }

/// Loads.
pub fn load_item(name: &str) -> Result<Item, StoreError> {
    let found = find(name)?;
    let other = find(name).unwrap();
    match found { Some(x) if x > 1 => log::info!("x"), None => {}, _ => panic!("y") }
    Ok(other)
}

pub struct Undocumented;

async fn fetch(a: u8, b: u8) -> u8 { if a > b && b > 1 { 1 } else if a == 0 { 2 } else { 3 } }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_one() { load_item("a").unwrap(); assert_eq!(1, 1); }

    #[test]
    fn loads_none() { assert!(true); }
}
""",
}


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def extracted(root: Path, files: Mapping[str, str | bytes]) -> PatternSet:
    project = write(root, files)
    return extract(Sources(project), project.resolve(), sample_percentage=100, max_files=1000)


def by_name(found: PatternSet, language: str) -> dict[str, Pattern]:
    return {each.name: each for each in found.patterns if each.language == language}


def counts(patterns: Mapping[str, Pattern]) -> dict[str, tuple[int, int]]:
    return {name: (each.count, each.total) for name, each in patterns.items()}


def call(project: Path, tool: str, **arguments: Any) -> CallToolResult:
    async def once() -> CallToolResult:
        async with Client(create_server(ServerSettings(project))) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(once())


def value(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, text(result)
    assert result.structured_content is not None
    return dict(result.structured_content)


def text(result: CallToolResult) -> str:
    return str(result.content[0].text)  # type: ignore[union-attr]


def test_every_python_count_is_exact(tmp_path: Path) -> None:
    found = extracted(tmp_path, PYTHON)
    patterns = by_name(found, "python")
    assert counts(patterns) == {
        "naming.functions": (3, 4),  # take_one, fetch_all, _private_help; badName
        "naming.classes": (3, 3),
        "naming.constants": (1, 1),
        "naming.files": (1, 1),
        "naming.private": (1, 2),
        "types.functions": (2, 4),
        "types.optional": (1, 1),
        "types.future": (1, 2),
        "types.records": (1, 1),
        "testing.framework": (1, 1),
        "testing.file_names": (1, 1),
        "testing.location": (1, 1),
        "testing.style": (2, 2),
        "testing.assertions": (3, 3),
        "testing.helpers": (3, 3),
        "errors.raised": (2, 2),
        "errors.own": (1, 2),
        "errors.bases": (2, 2),
        "errors.classes": (2, 2),
        "errors.caught": (1, 1),
        "errors.chained": (1, 1),
        "logging.calls": (1, 1),
        "logging.logger": (1, 1),
        "documentation.public": (4, 6),
        "documentation.modules": (3, 3),
        "documentation.style": (1, 1),
        "async.functions": (1, 4),
        "imports.style": (2, 4),
        "imports.own": (1, 1),
        "imports.packages": (1, 1),
        "style.quotes": (2, 2),
        "style.strings": (1, 1),
        "architecture.file_size": (3, 3),
        "architecture.function_size": (4, 4),
    }
    assert patterns["types.functions"].values == {"fully annotated": 2, "not annotated": 2}
    assert patterns["testing.helpers"].values == {"monkeypatch": 1, "pytest.fixture": 1, "pytest.raises": 1}
    assert patterns["imports.packages"].values == {"httpx": 1}
    assert [(each.path, each.reason.partition(":")[0]) for each in found.skipped] == [
        ("shop/legacy.py", "not Python 3")
    ]
    project = by_name(found, "project")
    assert project["tooling.checks"].statement == "Checks that are configured: ruff (pyproject.toml:3)."
    assert project["tooling.line_length"].values == {"100": 1}
    assert project["architecture.entry_points"].citations[0].line == 5


@pytest.mark.parametrize("ending", [".js", ".ts", ".go", ".rs"])
def test_a_pattern_cites_the_first_places_of_a_file(tmp_path: Path, ending: str) -> None:
    """The same project gives the same document: tree-sitter hands out what it finds in any order."""
    word = {".go": "func", ".rs": "fn"}.get(ending, "function")
    lines = [f"{word} loadUser{number}() {{}}" for number in range(200)]
    found = extracted(tmp_path, {f"users{ending}": "\n".join(lines)})
    (naming,) = (each for each in found.patterns if each.name == "naming.functions")
    assert [each.line for each in naming.citations] == [1, 2]


def test_every_typescript_count_is_exact(tmp_path: Path) -> None:
    patterns = by_name(extracted(tmp_path, TYPESCRIPT), "typescript")
    assert counts(patterns) == {
        "naming.functions": (2, 3),  # loadUser, saveUser; help_me
        "naming.classes": (3, 3),
        "naming.components": (1, 1),
        "naming.constants": (1, 1),
        "naming.files": (1, 1),
        "types.returns": (2, 3),
        "types.shapes": (1, 2),
        "types.any": (1, 1),
        "testing.framework": (1, 1),
        "testing.file_names": (1, 1),
        "testing.location": (1, 1),
        "testing.style": (1, 1),
        "testing.assertions": (2, 2),
        "testing.helpers": (2, 2),
        "errors.raised": (1, 1),
        "errors.own": (1, 1),
        "errors.bases": (1, 1),
        "errors.classes": (1, 1),
        "errors.handled": (1, 1),
        "logging.calls": (1, 1),
        "documentation.public": (1, 3),
        "async.functions": (1, 4),
        "async.style": (1, 1),
        "imports.system": (3, 4),
        "imports.exports": (5, 6),
        "imports.packages": (1, 1),
        "style.quotes": (6, 6),
        "style.semicolons": (2, 2),
        "style.functions": (1, 2),
        "architecture.file_size": (3, 3),
        "architecture.function_size": (4, 4),
    }
    assert patterns["testing.framework"].statement == "Tests use vitest (1 of 1)."
    assert patterns["testing.framework"].citations[0].line == 1


def test_every_go_count_is_exact(tmp_path: Path) -> None:
    patterns = by_name(extracted(tmp_path, GO), "go")
    assert counts(patterns) == {
        "naming.functions": (4, 4),
        "naming.classes": (2, 2),
        "types.receivers": (1, 2),
        "testing.framework": (1, 1),
        "testing.file_names": (1, 1),
        "testing.location": (1, 1),
        "testing.package": (1, 1),
        "testing.style": (2, 2),
        "testing.tables": (1, 2),
        "testing.assertions": (2, 2),
        "testing.helpers": (1, 1),
        "errors.created": (2, 2),
        "errors.classes": (1, 1),
        "errors.checked": (1, 3),
        "errors.panics": (2, 2),
        "errors.returns": (1, 3),
        "architecture.entry": (1, 1),
        "documentation.public": (2, 5),
        "async.constructs": (1, 1),
        "imports.packages": (1, 1),
        "architecture.file_size": (2, 2),
        "architecture.function_size": (4, 4),
    }
    assert patterns["errors.checked"].values == {
        "panic or exit": 1,
        "returned as it is": 1,
        "wrapped and returned": 1,
    }
    assert "There is no one habit" in patterns["errors.checked"].statement
    assert patterns["imports.packages"].values == {"github.com/google/uuid": 1}


def test_every_rust_count_is_exact(tmp_path: Path) -> None:
    patterns = by_name(extracted(tmp_path, RUST), "rust")
    assert counts(patterns) == {
        "naming.functions": (1, 1),
        "naming.classes": (2, 2),
        "naming.constants": (1, 1),
        "types.derives": (2, 2),
        "testing.framework": (2, 2),
        "testing.placement": (2, 2),
        "testing.assertions": (1, 2),
        "errors.bases": (1, 1),
        "errors.classes": (1, 1),
        "errors.panics": (1, 1),
        "errors.returns": (1, 2),
        "errors.propagated": (1, 2),
        "logging.calls": (1, 1),
        "documentation.public": (2, 3),
        "async.functions": (1, 2),
        "async.library": (1, 1),
        "imports.internal": (1, 1),
        "imports.packages": (1, 1),
        "architecture.file_size": (1, 1),
        "architecture.function_size": (4, 4),
    }
    assert patterns["errors.propagated"].values == {"?": 1, "unwrap()": 1}
    assert patterns["errors.bases"].values == {"thiserror": 1}


def test_citations_lead_to_the_line_that_they_show(tmp_path: Path) -> None:
    found = extracted(tmp_path, {**PYTHON, **TYPESCRIPT, **GO, **RUST})
    shown = [place for each in found.patterns if "size" not in each.name for place in each.citations]
    assert len(shown) > 100
    for place in shown:
        line = (tmp_path / place.file).read_text().splitlines()[place.line - 1]
        assert line.strip() == place.text


def test_a_share_is_stated_without_overstating_it() -> None:
    assert percent(999, 1000) == "99 %"
    assert percent(1, 1000) == "1 %"
    assert percent(0, 1000) == "0 %"
    assert percent(1000, 1000) == "100 %"
    assert lower_bound(3, 3) < lower_bound(300, 300) < 1
    # Tables of the Wilson interval say [0.237, 0.763].
    assert lower_bound(5, 10) == pytest.approx(0.237, abs=0.001)


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_a_confidence_lies_between_none_and_the_share(count: int, more: int) -> None:
    assert 0 <= lower_bound(count, count + more) <= (count / (count + more) if count + more else 0) + 0.0005


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("get_user", "snake_case"),
        ("_get_user_", "snake_case"),
        ("getUser", "camelCase"),
        ("GetUser", "PascalCase"),
        ("HTTPError", "PascalCase"),
        ("MAX_SIZE", "UPPER_CASE"),
        ("my-file", "kebab-case"),
        ("Get_User", "mixed"),
        ("run", None),
        ("T", None),
        ("", None),
        ("_", None),
    ],
)
def test_a_style_is_named_where_a_name_shows_one(name: str, style: str | None) -> None:
    assert name_style(name) == style


@given(st.text(max_size=20))
def test_any_name_has_a_style_or_none(name: str) -> None:
    assert name_style(name) in {
        None,
        "snake_case",
        "camelCase",
        "PascalCase",
        "UPPER_CASE",
        "kebab-case",
        "mixed",
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("tests/test_a.py", True),
        ("a_test.go", True),
        ("src/a.spec.tsx", True),
        ("src/__tests__/a.js", True),
        ("src/latest.py", False),
        ("src/contest.js", False),
        ("attestation/a.go", False),
    ],
)
def test_tests_are_known_by_their_path(path: str, expected: bool) -> None:
    assert is_test_path(path) is expected


_TOO_DEEP = 4000 if sys.version_info < (3, 13) else 20_000  # for the interpreter's own parser
BAD_FILES: dict[str, str | bytes] = {
    "binary.py": b"\0\1\2",
    "deep.py": "x = " + "(" * 5000 + ")" * 5000 + "\n",
    "deep_operators.py": "x = " + "-" * _TOO_DEEP + "1\n",
    "generated.go": "// Code generated by protoc. DO NOT EDIT.\npackage a\n",
    "long.js": "x='" + "a" * 20_000 + "'\n",
    "huge.ts": "const a = 1;\n" * (MAX_FILE_BYTES // 12),
    "not_go.go": "this is { not ] go at all ((( $$$ %%% \n" * 20,
    "py2.py": "print 'x'\nexec 'y'\n",
    "null.py": "x = 1\n" * 2000 + "\0",
}


def test_what_cannot_be_read_is_named_and_hides_nothing(tmp_path: Path) -> None:
    found = extracted(tmp_path, {**BAD_FILES, "good.py": "def one_good(): pass\n"})
    assert found.files_analyzed == 1
    assert {each.path for each in found.skipped} == set(BAD_FILES)
    assert all(each.reason for each in found.skipped)
    assert by_name(found, "python")["naming.functions"].count == 1


def test_encodings_and_marks_of_byte_order_are_read(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "bom.py": b"\xef\xbb\xbfdef with_bom(): pass\n",
        "latin.py": "# -*- coding: latin-1 -*-\ndef with_cookie(): return 'é'\n".encode("latin-1"),
        "undeclared.py": "def with_bytes(): return 'é'\n".encode("latin-1"),
        "crlf.py": b"def with_crlf():\r\n    pass\r\n",
        "feed.py": b"def before_feed(): pass\n\x0c\ndef after_feed(): pass\n",
        "bom.ts": b"\xef\xbb\xbfexport function withBom() { return 1; }\n",
        "latin.go": 'package a\n// é\nfunc WithBytes() string { return "é" }\n'.encode("latin-1"),
    }
    found = extracted(tmp_path, files)
    assert found.skipped == []
    patterns = by_name(found, "python")
    assert patterns["naming.functions"].count == 6
    feed = [place for place in patterns["naming.functions"].citations if place.file == "feed.py"]
    assert [place.line for place in feed] == [1] or [place.line for place in feed] == [1, 3]
    assert by_name(found, "typescript")["naming.functions"].count == 1
    assert by_name(found, "go")["naming.functions"].total == 1


@pytest.mark.parametrize("ending", [".py", ".ts", ".tsx", ".js", ".go", ".rs"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda each: each.encode())))
def test_no_content_of_a_file_is_fatal(tmp_path: Path, ending: str, content: bytes) -> None:
    found = extracted(tmp_path, {f"a{ending}": content})
    assert found.files_found == found.files_analyzed + len(found.skipped) == 1


def test_a_deep_tree_of_statements_costs_no_recursion(tmp_path: Path) -> None:
    chain = "x = " + " + ".join(["a"] * 800) + "\n"
    nested = "".join("    " * depth + "if a:\n" for depth in range(19)) + "    " * 19 + "b()\n"
    branches = "if a:\n    b()\n" + "elif a:\n    b()\n" * 300
    found = extracted(tmp_path, {"chain.py": chain, "nested.py": nested, "branches.py": branches})
    assert found.files_analyzed == 3


def test_links_and_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"secret.py": "def the_secret(): pass\n"})
    project = write(
        tmp_path / "project",
        {
            "own.py": "def my_own(): pass\n",
            "node_modules/x/index.js": "function aB() {}\n",
            "vendor/a.go": "package a\nfunc Ab() {}\n",
            ".sage/x.py": "def in_sage(): pass\n",
            "docs/specs/a/x.py": "def in_specs(): pass\n",
        },
    )
    (project / "linked.py").symlink_to(outside / "secret.py")
    (project / "folder").symlink_to(outside, target_is_directory=True)
    (project / "loop").symlink_to(project, target_is_directory=True)
    found = extract(Sources(project), project.resolve(), sample_percentage=100, max_files=1000)
    assert found.files_found == 1
    assert {place.file for each in found.patterns for place in each.citations} == {"own.py"}


def test_file_names_that_are_no_utf_8_are_shown_and_saved(tmp_path: Path) -> None:
    name = os.fsencode(str(tmp_path)) + b"/caf\xe9_bar.py"
    try:
        with open(name, "wb") as file:
            file.write(b"def a_function(): pass\n")
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    result = value(call(tmp_path, "relevant_patterns", topic="function"))
    assert "caf\\xe9_bar.py:1" in result["citations"]


@pytest.mark.parametrize("path", ["..", "/etc", "../project-evil", "link", "a/../../b", "\0"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    project = write(tmp_path / "project", {"a.py": "x = 1\n"})
    write(tmp_path / "project-evil", {"b.py": "y = 1\n"})
    (project / "link").symlink_to(tmp_path / "project-evil", target_is_directory=True)
    with pytest.raises(OutsideProjectError):
        contained(project, path)
    for tool, arguments in (
        ("extract_patterns", {"repoPath": path}),
        ("extract_patterns", {"outputDir": path}),
        ("load_patterns", {"patternsDir": path}),
        ("display_patterns", {"patternsDir": path}),
        ("load_patterns_progressive", {"filePath": path}),
        ("code_quality", {"path": path}),
    ):
        result = call(project, tool, **arguments)
        assert result.is_error
        assert "outside the project" in text(result) or "not a usable path" in text(result)
    assert not list((tmp_path / "project-evil").glob("*.json"))


@pytest.mark.parametrize(
    "folder", [".git", ".git/hooks", ".sage", ".sage/state", ".Claude", "a/node_modules", "hooks"]
)
def test_patterns_are_saved_nowhere_where_a_program_would_obey_them(tmp_path: Path, folder: str) -> None:
    write(tmp_path, {"a.py": "x = 1\n", ".git/hooks/sample": "", "a/b.py": ""})
    (tmp_path / "hooks").symlink_to(".git/hooks")
    before = sorted(tmp_path.rglob("*"))
    refused = call(tmp_path, "extract_patterns", outputDir=folder)
    assert refused.is_error
    assert ".sage/patterns" in text(refused)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", ['{"name": "shop"}', "{", "[" * 100_000, None])
def test_a_file_that_holds_no_patterns_is_not_replaced(tmp_path: Path, content: str | None) -> None:
    write(tmp_path, {"package/a.py": "x = 1\n"})
    target = tmp_path / "package.json"
    if content is None:
        write(tmp_path, {"other.json": '{"format": 1, "repo_name": "", "patterns": []}'})
        target.symlink_to("other.json")
    else:
        target.write_text(content)
    refused = call(tmp_path, "extract_patterns", repoPath="package", outputDir=".")
    assert "package.json is there and holds no patterns" in text(refused)
    assert target.is_symlink() if content is None else target.read_text() == content
    target.unlink()
    for _ in range(2):  # what was saved is replaced
        assert value(call(tmp_path, "extract_patterns", repoPath="package", outputDir="."))["success"]


@pytest.mark.parametrize("path", ["", ".", "a/.."])
def test_the_project_is_no_file_to_work_on(tmp_path: Path, path: str) -> None:
    write(tmp_path, {**PYTHON, "a/b.py": ""})
    value(call(tmp_path, "extract_patterns"))
    refused = call(tmp_path, "load_patterns_progressive", filePath=path)
    assert refused.is_error
    assert "`filePath` names the project itself" in text(refused)


def test_upstream_s_fields_are_answered(tmp_path: Path) -> None:
    write(tmp_path, {**PYTHON, **TYPESCRIPT})
    result = value(call(tmp_path, "extract_patterns", repoPath=".", samplePercentage=100))
    assert result["success"] is True
    assert result["repoName"] == tmp_path.name
    assert result["filesAnalyzed"] == 8
    assert result["primaryLanguage"] == "python"
    assert 0 < result["overallConfidence"] <= 1
    assert result["pythonPatterns"]["files"] == 4
    assert result["typescriptPatterns"]["files"] == 4
    assert result["goPatterns"] is None
    assert result["rustPatterns"] is None
    assert result["evidence_level"] == "measured"
    assert 0 < result["tokens"]["kept_tokens"] < result["tokens"]["raw_tokens"]
    saved = json.loads((tmp_path / result["savedPath"]).read_text())
    assert saved["files_analyzed"] == 8
    loaded = value(call(tmp_path, "load_patterns"))
    assert loaded["success"] is True
    assert loaded["patterns"] == [saved]
    shown = text(call(tmp_path, "display_patterns"))
    assert "naming.functions" in shown
    assert "shop/stock_keeping.py:" in shown


def test_a_level_loads_more_than_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, {**PYTHON, **TYPESCRIPT})
    value(call(tmp_path, "extract_patterns", samplePercentage=100))
    results = [
        value(call(tmp_path, "load_patterns_progressive", filePath="shop/api/new_route.py", level=level))
        for level in ("critical", "core", "extended")
    ]
    tokens = [each["tokenCount"] for each in results]
    assert tokens == sorted(set(tokens))
    assert results[0]["reductionPercentage"] > results[2]["reductionPercentage"] > 0
    assert results[0]["detectedContext"] == {"fileType": "interface", "feature": "new_route", "domain": "api"}
    assert {each["language"] for each in results[2]["patterns"]} == {"python", "project"}
    assert {each["category"] for each in results[0]["patterns"]} == {"naming", "types"}
    of_a_test = value(
        call(tmp_path, "load_patterns_progressive", filePath="tests/test_new.py", level="critical")
    )
    assert "testing" in {each["category"] for each in of_a_test["patterns"]}


def test_nothing_saved_is_said_and_not_invented(tmp_path: Path) -> None:
    for tool, arguments in (("load_patterns", {}), ("load_patterns_progressive", {"filePath": "a.py"})):
        result = value(call(tmp_path, tool, **arguments))
        assert result["success"] is False
        assert result["patterns"] == []
        assert result["evidence_level"] == "none"
        assert "extract_patterns" in result["notes"][0]
    empty = value(call(tmp_path, "relevant_patterns", topic="anything"))
    assert empty["patterns"] == []
    assert empty["evidence_level"] == "none"
    assert "not determined" in empty["notes"][-1]


def test_broken_and_foreign_saved_files_are_named_and_skipped(tmp_path: Path) -> None:
    write(tmp_path, PYTHON)
    value(call(tmp_path, "extract_patterns"))
    folder = tmp_path / ".sage/patterns"
    write(
        folder, {"torn.json": '{"format": 1, "rep', "other.json": "{}", "upstream.ts": "export const a = 1"}
    )
    (folder / "link.json").symlink_to("/etc/hostname")
    loaded = value(call(tmp_path, "load_patterns"))
    assert len(loaded["patterns"]) == 1
    notes = " ".join(loaded["notes"])
    assert all(name in notes for name in ("torn.json", "other.json", "upstream.ts", "link.json"))


def test_patterns_are_also_read_from_upstream_s_folder(tmp_path: Path) -> None:
    write(tmp_path, PYTHON)
    saved = value(call(tmp_path, "extract_patterns", outputDir=".sage/agent/examples"))["savedPath"]
    assert saved.startswith(".sage/agent/examples/")
    assert value(call(tmp_path, "load_patterns"))["success"] is True


def test_what_every_author_needs_always_comes_and_the_topic_decides_the_rest(tmp_path: Path) -> None:
    write(tmp_path, PYTHON)
    result = value(call(tmp_path, "relevant_patterns", topic="logging of requests", top=8))
    names = [each["name"] for each in result["patterns"]]
    assert len(names) == 8
    assert {"testing.framework", "naming.functions", "errors.raised", "architecture.layout"} <= set(names)
    relevances = [each["relevance"] for each in result["patterns"]]
    assert relevances == sorted(relevances, reverse=True)
    assert all(0 <= each <= 1 for each in relevances)
    assert all(len(each["citations"]) <= 3 for each in result["patterns"])
    few = value(call(tmp_path, "relevant_patterns", topic="logging of requests", top=100, threshold=0.8))
    assert few["patterns"]
    assert all(each["relevance"] >= 0.8 for each in few["patterns"])
    everything = value(call(tmp_path, "relevant_patterns", topic="logging of requests", top=100))
    relevance = {each["name"]: each["relevance"] for each in everything["patterns"]}
    other = value(call(tmp_path, "relevant_patterns", topic="docstring", top=100))
    assert (
        relevance["logging.calls"]
        > {each["name"]: each["relevance"] for each in other["patterns"]}["logging.calls"]
    )


def test_the_language_of_the_code_that_the_topic_is_about_counts(tmp_path: Path) -> None:
    more = {f"shop/part_{n}.py": f"def sell_{n}_things(): pass\n" for n in range(12)}
    write(tmp_path, {**PYTHON, **more, **{f"web/{path}": text for path, text in TYPESCRIPT.items()}})

    def languages(topic: str, top: int = 8) -> dict[str, str]:
        found = value(call(tmp_path, "relevant_patterns", topic=topic, top=top))["patterns"]
        return {each["name"]: each["language"] for each in found}

    of_the_web = languages("loadUser and saveUser of the user store")
    assert of_the_web["testing.framework"] == of_the_web["naming.functions"] == "typescript"
    assert "python" not in of_the_web.values()
    of_the_shop = languages("keep a stock item until one is taken")
    assert of_the_shop["testing.framework"] == of_the_shop["naming.functions"] == "python"
    of_nothing = languages("qwertz")
    assert "typescript" not in of_nothing.values()


def test_saved_patterns_are_used_until_a_source_changes(tmp_path: Path) -> None:
    write(tmp_path, PYTHON)
    assert value(call(tmp_path, "relevant_patterns", topic="stock"))["provenance"] == "local"
    assert value(call(tmp_path, "relevant_patterns", topic="stock"))["provenance"] == "cache"
    write(tmp_path, {"shop/more.py": "def another_one(): pass\n"})
    again = value(call(tmp_path, "relevant_patterns", topic="naming functions", top=100))
    assert again["provenance"] == "local"
    assert [each["count"] for each in again["patterns"] if each["name"] == "naming.functions"] == [4]


def test_a_folder_that_cannot_be_written_costs_only_the_saving(tmp_path: Path) -> None:
    write(tmp_path, {**PYTHON, ".sage": "a file where the folder should be"})
    result = value(call(tmp_path, "relevant_patterns", topic="stock"))
    assert result["patterns"]
    assert "could not be saved" in result["notes"][0]
    refused = call(tmp_path, "extract_patterns")
    assert refused.is_error
    assert "cannot be saved" in text(refused)


def test_a_state_folder_that_leads_out_is_neither_read_nor_written(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", {"patterns/planted.json": "{}"})
    project = write(tmp_path / "project", PYTHON)
    (project / ".sage").symlink_to(elsewhere, target_is_directory=True)
    result = value(call(project, "relevant_patterns", topic="stock"))
    assert result["patterns"]
    assert "could not be saved" in result["notes"][0]
    assert os.listdir(elsewhere / "patterns") == ["planted.json"]
    assert "outside the project" in value(call(project, "load_patterns"))["notes"][0]


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    project = write(tmp_path, {"a.py": "x = 1\n", "b.py": "y = 1\n"})
    sources = Sources(project)
    assert len(sources.scan(sources.project).files) == 2
    (project / "a.py").unlink()
    assert [each.path for each in sources.scan(sources.project).files] == ["b.py"]


def test_what_is_asked_for_first_is_drawn_first(tmp_path: Path) -> None:
    project = write(tmp_path, {f"m{number}.py": "x = 1\n" for number in range(30)})
    sources = Sources(project)
    drawn = sources.scan(sources.project, max_files=2, first={"m7.py", "m21.py"})
    assert [each.path for each in drawn.files] == ["m21.py", "m7.py"]
    assert len(sources.paths()) == 30


def test_a_sample_is_the_same_each_time_and_a_new_file_shifts_none(tmp_path: Path) -> None:
    files = {f"m{number}.py": f"def function_{number}(): pass\n" for number in range(40)}
    project = write(tmp_path, files)
    sources = Sources(project)
    first = [each.path for each in sources.scan(sources.project, sample_percentage=50).files]
    assert len(first) == 20
    assert [each.path for each in Sources(project).scan(sources.project, sample_percentage=50).files] == first
    assert len(sources.scan(sources.project, max_files=7).files) == 7
    write(project, {"extra.py": "def function_extra(): pass\n"})
    second = {each.path for each in sources.scan(sources.project, sample_percentage=50).files}
    assert len(set(first) - second) <= 1


def test_a_sample_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    """The same files each time, and at least one; a file that is too large to be read costs nothing."""
    line = "x = 1  # " + "-" * 90 + "\n"  # 100 bytes
    files = {f"m{number}.py": line * 10 for number in range(20)}
    sources = Sources(write(tmp_path, files))
    drawn = [each.path for each in sources.scan(sources.project, max_bytes=4500).files]
    assert len(drawn) == 5  # the one that exceeds it is the last
    assert drawn == [each.path for each in sources.scan(sources.project, max_bytes=4999).files]
    assert len(sources.scan(sources.project, max_bytes=1).files) == 1
    assert len(sources.scan(sources.project, max_bytes=20_000).files) == 20
    write(tmp_path, {"large.py": line * 6000})
    scan = sources.scan(sources.project, max_bytes=20_000)
    assert (len(scan.files), [each.path for each in scan.skipped]) == (20, ["large.py"])
    assert scan.state == sources.state(sources.project, max_bytes=20_000)
    assert scan.state != sources.state(sources.project, max_bytes=4500)


def test_ignored_files_are_no_sources(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    write(tmp_path, {".gitignore": "out/\n", "out/a.py": "x = 1\n", "b.py": "def b_function(): pass\n"})
    assert [each.path for each in Sources(tmp_path).scan(tmp_path.resolve()).files] == ["b.py"]


def test_a_changed_file_is_read_again_and_others_are_not(tmp_path: Path) -> None:
    project = write(tmp_path, {"a.py": "def first_one(): pass\n", "b.py": "def second_one(): pass\n"})
    sources = Sources(project)
    before = {each.path: each for each in sources.scan(sources.project).files}
    write(project, {"a.py": "def first_one(): pass\ndef third_one(): pass\n"})
    after = {each.path: each for each in sources.scan(sources.project).files}
    assert after["b.py"] is before["b.py"]
    assert len(after["a.py"].functions) == 2


def test_many_may_ask_at_once(tmp_path: Path) -> None:
    project = write(tmp_path, {**PYTHON, **GO})
    sources = Sources(project)
    results: list[PatternSet] = []

    def ask() -> None:
        results.append(extract(sources, sources.project, sample_percentage=100, max_files=100))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert len(results) == 8
    assert all(each == results[0] for each in results)


def test_a_repository_inside_the_project_is_extracted_by_itself(tmp_path: Path) -> None:
    write(tmp_path, {"one/a.py": "def in_one(): pass\n", "two/b.py": "def in_two(): pass\n"})
    result = value(call(tmp_path, "extract_patterns", repoPath="two", samplePercentage=100))
    assert result["repoName"] == "two"
    assert result["filesFound"] == 1
    assert all(place.startswith("two/") for place in result["citations"])
    assert call(tmp_path, "extract_patterns", repoPath="three").is_error


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("extract_patterns", {"samplePercentage": 0}),
        ("extract_patterns", {"maxFiles": 0}),
        ("relevant_patterns", {"topic": ""}),
        ("relevant_patterns", {"topic": "x", "top": 0}),
        ("load_patterns_progressive", {"filePath": "a.py", "level": "all"}),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, tool: str, arguments: dict[str, Any]) -> None:
    assert call(tmp_path, tool, **arguments).is_error


def test_every_tool_is_described_for_its_client(tmp_path: Path) -> None:
    async def tools() -> list[Any]:
        async with Client(create_server(ServerSettings(tmp_path))) as client:
            return (await client.list_tools()).tools

    listed = {each.name: each for each in asyncio.run(tools())}
    assert set(listed) == {
        "extract_patterns",
        "load_patterns",
        "display_patterns",
        "load_patterns_progressive",
        "relevant_patterns",
        "code_quality",
    }
    for each in listed.values():
        assert 0 < len(each.description.encode()) < 2048
        assert each.output_schema
        assert each.annotations.open_world_hint is False
    assert listed["load_patterns"].annotations.read_only_hint is True
    assert listed["extract_patterns"].annotations.read_only_hint is False
