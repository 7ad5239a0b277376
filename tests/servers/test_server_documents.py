"""Documents: nothing leaves the project, a person's edits are kept, and no half document is ever seen."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from sage_actors.messages.errors import StorageError, UsageError
from sage_actors.servers.documents.documents import MAX_DOCUMENT_BYTES, read_document, write_document

SPEC = "docs/specs/one/spec.md"


def test_a_document_is_made_with_its_folders_and_read_back(tmp_path: Path) -> None:
    written = write_document(tmp_path, SPEC, "# One\n")
    assert (written.path, written.state, written.backup) == (SPEC, "created", None)
    assert read_document(tmp_path, SPEC) == "# One\n"
    assert [path.name for path in (tmp_path / "docs/specs/one").iterdir()] == ["spec.md"]


def test_what_only_a_model_reads_is_written_as_escapes(tmp_path: Path) -> None:
    """Tags spell ASCII and selectors spell bytes, and neither is seen; a family of joined pictures is what it was."""
    write_document(
        tmp_path, "docs/a.md", "a\U000e006f\U000e0062b\U000e0141\u061cc \U0001f469\u200d\U0001f467\n"
    )
    assert read_document(tmp_path, "docs/a.md") == (
        "a\\U000e006f\\U000e0062b\\U000e0141\\u061cc \U0001f469\u200d\U0001f467\n"
    )


def test_what_would_drive_a_terminal_is_written_as_escapes(tmp_path: Path) -> None:
    write_document(tmp_path, "docs/a.md", "a\x1b[2Jb\u202ec\tü\U0001f680\r\n")
    assert read_document(tmp_path, "docs/a.md") == "a\\x1b[2Jb\\u202ec\tü\U0001f680\\r\n"


def test_the_same_text_is_not_written_again(tmp_path: Path) -> None:
    write_document(tmp_path, SPEC, "# One\n")
    before = (tmp_path / SPEC).stat()
    assert write_document(tmp_path, SPEC, "# One").state == "unchanged"
    assert (tmp_path / SPEC).stat().st_ino == before.st_ino


def test_what_nobody_edited_is_replaced_without_a_backup(tmp_path: Path) -> None:
    write_document(tmp_path, SPEC, "# One\n")
    written = write_document(tmp_path, SPEC, "# Two\n")
    assert (written.state, written.backup) == ("replaced", None)


@pytest.mark.requirement("ORCH-021")
def test_what_a_person_changed_is_kept_beside_it(tmp_path: Path) -> None:
    write_document(tmp_path, SPEC, "# One\n")
    edited = (tmp_path / SPEC).read_bytes().replace(b"One", b"My own words \xff")
    (tmp_path / SPEC).write_bytes(edited)
    written = write_document(tmp_path, SPEC, "# Two\n")
    assert written.backup == "docs/specs/one/spec.backup-1.md"
    assert (tmp_path / written.backup).read_bytes() == edited
    (tmp_path / SPEC).write_text("mine again")
    assert write_document(tmp_path, SPEC, "# Three\n").backup == "docs/specs/one/spec.backup-2.md"
    assert (tmp_path / written.backup).read_bytes() == edited


@pytest.mark.parametrize(
    "path",
    [
        "../spec.md",
        "/etc/spec.md",
        "docs/../../spec.md",
        "a//b.md",
        "spec.txt",
        ".git/hooks/x.md",
        ".sage/x.md",
        "a\\b.md",
        "a\0.md",
        "",
    ],
)
def test_a_path_that_is_no_place_for_a_document_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(UsageError, match="no place for a document"):
        write_document(tmp_path, path, "x")
    with pytest.raises(UsageError):
        read_document(tmp_path, path)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_followed_neither_as_a_folder_nor_as_the_file(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "spec.md").write_text("theirs")
    project = tmp_path / "project"
    (project / "docs").mkdir(parents=True)
    (project / "docs/specs").symlink_to(outside)
    with pytest.raises(UsageError, match=r"docs/specs is a link"):
        write_document(project, "docs/specs/spec.md", "mine")
    (project / "spec.md").symlink_to(outside / "spec.md")
    with pytest.raises(UsageError, match="is a link"):
        write_document(project, "spec.md", "mine")
    with pytest.raises(UsageError, match="is a link"):
        read_document(project, "spec.md")
    assert (outside / "spec.md").read_text() == "theirs"


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "spec.md")
    with pytest.raises(UsageError, match="no regular file"):
        write_document(tmp_path, "spec.md", "mine")


def test_a_full_disk_leaves_the_old_document_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_document(tmp_path, SPEC, "# One\n")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_document(tmp_path, SPEC, "# Two\n")
    assert read_document(tmp_path, SPEC) == "# One\n"
    assert [path.name for path in (tmp_path / "docs/specs/one").iterdir()] == ["spec.md"]


def test_two_writers_at_once_leave_one_whole_document(tmp_path: Path) -> None:
    texts = [f"# {letter}\n" + letter * 200_000 + "\n" for letter in "ab"]
    threads = [threading.Thread(target=write_document, args=(tmp_path, SPEC, text)) for text in texts * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert read_document(tmp_path, SPEC) in texts


def test_a_document_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at most"):
        write_document(tmp_path, SPEC, "x" * (MAX_DOCUMENT_BYTES + 1))


def test_a_document_that_is_not_there_reads_as_none(tmp_path: Path) -> None:
    assert read_document(tmp_path, SPEC) is None


def front(topic: str, kind: str, body: str = "x") -> str:
    return f'---\ntopic: "{topic}"\nkind: "{kind}"\nproject: "p"\n---\n\n{body}\n'


@pytest.mark.parametrize(
    ("topic", "kind", "what"),
    [
        ("retry requests", "enhancement", 'of another kind: "feature"'),
        ("retry/requests", "feature", 'of another topic: "retry requests"'),
    ],
)
def test_a_document_of_another_topic_or_kind_is_kept(
    tmp_path: Path, topic: str, kind: str, what: str
) -> None:
    write_document(tmp_path, SPEC, front("retry requests", "feature"))
    before = (tmp_path / SPEC).read_bytes()
    assert write_document(tmp_path, SPEC, front("retry requests", "feature", "newer")).backup is None
    write_document(tmp_path, SPEC, front("retry requests", "feature"))
    written = write_document(tmp_path, SPEC, front(topic, kind))
    assert written.backup == "docs/specs/one/spec.backup-1.md"
    assert written.notes == [f"{SPEC} was {what}: that one is kept as {written.backup}"]
    assert (tmp_path / written.backup).read_bytes() == before
