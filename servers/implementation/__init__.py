"""The server `sage-implementation`: work orders, and the project's own checks."""
