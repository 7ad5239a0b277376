"""Skills: found, read, checked for what they need, and ranked by a topic."""
