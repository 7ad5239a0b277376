"""The process that the resume benchmark kills: `python -m bench.resume_process PROJECT make|resume NODES`.

`make` starts the run, `resume` continues it. Both get as far as the last node, which holds. The first
line that they print is the moment of the call, in ns of the clock that all processes share.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench import operations
from bench.ground import ROOT, layers
from sage_actors import Supervisor, Workflow

RUN_ID = "killed"
_WIDTH = 1000


def flow(nodes: int, reached: Path) -> Workflow:
    """No-op nodes, and one that waits for the last layer and holds."""
    made = layers(nodes - 1, _WIDTH)
    after = [f"n{number}" for number in range(max(0, nodes - 1 - _WIDTH), nodes - 1)]
    made.add(operations.hold, id="hold", after=after, reached=str(reached))
    return made


def main(project: Path, how: str, nodes: int) -> None:
    with Supervisor(project, workers=2, search_paths=[ROOT]) as supervisor:
        made = flow(nodes, project / "reached") if how == "make" else None
        print(time.monotonic_ns(), flush=True)
        run = supervisor.start(made, run_id=RUN_ID) if made else supervisor.resume(RUN_ID)
        run.result()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
