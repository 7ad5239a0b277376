"""MCP servers: the sage servers and the orchestration server (they come with the sage layer)."""
