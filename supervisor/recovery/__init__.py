"""From a journal back to a run: opening, restoring, carrying over, forking, looking."""
