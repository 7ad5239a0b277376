"""What the user consented to, known by its content."""
