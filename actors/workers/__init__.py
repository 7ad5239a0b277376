"""A worker process: takes tasks from its socket, executes them, and says what came of it."""
