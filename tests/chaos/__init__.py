"""Real processes that are killed: the program under test, and the campaign that kills it."""
