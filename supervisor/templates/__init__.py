"""Workflow templates by name: the package's, the project's, and upstream's shapes."""
