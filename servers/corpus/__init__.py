"""The project as text: its files, code, packages and history, read once and searched by relevance."""
