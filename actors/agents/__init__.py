"""Coding agents and models as backends: one prompt and a schema in, an object and its usage out."""
