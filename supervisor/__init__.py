"""Who decides what runs next, and who may ask: graph, core, supervisor actor, API, command line."""
