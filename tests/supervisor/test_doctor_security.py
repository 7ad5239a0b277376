"""The promise table says what was measured: in each tier, and that nothing holds where nothing confines."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil
import pytest

from sage_actors.sandbox.probe import Report, probe
from sage_actors.supervisor.setup.doctor_security import Promise, measure, promise_table

pytestmark = pytest.mark.requirement("ORCH-023")

MEMORY = "take more memory than its limit"
SEEN = "see that a file outside exists"
LEFT = "leave a process behind when it is killed"


def measured(tier: str) -> dict[str, bool | None]:
    real = probe()
    if tier == "namespaces" and real.tier != "namespaces":
        pytest.skip(real.reason)
    if tier == "landlock" and real.tier == "none":
        pytest.skip(real.reason)
    _, promises = measure(Report(tier, (), ()))  # type: ignore[arg-type]
    return {each.name: each.holds for each in promises}


def test_all_promises_hold_with_namespaces() -> None:
    assert set(measured("namespaces").values()) == {True}


def test_with_landlock_alone_exactly_the_documented_gaps_are_there() -> None:
    found = measured("landlock")
    assert {name for name, holds in found.items() if holds is not True} == {SEEN, LEFT}
    assert found[SEEN] is False
    assert found[LEFT] is None


def test_without_a_tier_every_attack_that_is_tried_succeeds() -> None:
    """So the attacks are attacks; and no line says that something holds where nothing confines."""
    found = measured("none")
    assert {name for name, holds in found.items() if holds is None} == {MEMORY, LEFT}
    assert {holds for name, holds in found.items() if name not in (MEMORY, LEFT)} == {False}


def test_a_confinement_that_cannot_be_set_up_is_told_and_nothing_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sage_actors.sandbox import confine

    def fail(*_: object, **__: object) -> None:
        raise OSError("no such luck")

    monkeypatch.setattr(confine, "confine", fail)
    _, promises = measure(Report("landlock", (), ()))
    assert promises == [Promise("confinement", False, "it could not be set up: OSError: no such luck")]


def test_the_measurement_leaves_no_process_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    measured("none")
    assert not list(tmp_path.iterdir())
    assert not psutil.Process().children()


def test_the_table_never_says_sandboxed_where_nothing_is() -> None:
    text = promise_table("none", [Promise("read", False, "the attack succeeded")])
    assert text.startswith("Operations are not confined here:")
    assert "sandboxed" not in text
