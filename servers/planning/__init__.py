"""The server `sage-planning`: a specification made into tasks with an order."""
