"""The pool of worker processes: the keeper that forks them, and the supervisor's end of their sockets."""
