"""Every budget of the design, measured: `python -m bench` runs all, `python -m bench.engine` one group.

A benchmark is no test: a missed budget is printed as MISSED and the exit code stays 0. Non-zero means that
something could not be measured.
"""
