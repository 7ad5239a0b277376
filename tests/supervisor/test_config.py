"""The project's settings file."""

import os
from pathlib import Path

import pytest

from sage_actors import DefinitionError
from sage_actors.supervisor.config import Config, load_config


def write(project: Path, text: str) -> Path:
    (project / ".sage").mkdir()
    (project / ".sage" / "config.toml").write_text(text)
    return project


def test_a_project_without_the_file_has_no_settings(tmp_path: Path) -> None:
    assert load_config(tmp_path) == Config()


@pytest.mark.requirement("ORCH-005")
def test_breakers_are_configured_by_endpoint(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            'workers = 3\n[breakers."*"]\nfailures = 2\n[breakers."api.x"]\nopen_s = 7.5\nrate = 2.0\n',
        )
    )
    assert config.workers == 3
    assert config.breakers["*"].failures == 2
    assert (config.breakers["api.x"].open_s, config.breakers["api.x"].rate) == (7.5, 2.0)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_config(
            write(
                tmp_path,
                'workers = 0\ndurability = "sometimes"\ngrace = -1\nspeed = 9\n[breakers.x]\nfailures = 0\nhue = 1\n',
            )
        )
    places = {problem.place for problem in caught.value.problems}
    assert {"workers", "durability", "grace", "speed"} <= places
    assert sum(place.startswith("breakers.x") for place in places) == 2


def test_a_file_that_is_no_toml_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"config\.toml"):
        load_config(write(tmp_path, "workers = ["))


def test_a_fifo_in_the_files_place_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / ".sage").mkdir()
    os.mkfifo(tmp_path / ".sage/config.toml")
    with pytest.raises(DefinitionError, match="not a regular file"):
        load_config(tmp_path)
