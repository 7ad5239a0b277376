"""The kernel sandbox: profiles as data, what this machine can do, and how a process is confined."""
