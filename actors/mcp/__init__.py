"""The MCP client: servers started once, sessions shared by all nodes, answers and errors in our terms."""
