"""What pool and keeper say to each other; see keeper.py."""

from typing import Final

FORK: Final = 1  # [number, kind], with FDS_PER_WORKER descriptors
SIGNAL: Final = 2  # [number, signal]
READY: Final = 10  # pid, or {"pid", "placeholders"} with the descriptor of the proxy's listener
STARTED: Final = 11  # [number, pid]
EXITED: Final = 12  # [number, exit code or nil, text]

FDS_PER_WORKER: Final = 5  # socket, write ends of stdout and stderr, their read ends
