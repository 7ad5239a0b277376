"""`python -m sage_actors` is the command line."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts the working directory first: a project with a json.py of its own would be imported from.
    if not sys.flags.safe_path and Path(sys.path[0]) != Path(__file__).parents[1]:
        del sys.path[0]
    from sage_actors.supervisor.cli.main import main

    main()
