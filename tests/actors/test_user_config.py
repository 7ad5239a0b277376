"""The user's config.toml."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sage_actors.actors.user_config import UserConfig, default_config_path, load_user_config
from sage_actors.messages.errors import DefinitionError


def write(text: str) -> Path:
    path = default_config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_it_lies_beside_the_key_of_saved_state(private_home: Path) -> None:
    assert default_config_path() == private_home / "config" / "sage-actors" / "config.toml"


def test_without_a_file_or_a_home_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_user_config() == UserConfig()
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert load_user_config({}) == UserConfig()


def test_all_of_it_is_read() -> None:
    write('[backend]\nagent = "mine"\ntimeout = "90s"\n[agents.mine]\ncommand = ["my-agent"]\n')
    assert load_user_config(os.environ) == UserConfig("mine", None, 90.0, {"mine": {"command": ["my-agent"]}})


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ('[bakend]\nagent = "x"\n', ["bakend: unknown setting"]),
        ('[backend]\nagent = "x"\nmodel = "openai:y"\n', ["both an agent and a model"]),
        ("backend = 3\nagents = 4\n", ["backend: must be a table", "agents: must be a table"]),
        (
            '[backend]\nagent = 3\ntimeout = "soon"\nkey = 1\n',
            ["backend.agent", "backend.timeout", "backend.key"],
        ),
        ("[backend]\ntimeout = true\n", ["backend.timeout"]),
        ("[backend\n", ["cannot be read"]),
        ("\xff", ["cannot be read"]),
    ],
)
def test_all_that_is_wrong_is_said_at_once(text: str, matches: list[str]) -> None:
    write("").write_bytes(text.encode("latin-1"))
    with pytest.raises(DefinitionError) as caught:
        load_user_config()
    for match in matches:
        assert match in str(caught.value)
    assert "config.toml" in str(caught.value)
