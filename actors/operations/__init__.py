"""What each type of operation does in a worker; a type is added in `types.py`."""
