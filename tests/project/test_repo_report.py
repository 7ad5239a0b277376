"""The steps of examples/repo-report.json on real repositories, in the order of the file and with its data."""

from __future__ import annotations

import importlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jmespath
import pytest
from places import ROOT

from sage_actors.messages.codec import pack, unpack

EXAMPLES = ROOT / "examples"
NOW = 1_750_000_000.0  # 2025-06-15
DAY = 86_400

Facts = dict[str, Any]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a worker: the directory of the workflow file is importable; git knows no user's settings."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)


def step(call: str) -> Callable[..., Any]:
    module, _, name = call.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


class Repository:
    """A real repository, made by real git."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *arguments],
            cwd=self.root,
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
        )
        return done.stdout.decode(errors="replace")

    def write(self, path: str | bytes, content: str | bytes) -> None:
        target = os.path.join(os.fsencode(self.root), os.fsencode(path))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)

    def commit(self, name: str = "Ann", days_ago: float = 1, email: str = "") -> None:
        when = f"{int(NOW - days_ago * DAY)} +0000"
        who = {"NAME": name, "EMAIL": email or f"{name.lower()}@example.org", "DATE": when}
        both = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "a change", **both)

    def head(self) -> str:
        return self.git("rev-parse", "HEAD").strip()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "project")


def report(root: Path, output: Path, **inputs: Any) -> tuple[str, Facts]:
    """Runs the workflow file, one node after another; every result crosses the codec, as in the engine."""
    flow = json.loads((EXAMPLES / "repo-report.json").read_text())
    given = {name: each["default"] for name, each in flow["inputs"].items()}
    given |= {"path": str(root), "output": str(output), **inputs}
    results: Facts = {}
    for phase in flow["phases"]:
        for node in phase["operations"]:
            value = _execute(node, phase["id"], given, results)
            results[f"{phase['id']}/{node['id']}"] = unpack(pack(value))
    result: Facts = results["report/write"]
    return output.read_text(encoding="utf-8"), {**result, "all": results}


def _execute(node: Facts, phase: str, given: Facts, results: Facts) -> Any:
    function = step(node["call"])
    if node["id"] == "write":
        function = _at_now(function)
    if "foreach" not in node:
        return function(**_fill(node["arguments"], phase, given, results))
    items = _fill(node["foreach"], phase, given, results)
    return [function(**_fill(node["arguments"], phase, {**given, "item": item}, results)) for item in items]


def _at_now(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **arguments: function(**arguments, now=NOW)


def _fill(value: Any, phase: str, given: Facts, results: Facts) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, phase, given, results) for key, item in value.items()}
    match = (
        re.fullmatch(r"\$\{(?:inputs\.)?([\w/]+)(?: \| (.+))?\}", value) if isinstance(value, str) else None
    )
    if match is None:
        return value
    name = match[1]
    found = given[name] if name in given else results.get(name, results.get(f"{phase}/{name}"))
    return jmespath.search(match[2], found) if match[2] else found


def _small(repository: Repository) -> None:
    """A package with a test, a dead file, notes, manifests; three authors and a rename."""
    repository.write("old_name.py", "import json\n" + "value = 1\n" * 40)
    repository.write("pkg/__init__.py", "")
    repository.write("pkg/core.py", "import yaml\nfrom pkg import helper\n" + "x = 1\n" * 30)
    repository.write("pkg/helper.py", "# TODO: make it faster\ndef help(): ...\n")
    repository.write("pkg/dead.py", "y = 2\n" * 10)
    repository.write("tests/test_core.py", "from pkg.core import x\n" * 5)
    repository.write("pyproject.toml", '[project]\nname = "pkg"\ndependencies = ["pyyaml>=6", "requests"]\n')
    repository.commit("Ann", days_ago=900)
    repository.git("mv", "old_name.py", "pkg/moved.py")
    repository.write("pkg/core.py", "import yaml\nfrom pkg import helper, moved\n" + "x = 1\n" * 60)
    repository.commit("Bob", days_ago=30)
    repository.write(
        "pkg/core.py", "import yaml\nimport numpy\nfrom pkg import helper, moved\n" + "x = 1\n" * 70
    )
    repository.commit("dependabot[bot]", days_ago=20)


@pytest.mark.requirement("ORCH-021")
def test_the_workflow_reports_on_a_repository(repository: Repository, tmp_path: Path) -> None:
    _small(repository)
    text, result = report(repository.root, tmp_path / "report.md")

    assert result["totals"]["files"] == 7
    assert {row["name"]: row["files"] for row in result["languages"]}["Python"] == 6
    assert result["totals"]["test_lines"] == 5
    assert result["hotspots"][0]["path"] == "pkg/core.py"
    assert result["most_changed"][0] | {"path": "pkg/core.py", "commits": 3} == result["most_changed"][0]
    assert [row["path"] for row in result["never_imported"]["Python"]] == ["pkg/dead.py"]
    assert result["compared"]["Python"] == {"undeclared": ["numpy"], "unimported": ["requests"]}
    assert result["history"]["author_count"] == 2, "a bot is nobody"
    assert "`pkg/helper.py:1`" in text
    assert re.search(r"\d years \| `pkg/helper.py:1`", text)
    assert text.startswith("<!-- sage-actors repo-report -->\n# project\n")
    assert not result["failed"]


def test_only_the_last_node_is_a_leaf_and_every_call_exists() -> None:
    flow = json.loads((EXAMPLES / "repo-report.json").read_text())
    text = json.dumps(flow)
    for phase in flow["phases"]:
        for node in phase["operations"]:
            assert callable(step(node["call"]))
            used = f"/{node['id']}" in text.replace(f'"call": "{node["call"]}"', "")
            assert used or f"${{{node['id']} |" in text or node["id"] == "write"


def test_a_renamed_file_keeps_its_history(repository: Repository) -> None:
    _small(repository)
    found = step("repo_report.history:churn")(str(repository.root), repository.head())
    moved = next(row for row in found["files"] if row["path"] == "pkg/moved.py")
    assert (moved["commits"], moved["authors"]) == (2, 2)


def test_history_reads_the_newest_commits_and_says_how_many_it_left(repository: Repository) -> None:
    for day in range(5):
        repository.write("a.py", f"x = {day}\n")
        repository.commit(days_ago=10 - day)
    found = step("repo_report.history:churn")(str(repository.root), repository.head(), max_commits=2)
    assert (found["commits"], found["left_out"]) == (2, 3)


def test_a_merge_is_counted_apart(repository: Repository) -> None:
    repository.write("a", "1\n")
    repository.commit()
    repository.git("checkout", "-q", "-b", "side")
    repository.write("b", "1\n")
    repository.commit("Bob")
    repository.git("checkout", "-q", "main")
    repository.write("c", "1\n")
    repository.commit()
    repository.git(
        "-c", "user.name=x", "-c", "user.email=x@x", "merge", "-q", "--no-ff", "-m", "merge", "side"
    )
    found = step("repo_report.history:churn")(str(repository.root), repository.head())
    assert (found["commits"], found["merges"]) == (3, 1)


def test_an_empty_repository_has_a_report_that_says_so(repository: Repository, tmp_path: Path) -> None:
    text, result = report(repository.root, tmp_path / "report.md")
    assert "no commits yet" in text
    assert result["totals"]["files"] == 0


def test_a_commit_without_files_has_a_report(repository: Repository, tmp_path: Path) -> None:
    repository.commit()
    text, result = report(repository.root, tmp_path / "report.md")
    assert result["history"]["commits"] == 1
    assert "Nothing stood out" in text


def test_what_is_no_repository_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    look = step("repo_report.inventory:repository")
    with pytest.raises(ValueError, match="cannot be read as a git repository"):
        look(str(tmp_path), str(tmp_path / "report.md"))
    with pytest.raises(ValueError, match="is not a directory"):
        look(str(tmp_path / "nowhere"), str(tmp_path / "report.md"))


def test_a_missing_git_is_a_clear_error(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="git is not installed"):
        step("repo_report.inventory:repository")(str(repository.root), str(repository.root / "r.md"))


def test_a_file_of_another_origin_is_not_replaced(repository: Repository, tmp_path: Path) -> None:
    repository.commit()
    output = tmp_path / "report.md"
    output.write_text("my own notes\n")
    with pytest.raises(ValueError, match="no report of this workflow"):
        report(repository.root, output)
    assert output.read_text() == "my own notes\n"


def test_a_report_is_replaced_whole_and_nothing_is_left_beside_it(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit()
    folder = tmp_path / "out"
    folder.mkdir()
    report(repository.root, folder / "report.md")
    report(repository.root, folder / "report.md")
    assert [path.name for path in folder.iterdir()] == ["report.md"]
    assert stat.S_IMODE((folder / "report.md").stat().st_mode) == 0o644


def test_names_and_content_that_are_not_utf8_are_reported(repository: Repository, tmp_path: Path) -> None:
    repository.write(b"caf\xe9/m\xff|`x`\n.py", b"# TODO: caf\xe9 | <b>bold</b>\nx = '\xff'\n")
    repository.write("latin.py", b"name = 'caf\xe9'\n")
    repository.commit("Ann | <script>", days_ago=400)
    text, result = report(repository.root, tmp_path / "report.md")
    assert result["totals"]["files"] == 2
    assert result["todos"] == {"count": 1, "older_than_a_year": 1}, "blame finds a name that is not UTF-8"
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "<script>" not in text
    for before, line in pairwise(rows):
        same_table = not before.startswith("|--") and line.startswith("|--")
        assert not same_table or before.count("|") == line.count("|")
    note = next(line for line in rows if "TODO: caf" in line)
    assert len(re.findall(r"(?<!\\)\|", note)) == 5, "one row, four cells"


def test_a_text_of_markup_is_only_shown() -> None:
    plain, code = step("repo_report.markdown:plain"), step("repo_report.markdown:code")
    assert plain("a|b<i>*x*\n\u202e") == r"a\|b\<i\>\*x\*\\u000a\\u202e"
    assert code("a`b") == "`` a`b ``"
    assert code("") == "` `"
    assert code("x" * 300, 10) == "`xxxxxxxxx…`"


def test_what_is_not_text_is_left_aside_and_counted(repository: Repository, tmp_path: Path) -> None:
    repository.write("big.py", "x = 1\n" * 300_000)
    repository.write("image.png", b"\x89PNG\0\0")
    repository.write("vendor/lib.py", "# TODO: not ours\n")
    repository.write("gen_pb2.py", "# TODO: not ours\n")
    repository.write("made.py", "# Code generated by tool. DO NOT EDIT.\n# TODO: not ours\n")
    repository.write("large.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    repository.write("real.py", "x = 1\n")
    os.symlink("real.py", repository.root / "link.py")
    os.symlink("/etc", repository.root / "outside")
    repository.commit()
    text, result = report(repository.root, tmp_path / "report.md")
    inventory = result["all"]["survey/inventory"]
    assert inventory["skipped"] == {
        "binary": 1,
        "generated": 2,
        "large": 1,
        "lfs": 1,
        "symlinks": 2,
        "vendored": 1,
    }
    assert inventory["code_lines"] == 1
    assert result["todos"]["count"] == 0
    assert "`big.py`" in text, "by its bytes"


def test_a_submodule_is_left_aside(repository: Repository, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    other.write("inner.py", "x = 1\n")
    other.commit()
    repository.git("submodule", "add", "-q", str(other.root), "sub")
    repository.commit()
    _, result = report(repository.root, tmp_path / "report.md")
    assert result["all"]["survey/inventory"]["skipped"] == {"submodules": 1}


def test_a_shallow_clone_is_reported_with_its_limits(repository: Repository, tmp_path: Path) -> None:
    _small(repository)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{repository.root}", str(clone)], check=True)
    text, _ = report(clone, tmp_path / "report.md")
    assert "Shallow clone" in text
    assert "≥" in text, "the age of a note is a lower bound"


def test_a_clone_without_old_contents_has_churn_by_name(repository: Repository, tmp_path: Path) -> None:
    _small(repository)
    repository.git("config", "uploadpack.allowFilter", "true")
    clone = tmp_path / "clone"
    source = f"file://{repository.root}"
    subprocess.run(["git", "clone", "-q", "--filter=blob:none", source, str(clone)], check=True)
    _, result = report(clone, tmp_path / "report.md")
    row = next(row for row in result["most_changed"] if row["path"] == "pkg/core.py")
    assert row["commits"] == 3
    assert not result["failed"]


def test_a_bare_repository_is_reported(repository: Repository, tmp_path: Path) -> None:
    _small(repository)
    bare = tmp_path / "project.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(repository.root), str(bare)], check=True)
    text, result = report(bare, tmp_path / "report.md")
    assert result["totals"]["files"] == 7
    assert "# project\n" in text


def test_a_directory_inside_stands_for_its_repository(repository: Repository, tmp_path: Path) -> None:
    _small(repository)
    _, result = report(repository.root / "pkg", tmp_path / "report.md")
    assert result["totals"]["files"] == 7


def test_nothing_that_a_repository_configures_is_run(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small(repository)
    trap = tmp_path / "trap"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {trap}\ncat\n")
    program.chmod(0o755)
    repository.write(".gitattributes", "*.py diff=evil filter=evil\n")
    repository.commit()
    for name in (
        "core.fsmonitor",
        "core.pager",
        "diff.external",
        "diff.evil.command",
        "diff.evil.textconv",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "gpg.program",
        "core.sshCommand",
    ):
        repository.git("config", name, str(program))
    repository.git("config", "log.showSignature", "true")
    repository.write(".git/hooks/post-index-change", program.read_text())
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(program))
    trap.unlink(missing_ok=True)
    _, result = report(repository.root, tmp_path / "report.md")
    assert not trap.exists()
    assert result["todos"]["count"] == 1


def test_git_variables_of_a_hook_do_not_lead_elsewhere(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small(repository)
    other = Repository(tmp_path / "other")
    other.commit()
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.root))
    _, result = report(repository.root, tmp_path / "report.md")
    assert result["totals"]["files"] == 7


def test_parts_that_failed_are_named_and_the_report_still_comes(
    repository: Repository, tmp_path: Path
) -> None:
    _small(repository)
    look = step("repo_report.inventory:repository")(str(repository.root), str(tmp_path / "report.md"))
    result = step("repo_report.report:write")(
        look, None, None, None, None, [None], [None, None], str(tmp_path / "report.md"), NOW
    )
    text = (tmp_path / "report.md").read_text()
    assert result["failed"] == [
        "inventory",
        "history",
        "dependencies",
        "hotspots",
        "languages (1 of 1)",
        "directories (2 of 2)",
    ]
    assert "**Parts that failed:** inventory, history" in text


def test_directories_share_all_files_among_them(repository: Repository) -> None:
    for number in range(30):
        repository.write(f"src/package/part{number % 3}/file{number}.py", "x = 1\n")
    repository.write("README.md", "hello\n")
    repository.commit()
    found = step("repo_report.inventory:inventory")(str(repository.root), repository.head())
    assert {row["prefix"]: row["files"] for row in found["directories"]} == {
        "": 1,
        "src/package/part0/": 10,
        "src/package/part1/": 10,
        "src/package/part2/": 10,
    }


@pytest.mark.no_cover
def test_thousands_of_files_give_a_modest_result(repository: Repository, tmp_path: Path) -> None:
    for number in range(1200):
        repository.write(f"d{number % 60}/f{number}.py", f"# TODO: {number}\nimport m{number}\n")
    repository.commit(days_ago=500)
    text, result = report(repository.root, tmp_path / "report.md")
    assert result["todos"]["count"] == 1200
    assert len(text) < 60_000
    assert all(len(pack(value)) < 200_000 for value in result["all"].values())
    assert "more notes" in text


def _imports(repository: Repository, language: str = "Python") -> Facts:
    repository.commit()
    found = step("repo_report.language:examine")(str(repository.root), repository.head(), language)
    imports: Facts = found["imports"]
    return imports


def _never(repository: Repository, language: str = "Python") -> list[str]:
    return sorted(row["path"] for row in _imports(repository, language)["never_imported"])


@pytest.mark.parametrize(
    "user",
    [
        "import pkg.used",
        "from pkg import used",
        "from pkg.used import thing",
        "from . import used",
        "from .used import *",
        "def late():\n    import pkg.used",
        "import importlib\nimportlib.import_module('pkg.used')",
        "PLUGINS = ['pkg.used.Plugin']",
        "import importlib\nimportlib.import_module(f'pkg.{name}')",
        "import runpy\nrunpy.run_path('pkg/used.py')",
        "import installed.pkg.used",
    ],
)
def test_every_way_to_name_a_python_module_counts(repository: Repository, user: str) -> None:
    for name in ("__init__", "used"):
        repository.write(f"src/pkg/{name}.py", "")
    repository.write("src/pkg/__main__.py", user + "\n")
    repository.write("other/lonely.py", "")
    assert _never(repository) == ["other/lonely.py"]


def test_a_module_that_a_configuration_names_is_not_dead(repository: Repository) -> None:
    for name in ("__init__", "cli_part", "dead"):
        repository.write(f"pkg/{name}.py", "")
    repository.write("pyproject.toml", '[project.scripts]\nrun = "pkg.cli_part:main"\n')
    assert _never(repository) == ["pkg/dead.py"]


def test_a_module_with_the_name_of_a_standard_one_is_not_saved_by_it(repository: Repository) -> None:
    repository.write("pkg/__init__.py", "import json\n")
    repository.write("pkg/json.py", "")
    assert _never(repository) == ["pkg/json.py"]


def test_modules_that_only_tests_import_are_told_apart(repository: Repository) -> None:
    repository.write("pkg/__init__.py", "")
    repository.write("pkg/kept.py", "")
    repository.write("tests/test_kept.py", "import pkg.kept\n")
    imports = _imports(repository)
    assert [row["path"] for row in imports["only_tests"]] == ["pkg/kept.py"]
    assert imports["never_imported"] == []


def test_stub_files_are_neither_judged_nor_importers(repository: Repository) -> None:
    repository.write("pkg/__init__.py", "")
    repository.write("pkg/a.py", "")
    repository.write("pkg/a.pyi", "from pkg import b\n")
    repository.write("pkg/b.pyi", "from pkg import a\n")
    imports = _imports(repository)
    assert [row["path"] for row in imports["never_imported"]] == ["pkg/a.py"]
    assert imports["cycles"] == []


def test_cycles_are_those_that_run_on_import(repository: Repository) -> None:
    repository.write("pkg/__init__.py", "from pkg import a, late\n")
    repository.write("pkg/a.py", "from pkg import b\n")
    repository.write("pkg/b.py", "import pkg.c\n")
    repository.write("pkg/c.py", "from .a import x\n")
    repository.write("pkg/late.py", "from pkg import lazy\n")
    repository.write("pkg/lazy.py", "def f():\n    from pkg import late\n")
    assert _imports(repository)["cycles"] == [
        {"files": 3, "loop": ["pkg/a.py", "pkg/b.py", "pkg/c.py", "pkg/a.py"]}
    ]


@pytest.mark.no_cover
def test_a_chain_of_imports_as_deep_as_you_like_has_no_cycle(repository: Repository) -> None:
    for number in range(1100):
        repository.write(f"m{number}.py", f"import m{number + 1}\n")
    assert _imports(repository)["cycles_count"] == 0


@pytest.mark.parametrize("content", ["def (:\n", "(" * 5000, "print 'old'\n"])
def test_python_that_cannot_be_parsed_is_counted_and_not_judged(repository: Repository, content: str) -> None:
    repository.write("broken.py", content)
    imports = _imports(repository)
    assert imports["never_imported"] == []
    assert imports["unparsed"] == ["broken.py"]


@pytest.mark.parametrize(
    "user",
    [
        "import { a } from './used'",
        'import a,\n  { b } from "./used.js"',
        "import './used'",
        "export * from './used'",
        "import type { T } from './used'",
        "const a = require('./used')",
        "const a = await import('./used')",
        "const a = require(`./${name}`)",
        "import a from '@/lib/used'",
        "const s = 'http://x'; import a from './used'",
    ],
)
def test_every_way_to_name_a_script_counts(repository: Repository, user: str) -> None:
    repository.write("src/lib/used.ts", "export const a = 1\n")
    repository.write("src/lib/index.ts", user + "\n")
    repository.write("src/other/lonely.ts", "export {}\n")
    assert _never(repository, "TypeScript") == ["src/other/lonely.ts"]


def test_packages_are_counted_for_the_language_that_imports_them(repository: Repository) -> None:
    repository.write("index.ts", "import a from 'for-ts'\n")
    repository.write("index.js", "import a from 'for-js'\n")
    repository.write("App.vue", "<script>\nimport a from 'for-vue'\n</script>\n")
    for language, names in (("TypeScript", ["for-ts", "for-vue"]), ("JavaScript", ["for-js", "for-vue"])):
        assert [row["name"] for row in _imports(repository, language)["third_party"]] == names


def test_an_import_in_a_comment_of_a_script_does_not_count(repository: Repository) -> None:
    repository.write("lib/index.js", "// import './dead'\n/* require('./dead') */\nconst u = 'http://x'\n")
    repository.write("lib/dead.js", "1\n")
    assert _never(repository, "JavaScript") == ["lib/dead.js"]


def test_manifests_say_what_they_declare(repository: Repository) -> None:
    manifests = {
        "requirements.txt": "# c\n-r other.txt\nflask[async]>=2 ; python_version > '3'\n"
        "git+https://x.org/a/lib.git@v1#egg=lib\nplain\n",
        "setup.cfg": "[options]\ninstall_requires =\n  six\n  attrs>=1\n",
        "setup.py": "from setuptools import setup\nopen('/tmp/never')\nsetup(install_requires=['a>1', B])\n",
        "package.json": '{"dependencies": {"left-pad": "^1"}, "devDependencies": {"jest": "*"}}',
        "go.mod": "module x\nrequire a.org/b v1.0.0\nrequire (\n\tc.org/d v2.0.0 // indirect\n)\n",
        "Cargo.toml": '[dependencies]\nserde = "1"\nmine = { path = "../mine" }\n',
        "Gemfile": "gem 'rails', '~> 7'\ngem \"puma\"\n",
        "pom.xml": "<dependency><groupId>g</groupId><artifactId>a</artifactId></dependency>",
        "Dockerfile": "FROM python:3.11 AS build\nFROM build\nFROM nginx\n",
        ".github/workflows/ci.yml": "steps:\n  - uses: actions/checkout@v4\n",
        "sub/pyproject.toml": "not = = toml",
    }
    for path, text in manifests.items():
        repository.write(path, text)
    repository.commit()
    found = step("repo_report.dependencies:declared")(str(repository.root), repository.head())
    rows = {row["path"]: row for row in found["manifests"]}
    pairs = {
        path: [(each["name"], each["constraint"]) for each in row["dependencies"]]
        for path, row in rows.items()
    }
    assert pairs["requirements.txt"] == [
        ("flask", ">=2"),
        ("lib", "git+https://x.org/a/lib.git@v1#egg=lib"),
        ("plain", ""),
    ]
    assert pairs["setup.cfg"] == [("six", ""), ("attrs", ">=1")]
    assert pairs["setup.py"] == [("a", ">1")]
    assert pairs["package.json"] == [("left-pad", "^1"), ("jest", "")]
    assert pairs["go.mod"] == [("c.org/d", "v2.0.0"), ("a.org/b", "v1.0.0")]
    assert pairs["Cargo.toml"] == [("serde", "1"), ("mine", "file:../mine")]
    assert pairs["Gemfile"] == [("rails", "~> 7"), ("puma", "")]
    assert pairs["pom.xml"] == [("g:a", "(managed)")]
    assert pairs["Dockerfile"] == [("python", "3.11"), ("nginx", "")]
    assert pairs[".github/workflows/ci.yml"] == [("actions/checkout", "v4")]
    assert "TOMLDecodeError" in rows["sub/pyproject.toml"]["error"]


@pytest.mark.parametrize(
    ("manifest", "content"),
    [
        ("package.json", "[]"),
        ("package.json", '{"dependencies": ["x"]}'),
        ("pyproject.toml", "project = 1"),
        ("pyproject.toml", "[tool]\npoetry = []"),
        ("Cargo.toml", "dependencies = 5"),
        ("setup.py", "((("),
        ("setup.cfg", "no section"),
        ("composer.json", '{"require": 1}'),
        ("package.json", "[" * 100_000),
    ],
)
def test_a_manifest_of_any_shape_is_no_failure(repository: Repository, manifest: str, content: str) -> None:
    repository.write(manifest, content)
    repository.commit()
    found = step("repo_report.dependencies:declared")(str(repository.root), repository.head())
    assert len(found["manifests"]) == 1
    assert found["manifests"][0]["error"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("# TODO: x", "TODO"),
        ("x = 1  // FIXME later", "FIXME"),
        ("  * XXX really", "XXX"),
        ("# HACK(me): x", "HACK"),
        ("state = TODO", None),
        ('label = "TODO"', None),
        ("mktemp /tmp/aXXXXXX", None),
        ("# the todo list", None),
    ],
)
def test_a_note_is_told_from_a_name(repository: Repository, line: str, kind: str | None) -> None:
    repository.write("a.py", line + "\n")
    repository.commit()
    found = step("repo_report.directory:examine")(
        str(repository.root), repository.head(), {"prefix": "", "without": [], "files": 1}
    )
    assert list(found["todos"]["kinds"]) == ([kind] if kind else [])


def test_a_note_has_the_age_of_its_line_not_of_its_file(repository: Repository) -> None:
    repository.write("a.py", "# TODO: old\n")
    repository.commit(days_ago=700)
    repository.write("a.py", "# TODO: old\nx = 1\n# TODO: new\n")
    repository.commit("Bob", days_ago=10)
    examine = step("repo_report.todos:todos")
    tree = importlib.import_module("repo_report.tree")
    head = repository.head()
    reads = tree.read_texts(str(repository.root), tree.list_files(str(repository.root), head)[0])
    rows = examine(str(repository.root), head, reads, now=NOW)["oldest"]
    assert [(row["line"], row["days"], row["author"]) for row in rows] == [(1, 700, "Ann"), (3, 10, "Bob")]


def test_dates_that_no_calendar_has_are_no_failure(repository: Repository, tmp_path: Path) -> None:
    repository.write("a.py", "# TODO: x\n")
    repository.git("add", "-A")
    tree = repository.git("write-tree").strip()
    for when in ("99999999999999 +0000", "0 +0000"):
        body = f"tree {tree}\nauthor A <a@b> {when}\ncommitter A <a@b> {when}\n\nx\n"
        (tmp_path / "commit").write_text(body)
        made = repository.git(
            "hash-object", "-t", "commit", "-w", "--literally", str(tmp_path / "commit")
        ).strip()
        repository.git("update-ref", "refs/heads/main", made)
        _, result = report(repository.root, tmp_path / "report.md")
        assert result["history"]["commits"] == 1


def test_flaky_steps_fail_as_often_as_they_say() -> None:
    fetch = step("flaky_steps:fetch")
    context = type("Context", (), {"attempt": 1, "node_id": "fetch"})()
    with pytest.raises(ConnectionError, match="attempt 1"):
        fetch("x", 2, context)
    context.attempt = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert fetch("x", 2, context)["hits"]


def test_release_notes_are_written_for_the_channel_that_a_person_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draft, write = step("approval_steps:draft"), step("approval_steps:write")
    notes = draft("1.2.0", {"exit_code": 0, "stdout": "- fix\n"})
    assert write(notes, {"channel": "beta"}) == {"path": "release-notes-1.2.0.txt", "channel": "beta"}
    assert "Channel: beta" in (tmp_path / "release-notes-1.2.0.txt").read_text()
    assert write(notes, None)["channel"] == "stable"
    with pytest.raises(ValueError, match="is no version"):
        draft("../1", {"exit_code": 0, "stdout": ""})


def test_the_steps_need_the_standard_library_only() -> None:
    code = "import sys; before = set(sys.modules); import repo_report.report, repo_report.language"
    code += "; print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=EXAMPLES, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) - {"repo_report"} <= sys.stdlib_module_names
