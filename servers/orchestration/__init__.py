"""The server `sage-actors`: workflows as tools, tasks and resources for agents."""
