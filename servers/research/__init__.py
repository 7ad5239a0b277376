"""The server `sage-research`: what the project, its history and kept results say about a topic."""
