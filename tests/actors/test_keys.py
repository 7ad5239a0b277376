"""Keys: the order of the sources, what a key looks like, and a file that is private or refused."""

from __future__ import annotations

import base64
import importlib.util
import os
import subprocess
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import SOURCES

from sage_actors.actors.keys import provider as keys
from sage_actors.actors.keys.provider import (
    KeyRing,
    MasterKey,
    create_key_file,
    create_keychain_key,
    default_key_path,
    drop_key,
    format_key,
    load_keys,
    rotate_key_file,
    rotate_keys,
)
from sage_actors.actors.keys.variable import keys_taken_from
from sage_actors.messages.errors import KeyUnusableError

pytestmark = pytest.mark.requirement("ORCH-016")

SECRET = bytes(range(100, 132))
OTHER = bytes(range(50, 82))


@pytest.fixture
def no_keychain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277])
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    old = os.umask(request.param)
    yield
    os.umask(old)


def given(text: str) -> KeyRing:
    return load_keys(environ={"SAGE_STATE_KEY": text}, path=Path("/nonexistent/state.key"), create=False)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padding", ["", "="])
def test_both_alphabets_with_and_without_padding_give_the_key(encode: object, padding: str) -> None:
    secret = b"\xff\xfe\xfb" * 5 + bytes(range(17))  # has both characters in which the alphabets differ
    body = encode(secret).decode().rstrip("=")  # type: ignore[operator]
    ring = given(f"sak1-{body}{padding}")
    assert ring.primary.secret == secret
    assert ring.source == "environment"


def test_what_format_key_writes_is_read_back() -> None:
    assert given(format_key(SECRET)).primary == MasterKey(SECRET)


def test_of_several_keys_the_first_seals_and_all_open() -> None:
    ring = given(f"{format_key(SECRET)}, {format_key(OTHER)}")
    assert ring.primary.secret == SECRET
    assert ring.get(MasterKey(OTHER).id) == MasterKey(OTHER)
    assert ring.get(b"unknown!") is None


BAD = [
    "",
    " ",
    "correct horse battery staple",
    "sak1-",
    "sak1-AAAA",
    "sak1-" + "A" * 43,
    "sak1-" + base64.b64encode(SECRET[:16]).decode(),
    "sak1-" + base64.b64encode(SECRET + b"x").decode(),
    "sak1-" + base64.b64encode(SECRET).decode()[:-3] + "é=",
    "sak2-" + base64.b64encode(SECRET).decode(),
    SECRET.hex(),
    format_key(SECRET) + ",",
    format_key(SECRET) + ",nonsense",
    "nonsense," + format_key(SECRET),
]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_key_in_the_environment_never_falls_through(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.key"
    create_key_file(path)
    with pytest.raises(KeyUnusableError):
        load_keys(environ={"SAGE_STATE_KEY": text}, path=path)


@pytest.mark.parametrize("text", BAD)
def test_no_error_repeats_the_key(text: str) -> None:
    with pytest.raises(KeyUnusableError) as caught:
        given(text)
    for part in text.split(","):
        body = part.removeprefix("sak1-")
        assert len(body) < 8 or body[5:13] not in str(caught.value)


@pytest.mark.parametrize("text", BAD)
@pytest.mark.usefixtures("no_keychain")
@pytest.mark.parametrize("source", ["environment", "file"])
def test_no_traceback_holds_the_key_in_its_local_variables(tmp_path: Path, text: str, source: str) -> None:
    path, given_as = tmp_path / "state.key", {"SAGE_STATE_KEY": text}
    if source == "file":
        given_as = {}
        create_key_file(path)
        path.write_bytes(text.encode())
    with pytest.raises(KeyUnusableError) as caught:
        load_keys(environ=given_as, path=path, create=False)
    assert caught.value.__cause__ is caught.value.__context__ is None
    below = caught.tb.tb_next  # this test's own variables hold the text
    assert below is not None
    told = traceback.TracebackException(KeyUnusableError, caught.value, below, capture_locals=True)
    lines = "".join(told.format())
    assert "read_keys" in lines or "ring_of" in lines
    for part in text.split(","):
        body = part.removeprefix("sak1-")
        assert len(body) < 8 or body[5:13] not in lines


def test_neither_ring_nor_key_shows_its_secret() -> None:
    ring = given(format_key(SECRET))
    for text in (repr(ring), str(ring), repr(ring.primary)):
        assert format_key(SECRET)[5:20] not in text
        assert repr(SECRET)[2:12] not in text


@pytest.mark.usefixtures("no_keychain", "any_umask")
def test_the_file_is_made_on_first_use_private_under_any_umask(tmp_path: Path) -> None:
    path = tmp_path / "config" / "sage-actors" / "state.key"
    ring = load_keys(environ={}, path=path)
    assert ring.source == "file"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert load_keys(environ={}, path=path) == ring
    assert [each.name for each in path.parent.iterdir()] == ["state.key"]


@pytest.mark.usefixtures("no_keychain")
def test_without_create_a_missing_file_is_an_error_and_stays_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusableError, match="no key"):
        load_keys(environ={}, path=tmp_path / "state.key", create=False)
    assert not list(tmp_path.iterdir())


def test_the_default_path_follows_xdg() -> None:
    assert default_key_path({"XDG_CONFIG_HOME": "/etc/mine"}) == Path("/etc/mine/sage-actors/state.key")
    expected = Path("/home/me/.config/sage-actors/state.key")
    assert default_key_path({"HOME": "/home/me", "XDG_CONFIG_HOME": "relative"}) == expected
    assert default_key_path({"HOME": "/home/me"}) == expected


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
@pytest.mark.usefixtures("no_keychain")
def test_a_file_that_others_can_get_at_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "state.key"
    create_key_file(path)
    path.chmod(mode)
    with pytest.raises(KeyUnusableError, match="not private"):
        load_keys(environ={}, path=path)


@pytest.mark.usefixtures("no_keychain")
@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "directory", "fifo"])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    real, path = tmp_path / "real.key", tmp_path / "state.key"
    create_key_file(real)
    match kind:
        case "link":
            path.symlink_to(real)
        case "dangling":
            path.symlink_to(tmp_path / "elsewhere")
        case "hard link":
            path.hardlink_to(real)
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path, 0o600)
    with pytest.raises(KeyUnusableError):
        load_keys(environ={}, path=path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.usefixtures("no_keychain")
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    path = directory / "state.key"
    create_key_file(path)
    directory.chmod(0o777)
    with pytest.raises(KeyUnusableError, match="others may write"):
        load_keys(environ={}, path=path)


@pytest.mark.usefixtures("no_keychain")
@pytest.mark.parametrize("content", [b"", b"# only words\n", b"\xff\xfe\n", b"sak1-short\n"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.key"
    create_key_file(path)
    path.write_bytes(content)
    with pytest.raises(KeyUnusableError):
        load_keys(environ={}, path=path)


def test_creating_never_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "state.key"
    create_key_file(path)
    before = path.read_bytes()
    with pytest.raises(KeyUnusableError, match="exists"):
        create_key_file(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["state.key"]


@pytest.mark.usefixtures("no_keychain")
def test_rotation_puts_a_new_key_first_and_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "state.key"
    first = create_key_file(path)
    second = rotate_key_file(path)
    assert second.primary != first.primary
    assert second.get(first.primary.id) == first.primary
    assert load_keys(environ={}, path=path) == second
    assert path.stat().st_mode & 0o777 == 0o600


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from sage_actors.actors.keys import provider as keys;"
        "keys.ask_keychain = lambda: None; sys.stdin.read();"
        "print(keys.load_keys(environ={}, path=Path(sys.argv[1])).primary.id.hex())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "c" / "state.key")]
    environ = {**os.environ, "PYTHONPATH": str(SOURCES)}
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None
    seen = {racer.communicate(timeout=30)[0] for racer in racers}
    assert len(seen) == 1
    assert len(seen.pop().strip()) == 16


class FakeBackend:
    """Stands in for a desktop's keychain, which no test machine has."""

    def __init__(self, value: str | None = None, error: Exception | None = None) -> None:
        self.value, self.error = value, error

    def get_password(self, service: str, user: str) -> str | None:
        assert (service, user) == ("sage-actors", "state-key")
        if self.error is not None:
            raise self.error
        return self.value

    def set_password(self, service: str, user: str, value: str) -> None:
        assert (service, user) == ("sage-actors", "state-key")
        if self.error is not None:
            raise self.error
        if not self.forgetful:
            self.value = value

    forgetful = False


@pytest.fixture
def keychain(monkeypatch: pytest.MonkeyPatch) -> type[FakeBackend]:
    class Backend(FakeBackend):
        pass

    Backend.__module__ = "keyring.backends.SecretService"
    return Backend


def install(monkeypatch: pytest.MonkeyPatch, backend: object) -> None:
    module = types.ModuleType("keyring")
    module.get_keyring = lambda: backend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/0/bus")
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND", raising=False)


@pytest.mark.skipif(sys.platform != "linux", reason="keychains of other systems need no bus")
@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({}, False),
        ({"DBUS_SESSION_BUS_ADDRESS": "unix:path=/x"}, True),
        ({"DISPLAY": ":0"}, True),
        ({"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring", "DISPLAY": ":0"}, False),
        ({"PYTHON_KEYRING_BACKEND": "keyring.backends.SecretService.Keyring"}, True),
        ({"PYTHON_KEYRING_BACKEND": "keyring.backends.chainer.ChainerBackend", "DISPLAY": ":0"}, True),
    ],
)
def test_keyring_is_loaded_only_where_a_keychain_may_answer(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    keychain: type[FakeBackend],
    environ: dict[str, str],
    asked: bool,
) -> None:
    install(monkeypatch, keychain(format_key(SECRET)))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert load_keys(environ={}, path=tmp_path / "state.key").source == ("keychain" if asked else "file")
    (tmp_path / "bus").touch()
    if "PYTHON_KEYRING_BACKEND" not in environ:
        assert load_keys(environ={}, path=tmp_path / "state.key").source == "keychain"


def test_the_keychain_is_asked_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keychain: type[FakeBackend]
) -> None:
    path = tmp_path / "state.key"
    create_key_file(path)
    install(monkeypatch, keychain(format_key(SECRET)))
    ring = load_keys(environ={}, path=path)
    assert (ring.source, ring.primary.secret) == ("keychain", SECRET)


def test_a_bad_key_in_the_keychain_does_not_fall_through(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keychain: type[FakeBackend]
) -> None:
    path = tmp_path / "state.key"
    create_key_file(path)
    install(monkeypatch, keychain("hunter2"))
    with pytest.raises(KeyUnusableError, match="keychain"):
        load_keys(environ={}, path=path)


@pytest.mark.parametrize("module", ["keyrings.alt.file", "keyring.backends.null", "keyring.backends.fail"])
def test_a_backend_that_does_not_protect_is_never_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str
) -> None:
    class Backend(FakeBackend):
        pass

    Backend.__module__ = module
    install(monkeypatch, Backend(error=AssertionError("was asked")))
    assert load_keys(environ={}, path=tmp_path / "state.key").source == "file"


def test_a_locked_keychain_makes_no_second_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keychain: type[FakeBackend]
) -> None:
    install(monkeypatch, keychain(error=RuntimeError("locked")))
    path = tmp_path / "state.key"
    with pytest.raises(KeyUnusableError, match="keychain does not answer"):
        load_keys(environ={}, path=path)
    assert not path.exists()


def test_a_locked_keychain_does_not_hide_a_key_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keychain: type[FakeBackend]
) -> None:
    path = tmp_path / "state.key"
    ring = create_key_file(path)
    install(monkeypatch, keychain(error=RuntimeError("locked")))
    assert load_keys(environ={}, path=path) == ring


def test_a_key_of_the_keychain_is_made_rotated_and_dropped_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keychain: type[FakeBackend]
) -> None:
    backend, path = keychain(), tmp_path / "state.key"
    install(monkeypatch, backend)
    first = create_keychain_key()
    assert load_keys(environ={}, path=path) == first
    with pytest.raises(KeyUnusableError, match="holds a key already"):
        create_keychain_key()
    both = rotate_keys(first, path)
    assert both.keys[1:] == first.keys
    assert load_keys(environ={}, path=path) == both
    left = drop_key(both, first.primary.id, path)
    assert load_keys(environ={}, path=path) == left
    assert left.keys == both.keys[:1]
    with pytest.raises(KeyUnusableError, match="rotate first"):
        drop_key(left, left.primary.id, path)
    assert not path.exists()


@pytest.mark.parametrize("way", ["forgets", "refuses"])
def test_a_keychain_that_does_not_keep_a_key_is_an_error_that_does_not_repeat_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keychain: type[FakeBackend], way: str
) -> None:
    backend = keychain(format_key(SECRET))
    install(monkeypatch, backend)
    ring = load_keys(environ={}, path=tmp_path / "state.key")
    if way == "forgets":
        backend.forgetful = True
    else:
        backend.error = RuntimeError(format_key(SECRET))
    with pytest.raises(KeyUnusableError, match="keychain") as caught:
        rotate_keys(ring, tmp_path / "state.key")
    assert "sak1-" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert backend.value == format_key(SECRET)


@pytest.mark.parametrize("module", ["keyrings.alt.file", "keyring.backends.null"])
def test_no_key_is_put_where_nothing_protects_it(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    class Backend(FakeBackend):
        pass

    Backend.__module__ = module
    backend = Backend()
    install(monkeypatch, backend)
    with pytest.raises(KeyUnusableError, match="no keychain"):
        create_keychain_key()
    assert backend.value is None


@pytest.mark.usefixtures("no_keychain")
def test_a_key_is_dropped_from_the_file_and_the_last_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.key"
    first = create_key_file(path)
    both = rotate_keys(first, path)
    left = drop_key(both, first.primary.id, path)
    assert load_keys(environ={}, path=path) == left
    assert left.keys == both.keys[:1]
    with pytest.raises(KeyUnusableError, match="no key"):
        drop_key(left, left.primary.id, path)
    assert load_keys(environ={}, path=path) == left


def test_the_environment_is_left_alone_by_a_rotation(tmp_path: Path) -> None:
    ring = given(format_key(SECRET))
    rotated = rotate_keys(ring, tmp_path / "state.key")
    assert rotated.keys[1:] == ring.keys
    assert not list(tmp_path.iterdir())


def test_a_key_that_was_taken_out_of_the_environment_is_found_and_put_back(tmp_path: Path) -> None:
    environ = {"SAGE_STATE_KEY": format_key(SECRET), "OTHER": "1"}
    with keys_taken_from(environ):
        assert environ == {"OTHER": "1"}
        assert load_keys(environ=environ, path=tmp_path / "state.key").primary.secret == SECRET
        with keys_taken_from({}), pytest.raises(KeyUnusableError):
            load_keys(environ={"XDG_CONFIG_HOME": str(tmp_path)}, create=False)
    assert environ["SAGE_STATE_KEY"] == format_key(SECRET)
    with pytest.raises(KeyUnusableError):
        load_keys(environ={"XDG_CONFIG_HOME": str(tmp_path)}, create=False)


def test_a_key_in_the_environment_asks_no_keychain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "ask_keychain", lambda: pytest.fail("the keychain was asked"))
    assert given(format_key(SECRET)).source == "environment"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.usefixtures("no_keychain")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.key"
    create_key_file(path)
    os.chown(path, 12345, -1)
    with pytest.raises(KeyUnusableError, match="belongs to user 12345"):
        load_keys(environ={}, path=path)
