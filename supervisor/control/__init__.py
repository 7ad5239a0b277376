"""The control socket: how other processes of the same user look at a run and decide for it."""
