"""Workflow files and workflows in Python: read, checked in full, made into one specification."""
