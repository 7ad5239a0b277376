"""Run a graph of agent work in parallel, and never lose a finished step."""
