"""The workflow templates that come with the package: JSON files, found by `supervisor/templates/library.py`."""
