"""Draws docs/run.svg: the live display of a real run, as it stood in the middle and at the end.

    python docs/make_picture.py REPOSITORY [TOPIC]

REPOSITORY is copied to a temporary folder first, without `.sage`, so that the cache is empty and nothing of it changes.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.text import Text

from sage_actors import Supervisor
from sage_actors.supervisor.cli.display import Progress
from sage_actors.supervisor.cli.live_display import picture
from sage_actors.supervisor.templates.library import find_template, load_workflow

TOPIC = "rate limiting for the public API"
_WIDTH = 112
_FONT_FACE = re.compile(r"@font-face\s*\{.*?\}", re.DOTALL)  # Rich has fonts fetched from elsewhere
_PICTURE = Path(__file__).with_name("run.svg")


def main(repository: Path, topic: str = TOPIC) -> None:
    """Run `feature` on a copy of `repository`; write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / repository.name
        shutil.copytree(repository, project, symlinks=True, ignore=shutil.ignore_patterns(".sage"))
        frames = _frames(project, topic)
    console = Console(record=True, width=_WIDTH, file=io.StringIO())
    console.print(Text(f'$ sage-actors run feature "{topic}"', style="bold"))
    console.print(Group(*frames))
    svg = console.export_svg(title=f"sage-actors, on {repository.name}", unique_id="run")
    _PICTURE.write_text(_FONT_FACE.sub("", svg), encoding="utf-8")


def _frames(project: Path, topic: str) -> list[RenderableType]:
    """The picture when the second half of the run had begun, and when all was over."""
    template = find_template("feature", project)
    assert template is not None
    spec = load_workflow(template.path)
    progress = Progress(spec)
    frames: list[RenderableType] = []
    with Supervisor(project) as supervisor:
        run = supervisor.start(spec, inputs={"topic": topic})
        for event in run.events():
            progress.feed(event)
            if not frames and progress.ended >= progress.total // 2 and progress.running:
                frames += [_still(progress), Text("\n  ... and when it has ended:\n", "dim")]
        frames.append(_still(progress))
        run.result().raise_for_status()
    return frames


def _still(progress: Progress) -> RenderableType:
    now = time.time()
    return picture(progress, now=lambda: now)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:3])
