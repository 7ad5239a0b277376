"""Who does the work: state, breaker, worker pool, and the operation actors in worker processes."""
