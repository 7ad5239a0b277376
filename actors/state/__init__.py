"""Crash-safe state: the journal and its format, locks, repair, and the actor that alone writes."""
