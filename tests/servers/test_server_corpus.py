"""The corpus: pieces that stand where they say, in many languages, built once for each state of a project."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_actors.servers.corpus import corpus as corpus_module
from sage_actors.servers.corpus import sources as sources_module
from sage_actors.servers.corpus.code import Piece, code_pieces, definitions, note_pieces
from sage_actors.servers.corpus.corpus import Corpus, corpus_of
from sage_actors.servers.corpus.files import classify, decoded
from sage_actors.servers.corpus.packages import declared_packages, packages
from sage_actors.servers.corpus.relevance import Query, stems
from sage_actors.servers.corpus.repository import Repository
from sage_actors.servers.corpus.sources import sources_of
from sage_actors.servers.specification.study import Study

Files = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path) -> Files:
    """Writes files given by name (`/` as `__`) or as a mapping, and gives their folder."""

    def write(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


DEFINED = [
    (
        "python",
        "class Limiter(Base):\n    @property\n    async def take(self): ...\n\ndef free(): ...\n",
        ["Limiter", "Limiter.take", "free"],
    ),
    (
        "javascript",
        "export default class Limiter {\n  async take (n) {\n    if (n) {\n    }\n  }\n}\n"
        "const wait = async (ms) => ms\nfunction free () {}\nReply.prototype.send = function (x) {\n}\n"
        "test('a', (t) => {\n})\n",
        ["Limiter", "Limiter.take", "wait", "free", "Reply.prototype.send"],
    ),
    (
        "javascript",
        "export interface Options<T> {\n}\nexport type Key = string\nenum Kind { A }\n",
        ["Options", "Key", "Kind"],
    ),
    (
        "go",
        "type Limiter struct {\n}\n"
        "func (l *Limiter) Take(n int) error {\n}\nfunc (Limiter) Free() {\n}\nfunc New() *Limiter {\n}\n",
        ["Limiter", "Limiter.Take", "Limiter.Free", "New"],
    ),
    (
        "rust",
        "pub struct Limiter<T> {}\n"
        "impl<T> Drop for Limiter<T> {\n    pub(crate) async fn take(&self) {}\n}\nfn free() {}\n",
        ["Limiter", "Limiter", "Limiter.take", "free"],
    ),
    ("shell", "take() {\n}\nfunction free {\n}\n", ["take", "free"]),
    ("c", "static int take(struct limiter *l)\n{\n}\nstruct limiter {\n};\n", ["take", "limiter"]),
    (
        "other",
        "public class Limiter {\n    public static int take(int n) throws IOException {\n    }\n}\n",
        ["Limiter", "Limiter.take"],
    ),
]


@pytest.mark.parametrize(("language", "text", "names"), DEFINED, ids=[f"{d[0]}-{d[2][0]}" for d in DEFINED])
def test_definitions_are_found_by_name_and_owner(language: str, text: str, names: list[str]) -> None:
    lines = text.split("\n")
    found = list(definitions(lines, language))
    assert [each.name for each in found] == names
    assert all(each.name.rpartition(".")[2] in lines[each.line - 1] for each in found)


def _pieces(text: str) -> list[Piece]:
    lines = text.split("\n")
    return list(code_pieces(lines, list(definitions(lines, "python")), "a.py", "code", 1.0))


def test_a_piece_takes_the_comment_above_its_definition_along() -> None:
    text = "import x\n\n\n# Slows callers down.\n@cached\ndef limit():\n    return 1\n"
    first, second = _pieces(text)
    assert (first.passage.text, first.passage.line, first.defines) == ("import x", 1, False)
    assert (second.title, second.passage.line, second.defines) == ("limit", 4, True)
    assert second.passage.text.startswith("# Slows callers down.\n@cached\ndef limit")


def test_a_long_definition_has_pieces_with_its_name_and_their_own_lines() -> None:
    text = "def long():\n" + "".join(f"    call_number_{n}()\n\n" for n in range(200))
    pieces = _pieces(text)
    assert len(pieces) > 3
    assert [piece.defines for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    lines = text.split("\n")
    for piece in pieces:
        assert piece.title == "long"
        assert piece.passage.line is not None
        assert lines[piece.passage.line - 1] == piece.passage.text.split("\n")[0]


def test_an_example_in_a_docstring_defines_nothing() -> None:
    text = (
        'class Actor:\n    """An actor::\n\n        class MyActor(Actor):\n            def run(self): ...\n    """\n\n'
        "    MARK = 1  # ''' opens nothing\n    def stop(self):\n        pass\n"
    )
    names = [each.name for each in definitions(text.split("\n"), "python")]
    assert names == ["Actor", "Actor.stop"]


def test_a_list_of_imports_weighs_less_than_code() -> None:
    imports = "from typing import (\n    Any,\n    Limit,\n)\n\nimport limits\n\n__all__ = []\n\n\n"
    first, second = _pieces(imports + "def limit():\n    return 1\n")
    assert 0 < first.passage.weight < second.passage.weight / 2


def test_notes_in_comments_are_found_with_what_goes_on_below() -> None:
    text = "x = 1  # TODO(ann): limit this\n# per user, please\ny = 2\nTODO = 3\n// FIXME later\n"
    first, second = note_pieces(text.split("\n"), "a.py", 1.0)
    assert (first.passage.line, first.passage.text) == (
        1,
        "x = 1  # TODO(ann): limit this\n# per user, please",
    )
    assert (second.passage.line, second.passage.kind) == (5, "todo")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("README.md", "documentation"),
        ("docs/guide.rst", "documentation"),
        ("CHANGELOG.md", "history"),
        ("CHANGES/12.feature.rst", "history"),
        ("docs/releases/v4.3.0.rst", "history"),
        ("docs/versionhistory.rst", "history"),
        ("src/shop.egg-info/SOURCES.txt", None),
        ("tests/api.txt", "test"),
        ("tests/README.md", "documentation"),
        ("testing/helpers.py", "test"),
        ("src/shop/testing/clock.py", "code"),
        ("src/app.py", "code"),
        ("pkg/app_test.go", "test"),
        ("src/app.spec.ts", "test"),
        ("tests/data.json", "configuration"),
        (".github/workflows/ci.yml", "configuration"),
        ("Makefile", "configuration"),
        (".claude/skills/x/SKILL.md", "skill"),
        ("vendor/x/y.go", None),
        ("node_modules/x/index.js", None),
        ("static/app.min.js", None),
        ("package-lock.json", None),
        ("logo.png", None),
    ],
)
def test_files_are_what_their_names_say(path: str, kind: str | None) -> None:
    found = classify(path, 1000)
    assert (found.kind if found else None) == kind


def test_what_nobody_wrote_is_no_text() -> None:
    assert decoded(b"a\0b") is None
    assert decoded(b"// Code generated by x. DO NOT EDIT.\npackage y\n") is None
    assert decoded(b"x" * 10_000) is None
    assert decoded(b"\xef\xbb\xbfcaf\xe9") == "caf\ufffd"
    assert classify("a.py", 10_000_000) is None


def test_latin_1_is_read_where_it_can_be_nothing_else() -> None:
    assert decoded("für alle Größen".encode("latin-1")) == "für alle Größen"
    assert decoded("für alle Größen".encode()) == "für alle Größen"
    assert decoded("für".encode() + b" gr\xfcn") == "für gr\ufffdn"
    assert decoded(b"gr\xfcn \x93") == "gr\ufffdn \ufffd"


@pytest.mark.parametrize("path", ["src/new\nline.py", "src/two  blanks.py", "src/end.py ", "src/a\u2028b.py"])
def test_a_name_that_no_citation_can_show_is_no_evidence(path: str) -> None:
    assert classify(path, 10) is None
    assert classify("src/one blank.py", 10) is not None


def test_every_piece_of_a_file_stands_where_it_says(project: Files) -> None:
    root = project(
        {
            "README.md": "# Title\r\n\r\nWindows lines\r\n\r\n- [ ] limit calls\r\n",
            "a.py": "\x0c\nclass A:\n    # TODO: x\n    def b(self):\n        pass\n",
            "setup.cfg": "[metadata]\nname = x\n",
            "run": "#!/bin/sh\nstart() {\n  :\n}\n",
            "data": "no script",
        }
    )
    corpus = corpus_of(root)
    assert {piece.passage.source for piece in corpus.pieces} == {"README.md", "a.py", "setup.cfg", "run"}
    for piece in corpus.pieces:
        lines = (root / piece.passage.source).read_bytes().decode().split("\n")
        assert piece.passage.line is not None
        assert piece.passage.text.split("\n")[0] == lines[piece.passage.line - 1].strip("\r\ufeff") or (
            piece.passage.kind == "todo" and piece.passage.text in lines[piece.passage.line - 1]
        )


def test_names_and_contents_that_are_not_utf8_are_searched(project: Files) -> None:
    root = project({"b.md": b"limit \xff calls"})
    with open(os.path.join(os.fsencode(root), b"\xe9.md"), "wb") as stream:
        stream.write(b"limit the other calls")
    sources = {hit.piece.passage.source for hit in corpus_of(root).search("limit calls")}
    assert sources == {"b.md", r"\xe9.md"}
    assert corpus_of(root).text(r"\xe9.md") == "limit the other calls"


def test_four_askers_at_once_share_one_building(project: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project({f"f{n}.py": "def limit(): ...\n" for n in range(50)})
    built: list[Corpus] = []
    real = Corpus.__init__

    def counted(self: Corpus, *arguments: object) -> None:
        built.append(self)
        real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Corpus, "__init__", counted)
    got: list[Corpus] = []
    together = threading.Barrier(4)

    def ask() -> None:
        together.wait(10)
        got.append(corpus_of(root))
        got[-1].search("limit")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(built) == 1
    assert got == built * 4
    (root / "f0.py").write_text("def other(): ...\n\n")
    assert corpus_of(root) is not built[0]


def test_beyond_the_limit_documents_come_first_and_the_rest_is_named(
    project: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "MAX_TEXT_BYTES", 3000)
    root = project({"tests/test_a.py": "x = 1\n" * 300, "a.py": "y = 1\n" * 300, "README.md": "z\n" * 500})
    corpus = corpus_of(root)
    assert [file.path for file, _ in corpus.files] == ["README.md", "a.py"]
    assert any(note.startswith("1 files were left out") for note in corpus.notes)


MANIFESTS = {
    "pyproject.toml": '[project]\nname = "x"\ndependencies = [\n'
    '  "httpx>=0.27",\n  "click[a]; python_version>\'3\'",\n]\n'
    '[dependency-groups]\ndev = ["pytest>=8"]\n',
    "requirements-dev.txt": "# a comment\n-r other.txt\nflask==3.0 \\\n    --hash=sha256:1\ngit+https://example.org/x\n",
    "web/package.json": '{\n "name": "x",\n "dependencies": {\n  "express": "^5.0.0"\n },\n'
    '  "devDependencies": {"tap": "1"}\n}\n',
    "go.mod": "module x\n\ngo 1.22\n\nrequire (\n\tgithub.com/a/b v1.2.3\n\tgithub.com/c/d v0.1.0 // indirect\n)\n",
    "Cargo.toml": '[package]\nname = "x"\n\n[dependencies]\ntokio = { version = "1", features = ["full"] }\n'
    'serde = "1.0"\n',
    "Gemfile": "gem 'rails', '~> 7.0'\n",
    "broken/package.json": "{",
}  # fmt: skip


def test_dependencies_are_declared_at_the_lines_of_their_manifests(project: Files) -> None:
    root = project(dict(MANIFESTS))
    found = {p.name: (p.ecosystem, p.wanted, p.path, p.line) for p in declared_packages(Repository(root))}
    assert found == {
        "httpx": ("python", ">=0.27", "pyproject.toml", 4),
        "click": ("python", "", "pyproject.toml", 5),
        "pytest": ("python", ">=8", "pyproject.toml", 8),
        "flask": ("python", "==3.0", "requirements-dev.txt", 3),
        "express": ("npm", "^5.0.0", "web/package.json", 4),
        "tap": ("npm", "1", "web/package.json", 6),
        "github.com/a/b": ("go", "v1.2.3", "go.mod", 6),
        "github.com/c/d": ("go", "v0.1.0", "go.mod", 7),
        "tokio": ("cargo", "1", "Cargo.toml", 5),
        "serde": ("cargo", "1.0", "Cargo.toml", 6),
        "rails": ("gem", "~> 7.0", "Gemfile", 1),
    }


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "x = " + "[" * 100_000),
        ("package.json", '{"a":' * 50_000),
        ("go.mod", "require " + "a." * 150_000),
        ("requirements.txt", "a-" * 150_000),
        ("package.json", '{"dependencies": {' + ",".join(f'"p{n}": "1"' for n in range(20_000)) + "}}"),
        ("package.json", '{"dependencies": ["express"], "devDependencies": 7}'),
    ],
    ids=["deep-toml", "deep-json", "long-line", "long-name", "many", "of-other-types"],
)
def test_a_hostile_manifest_costs_no_more_than_a_moment(project: Files, name: str, text: str) -> None:
    assert len(packages(Repository(project({name: text})))[0]) <= 1000


def test_facts_of_installed_and_locked_packages_are_joined_to_their_declarations(project: Files) -> None:
    root = project(
        {
            "pyproject.toml": '[project]\nname = "x"\ndependencies = ["Fast_Limit>=1"]\n',
            ".venv/lib/python3.11/site-packages/fast_limit-1.4.dist-info/METADATA": "Metadata-Version: 2.1\n"
            "Name: fast-limit\nVersion: 1.4\nSummary: Token buckets\n"
            "License-Expression: MIT\n\nREADME about throttling\n",
            ".venv/lib/python3.11/site-packages/helper-2.0.dist-info/METADATA": "Name: helper\nVersion: 2.0\n\n",
            "package.json": '{"dependencies": {"bottleneck": "^2"}}',
            "package-lock.json": '{"packages": {"node_modules/bottleneck": {"version": "2.19.5", "license": "MIT"}}}',
            "Cargo.toml": '[dependencies]\ngovernor = "0.6"\n',
            "Cargo.lock": '[[package]]\nname = "governor"\nversion = "0.6.3"\n',
        }
    )
    found, notes = packages(Repository(root))
    facts = {p.name: (p.version, p.licence, p.summary, bool(p.path)) for p in found}
    assert facts == {
        "Fast_Limit": ("1.4", "MIT", "Token buckets", True),
        "bottleneck": ("2.19.5", "MIT", "", True),
        "governor": ("0.6.3", "", "", True),
        "helper": ("2.0", "", "", False),
    }
    assert notes == []
    [hit] = corpus_of(root).search("throttling", kinds=("dependency",))
    assert hit.piece.passage.source == "pyproject.toml"
    assert hit.piece.passage.line == 3


def test_without_an_environment_of_the_project_the_note_says_whose_versions_these_are(project: Files) -> None:
    root = project({"requirements.txt": "pydantic\nno-such-package-here\n"})
    found, notes = packages(Repository(root))
    versions = {p.name: bool(p.version) for p in found}
    assert versions == {"pydantic": True, "no-such-package-here": False}
    assert notes == [
        "the project has no environment of its own: versions and licences are those of the interpreter that looked"
    ]


def test_words_are_compared_by_their_beginnings_and_joined_words_are_parted() -> None:
    assert stems("RateLimiters limiting rate_limit") == stems("rate limit limit rate limit")
    assert stems("retries") == stems("retry")
    assert stems("slow start-up") == stems("slow startup") == stems("slow start up")


def test_what_follows_a_preposition_says_where_and_weighs_half() -> None:
    query = Query("rate limiting for the public API")
    assert query.weights == {stems("rate")[0]: 1.0, "limit": 1.0, "public": 0.5, "api": 0.5}
    assert "throttle" in query.searched


def test_a_list_of_words_is_about_nothing(project: Files) -> None:
    words = "\n".join(f"word{n}" for n in range(60))
    root = project(
        {"wordlist.txt": f"rate\nlimit\n{words}", "guide.md": "How we limit the rate of a caller."}
    )
    assert [hit.piece.passage.source for hit in corpus_of(root).search("rate limit")] == ["guide.md"]


def test_of_a_test_only_the_beginning_is_searched(project: Files) -> None:
    body = "".join(f"    step_{n}()\n\n" for n in range(200))
    root = project({"tests/test_a.py": f"def test_limit():\n{body}\n\ndef test_other(): ...\n"})
    assert [piece.title for piece in corpus_of(root).pieces] == ["test_limit", "test_other"]


@pytest.mark.parametrize(
    ("topic", "best"),
    [
        ("rate limiting for the public API", "limits.py"),
        ("throttle", "limits.py"),
        ("retry with backoff for uploads", "client.py"),
        ("slow start-up", "boot.py"),
    ],
)
def test_the_definition_comes_before_those_who_mention_it(project: Files, topic: str, best: str) -> None:
    root = project(
        {
            "limits.py": 'class RateLimiter:\n    """Limits calls per user."""\n\n    def allow(self, user): ...\n',
            "client.py": "def upload_with_retry(file, backoff=1.0):\n    ...\n",
            "boot.py": "def startup():\n    # slow: imports everything\n    ...\n",
            "api.py": "# the public API, the public API and once more the public API\ndef public_api(): ...\n",
            "tests/test_all.py": "def test_rate():\n    # rate rate rate retry slow public API\n    ...\n",
            "CHANGELOG.md": "# 1.0\n\n- rate of public API docs\n- start of uploads\n",
        }
    )
    assert corpus_of(root).search(topic)[0].piece.passage.source == best


def test_research_a_specification_and_a_plan_read_each_file_once(
    project: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[str] = Counter()
    real = Repository.read_bytes

    def counted(self: Repository, path: str, limit_bytes: int = 1_000_000) -> bytes | None:
        read[path] += 1
        return real(self, path, limit_bytes)

    root = project({"src/limit.py": "def limit(): ...\n", "README.md": "# Limits\n\nRates of calls.\n"})
    monkeypatch.setattr(Repository, "read_bytes", counted)
    corpus = corpus_of(root)
    assert corpus.search("limit")
    for _ in range(2):
        assert Study(root, "limit calls", "feature").survey.candidates
    assert read["src/limit.py"] == read["README.md"] == 1
    (root / "src/limit.py").write_text("def limit_all(): ...\n")
    [changed] = Study(root, "limit calls", "feature").survey.candidates
    assert changed.symbol.name == "limit_all"


def test_text_beyond_the_bound_is_not_kept(project: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "_HELD_BYTES", 10)
    sources = sources_of(project({"a.py": "x = 1\n" * 10, "b.py": "y = 1\n" * 10}))
    first = [sources.lines("a.py"), sources.lines("b.py")]
    assert sources.lines("a.py") is first[0]
    assert sources.lines("b.py") == first[1]
    assert sources.lines("b.py") is not first[1]
