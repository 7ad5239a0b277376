"""Documents in a project: written without harm, drafted without invention."""
