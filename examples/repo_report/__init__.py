"""The steps of `repo-report.json`: plain functions on a git repository, each one a node of the workflow.

They need git and the standard library, read committed content only, and execute nothing of what they read.
"""
