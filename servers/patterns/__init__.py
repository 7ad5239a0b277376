"""The server `sage-patterns`: how a project's code is written, in Python, TypeScript, Go and Rust."""
