"""The library in forty lines: a workflow written in Python, carried out in worker processes, and continued.

    python examples/embed.py               # carries it out; a second time prints the same results at once
    python examples/embed.py --fresh       # anew

Kill it in between with `kill -9`, start it again: what was finished is not done again.
"""

import sys
import tempfile
import time
from pathlib import Path

from sage_actors import Context, Supervisor, Workflow, operation


@operation(timeout=30, retry=3)
def measure(path: str, context: Context) -> dict[str, int]:
    """Lines and bytes of one file. What it prints is kept with the run: `sage-actors logs embed`."""
    text = Path(path).read_text(errors="replace")
    print(f"attempt {context.attempt} at {path}")
    time.sleep(0.2)  # stands for work
    return {"lines": text.count("\n"), "bytes": len(text)}


@operation
async def summarise(files: list[dict[str, int]]) -> dict[str, int]:
    """Coroutines run by the hundred in a worker of their own kind."""
    return {key: sum(each[key] for each in files) for key in ("lines", "bytes")}


def main() -> None:
    here = Path(__file__).resolve().parent
    flow = Workflow("embed")
    files = sorted(here.glob("*.py"))[:4]
    measured = [flow.add(measure, id=f"measure-{path.stem}", path=str(path)) for path in files]
    total = flow.add(summarise, id="total", files=measured)

    project = Path(tempfile.gettempdir()) / "sage-embed"
    project.mkdir(mode=0o700, exist_ok=True)
    with Supervisor(project=project, workers=2) as supervisor:
        run = supervisor.start(flow, run_id="embed", fresh="--fresh" in sys.argv)
        for event in run.events():
            print(event.event, event.node or "", event.data.get("seconds", ""))
        outcome = run.result()
    print(outcome.status, outcome[total.id])


if __name__ == "__main__":  # workers import this file too
    main()
