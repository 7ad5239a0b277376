"""Profiles are plain data that survives every wire, and refuse what could mean two things."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_actors.sandbox.profile import (
    Layout,
    Limits,
    Profile,
    device_paths,
    is_beneath,
    is_beneath_any,
    private_paths,
    system_paths,
)

pytestmark = pytest.mark.requirement("ORCH-023")

_names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
_paths = st.lists(_names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
_limit = st.none() | st.integers(0, 1 << 40)
_profiles = st.builds(
    Profile,
    name=st.text(max_size=10),
    read=st.lists(_paths, max_size=3).map(tuple),
    write=st.lists(_paths, max_size=3).map(tuple),
    protected=st.lists(_paths, max_size=3).map(tuple),
    hidden=st.lists(_paths, max_size=3).map(tuple),
    network=st.booleans(),
    limits=st.builds(Limits, files=_limit, file_size=_limit, processes=_limit, memory=_limit, tmp=_limit),
    reopened=st.lists(_paths, max_size=3).map(tuple),
)


@settings(max_examples=40, deadline=None)
@given(_profiles)
def test_a_profile_survives_json_and_msgpack(profile: Profile) -> None:
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile
    assert Profile.from_dict(msgpack.unpackb(msgpack.packb(profile.to_dict()))) == profile


def test_names_that_are_no_text_survive_json() -> None:
    profile = Profile("p", (os.fsdecode(b"/\xff"),), (), ())
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


@pytest.mark.parametrize("path", ["", "relative", "./x", "/a/../b", "/a\0b", "~/x"])
@pytest.mark.parametrize("field", ["read", "write", "protected", "hidden", "reopened"])
def test_a_path_that_is_not_absolute_is_refused(field: str, path: str) -> None:
    values: dict[str, tuple[str, ...]] = {"read": (), "write": (), "protected": (), field: (path,)}
    with pytest.raises(ValueError, match=f"sandbox {field}"):
        Profile("p", **values)  # type: ignore[arg-type]


def test_slashes_too_many_mean_nothing() -> None:
    assert Profile("p", ("//usr//lib/",), ("/",), ()).read == ("/usr/lib",)


@pytest.mark.parametrize(
    "record",
    [
        {"name": "p"},
        {"name": "p", "surprise": 1},
        {"limits": {"surprise": 1}},
        {"name": "p", "read": "/", "write": [], "protected": []},
    ],
)
def test_a_record_that_is_no_profile_is_refused(record: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Profile.from_dict(record)


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/x", "/", True),
    ],
)
def test_beneath_means_the_whole_name(path: str, root: str, expected: bool) -> None:
    assert is_beneath(path, root) is expected


def test_a_layout_holds_what_any_profile_grants_and_protects_what_all_protect() -> None:
    one = Profile("one", ("/r1",), ("/w",), ("/w/p", "/w/q"), hidden=("/h",), limits=Limits(tmp=5))
    other = Profile("other", ("/r2",), ("/w", "/w2"), ("/w/p",), hidden=("/h", "/i"), limits=Limits(tmp=7))
    layout = Layout.of(one, other, private=("/tmp",))
    assert layout == Layout(
        read=("/r1", "/r2"),
        write=("/w", "/w2"),
        protected=("/w/p",),
        hidden=("/h",),
        private=("/tmp",),
        tmp_bytes=7,
    )
    assert Layout.of() == Layout(private=private_paths())


def test_system_paths_exist_once_and_hold_no_place_for_files_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = os.path.expanduser("~")
    monkeypatch.setattr("sys.path", ["", "/", home, "/tmp", "relative"])
    monkeypatch.setenv("PATH", f"/usr/bin:{home}:.:/no/such/bin")
    found = system_paths()
    assert all(os.path.exists(path) for path in found)
    assert len(set(found)) == len(found)
    assert not any(is_beneath(private, path) for path in found for private in (home, "/tmp", "/var/tmp"))
    assert not any(is_beneath(one, other) for one in found for other in found if one != other)


def test_programs_that_links_of_the_path_lead_to_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_, venv, base = tmp_path / ".local/bin", tmp_path / ".local/share/pipx/tool", tmp_path / "pythons/3.13"
    for folder in (
        bin_,
        venv / "bin",
        base / "bin",
        tmp_path / "docs",
        tmp_path / "npm/lib/node_modules/cli",
    ):
        folder.mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text(f"home = {base}/bin\nversion = 3.13\n")
    for name, target in (
        ("tool", venv / "bin/tool"),
        ("script", tmp_path / "docs/script.sh"),
        ("cli", tmp_path / "npm/lib/node_modules/cli/index.js"),
    ):
        target.touch()
        (bin_ / name).symlink_to(target)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(bin_))
    found = {path for path in system_paths() if is_beneath(path, str(tmp_path))}
    assert found == {
        *map(str, (bin_, venv, base, tmp_path / "docs/script.sh", tmp_path / "npm/lib/node_modules"))
    }


def test_keys_of_the_machine_are_no_system_paths() -> None:
    found = system_paths()
    for secret in (
        "/etc/shadow",
        "/etc/ssl/private",
        "/etc/pki/tls/private",
        "/root",
        "/var/lib",
        "/etc/ssh",
    ):
        assert not any(is_beneath(secret, path) for path in found), secret


def test_devices_are_harmless_ones() -> None:
    assert set(device_paths()) == {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}


_few_paths = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=4).map(lambda names: "/" + "/".join(names))


@settings(max_examples=200, deadline=None)
@given(_few_paths, st.lists(_few_paths, max_size=4))
def test_to_be_beneath_any_is_to_be_beneath_one(path: str, roots: list[str]) -> None:
    assert is_beneath_any(path, roots) == any(is_beneath(path, root) for root in roots)
