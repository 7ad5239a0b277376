"""The server `sage-specification`: features, bugs and enhancements specified from evidence."""
