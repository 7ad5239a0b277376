"""The files of the Claude Code plugin. `sage-actors init` writes the same texts into a project."""
