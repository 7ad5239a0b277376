"""The package as it is installed: every module in the wheel, one copy of every class, lazy names."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT

import sage_actors

ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
FOLDERS = ("actors", "messages", "sandbox", "servers", "supervisor", "templates")


def run_python(code: str, *, cwd: Path) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=cwd, env=ENVIRON)


@pytest.mark.slow
@pytest.mark.requirement("ORCH-002")
@pytest.mark.timeout(300)
def test_the_wheel_holds_every_module(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True,
        timeout=280,
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"sage_actors/{each.relative_to(ROOT)}"
        for folder in FOLDERS
        for each in (ROOT / folder).rglob("*.py")
    }
    expected |= {f"sage_actors/{each.name}" for each in (ROOT / "src" / "sage_actors").glob("*.py")}
    expected |= {f"sage_actors/templates/{each.name}" for each in (ROOT / "templates").glob("*.json")}
    assert expected | {"sage_actors/py.typed", "sage_actors/actors/agents/agents.toml"} <= packed


def test_every_folder_is_a_package_that_says_what_it_is_and_no_bare_name_is_loaded() -> None:
    for folder in FOLDERS:
        for each in (ROOT / folder).rglob("*.py"):
            assert (each.parent / "__init__.py").read_text(encoding="utf-8").startswith('"""'), each
    code = (
        "import sys, sage_actors.supervisor.cli.main, sage_actors.supervisor.api, sage_actors.actors.pool.pool;"
        f"assert not set({FOLDERS!r}) & sys.modules.keys()"
    )
    run_python(code, cwd=ROOT / "tests")


def test_every_public_name_can_be_had_and_nothing_else() -> None:
    for name in sage_actors.__all__:
        assert getattr(sage_actors, name) is not None
    with pytest.raises(AttributeError, match="nope"):
        sage_actors.nope  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        (
            "import sage_actors.supervisor.cli.main",
            ("pydantic", "rich", "msgpack", "pykka", "cryptography", "httpx"),
        ),
        (
            "import sage_actors.actors.workers.worker",
            ("pydantic", "rich", "pykka", "cryptography", "httpx", "click"),
        ),
        ("from sage_actors import operation", ("pydantic", "rich", "pykka", "cryptography", "httpx")),
    ],
)
def test_what_is_imported_often_imports_little(statement: str, heavy: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nloaded = set({heavy!r}) & sys.modules.keys()\nassert not loaded, loaded"
    run_python(code, cwd=ROOT / "tests")


def test_a_workflow_of_plain_functions_needs_no_models_of_files() -> None:
    code = (
        "import sys\nfrom golden import golden_steps\nfrom sage_actors import Workflow\n"
        "flow = Workflow('plain')\nflow.add(golden_steps.numbers, count=2)\nflow.to_spec()\n"
        "assert 'pydantic' not in sys.modules"
    )
    run_python(code, cwd=ROOT / "tests")


def test_layers_import_in_one_direction() -> None:
    allowed = {
        "messages": {"messages"},
        "sandbox": {"messages", "sandbox"},
        "servers": {"messages", "servers"},
        "actors": {"messages", "sandbox", "servers", "actors"},
    }
    for folder, names in allowed.items():
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent.name == "orchestration":  # it serves the public API
                continue
            for line in path.read_text().splitlines():
                if line.lstrip().startswith(("from sage_actors.", "import sage_actors.")):
                    layer = line.split("sage_actors.")[1].split(".")[0].split(" ")[0]
                    assert layer in names, f"{path.name}: {line.strip()}"
