"""sage-research through a real client: true citations, honest emptiness, upstream's tools, a bound backend."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult, TextContent
from places import ROOT

from sage_actors.messages.backend import Backend, Completion, TokenUsage
from sage_actors.messages.errors import OperationError
from sage_actors.messages.findings import ResearchResult
from sage_actors.servers.catalog import create_server
from sage_actors.servers.research.errors import error_analysis
from sage_actors.servers.research.result import Limits
from sage_actors.servers.settings import ServerSettings
from sage_actors.servers.specification.error_text import parse_error

pytestmark = pytest.mark.requirement("ORCH-004")

RESEARCH = ("market_research", "competitive_analysis", "best_practices", "code_search", "similar_changes")
GIT = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
LIMITS = '''"""Limits for callers."""


class RateLimiter:
    """Lets each caller make so many calls a minute."""

    def allow(self, caller: str) -> bool:
        if caller in self.blocked:
            raise PermissionError(f"caller {caller} made too many calls")
        return True
'''
FILES = {
    "README.md": "# Shop\n\nA shop with an HTTP API.\n\n"
    "## Limits\n\nThere is no rate limiting for the public API yet.\n",
    "CONTRIBUTING.md": "# How we work\n\n"
    "Every endpoint of the API must have a rate limit. Never block the event loop.\n",
    "shop/limits.py": LIMITS,
    "shop/api.py": "from shop.limits import RateLimiter\n\n\ndef order(caller):\n"
    "    # TODO: rate limiting for orders\n    limiter = RateLimiter()\n    return limiter.allow(caller)\n",
    "tests/test_limits.py": "from shop.limits import RateLimiter\n\n\ndef test_a_blocked_caller_is_refused():\n"
    "    assert RateLimiter().allow('a')\n",
    "requirements.txt": "# limits\nlimits>=3\npydantic\n",
    ".sage/skills/rate-limits/SKILL.md": "---\nname: rate-limits\ndescription: How to limit the rate of an API\n---\n\n"
    "# Rate limits\n\nCount in buckets; answer 429 with Retry-After.\n",
    "docs/specs/x/spec.md": "rate limiting for the public API, as a run wrote it\n",
    ".venv/lib/python3.11/site-packages/limits-3.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: limits\n"
    "Version: 3.5\nSummary: Rate limiting utilities\nLicense-Expression: MIT\n\n",
}


def git(root: Path, *arguments: str) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    subprocess.run([*GIT, *arguments], cwd=root, env=environment, check=True, capture_output=True)


@pytest.fixture(autouse=True)
def nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No skills of who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with a history, a skill, an environment and a document that a run wrote. Only looked at."""
    root = tmp_path_factory.mktemp("projects") / "shop"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / ".gitignore").write_text(".venv/\n")
    git(root, "init", "-q")
    git(root, "add", "README.md", ".gitignore")
    git(root, "commit", "-q", "-m", "Begin")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "Limit the rate of calls\n\nOne caller took the API down.")
    return root


def using(settings: ServerSettings, talk: Callable[[Client], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with Client(create_server("sage-research", settings)) as client:
            return await talk(client)

    return asyncio.run(main())


def call(project: Path, tool: str, backend: Backend | None = None, **arguments: Any) -> CallToolResult:
    async def talk(client: Client) -> CallToolResult:
        return await client.call_tool(tool, arguments)

    answer: CallToolResult = using(ServerSettings(project, backend), talk)
    return answer


def research(project: Path, tool: str, backend: Backend | None = None, **arguments: Any) -> ResearchResult:
    answer = call(project, tool, backend, **arguments)
    assert not answer.is_error, answer.content
    return ResearchResult.model_validate(answer.structured_content)


def text_of(answer: CallToolResult) -> str:
    [block] = answer.content
    assert isinstance(block, TextContent)
    return block.text


def assert_citations_are_true(root: Path, result: ResearchResult) -> None:
    """Every cited line is there, and is the one that the finding shows."""
    for finding in result.findings:
        source, line = finding.citation.source, finding.citation.line
        if source.startswith("git:"):
            git(root, "cat-file", "-e", source.removeprefix("git:"))
            continue
        if source.startswith("package:"):
            continue
        lines = (root / source).read_text("utf-8", "replace").split("\n")
        assert line is not None
        assert line <= len(lines), finding
        cited = lines[line - 1].strip().lstrip("\ufeff")
        if finding.kind == "dependency":
            assert finding.text.split(" ")[0].lower() in cited.lower(), finding
        else:
            assert cited[:100] in finding.text, finding
    assert result.citations == list(dict.fromkeys(str(f.citation) for f in result.findings))


def test_every_tool_has_a_description_a_schema_and_says_what_it_touches(tmp_path: Path) -> None:
    async def talk(client: Client) -> Any:
        return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in using(ServerSettings(tmp_path), talk)}
    assert set(tools) == {
        *RESEARCH,
        "error_analysis",
        "skills_search",
        *(f"research_{verb}" for verb in ("query", "store", "invalidate", "stats", "cleanup")),
    }
    for tool in tools.values():
        assert tool.description
        assert len(tool.description.encode()) < 2048
        assert tool.output_schema
        assert tool.annotations is not None
    assert all(
        tools[name].annotations.read_only_hint for name in (*RESEARCH, "error_analysis", "research_query")
    )
    assert tools["research_invalidate"].annotations.destructive_hint
    assert set(tools["market_research"].output_schema["properties"]) == set(ResearchResult.model_fields)


def assert_all_are_true(root: Path) -> None:
    topic = {"topic": "rate limiting for the public API", "top": 20, "max_bytes": 40_000}

    async def ask(client: Client) -> list[CallToolResult]:
        return [await client.call_tool(tool, topic) for tool in RESEARCH]

    for answer in using(ServerSettings(root), ask):
        result = ResearchResult.model_validate(answer.structured_content)
        assert_citations_are_true(root, result)
        assert result.provenance == "local"
        assert result.evidence_level == ("cited" if result.findings else "none")
        assert not any(f.citation.source.startswith(("docs/specs/", ".sage/state")) for f in result.findings)


def test_every_citation_is_true(shop: Path) -> None:
    assert_all_are_true(shop)


@pytest.mark.slow
@pytest.mark.no_cover
def test_every_citation_is_true_in_this_repository() -> None:
    assert_all_are_true(ROOT)


def sources(result: ResearchResult) -> list[str]:
    return [str(finding.citation) for finding in result.findings]


def test_market_research_is_what_the_project_itself_says(shop: Path) -> None:
    result = research(shop, "market_research", topic="rate limiting for the public API")
    assert {"README.md:5", "shop/api.py:5"} <= set(sources(result))
    assert any(source.startswith("git:") for source in sources(result))
    assert any("local evidence only" in note for note in result.notes)


def test_of_a_list_only_the_item_on_the_topic_is_shown_at_its_own_line(tmp_path: Path) -> None:
    items = (
        "- a plugin for cookies, which is old\n- a rate limiter,\n  for all routes\n- a plugin for files\n"
    )
    (tmp_path / "README.md").write_text(f"# Plugins\n\n{items}")
    [finding] = research(tmp_path, "best_practices", topic="rate limiting").findings
    assert str(finding.citation) == "README.md:4"
    assert finding.text == "[Plugins] - a rate limiter,\n  for all routes"


def test_a_comment_is_no_call(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def limit_rate(): ...\n\n\n# limit_rate() was here\nlimit_rate()\n")
    result = research(tmp_path, "code_search", topic="limit_rate")
    assert [finding.citation.line for finding in result.findings if "calls limit_rate" in finding.text] == [5]


def test_competitive_analysis_names_version_licence_and_where_it_is_declared(shop: Path) -> None:
    [best, *_] = research(shop, "competitive_analysis", topic="rate limiting for the public API").findings
    assert str(best.citation) == "requirements.txt:2"
    assert best.text == "limits (python): declared >=3; installed or locked 3.5; MIT. Rate limiting utilities"


def test_best_practices_begin_with_the_skill_and_the_standards(shop: Path) -> None:
    result = research(shop, "best_practices", topic="rate limiting for the public API")
    assert result.findings[0].kind == "skill"
    assert result.findings[0].citation.source == ".sage/skills/rate-limits/SKILL.md"
    assert "CONTRIBUTING.md:1" in sources(result)


def test_code_search_gives_the_definition_before_its_callers_and_tests(shop: Path) -> None:
    result = research(shop, "code_search", topic="rate limiting for the public API")
    assert sources(result)[0] == "shop/limits.py:4"
    assert result.findings[0].text.startswith("RateLimiter (definition):\nclass RateLimiter:")
    assert any("calls RateLimiter, shop/limits.py:4" in finding.text for finding in result.findings)
    by_name = research(shop, "code_search", topic="RateLimiter.allow")
    assert sources(by_name)[0] == "shop/limits.py:7"


def test_similar_changes_are_commits_with_their_statistics(shop: Path) -> None:
    [best, *_] = research(shop, "similar_changes", topic="limit the rate").findings
    assert best.citation.source.startswith("git:")
    assert "One caller took the API down." in best.text
    assert "shop/limits.py" in best.text
    assert "files changed" in best.text


def test_a_traceback_leads_to_its_frames_the_message_and_the_test(shop: Path) -> None:
    error = (
        "FAILED tests/test_limits.py::test_a_blocked_caller_is_refused\n"
        "Traceback (most recent call last):\n"
        '  File "/usr/lib/python3.11/runpy.py", line 86, in _run_code\n'
        '  File "/elsewhere/checkout/shop/api.py", line 7, in order\n    return limiter.allow(caller)\n'
        '  File "/elsewhere/checkout/shop/limits.py", line 9, in allow\n'
        "PermissionError: caller bob made too many calls\n"
    )
    result = research(shop, "error_analysis", error=error)
    assert sources(result)[:3] == ["shop/limits.py:9", "shop/api.py:7", "tests/test_limits.py:4"]
    assert ">    9             raise PermissionError(" in result.findings[0].text
    assert_citations_are_true(shop, result)
    assert any("runpy.py:86" in note for note in result.notes)


def test_a_message_alone_leads_to_where_it_is_written(shop: Path) -> None:
    result = research(shop, "error_analysis", error="PermissionError: caller 'x' made too many calls")
    assert sources(result)[0] == "shop/limits.py:9"


def test_a_frame_whose_line_is_gone_is_not_cited(shop: Path) -> None:
    result = research(shop, "error_analysis", error='  File "shop/limits.py", line 900, in long_gone\n')
    assert not any(finding.citation.line == 900 for finding in result.findings)
    assert any("shop/limits.py:900" in note for note in result.notes)


@pytest.mark.parametrize(
    ("text", "frames", "messages", "tests"),
    [
        (
            "TypeError: x is not a function\n    at Object.route (/srv/lib/route.js:12:3)\n    at file:///srv/app.mjs:4:1\n",
            [("/srv/app.mjs", 4, ""), ("/srv/lib/route.js", 12, "Object.route")],
            [("TypeError", "x is not a function")],
            [],
        ),
        (
            "panic: boom\n\ngoroutine 1 [running]:\n"
            "main.run(0x1)\n\t/go/src/app/run.go:7 +0x1\nmain.main()\n\t/go/src/app/main.go:3 +0x2\n",
            [("/go/src/app/main.go", 3, "main.main"), ("/go/src/app/run.go", 7, "main.run")],
            [("panic", "boom")],
            [],
        ),
        (
            "--- FAIL: TestLimit (0.00s)\n    limit_test.go:12: got 1\n",
            [("limit_test.go", 12, "")],
            [],
            [("", "TestLimit")],
        ),
        (
            "thread 'main' panicked at src/lib.rs:4:9:\nindex out of bounds\n"
            "   2: shop::limit\n             at ./src/limit.rs:9:5\n",
            [("./src/limit.rs", 9, "shop::limit"), ("src/lib.rs", 4, "")],
            [("panicked", "index out of bounds")],
            [],
        ),
        (
            "error[E0308]: mismatched types\n --> src/main.rs:3:5\n",
            [("src/main.rs", 3, "")],
            [("error", "mismatched types")],
            [],
        ),
        ("FAILED t/test_a.py::TestA::test_b[1-x] - assert 1\n", [], [], [("t/test_a.py", "TestA::test_b")]),
        ("all is well", [], [], []),
    ],
    ids=["node", "go-panic", "go-test", "rust-panic", "rustc", "pytest", "nothing"],
)  # fmt: skip
def test_errors_of_many_languages_are_read(
    text: str,
    frames: list[tuple[str, int, str]],
    messages: list[tuple[str, str]],
    tests: list[tuple[str, str]],
) -> None:
    report = parse_error(text)
    assert [(f.path, f.line, f.function) for f in report.frames] == frames
    assert list(report.messages) == messages
    assert list(report.tests) == tests


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    ["a", "x.", "/", "'", "\n", " ", "main.f(", "at (", "export ", "a.py:", "thread '", "1: "],
    ids=repr,
)
def test_no_text_makes_reading_it_slow(unit: str) -> None:
    """Each took minutes while a pattern could begin anywhere and look to the end from there."""
    assert parse_error(unit * (200_000 // len(unit))).messages == ()


@pytest.mark.parametrize("tool", [*RESEARCH, "error_analysis"])
def test_what_nobody_wrote_about_is_not_found_and_the_notes_say_where_one_looked(
    shop: Path, tool: str
) -> None:
    said: dict[str, Any] = (
        {"error": "zygomorphic quasar"} if tool == "error_analysis" else {"topic": "zygomorphic quasar"}
    )
    result = research(shop, tool, **said)
    assert (result.findings, result.citations, result.evidence_level, result.summary) == ([], [], "none", "")
    assert any("nothing on the topic" in note for note in result.notes)


@pytest.mark.parametrize("tool", RESEARCH)
def test_an_empty_folder_gives_an_empty_answer(tmp_path: Path, tool: str) -> None:
    assert research(tmp_path, tool, topic="anything").evidence_level == "none"


def test_the_budget_holds_and_what_was_left_is_counted(tmp_path: Path) -> None:
    for n in range(60):
        (tmp_path / f"d{n}.md").write_text(
            f"# Part {n}\n\n" + f"rate limiting of part {n} and its word{n} " * 12
        )
    result = research(tmp_path, "market_research", topic="rate limiting", top=50, max_bytes=3000)
    kept = sum(len(finding.text.encode()) for finding in result.findings)
    assert 1500 < kept <= 3000
    assert result.tokens.kept_bytes <= 3000 + len(result.findings)
    assert result.tokens.raw_bytes > 20_000
    assert result.tokens.raw_tokens > result.tokens.kept_tokens > 0
    assert result.tokens.tokenizer
    assert len(research(tmp_path, "market_research", topic="rate limiting", top=2).findings) == 2


def test_four_tools_at_once_give_what_they_give_alone(shop: Path) -> None:
    topic: dict[str, Any] = {"topic": "rate limiting for the public API"}

    async def together(client: Client) -> list[CallToolResult]:
        return await asyncio.gather(*(client.call_tool(tool, topic) for tool in RESEARCH))

    answers = using(ServerSettings(shop), together)
    alone = [research(shop, tool, **topic) for tool in RESEARCH]
    assert [ResearchResult.model_validate(answer.structured_content) for answer in answers] == alone


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("code_search", {}),
        ("code_search", {"topic": ""}),
        ("code_search", {"topic": "   "}),
        ("code_search", {"topic": "x", "top": 0}),
        ("code_search", {"topic": "x" * 200_001}),
        ("research_query", {"topic": ""}),
        ("research_store", {"topic": "x", "findings": "y", "confidence": 7}),
        ("no_such_tool", {}),
    ],
)
def test_bad_arguments_are_tool_errors(tmp_path: Path, tool: str, arguments: dict[str, Any]) -> None:
    assert call(tmp_path, tool, **arguments).is_error


@pytest.mark.parametrize(
    "topic", ["'; DROP TABLE x; --", '"unclosed OR (', "日本語", "a\ud800b", "NEAR(x y) AND *"]
)
def test_no_topic_breaks_the_search(shop: Path, topic: str) -> None:
    assert (
        research(shop, "code_search", topic=topic.encode("utf-8", "replace").decode()).operation
        == "code_search"
    )


# --- upstream's five tools ---


@pytest.mark.requirement("ORCH-010")
def test_stored_research_is_answered_as_upstream_does(tmp_path: Path) -> None:
    assert text_of(call(tmp_path, "research_query", topic="C#")) == (
        '{"cached":false,"topic":"C#","message":"No cached research found for this topic"}'
    )
    assert text_of(call(tmp_path, "research_store", topic="C#", findings="é\n", confidence=1)) == (
        '{"success":true,"topic":"C#","message":"Research cached successfully for topic: C#"}'
    )
    found = json.loads(text_of(call(tmp_path, "research_query", topic="C#")))
    assert list(found) == ["cached", "topic", "findings", "age", "metadata", "accessCount"]
    assert (found["findings"], found["age"], found["accessCount"]) == ("é\n", "Cached just now", 1)
    assert list(found["metadata"]) == ["source", "confidence", "lastUpdated"]
    assert '"confidence":1,' in text_of(call(tmp_path, "research_query", topic="C#"))
    statistics = json.loads(text_of(call(tmp_path, "research_stats")))
    assert list(statistics) == ["totalEntries", "totalSize", "hitRate", "oldestEntry", "newestEntry"]
    assert (statistics["totalEntries"], statistics["hitRate"]) == (1, "66.7%")
    assert text_of(call(tmp_path, "research_invalidate", topic="C#")) == (
        '{"success":true,"topic":"C#","message":"Cache invalidated for topic: C#"}'
    )
    assert text_of(call(tmp_path, "research_invalidate", topic="C#")) == (
        '{"success":false,"topic":"C#","message":"No cache entry found for topic: C#"}'
    )
    assert text_of(call(tmp_path, "research_cleanup")) == (
        '{"success":true,"removedEntries":0,"message":"Cleaned up 0 expired cache entries"}'
    )


# --- with a backend ---


class Scripted:
    """A backend that says what it was told to."""

    name = "llm:scripted"

    def __init__(self, value: Any) -> None:
        self.value, self.prompts = value, list[str]()

    async def complete(self, prompt: str, schema: Mapping[str, Any] | None = None) -> Completion:
        self.prompts.append(prompt)
        if isinstance(self.value, Exception):
            raise self.value
        return Completion(self.value, TokenUsage(120, 8, 0.25))


def sentence(text: str, *findings: int) -> dict[str, Any]:
    return {"text": text, "findings": list(findings)}


def test_a_backends_sentences_keep_their_citations_and_its_usage_is_told(shop: Path) -> None:
    backend = Scripted(
        {"sentences": [sentence("Limits exist\nfor callers.", 2, 1), sentence("Invented.", 99)]}
    )
    answer = call(shop, "code_search", backend, topic="rate limiting")
    result = ResearchResult.model_validate(answer.structured_content)
    assert result.summary == "Limits exist for callers. [1][2]"
    assert (result.provenance, result.evidence_level) == ("llm:scripted", "inferred")
    assert any(note.startswith("1 of what llm:scripted said was left out") for note in result.notes)
    assert answer.meta is not None
    assert answer.meta["sage/usage"] == {"input_tokens": 120, "output_tokens": 8, "cost": 0.25}
    assert "class RateLimiter" in backend.prompts[0]
    assert_citations_are_true(shop, result)


@pytest.mark.parametrize(
    "value",
    [
        {"sentences": [sentence("No citation.")]},
        {"sentences": [sentence("Zero.", 0)]},
        {"sentences": "many"},
        "a text",
        None,
        OperationError("the model is asleep"),
    ],
)
def test_what_a_backend_cannot_cite_is_not_said(shop: Path, value: Any) -> None:
    plain = research(shop, "code_search", topic="rate limiting")
    result = research(shop, "code_search", Scripted(value), topic="rate limiting")
    assert (result.summary, result.provenance, result.evidence_level) == (plain.summary, "local", "cited")
    assert len(result.notes) == len(plain.notes) + 1


def test_without_findings_no_backend_is_asked(shop: Path) -> None:
    backend = Scripted({"sentences": []})
    assert research(shop, "code_search", backend, topic="zygomorphic quasar").evidence_level == "none"
    assert backend.prompts == []


MOVED = """Traceback (most recent call last):
  File "/elsewhere/shop/client.py", line {line}, in send
    raise TooMany(limit)
    ^^^^^^^^^^^^^^^^^^^^
shop.errors.TooMany: 11
"""


@pytest.mark.parametrize(("line", "cited"), [(4, 4), (3, 4), (5, 4), (900, 4)])
def test_a_frame_whose_line_has_moved_is_found_by_what_it_quotes(
    tmp_path: Path, line: int, cited: int
) -> None:
    text = "import x\n\ndef send(limit):\n    raise TooMany(limit)\n\ndef other():\n    pass\n"
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "client.py").write_text(text)
    first = error_analysis(tmp_path, MOVED.format(line=line), Limits(10)).findings[0]
    assert str(first.citation) == f"shop/client.py:{cited}"
    assert (f"line {line} then" in first.text) == (line != cited)


def test_a_frame_beyond_the_end_of_its_file_leads_to_its_function(tmp_path: Path) -> None:
    [frame] = parse_error('  File "a.py", line 90, in Client.send\n').frames
    assert frame.line_in(["class Client:", "    async def send(self):", "        pass"]) == 2
    assert frame.line_in(["x = 1"]) is None
