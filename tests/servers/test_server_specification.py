"""Specifications: every claim has its place, nothing is invented, and any input gives a document."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from spec_projects import (
    FINDING,
    assert_citations_exist,
    go_project,
    monorepo,
    python_project,
    rust_project,
    ts_project,
    write,
)

from sage_actors.messages.backend import Completion, TokenUsage
from sage_actors.messages.errors import OperationError
from sage_actors.servers.corpus.sources import Sources
from sage_actors.servers.settings import ServerSettings
from sage_actors.servers.specification import tests as covering
from sage_actors.servers.specification.enhancement import measure
from sage_actors.servers.specification.error_text import parse_error
from sage_actors.servers.specification.markdown import Document, block, code, plain, unmarked
from sage_actors.servers.specification.places import spots
from sage_actors.servers.specification.server import create_server
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.topic import Topic, split_name, stem
from sage_actors.servers.specification.words import WordIndex

TOPIC = "rate limiting for the public API"


class Drafter:
    """A backend that answers what it is given, or raises it."""

    name = "llm:test"

    def __init__(self, value: Any) -> None:
        self.value = value
        self.prompts: list[str] = []

    async def complete(self, prompt: str, schema: Mapping[str, Any] | None = None) -> Completion:
        self.prompts.append(prompt)
        if isinstance(self.value, Exception):
            raise self.value
        return Completion(self.value, TokenUsage(100, 20, 0.5))


def create(
    project: Path, backend: Drafter | None = None, **arguments: Any
) -> tuple[dict[str, Any], str, Any]:
    """The result, the document and the result's meta, through a client."""

    async def run() -> tuple[dict[str, Any], Any]:
        async with Client(create_server(ServerSettings(project, backend))) as client:
            result = await client.call_tool("specification_create", {"topic": TOPIC, **arguments})
        assert not result.is_error, result.content
        assert result.structured_content is not None
        return result.structured_content, result.meta

    result, meta = anyio.run(run)
    return result, (project / result["path"]).read_text(encoding="utf-8"), meta


def refuse(project: Path, **arguments: Any) -> str:
    """The text of the error that the tool answers with."""

    async def run() -> Any:
        async with Client(create_server(ServerSettings(project))) as client:
            return await client.call_tool("specification_create", {"topic": TOPIC, **arguments})

    result = anyio.run(run)
    assert result.is_error
    return str(result.content[0].text)


@pytest.mark.requirement("ORCH-018")
@pytest.mark.parametrize("make", [python_project, ts_project, go_project, rust_project])
@pytest.mark.parametrize("kind", ["feature", "bugfix", "enhancement"])
def test_every_citation_of_every_kind_leads_to_a_line(
    tmp_path: Path, make: Callable[[Path], Path], kind: str
) -> None:
    project = make(tmp_path)
    result, text, _ = create(project, kind=kind)
    assert assert_citations_exist(project, text) > 3
    assert result["path"] == "docs/specs/rate-limiting-for-the-public-api/spec.md"
    assert (result["provenance"], result["evidence_level"]) == ("local", "cited")
    assert {place for r in result["requirements"] for place in r["rests_on"]} <= set(result["citations"])


@pytest.mark.parametrize(
    ("make", "mechanism"),
    [
        (python_project, "Client.add_middleware"),
        (ts_project, "addHook"),
        (go_project, "Engine.Use"),
        (rust_project, "register_plugin"),
    ],
)
def test_a_new_thing_goes_where_the_project_can_be_extended(
    tmp_path: Path, make: Callable[[Path], Path], mechanism: str
) -> None:
    result, text, _ = create(make(tmp_path))
    assert mechanism in [place["symbol"] for place in result["places"]]
    (proposed,) = [r for r in result["requirements"] if "mechanism that is there" in r["text"]]
    assert mechanism in proposed["text"]
    assert proposed["status"] == "proposed"
    assert "stand together in no line of its code" in text


def test_requirements_say_what_the_project_itself_says(tmp_path: Path) -> None:
    result, text, _ = create(python_project(tmp_path), topic="a larger retry limit")
    texts = {r["id"]: (r["status"], r["text"]) for r in result["requirements"]}
    said = " ".join(text for _, text in texts.values())
    assert texts["FR-1"][0] == "asked"
    assert "a larger retry limit" in texts["FR-1"][1]
    assert "must never be larger than ten attempts” (`docs/usage.md:3`)" in said.replace(".” (", "” (")
    assert "Python >=3.11 (`pyproject.toml:5`)" in said
    assert "subclass of `ShopError` (`src/shop/errors.py:1`), as 2 of the 3" in said
    assert "`ruff check .` (`pyproject.toml:14`)" in said
    assert "`CHANGELOG.md:3`" in said
    assert "python -m pytest -q tests/test_client.py" in text
    assert re.search(r"`git:[0-9a-f]{12}` .*Bound the retry limit", text)


def test_the_same_inputs_give_the_same_document(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    _, first, _ = create(project)
    result, second, _ = create(project)
    assert second == first
    assert result["document"] == "unchanged"


def test_a_persons_edits_are_kept_beside_the_new_document(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    result, text, _ = create(project)
    (project / result["path"]).write_text(text.replace("## Summary", "## Summary, mine"))
    again, new, _ = create(project)
    assert new == text
    assert "## Summary, mine" in (project / again["backup"]).read_text()


def test_an_empty_project_gets_a_document_that_determines_nothing(tmp_path: Path) -> None:
    result, text, _ = create(tmp_path)
    assert text.count("Not determined: ") >= 5
    assert [r["id"] for r in result["requirements"]] == ["FR-1"]
    assert result["citations"] == []
    assert result["evidence_level"] == "none"
    assert "there is no git history here" in text


@pytest.mark.parametrize(
    "research",
    [
        None,
        [],
        [None, None],
        ["text", 3, {}],
        [{"findings": None}],
        [{"findings": [{}, None, {"citation": 5}]}],
        {"findings": "x"},
        [
            {
                "operation": 7,
                "findings": [{"text": "x", "citation": {"source": []}, "score": "high"}],
                "notes": 4,
            }
        ],
        [{"findings": [{"text": "x", "citation": {"source": "src/shop/client.py", "line": "1"}}]}],
    ],
)
def test_research_that_is_absent_or_garbage_still_gives_a_document(tmp_path: Path, research: Any) -> None:
    project = python_project(tmp_path)
    result, text, _ = create(project, research=research, patterns=research, skills=research)
    assert assert_citations_exist(project, text) > 3
    if research and None in research:
        assert any("were null" in note for note in result["notes"])


def test_findings_of_research_are_used_and_false_places_are_counted(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    false = [
        {**FINDING, "citation": {"source": source, "line": line}}
        for source, line in [
            ("src/shop/client.py", 999),
            ("../../etc/passwd", 1),
            ("/etc/passwd", 1),
            ("gone.py", 2),
            ("git:abcdef0", None),
        ]
    ]
    research = [{"operation": "code_search", "findings": [FINDING, *false], "notes": ["no network"]}]
    result, text, _ = create(project, research=research)
    assert "found by code_search" in text
    assert "passwd" not in text
    assert "5 findings were left out: their places are not in the project" in result["notes"]
    assert "research: no network" in result["notes"]


def test_patterns_become_constraints_and_requirements(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    examples = [
        {"file": "gone.py", "line": 1, "text": ""},
        {"file": "src/shop/client.py", "line": 6, "text": ""},
    ]
    patterns = {
        "patterns": [
            {
                "statement": "Functions have type hints (9 of 9).",
                "category": "types",
                "total": 9,
                "citations": examples,
            },
            {"statement": "Tests use pytest.", "category": "testing", "total": 3, "citations": []},
            {
                "statement": "Types are in PascalCase (1 of 1).",
                "category": "naming",
                "total": 1,
                "citations": examples,
            },
            {"statement": "From nowhere.", "category": "types", "citations": []},
        ]
    }
    _, text, _ = create(project, patterns=patterns)
    assert "| Types | Functions have type hints (9 of 9). | `src/shop/client.py:6` |" in text
    assert "| Tests | Tests use pytest. | counted over its sources |" in text
    assert "From nowhere" not in text
    assert "PascalCase" not in text  # of one thing nobody knows whether it is a habit


TRACEBACK = """Traceback (most recent call last):
  File "/home/someone/app.py", line 3, in <module>
    Client(retry_limit=11).send("/a")
  File "/venv/lib/python3.12/site-packages/shop/client.py", line 13, in send
    raise TooMany("the retry limit is too large")
shop.errors.TooMany: the retry limit is too large
FAILED tests/test_client.py::test_limit
"""


def test_a_bugfix_leads_from_the_traceback_to_the_line_and_its_test(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    result, text, _ = create(project, topic=TRACEBACK, kind="bugfix")
    assert ">  13              raise TooMany" in re.sub(r"> +13", ">  13", text)
    assert result["places"][0]["symbol"] == "Client.send"
    assert "innermost frame" in result["places"][0]["reason"]
    assert "python -m pytest -q tests/test_client.py::test_limit" in text
    assert "1 of 3 frames" in text or "1 of 2 frames" in text
    assert_citations_exist(project, text)


def test_only_frames_of_the_project_tell_of_another_version(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    _, text, _ = create(project, topic=TRACEBACK, kind="bugfix")
    assert "1 of 2 frames leads out of this project." in text
    assert "Does the report come from this version?" not in text
    gone = TRACEBACK.replace('client.py", line 13, in send', 'client.py", line 999, in gone')
    gone = gone.replace("    raise TooMany", "    raise NoMore")
    _, text, _ = create(project, topic=gone, kind="bugfix")
    assert "1 of 2 frames leads to lines that its files no longer have." in text
    assert "Does the report come from this version?" in text


def test_the_innermost_frame_is_the_first_suspect_whatever_research_found(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    write(project, {"src/shop/app.py": "from shop import Client\n\n\ndef main():\n    Client().send('/a')\n"})
    report = TRACEBACK.replace("/home/someone/app.py", "/srv/src/shop/app.py").replace(
        "line 3, in <module>", "line 5, in main"
    )
    findings = [{**FINDING, "citation": {"source": "src/shop/app.py", "line": 5}}]
    research = [{"operation": name, "findings": findings} for name in ("error_analysis", "code_search")]
    _, text, _ = create(project, topic=report, kind="bugfix", research=research)
    assert "**First suspect:** `Client.send`" in text
    assert "2. `main` (`src/shop/app.py:5`): on the stack; found by error_analysis" in text


def test_a_bug_without_frames_is_found_by_the_words_of_its_message(tmp_path: Path) -> None:
    result, text, _ = create(
        python_project(tmp_path), topic="it says: the retry limit is too large", kind="bugfix"
    )
    assert result["places"][0]["symbol"] == "Client.send"
    assert any("no frame in this project" in question for question in result["open_questions"])
    assert "`src/shop/client.py:13`" in text


@pytest.mark.parametrize("named", ["Client.send", "(*Client).send", "Client::send", "send()"])
def test_a_definition_that_the_report_names_is_the_first_suspect(tmp_path: Path, named: str) -> None:
    result, text, _ = create(python_project(tmp_path), topic=f"it hangs in {named} at times", kind="bugfix")
    assert result["places"][0]["symbol"] == "Client.send"
    assert "the report names it" in text


def test_an_enhancement_states_the_figures_before(tmp_path: Path) -> None:
    _, text, _ = create(python_project(tmp_path), topic="error handling of the client", kind="enhancement")
    row = next(line for line in text.splitlines() if line.startswith("| `src/shop/client.py:1`"))
    assert row == "| `src/shop/client.py:1` | 21 | 4 | 2 | - | 2 | 0 | `tests/test_client.py:1` |"


def test_text_of_the_repository_cannot_become_markup(tmp_path: Path) -> None:
    project = write(
        tmp_path,
        {"a.py": "def rate_limit():\n    '''</td><script>x</script> `a` ```b [l](http://e) | pipe'''\n"},
    )
    _, text, _ = create(project, topic="rate limit\n# Heading <img src=x>")
    assert "<script>" not in re.sub(r"`[^`\n]*`", "", text).replace("\\<", "")
    assert "\n# Heading" not in text.partition("```")[0]
    assert code("a``b`") == "``` a``b` ```"
    assert block(["```"])[0] == "````"
    assert plain("*a* <b> [c](d)") == "\\*a\\* \\<b> \\[c\\](d)"


def test_a_place_that_is_not_there_cannot_be_cited(tmp_path: Path) -> None:
    document = Document(Sources(write(tmp_path, {"a.py": "x = 1\n"})))
    assert document.at("a.py", 1) == "`a.py:1`"
    for source, line in [("a.py", 2), ("b.py", 1), ("../a.py", 1), ("git:0123456789", None)]:
        with pytest.raises(ValueError, match="not in the project"):
            document.at(source, line)


def test_hostile_files_are_no_evidence(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    (project / "src/shop/rate_limit.py").symlink_to("/etc/hostname")
    (project / b"src/shop/rate_limit_\xff.py".decode("utf-8", "surrogateescape")).write_text(
        "def rate_limit(): pass\n"
    )
    (project / "src/shop/rate_limit_b.py").write_bytes(b"\0def rate_limit(): pass")
    (project / "src/shop/broken.py").write_bytes(b"def rate_limit(:\n\xff\xfe")
    _, text, _ = create(project)
    assert "rate_limit_" not in text
    assert "`src/shop/broken.py:1`" in text


@pytest.mark.parametrize(
    "arguments", [{"output": "../out.md"}, {"output": "spec.txt"}, {"slug": "../x"}, {"slug": "A b"}]
)
def test_a_wrong_place_is_an_error_that_says_so(tmp_path: Path, arguments: dict[str, str]) -> None:
    assert "is no" in refuse(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_draft_is_added_and_its_false_citations_are_taken_out(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    draft = {
        "sections": [
            {
                "title": "Design <b>",
                "body": "# Big\nUse `src/shop/client.py:16` and src/shop/limits.py:7 <script>.",
            }
        ],
        "requirements": [
            {
                "kind": "FR",
                "text": "Ten a second",
                "acceptance": ["it is so"],
                "citations": ["src/shop/client.py:16", "x.py:1"],
            }
        ],
        "open_questions": ["Per client?"],
    }
    backend = Drafter(draft)
    result, text, meta = create(project, backend)
    assert "`src/shop/client.py:16`" in backend.prompts[0]
    assert not [word for word in ("limits.py", "x.py", "<script>") if word in text]
    assert "2 citations of the draft were removed: the evidence does not have them" in result["notes"]
    assert (result["provenance"], result["evidence_level"]) == ("llm:test", "inferred")
    assert result["requirements"][-1]["rests_on"] == ["src/shop/client.py:16"]
    assert "Per client?" in result["open_questions"]
    assert meta["sage/usage"] == {"input_tokens": 100, "output_tokens": 20, "cost": 0.5}
    assert_citations_exist(project, text)


@pytest.mark.parametrize("value", [OperationError("quota"), "no object", {"sections": "x"}, None])
def test_a_backend_that_fails_leaves_the_document_from_evidence(tmp_path: Path, value: Any) -> None:
    project = python_project(tmp_path)
    _, alone, _ = create(project)
    result, text, _ = create(project, Drafter(value))
    assert text == alone
    assert result["provenance"] == "local"
    assert any("from the evidence alone" in note for note in result["notes"])


def test_a_topic_is_read_into_a_thing_and_a_place() -> None:
    topic = Topic(TOPIC)
    assert (topic.thing, topic.place) == ("rate limiting", "public API")
    assert stem("limiting") == stem("limiter") == stem("limits") == stem("limit")
    assert stem("rate") != stem("rather")


def test_the_tool_describes_itself_within_what_hosts_read(tmp_path: Path) -> None:
    async def run() -> Any:
        async with Client(create_server(ServerSettings(tmp_path))) as client:
            return (await client.list_tools()).tools

    (tool,) = anyio.run(run)
    assert 100 < len(tool.description.encode()) < 2000
    assert tool.output_schema["properties"]["requirements"]


def test_what_the_documentation_offers_already_is_the_first_question(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    line = "- [shop-limit](https://example.org/shop-limit) does rate limiting\n  for every client.\n"
    write(project, {"docs/ecosystem.md": f"# Ecosystem\n\n{line}"})
    result, text, _ = create(project)
    assert result["open_questions"][0] == (
        "Does this not do it already: “shop-limit (https://example.org/shop-limit) does rate limiting"
        " for every client.” (`docs/ecosystem.md:3`)?"
    )
    assert_citations_exist(project, text)


def test_one_word_of_several_makes_no_place_to_begin(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    write(project, {"src/shop/body.py": "def check_body_limit() -> None:\n    pass\n"})
    result, text, _ = create(project)
    assert "check_body_limit" in text
    assert "check_body_limit" not in [place["symbol"] for place in result["places"]]
    result, _, _ = create(project, topic="body limit")
    assert result["places"][0]["symbol"] == "check_body_limit"


def test_a_report_from_another_version_is_asked_about(tmp_path: Path) -> None:
    text = '  File "src/shop/client.py", line 13, in resend\nValueError: no'
    result, _, _ = create(python_project(tmp_path), topic=text, kind="bugfix")
    assert any(
        question.startswith("Which version is the report from?") for question in result["open_questions"]
    )


PACKAGE = {
    "src/net/__init__.py": "from ._client import *\n\n__all__ = ['Client']\n",
    "src/net/_client.py": (
        "class BaseClient:\n    def event_hooks(self): ...\n    def _hooks(self): ...\n\n"
        "class Client(BaseClient):\n    def get(self): ...\n\nclass Hidden:\n    def mount_hooks(self): ...\n"
    ),
    "src/net/_open_api.py": "class OpenAPIResponse: ...\n",
    "README.md": "# Net\n\nUse the `Client`.\n",
}


def test_what_a_package_exports_from_its_private_modules_is_its_public_surface(tmp_path: Path) -> None:
    survey = Study(write(tmp_path, PACKAGE), "rate limiting for the public API", "feature").survey
    assert [each.name for each in survey.surface] == ["Client"]
    assert [each.name for each in survey.extension_points] == ["BaseClient.event_hooks"]


def test_words_for_the_public_surface_are_no_part_of_longer_names(tmp_path: Path) -> None:
    result, text, _ = create(write(tmp_path, PACKAGE))
    assert "OpenAPIResponse" not in text
    assert not any("What is meant by" in question for question in result["open_questions"])


def test_the_thing_is_found_under_another_word_of_the_trade(tmp_path: Path) -> None:
    files = {"actor.py": "class Actor: ...\nclass ActorInbox: ...\nclass ActorThread: ...\n"}
    survey = Study(write(tmp_path, files), "bounded mailboxes for actors", "feature").survey
    best = survey.candidates[0]
    assert (best.symbol.name, best.reasons) == ("ActorInbox", ["named after “actors”, akin to “mailboxes”"])


def test_what_is_derived_from_the_place_already_is_shown_as_a_model(tmp_path: Path) -> None:
    files = {
        "shells.py": "class ShellComplete: ...\nclass BashComplete(ShellComplete): ...\nclass Other: ...\n",
        "zsh.py": "from shells import ShellComplete\n\nclass ZshComplete(ShellComplete): ...\n",
    }
    _, text, _ = create(write(tmp_path, files), topic="shell complete for nushell")
    [line] = [line for line in text.split("\n") if line.startswith("Derived from `ShellComplete`")]
    assert "`BashComplete` (`shells.py:2`), `ZshComplete` (`zsh.py:3`)" in line


def test_what_a_docstring_says_is_quoted_to_the_end_of_its_sentence(tmp_path: Path) -> None:
    files = {
        "limit.py": 'def rate_limit():\n    """Slow down the calls that\n    are too many. And more."""\n'
    }
    _, text, _ = create(write(tmp_path, files))
    assert "“Slow down the calls that are too many. And more.”" in text


QUALITY = {
    "method": "cyclomatic",
    "hot_spots": [
        {
            "file": "src/shop/errors.py",
            "line": 1,
            "complexity": 41,
            "commits": 1,
            "worst_function": "f",
            "worst_complexity": 9,
        },
        {
            "file": "gone.py",
            "line": 1,
            "complexity": 99,
            "commits": 9,
            "worst_function": "g",
            "worst_complexity": 9,
        },
        {"file": "src/shop/client.py", "line": 9, "complexity": 7, "commits": None},
        "garbage",
    ],
    "complex_functions": [
        {
            "name": "Client.send",
            "file": "src/shop/client.py",
            "line": 10,
            "lines": 5,
            "complexity": 2,
            "nesting": 1,
        },
        {"name": "far", "file": "src/shop/client.py", "line": 999, "lines": 5, "complexity": 2, "nesting": 1},
    ],
    "repetitions": [
        {"lines": 9, "places": ["src/shop/client.py:7", "src/shop/errors.py:1", "/etc/passwd:1"]}
    ],
}


def test_an_enhancement_rests_on_the_hot_spots_that_were_measured(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    _, text, _ = create(project, topic="clearer errors of send", kind="enhancement", research=[QUALITY])
    assert "**Most to gain:** `src/shop/errors.py`" in text
    assert "complexity 41" in text
    assert "`Client.send` (`src/shop/client.py:10`): complexity 2, 5 lines, nested 1 deep" in text
    assert "- `src/shop/client.py:7`, `src/shop/errors.py:1`" in text
    assert not any(word in text for word in ("gone.py", "far", "passwd"))
    assert_citations_exist(project, text)


@pytest.mark.parametrize(
    "garbage", [3, "x", [None], [{}], [{"file": 3}], [{"file": "src/shop/client.py", "line": True}]]
)
def test_measures_that_are_garbage_measure_nothing(tmp_path: Path, garbage: Any) -> None:
    research = [dict.fromkeys(("hot_spots", "complex_functions", "repetitions"), garbage)]
    _, text, _ = create(python_project(tmp_path), kind="enhancement", research=research)
    assert "The most complex functions" not in text
    assert "The same code" not in text


@pytest.mark.parametrize(
    ("topic", "stems", "words"),
    [
        ("Größe prüfen", ("größ", "prüfen"), ["Größe", "prüfen"]),
        ("ограничение скорости", ("ограничение", "скорости"), ["ограничение", "скорости"]),
        ("限速 API", ("限速", "api"), ["限速", "API"]),
        ("请求限速API", ("请求", "求限", "限速", "api"), ["请求限速", "API"]),
        ("rate_limit C++", ("rat", "limit", "c++"), ["rate", "limit", "C++"]),
    ],
)
def test_a_topic_in_any_script_has_whole_words(topic: str, stems: tuple[str, ...], words: list[str]) -> None:
    read = Topic(topic)
    assert read.stems == stems
    assert read.words_of(read.stems) == words


def test_names_in_any_alphabet_are_parted_at_their_humps() -> None:
    assert split_name("GrößePrüfen_ДляAPI") == ("größe", "prüfen", "для", "api")
    assert split_name("check_限速器2") == ("check", "限速", "速器", "2")


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("Größe prüfen", "they stand together in 1 line of documentation (`docs/g.md:1`)"),
        ("限速", "“限速” stands in 1 line of code (`src/a.py:1`), 1 line of documentation (`docs/g.md:3`)"),
        ("请求限速器", "it stands in 1 line of documentation (`docs/g.md:3`)"),
        ("проверка размера", "stand together in 1 line of documentation (`docs/g.md:5`)"),
    ],
)
def test_a_topic_is_found_in_any_script(tmp_path: Path, topic: str, said: str) -> None:
    files = {
        "src/a.py": "# 限速\ndef check(n):\n    return n\n",
        "docs/g.md": "Wir wollen die Größe von allem prüfen.\n\n公共接口的请求限速在这里说明。\n\n"
        "Здесь проверка размера описана словами.\n",
    }
    project = write(tmp_path, files)
    _, text, _ = create(project, topic=topic)
    (line,) = [line for line in text.splitlines() if "Is it there already" in line]
    assert said in line
    assert "What is written about it:" in text
    assert_citations_exist(project, text)


def test_roles_of_a_domain_are_unmarked() -> None:
    assert (
        unmarked("Raise a :py:exc:`RuntimeError` on missing :attr:`~a.b`.")
        == "Raise a RuntimeError on missing a.b."
    )


@pytest.mark.parametrize(
    ("topic", "title"), [("🚀🔥", "🚀🔥"), (".", "."), ("Add a cache\nof answers", "Add a cache of answers")]
)
def test_the_whole_topic_is_the_title(tmp_path: Path, topic: str, title: str) -> None:
    _, text, _ = create(python_project(tmp_path), topic=topic)
    assert f'topic: "{title}"\n' in text
    assert f"# Specification: {title}\n" in text


def research_item(source: str, line: int, text: str) -> dict[str, Any]:
    item = {"text": text, "kind": "code", "citation": {"source": source, "line": line}, "score": 2.0}
    return {"operation": "code_search", "findings": [item]}


def test_what_research_found_is_not_said_to_lack_the_words_that_it_has(tmp_path: Path) -> None:
    files = {"src/a.py": "import x\n", "src/b.py": "import y\n", "examples/c.py": "class Again:\n    pass\n"}
    project = write(tmp_path, files)
    research = [
        research_item("src/a.py", 1, "retries what failed"),
        research_item("src/b.py", 1, "begins anew"),
        research_item("examples/c.py", 1, "Retries each failed call."),
    ]
    _, text, _ = create(project, topic="retry failed calls", research=research)
    worded, other = text.partition("Also found, under other words than those of the topic:")[::2]
    assert "`src/a.py:1`" in worded.partition("Also found, by words of the topic in what they say:")[2]
    assert "`src/b.py:1`" in other.partition("##")[0]
    assert "Examples that have its words, to be read as models: `Again` (`examples/c.py:1`)." in text


def test_what_stands_in_the_place_that_the_topic_names_comes_first(tmp_path: Path) -> None:
    files = {
        "src/web.py": "def middleware(f):\n    return f\n",
        "src/client_hooks.py": "class CallMiddleware:\n    pass\n",
        "docs/a.md": "middleware middleware middleware\n",
    }
    project = write(tmp_path, files)
    result, _, _ = create(project, topic="backoff in the client")
    assert [place["path"] for place in result["places"]][:1] == ["src/client_hooks.py"]
    result, _, _ = create(project, topic="backoff in the scheduler")
    assert [place["path"] for place in result["places"]][:1] == ["src/web.py"]


def test_overloads_are_told_once_by_the_one_with_words(tmp_path: Path) -> None:
    source = (
        "class Client:\n    @overload\n    def request(self): ...\n\n    def request(self):\n"
        '        """Ask for it."""\n'
    )
    result, text, _ = create(write(tmp_path, {"src/client.py": source}), topic="request")
    (place,) = result["places"]
    assert place["line"] == 5
    assert "`Client.request` (`src/client.py:5`)." in text


def test_a_comment_is_quoted_to_the_end_of_its_sentence(tmp_path: Path) -> None:
    source = (
        "package a\n\n// Use hooks in what will be\n// called later. It is fast.\nfunc Use() {}\n\n"
        "// Handling of hooks\n// If there is none it waits.\nfunc Handle() {}\n"
    )
    project = write(tmp_path, {"go.mod": "module a\n", "a.go": source})
    _, text, _ = create(project, topic="hooks")
    assert "“Use hooks in what will be called later. It is fast.”" in text
    _, text, _ = create(project, topic="handle")
    assert "“Handling of hooks”" in text


def test_in_a_monorepo_habits_and_settings_are_of_the_part_that_is_touched(tmp_path: Path) -> None:
    files = {
        "package.json": '{"name": "all", "workspaces": ["parts/*"]}',
        "parts/web/package.json": '{"name": "web"}',
        "parts/web/src/server.ts": "export interface ServerOptions {}\nexport function serveAll() {}\n",
        "parts/web/README.md": "# Web\n\nThe web has no ConnectionPool, but speaks of it.\n",
        "parts/client/pyproject.toml": '[project]\nname = "client"\n',
        "parts/client/src/pool.py": "class ConnectionPool:\n    pass\n\n\nclass PoolConfig:\n    pass\n",
        "parts/client/README.md": "# Client\n\nIt has a ConnectionPool.\n",
    }
    habits = [
        {"statement": f"Functions are named {style}.", "category": "naming", "language": language, "total": 9}
        for style, language in (("camelCase", "typescript"), ("snake_case", "python"), ("well", "project"))
    ]
    _, text, _ = create(
        write(tmp_path, files), topic="metrics of the connection pool", patterns={"patterns": habits}
    )
    assert "Functions are named snake_case." in text
    assert "Functions are named well." in text
    assert "camelCase" not in text
    assert "Configuration that is there: `class PoolConfig`" in text
    assert "ServerOptions" not in text
    (written,) = (line for line in text.splitlines() if "written down" in line)
    assert "parts/client/README.md" in written
    assert "parts/web" not in written


@pytest.mark.parametrize(
    ("source", "is_hook"),
    [
        ("func (c *Command) Use(f Handler) {}", True),
        ("func (c *Command) UseLine() string {}", False),
        ("func (c *Command) UseMiddleware(f Handler) {}", True),
    ],
)
def test_use_is_a_hook_only_as_a_whole_name(tmp_path: Path, source: str, is_hook: bool) -> None:
    project = write(tmp_path, {"go.mod": "module a\n", "a.go": f"package a\n\n{source}\n"})
    result, _, _ = create(project, topic="prompts for users")
    assert bool(result["places"]) == is_hook


def test_an_attribute_of_rust_is_no_comment(tmp_path: Path) -> None:
    source = '#[cfg(feature = "cookies of all kinds")]\npub fn cookies() {}\n'
    _, text, _ = create(
        write(tmp_path, {"Cargo.toml": '[package]\nname = "a"\n', "src/lib.rs": source}), topic="cookies"
    )
    assert "`src/lib.rs:2`" in text
    assert "cfg(" not in text


def test_what_is_quoted_has_the_rare_words_of_the_topic_first(tmp_path: Path) -> None:
    """Of "route request timeouts" the documentation of a web framework has two words on every page."""
    common = "".join(
        f"Every request that should reach route {at} must be sent to it by name.\n\n" for at in range(30)
    )
    files = {
        "docs/a.md": f"# Routes\n\n{common}",
        "docs/b.md": "# Limits\n\n> A request of a route should have a timeout\n> that its handler knows.\n",
        "src/app.py": "def serve(request, route):\n    return route(request)\n",
    }
    _, text, _ = create(write(tmp_path, files), topic="per-route request timeouts")
    quoted = [line for line in text.splitlines() if line.startswith("- “")]
    assert (
        quoted[0] == "- “A request of a route should have a timeout that its handler knows.” (`docs/b.md:3`)"
    )
    (written,) = (line for line in text.splitlines() if "keeps to what is written" in line)
    assert "docs/b.md:3" in written


def test_what_is_there_under_half_of_its_name_is_cited(tmp_path: Path) -> None:
    source = "def send(request, retries=0):\n    return request\n"
    project = write(
        tmp_path, {"src/transport.py": source, "README.md": "# A client\n\nIt sends a request.\n"}
    )
    _, text, _ = create(project, topic="retry with exponential backoff")
    assert "By themselves: “retry” in 1 line (`src/transport.py:1`)." in text


def test_a_topic_that_names_nothing_gets_a_question_and_no_places(tmp_path: Path) -> None:
    """Whatever stands in the project would be as good an answer."""
    found = {
        "findings": [{"text": "Say it better.", "citations": ["src/client.py:1"], "kind": "documentation"}]
    }
    result, text, _ = create(python_project(tmp_path), topic="make it better", research=[found])
    assert result["places"] == []
    assert result["open_questions"][0].startswith("What is to be made? “make it better” names no thing")
    assert "names no thing to look for" in text
    assert "Also found" not in text
    assert "mechanism that is there" not in text


def test_the_same_slug_of_another_kind_keeps_both(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    _, feature, _ = create(project, topic="retry requests")
    again, _, _ = create(project, topic="retry requests")
    assert (again["document"], again["backup"]) == ("unchanged", None)
    result, _, _ = create(project, topic="retry requests", kind="enhancement")
    assert (project / result["backup"]).read_text() == feature
    assert 'was of another kind: "feature"' in result["notes"][0]


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        (
            "'NoneType' object has no attribute 'raw_host' in aiohttp/client.py line 640",
            "aiohttp/client.py",
            640,
        ),
        ("it breaks in `lib/a.js`, line 7", "lib/a.js", 7),
        ("line 12 of src/x.go fails", "src/x.go", 12),
        ("File shop/client.py, line 3, in connect", "shop/client.py", 3),
    ],
)
def test_a_place_in_prose_is_a_frame(text: str, path: str, line: int) -> None:
    (frame,) = parse_error(text).frames
    assert (frame.path, frame.line) == (path, line)


def test_the_words_of_the_language_are_no_words_of_the_message(tmp_path: Path) -> None:
    files = {
        "src/a.py": "def __getattr__(name):\n    raise AttributeError(f'module has no attribute {name}')\n",
        "src/b.py": "def host(url):\n    return url.raw_host\n",
    }
    topic = "'NoneType' object has no attribute 'raw_host' in src/b.py line 2"
    result, text, _ = create(write(tmp_path, files), topic=topic, kind="bugfix")
    assert [place["symbol"] for place in result["places"]] == ["host"]
    assert "The report has no frame" not in text


def test_a_frame_of_lines_that_moved_is_at_its_function(tmp_path: Path) -> None:
    source = "Parser.prototype.remove = function () {\n  x()\n}\n\nParser.prototype.run = function () {\n  y()\n}\n"
    topic = "Error: no\n    at Parser.run (/app/lib/parser.js:2:3)"
    result, text, _ = create(write(tmp_path, {"lib/parser.js": source}), topic=topic, kind="bugfix")
    assert [place["symbol"] for place in result["places"]] == ["Parser.prototype.run"]
    assert "It names `run` at `lib/parser.js:2`, where `run` is not" in text


def test_a_failing_test_leads_to_what_it_names_and_to_what_has_its_words(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": "[tool.pytest.ini_options]\n",
        "src/client.py": (
            "class Session:\n    def send(self, url):\n        # a redirect to another host must drop auth\n"
            "        return self.auth\n\n\ndef open_pool():\n    pass\n"
        ),
        "tests/test_client.py": "def test_drop_auth_on_redirect():\n    assert open_pool()\n\n\ndef test_b(): no()\n",
    }
    project = write(tmp_path, files)
    topic = "tests/test_client.py::test_drop_auth_on_redirect"
    result, text, _ = create(project, topic=topic, kind="bugfix")
    assert [place["symbol"] for place in result["places"]] == ["Session.send"]
    assert "`src/client.py:7`, in `open_pool`:" in text
    assert "-q tests/test_client.py::test_drop_auth_on_redirect\n" in text


def test_a_common_name_is_a_mention_beside_its_class_and_no_library_is_a_test(tmp_path: Path) -> None:
    files = {
        "shop/__init__.py": "",
        "shop/basket.py": "class Basket:\n    def remove(self): ...\n\n\ndef main(): ...\n\n\ndef _weigh(): ...\n",
        "shop/test_utils.py": "class TestBasket:\n    def go(self): Basket().remove()\n",
        "tests/test_all.py": "def test_a():\n    files.remove(x)\n    main()\n",
        "tests/test_goods.py": "def test_b():\n    Basket().remove(x)\n    _weigh()\n",
    }
    sources = Sources(write(tmp_path, files))
    words = sources.once(WordIndex)
    tests = {
        symbol.short_name: [test.path for test in covering.find_tests(symbol.path, sources, words, symbol)]
        for symbol in sources.symbols_of("shop/basket.py")
    }
    goods = ["tests/test_goods.py"]
    assert tests == {"Basket": goods, "remove": goods, "main": [], "_weigh": goods}
    assert covering.tests_of_file("shop/basket.py", sources, words) == goods


def test_name_and_version_are_cited_where_each_stands(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": '[project]\nname = "shop"\ndynamic = ["version"]\n',
        "shop/__init__.py": '"""Shop."""\n__version__ = "1.2.3"\n',
    }
    _, text, _ = create(write(tmp_path, files))
    assert "**Project:** shop (`pyproject.toml:2`) 1.2.3 (`shop/__init__.py:2`)" in text


def test_a_folder_of_projects_has_no_version_of_its_own(tmp_path: Path) -> None:
    files = {
        "one/pyproject.toml": '[project]\nname = "one"\n',
        "one/one/__init__.py": '__version__ = "1.2.3"\n',
        "two/package.json": '{"name": "two"}\n',
        "two/index.js": "x\n",
        "two/other.js": "x\n",
        "three.py": "x = 1\n",
    }
    _, text, _ = create(write(tmp_path, files))
    assert f"**Project:** {tmp_path.name}".replace("_", "") in text.replace("\\_", "").replace("_", "")
    assert "1.2.3" not in text


def test_the_manifest_of_the_folder_with_most_of_the_code_is_the_project_s(tmp_path: Path) -> None:
    files = {
        "v7/go.mod": "module example.org/shop/v7\n\ngo 1.21\n\nrequire example.org/log v1.2.3\n",
        "v7/a.go": "package shop\n",
        "v7/b.go": "package shop\n",
        "tool.go": "package main\n",
    }
    _, text, _ = create(write(tmp_path, files))
    assert "**Project:** example.org/shop/v7 (`v7/go.mod:1`)" in text
    assert "| Dependencies at run time | 1 package | `v7/go.mod:5` |" in text


def test_setup_py_names_the_project_in_the_call_of_setup(tmp_path: Path) -> None:
    setup = """from setuptools import Extension, setup

needs = ["attrs>=22", "httpx"]
module = Extension(name="_speedups", sources=["a.c"])
setup(
    name="shop",
    description=(
        "A shop"
        " for tea."
    ),
    python_requires=">=3.11",
    install_requires=needs,
    ext_modules=[module],
)
"""
    _, text, _ = create(write(tmp_path, {"setup.py": setup, "shop.py": "def sell(): ...\n"}))
    assert "**Project:** shop (`setup.py:6`); “A shop for tea.” (`setup.py:8`)" in text
    assert "| Versions supported | Python >=3.11 | `setup.py:11` |" in text
    assert "| Dependencies at run time | 2 packages | `setup.py:3` |" in text


def test_the_purpose_in_a_readme_is_told_without_the_marks_of_its_links(tmp_path: Path) -> None:
    readme = """Shop
====

`Shop <http://shop.example.org>`_ is a web framework, originally developed at `FriendFeed
<http://friendfeed.example.com>`_.  It sells tea.
"""
    _, text, _ = create(write(tmp_path, {"README.rst": readme, "shop.py": "def sell(): ...\n"}))
    assert (
        "“Shop is a web framework, originally developed at FriendFeed. It sells tea.” (`README.rst:4`)"
        in text
    )


def test_the_newest_entry_of_a_change_log_is_told_without_its_marks(tmp_path: Path) -> None:
    for name, heading in (
        ("CHANGELOG.md", "## [7.8.2](https://example.org/compare/7.8.1...7.8.2) (2025-02-22)"),
        ("docs/versionhistory.rst", "**7.8.2**"),
    ):
        project = write(tmp_path / name.replace("/", "-"), {name: f"History\n\n{heading}\n\n- Sells tea\n"})
        _, text, _ = create(project)
        newest = "7.8.2 (2025-02-22)" if "(" in heading else "7.8.2"
        assert f"whose newest is `{newest}` (`{name}:3`)" in text


def test_why_there_is_no_history_is_git_s_own_word(tmp_path: Path) -> None:
    files = {".git/HEAD": "ref: refs/heads/main\n", ".git/refs/x": "", ".git/objects/x": ""}
    files[".git/config"] = "[core]\n\trepositoryformatversion = 99\n"
    _, text, _ = create(write(tmp_path, {**files, "shop.py": "def sell(): ...\n"}))
    assert "git does not read this repository: Expected git repo version" in text


def test_most_to_gain_is_where_the_topic_is_and_not_where_most_is_complex(tmp_path: Path) -> None:
    branches = "".join(f"    if x == {n}:\n        return {n}\n" for n in range(60))
    files = {
        "src/listing.py": f"def list_uploads(x):\n{branches}",
        "src/upload.py": "def upload(x):\n    # an upload\n    if x:\n        return upload_part(x)\n",
    }
    _, text, _ = create(write(tmp_path, files), topic="upload", kind="enhancement")
    assert "**Most to gain:** `src/upload.py`" in text
    _, text, _ = create(write(tmp_path, files), topic="zebra", kind="enhancement", slug="z")
    assert "The request gives no figure; nothing was measured." in text


def test_a_habit_that_says_nothing_is_left_out(tmp_path: Path) -> None:
    said = [
        "0 of 1 functions are async (0 %).",
        "the error is most often handled otherwise (7 of 9).",
        "10 of 20 are.",
    ]
    patterns = {"patterns": [{"statement": each, "category": "style", "total": 3} for each in said]}
    _, text, _ = create(python_project(tmp_path), patterns=patterns)
    assert "10 of 20 are" in text
    assert "0 of 1 functions" not in text
    assert "otherwise" not in text


def names_near(project: Path, topic: str) -> list[str]:
    return [
        spot.symbol.name for spot in spots(Study(project, topic, "feature")) if spot.role == "near the topic"
    ]


def test_what_the_topic_names_entirely_comes_before_what_only_has_its_word(tmp_path: Path) -> None:
    source = "def drop_stale_store_entries():\n    pass\n\n\nclass StoreError(Exception):\n    pass\n\n\n"
    write(tmp_path, {"app/stores.py": f"{source}class Store:\n    pass\n"})
    assert names_near(tmp_path, "quota of the store")[0] == "Store"
    assert "StoreError" not in names_near(tmp_path, "quota of the store")
    assert names_near(tmp_path, "an error of the store")[0] == "StoreError"


def test_tests_inside_a_source_file_are_no_place_to_begin(tmp_path: Path) -> None:
    inline = "#[cfg(test)]\nmod tests {\n    #[test]\n    fn store_has_entries() {}\n}\n"
    write(tmp_path, {"src/lib.rs": f"pub struct Store;\n\n{inline}"})
    assert names_near(tmp_path, "expiry of entries in the store") == ["Store"]


def test_lists_of_constants_are_no_thing_that_is_there(tmp_path: Path) -> None:
    write(tmp_path, {"app/names.py": 'X_RATE_LIMIT = "X-Rate-Limit"\n', "app/a.py": "def send(): ...\n"})
    _, text, _ = create(tmp_path, topic="rate limit for sending")
    assert "It builds on what the code has" not in text
    write(tmp_path, {"app/a.py": "def rate_limit(): ...\n"})
    assert "(`app/a.py:1`) and does not repeat it" in create(tmp_path, topic="rate limit for sending")[1]


def test_a_project_without_code_is_asked_nothing_about_code(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"guide.md": "# Limits\n\nThe rate limit is one hundred requests a minute for each customer.\n"},
    )
    _, text, _ = create(tmp_path, topic="rate limiting for requests")
    assert "the project has no code; what is written about the topic stands above" in text
    assert "How is it" not in text
    assert "No line of code has the word" not in text


def test_a_part_of_a_monorepo_binds_by_its_own_manifest_and_checks(tmp_path: Path) -> None:
    monorepo(tmp_path)
    _, text, _ = create(tmp_path, topic="priority of orders")
    assert "in it shop-api (`services/api/pyproject.toml:2`) 2.1 (`services/api/pyproject.toml:3`)" in text
    assert "| Dependencies at run time | 1 package | `services/api/pyproject.toml:5` |" in text
    assert "(cd services/api && python -m pytest -q tests/test_handler.py)" in text
    assert "packages/web" not in text


def test_an_enhancement_is_measured_where_all_words_of_its_topic_are(tmp_path: Path) -> None:
    busy = "def handle{n}(request):\n    if request:\n        return 1\n    return 2\n\n\n"
    meant = "def read_multipart_form(body):\n    if body:\n        return 1\n    return 2\n"
    write(
        tmp_path,
        {
            "app/handlers.py": "".join(busy.format(n=n) for n in range(12)),  # as complex, about one word
            "app/forms.py": meant * 12,
            "app/forms.pyi": "def read_multipart_form(body: bytes) -> int: ...\n" * 3,
            "app/forms_tests.py": meant * 30,
        },
    )
    study = Study(tmp_path, "better handling of multipart forms", "enhancement")
    assert [each.path for each in measure(study)] == ["app/forms.py", "app/handlers.py"]


def test_words_that_only_compare_are_no_words_of_the_thing() -> None:
    assert Topic("faster and simpler parsing of headers").stems == ("pars", "head")


def test_a_test_inside_a_rust_source_is_the_failing_one_and_no_suspect(tmp_path: Path) -> None:
    inline = (
        "#[cfg(test)]\nmod tests {\n    #[test]\n    fn first_is_given() {\n        first(&[]);\n    }\n}\n"
    )
    source = "pub fn first(all: &[u8]) -> u8 {\n    all[0]\n}\n\n"
    write(tmp_path, {"Cargo.toml": '[package]\nname = "a"\n', "src/lib.rs": source + inline})
    said = "thread 'tests::first_is_given' panicked at src/lib.rs:2:5:\nindex out of bounds: the len is 0\n"
    _, text, _ = create(tmp_path, topic=f"---- tests::first_is_given stdout ----\n{said}", kind="bugfix")
    assert "- `tests.first_is_given` (`src/lib.rs:8`): named in the report" in text
    assert "cargo test first_is_given" in text
    suspects = text.partition("## Suspects")[2].partition("##")[0]
    assert "1. `first`" in suspects
    assert "first_is_given" not in suspects


def test_a_test_that_has_a_sentence_for_a_name_is_found_by_it(tmp_path: Path) -> None:
    tests = "test('opens', open)\n\ntest('queue refuses too much', () => {\n  pushAll()\n})\n\ntest('shuts', drain)\n"
    code = "function pushAll () {}\nfunction drain () {}\n"
    write(
        tmp_path,
        {
            "package.json": '{"scripts": {"test": "node --test"}}',
            "lib/queue.js": code,
            "test/a.test.js": tests,
        },
    )
    _, text, _ = create(
        tmp_path, topic="TAP version 13\nnot ok 2 - queue refuses too much\n  ---\n", kind="bugfix"
    )
    assert "# Bug: queue refuses too much" in text
    assert "`queue refuses too much` (`test/a.test.js:3`): named in the report" in text
    assert "npm test -- test/a.test.js" in text
    assert "`drain`" not in text


def test_an_enhancement_is_about_all_of_its_topic_and_asks_for_no_new_thing(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "README.md": "# shop\n\nA shop for people who like books.\n\nErrors of the bank are shown.\n\n"
            "A hook of the shop can tell of errors.\n",
            "app/hooks.py": "def run_hooks(hooks):\n    return [hook() for hook in hooks]\n",
        },
    )
    _, text, _ = create(tmp_path, topic="clearer errors of hooks", kind="enhancement")
    assert "A hook of the shop can tell of errors." in text
    assert "Errors of the bank" not in text
    assert "Does this not do it already" not in text
    assert "How is it configured" not in text
    assert Topic("less overhead of hooks", is_there=True).thing_stems == ("hook",)
    assert Topic("overhead", is_there=True).thing_stems == ("overhead",)


def test_what_says_nothing_of_the_thing_is_no_word_of_it() -> None:
    only = Topic("validate a field only when another field has a given value")
    assert (only.thing_stems, only.place) == (("validat", "field"), "another field has a given value")
    assert "onl" in Topic("read-only mode for the API").thing_stems
    number = Topic("limit the number of idle connections per host")
    assert number.thing_stems == ("limit", "idl", "connection", "host")
    assert Topic("names of colours").place == "colours"


def test_the_common_words_of_a_topic_alone_do_not_speak_of_it(tmp_path: Path) -> None:
    lines = "".join(f"// the request of route {n}\n" for n in range(100))
    waits = "".join(f"// timeout {n}\n" for n in range(10))
    files = {
        "go.mod": "module example.org/shop\n\ngo 1.21\n",
        "route.go": f"package shop\n\n{lines}type Route struct{{}}\n",
        "timeout.go": f"package shop\n\n{waits}// Timeout ends what takes too long.\nfunc Timeout() {{}}\n",
        "timeout_test.go": "package shop\n\nfunc TestTimeout(t *testing.T) { Timeout() }\n",
    }
    result, text, _ = create(write(tmp_path, files), topic="per-route request timeouts")
    assert "stand together in no line" in text
    assert [place["symbol"] for place in result["places"]] == ["Timeout"]  # the thing itself, in general


def test_what_nobody_outside_a_function_can_mean_is_no_place(tmp_path: Path) -> None:
    source = """/**
 * Tries again.
 *
 * ```ts
 *   retry(
 *     call) {
 * ```
 */
export function retry(count: number) {
  const subscribeForRetry = () => count;
  return subscribeForRetry();
}
"""
    files = {
        "src/internal/retry.ts": source,
        "src/index.ts": "export { retry } from './internal/retry';\n",
        "package.json": '{"name": "shop"}',
    }
    result, text, _ = create(write(tmp_path, files), topic="retry of failed calls")
    assert [place["symbol"] for place in result["places"]] == ["retry"]
    assert "`src/internal/retry.ts:9`" in text
    assert "* retry(" not in text
    assert "exported at `src/index.ts:1`" in text


def test_a_place_with_the_words_of_the_thing_comes_before_one_with_those_of_the_place(tmp_path: Path) -> None:
    files = {
        "src/shop/debounce.py": "class EventDebouncer:\n    pass\n",
        "src/shop/events.py": "class FileEvent:\n    pass\n\n\nclass FileMovedEvent(FileEvent):\n    pass\n",
    }
    result, _, _ = create(write(tmp_path, files), topic="debounce events of the same file")
    assert [place["symbol"] for place in result["places"]] == ["EventDebouncer"]


def test_only_what_nearly_all_do_binds_what_is_new(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    example = [{"file": "src/shop/client.py", "line": 6, "text": ""}]

    def pattern(name: str, statement: str, count: int, total: int) -> dict[str, Any]:
        category = {"async": "concurrency", "errors": "errorHandling"}.get(name.split(".")[0], "testing")
        counts = {"count": count, "total": total, "citations": example}
        return {"name": name, "statement": statement, "category": category, "language": "python", **counts}

    patterns = [
        pattern("async.functions", "50 of 1188 functions are async (4 %).", 50, 1188),
        pattern("testing.style", "Tests are written as functions (168 of 282).", 168, 282),
        pattern("testing.framework", "Tests use pytest (7 of 11).", 7, 11),
        pattern("testing.assertions", "Tests check with assert (90 of 100).", 90, 100),
        pattern("errors.raised", "Errors raised most: ValueError (26).", 26, 26),
    ]
    _, text, _ = create(project, patterns={"patterns": patterns})
    assert "are async" not in text
    assert "written as functions" not in text
    assert "| Errors | Errors raised most: ValueError (26). |" in text
    bound = next(line for line in text.split("\n") if "written as the code around it" in line)
    assert "Tests use pytest (7 of 11)" in bound
    assert "Tests check with assert (90 of 100)" in bound
    assert "Errors raised most" not in bound


def test_it_is_written_down_in_guides_and_not_in_what_is_over(tmp_path: Path) -> None:
    files = {
        "docs/guide.md": "# Guide\n\nPlease throttle your calls.\n\nCall `throttle(seconds)` first.\n",
        "docs/upgrading.md": "`throttle(seconds)` was `slow(seconds)`.\n",
        "docs/releases/v1.md": "`throttle(seconds)` is new.\n",
        "tests/api.txt": "throttle(seconds)\n",
        "src/shop/calls.py": "def throttle(seconds):\n    pass\n",
    }
    _, text, _ = create(write(tmp_path, files), topic="throttle")
    written = next(line for line in text.split("\n") if "It is written down" in line)
    assert "beside `throttle` in `docs/guide.md:5`." in written


def test_a_new_test_goes_to_the_file_that_is_named_after_the_place(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": '[project]\nname = "shop"\n\n[tool.pytest.ini_options]\n',
        "src/shop/schedulers/base.py": "def pause_job(name):\n    pass\n",
        "src/shop/stock.py": "def level_of(name):\n    pass\n",
        "tests/test_schedulers.py": "def test_it():\n    pause_job('x')\n",
        "tests/test_api.py": "def test_it():\n    level_of('x')\n    pause_job('x')\n    pause_job('y')\n",
    }
    project = write(tmp_path, files)
    _, text, _ = create(project, topic="pause job")
    assert "for instance in `tests/test_schedulers.py`" in text
    _, text, _ = create(project, topic="level of")
    assert "for instance in a new `tests/test_stock.py`" in text


def test_lists_of_names_are_no_sentences(tmp_path: Path) -> None:
    files = {
        "docs/api.rst": "API\n===\n\n.. toctree::\n\n   api/a\n   api/throttle_calls api/b_c api/d_e api/f_g\n",
        "docs/throttle.rst": "X\n=\n\n.. automodule:: shop.throttle_calls\n   :members: of all the classes\n",
        "docs/guide.rst": "Guide\n=====\n\nWho wants to throttle calls has to say so.\n",
        "src/shop/a.py": "def f():\n    pass\n",
    }
    _, text, _ = create(write(tmp_path, files), topic="throttle calls")
    assert "Who wants to throttle calls has to say so." in text
    assert "automodule" not in text
    assert "b_c" not in text


def test_files_that_share_only_a_common_word_are_not_to_be_changed(tmp_path: Path) -> None:
    branches = "".join(f"    if x == {n}:\n        return {n}\n" for n in range(30))
    files = {
        "src/template.py": f"class TemplateError(Exception):\n    pass\n\n\ndef render(x):\n    # template\n{branches}",
        "src/stream.py": f"def read(x):\n    # an error, an error\n{branches}",
    }
    project = write(tmp_path, files)
    study = Study(project, "clearer template errors", "enhancement")
    assert [figures.path for figures in measure(study)] == ["src/template.py"]
    said = "".join(f"    # a template error, {n}\n" for n in range(40))
    write(project, {"src/codes.py": f"def of(x):\n    if x:\n        return 1\n{said}"})
    study = Study(project, "clearer template errors", "enhancement")
    assert [figures.path for figures in measure(study)] == ["src/template.py", "src/codes.py"]


def test_ways_to_extend_are_shown_beside_what_only_stands_in_the_place(tmp_path: Path) -> None:
    files = {
        "src/shop/router.py": "class Router:\n    def use(self, middleware):\n        pass\n",
        "src/shop/bodies.py": "def request_body(stream):\n    pass\n",
        "docs/guide.md": "Call `router.use(middleware)`.\n",
    }
    project = write(tmp_path, files)
    result, _, _ = create(project, topic="limit the size of request bodies")
    assert [place["symbol"] for place in result["places"]] == ["request_body", "Router.use"]
    result, _, _ = create(project, topic="request body")
    assert [place["symbol"] for place in result["places"]] == ["request_body"]
