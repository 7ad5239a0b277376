"""Consents: what they belong to, what takes them away, and that nobody but the user can give one."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from sage_actors.actors.trust import consents as trust
from sage_actors.actors.trust.consents import (
    Item,
    TrustStore,
    checks_item,
    default_trust_path,
    digest_of,
    sandbox_item,
)
from sage_actors.messages.errors import StorageError
from sage_actors.servers.implementation import checks

ITEM = Item("skill", "release", digest_of({"run.sh": "echo"}), "runs scripts/run.sh")


@pytest.fixture
def store(tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path / "config" / "trust.json")


def file_of(store: TrustStore) -> Path:
    return store._where()


def test_nothing_is_trusted_before_consent(store: TrustStore, project: Path) -> None:
    assert not store.trusts(project, ITEM)
    store.consent(project, [ITEM])
    assert store.trusts(project, ITEM)


def test_consent_holds_in_another_process_and_is_private(store: TrustStore, project: Path) -> None:
    store.consent(project, [ITEM])
    path = file_of(store)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert TrustStore(path).trusts(project, ITEM)


def test_changed_content_asks_again(store: TrustStore, project: Path) -> None:
    store.consent(project, [ITEM])
    changed = Item("skill", "release", digest_of({"run.sh": "rm -rf /"}), "runs scripts/run.sh")
    assert store.missing(project, [ITEM, changed]) == [changed]


def test_a_consent_is_for_one_kind_and_one_name(store: TrustStore, project: Path) -> None:
    store.consent(project, [ITEM])
    assert not store.trusts(project, Item("template", "release", ITEM.digest, ""))
    assert not store.trusts(project, Item("skill", "other", ITEM.digest, ""))


def test_a_consent_is_for_the_real_project_and_no_other(
    store: TrustStore, project: Path, tmp_path: Path
) -> None:
    store.consent(project, [ITEM])
    (tmp_path / "alias").symlink_to(project)
    assert store.trusts(tmp_path / "alias", ITEM)
    assert not store.trusts(tmp_path, ITEM)


def test_a_project_whose_name_is_no_utf8_can_be_trusted(store: TrustStore, tmp_path: Path) -> None:
    project = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    project.mkdir()
    store.consent(project, [ITEM])
    assert store.trusts(project, ITEM)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"version": 2, "projects": {}}',
        b'{"version": 1}',
        b'{"version": 1, "projects": {"/": []}}',
    ],
)
def test_a_damaged_file_trusts_nothing_says_so_and_is_put_aside(
    store: TrustStore, project: Path, content: bytes
) -> None:
    store.consent(project, [ITEM])
    file_of(store).write_bytes(content)
    assert not store.trusts(project, ITEM)
    assert "nothing is trusted" in store.problem()
    store.consent(project, [ITEM])
    assert store.trusts(project, ITEM)
    assert not store.problem()
    (aside,) = file_of(store).parent.glob("*.damaged")
    assert aside.read_bytes() == content


def test_what_was_consented_to_is_listed_and_can_be_taken_back(
    store: TrustStore, project: Path, tmp_path: Path
) -> None:
    other = Item("template", "release", digest_of(1), "")
    store.consent(project, [ITEM, other])
    store.consent(tmp_path, [ITEM])
    listed = store.recorded(project)
    assert [(each.kind, each.name, each.digest) for each in listed] == [
        ("skill", "release", ITEM.digest),
        ("template", "release", other.digest),
    ]
    assert all(each.since.endswith("+00:00") for each in listed)
    store.revoke(project, listed[:1])
    assert store.missing(project, [ITEM, other]) == [ITEM]
    assert store.trusts(tmp_path, ITEM)  # of another project
    store.revoke(project, store.recorded(project))
    assert store.recorded(project) == []


def test_a_damaged_file_lists_nothing(store: TrustStore, project: Path) -> None:
    store.consent(project, [ITEM])
    file_of(store).write_bytes(b"{")
    assert store.recorded(project) == []


def test_a_wider_sandbox_is_consented_to_as_it_is_used() -> None:
    said = {
        "network": ["api.example.com:443", {"host": "lan", "port": 80, "private": True}],
        "read": ["/data"],
    }
    item = sandbox_item(said)
    assert (item.kind, item.name) == ("sandbox", "sandbox")
    assert "api.example.com:443" in item.description
    assert '"private": true' in item.description
    assert "read /data" in item.description
    assert sandbox_item({**said, "read": ["/"]}).digest != item.digest


def test_a_name_that_looks_like_another_is_pointed_out() -> None:
    assert "other letters" in str(Item("mcp-server", "sage\u2010research", "", ""))
    assert "other letters" not in str(Item("mcp-server", "sage-research", "", ""))


@pytest.mark.parametrize("name", ["Release", "RELEASE", "release ", "release\n", "rele\u0430se", "./release"])
def test_a_name_that_differs_in_anything_has_no_consent(store: TrustStore, project: Path, name: str) -> None:
    store.consent(project, [ITEM])
    assert not store.trusts(project, Item("skill", name, ITEM.digest, ""))


def test_projects_that_are_gone_do_not_fill_the_file(
    store: TrustStore, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "_MANY_PROJECTS", 3)
    (tmp_path / "stays").mkdir()
    for path in (tmp_path / "gone-1", tmp_path / "stays", tmp_path / "gone-2", project):
        store.consent(path, [ITEM])
    assert store.trusts(tmp_path / "stays", ITEM)
    assert store.trusts(project, ITEM)
    assert not store.trusts(tmp_path / "gone-1", ITEM)


def test_odd_values_inside_are_no_consent(store: TrustStore, project: Path) -> None:
    store.consent(project, [ITEM])
    content = json.loads(file_of(store).read_text())
    content["projects"][str(project)]["skill"]["release"] = ITEM.digest
    file_of(store).write_text(json.dumps(content))
    assert not store.trusts(project, ITEM)


def test_a_file_that_others_could_write_is_not_believed(store: TrustStore, project: Path) -> None:
    store.consent(project, [ITEM])
    file_of(store).chmod(0o666)
    assert not store.trusts(project, ITEM)
    assert "not private" in store.problem()
    file_of(store).chmod(0o600)
    file_of(store).parent.chmod(0o777)
    assert not store.trusts(project, ITEM)
    with pytest.raises(StorageError, match="others may write"):
        store.consent(project, [ITEM])


def test_a_link_in_the_files_place_is_not_followed(store: TrustStore, project: Path, tmp_path: Path) -> None:
    store.consent(project, [ITEM])
    file_of(store).rename(tmp_path / "elsewhere.json")
    file_of(store).symlink_to(tmp_path / "elsewhere.json")
    assert not store.trusts(project, ITEM)


def test_a_fifo_in_the_files_place_holds_nobody_up(store: TrustStore, project: Path) -> None:
    file_of(store).parent.mkdir(mode=0o700)
    os.mkfifo(file_of(store), 0o600)
    assert not store.trusts(project, ITEM)


def test_consent_that_cannot_be_written_is_an_error_not_a_silence(project: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be recorded"):
        TrustStore(tmp_path / "file" / "trust.json").consent(project, [ITEM])


def consent_to(path: Path, project: Path, number: int) -> None:
    TrustStore(path).consent(project, [Item("skill", f"s{number}", ITEM.digest, "")])


def test_consents_of_several_processes_are_all_kept(store: TrustStore, project: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=consent_to, args=(file_of(store), project, number)) for number in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    wanted = [Item("skill", f"s{number}", ITEM.digest, "") for number in range(8)]
    assert store.missing(project, wanted) == []


def test_no_home_directory_means_no_trust(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert not TrustStore().trusts(project, ITEM)
    with pytest.raises(StorageError, match="no home directory"):
        TrustStore().consent(project, [ITEM])


def test_the_file_is_in_the_users_configuration() -> None:
    assert default_trust_path() == Path(os.environ["XDG_CONFIG_HOME"]) / "sage-actors" / "trust.json"


def test_a_digest_is_of_the_content_not_of_its_order() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])
    assert len(digest_of("\udcff")) == 64
    with pytest.raises(ValueError):
        digest_of(float("nan"))


def test_the_checks_item_changes_with_what_configures_them(project: Path) -> None:
    before = checks_item(project)
    (project / "source.py").write_text("x = 1\n")
    assert checks_item(project) == before
    (project / "Makefile").write_text("test:\n\tpytest\n")
    assert checks_item(project).digest != before.digest
    assert "Makefile" in checks_item(project).description


def test_the_checks_item_covers_the_parts_of_a_monorepo(project: Path) -> None:
    before = checks_item(project)
    for folder in ("api", "examples/api"):
        (project / folder).mkdir(parents=True)
    (project / "examples/api/package.json").write_text("{}")
    assert checks_item(project) == before  # an example is not run
    (project / "api/package.json").write_text('{"scripts": {"test": "one"}}')
    first = checks_item(project)
    (project / "api/package.json").write_text('{"scripts": {"test": "two"}}')
    assert len({before.digest, first.digest, checks_item(project).digest}) == 3
    assert "api/package.json" in first.description


def test_a_fifo_among_the_check_files_holds_nobody_up(project: Path) -> None:
    os.mkfifo(project / "Makefile")
    assert "Makefile" not in checks_item(project).description


def test_every_file_that_declares_a_check_is_among_what_is_consented_to(project: Path) -> None:
    for name in (
        *checks._SECTION_FILES,
        *(row[0] for row in checks._WHOLE_FILES),
        "package.json",
        "go.mod",
        "Cargo.toml",
    ):
        before = checks_item(project).digest
        (project / name).write_text("[tool]\n")
        assert checks_item(project).digest != before, name
