"""`python -m sage_actors` is the command line."""

from sage_actors.supervisor.cli import main

if __name__ == "__main__":
    main()
