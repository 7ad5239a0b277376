"""What pool and keeper say to each other; see keeper.py."""

from typing import Final

# To the keeper
FORK: Final = 1  # [number, kind], with FDS_PER_WORKER descriptors
SIGNAL: Final = 2  # [number, signal]
SETTINGS: Final = 3  # what it is for, see `Keeper.settle`; with the descriptor of the broker, if there is one
LOAD: Final = 4  # "mcp": import now what such workers need, which takes a second

# From the keeper
READY: Final = 10  # {"pid", "placeholders"}, with the descriptor of the proxy's listener if there is one
STARTED: Final = 11  # [number, pid]
EXITED: Final = 12  # [number, exit code or nil, text]

FDS_PER_WORKER: Final = 5  # socket, write ends of stdout and stderr, their read ends
