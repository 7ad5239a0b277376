"""The decisions, without I/O, threads, clock or randomness: events in, commands out."""
