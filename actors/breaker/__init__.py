"""The circuit breaker of each endpoint: a core that decides, and the actor that every outside call asks."""
