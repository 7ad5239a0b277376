"""What crosses a border, as data. Imports nothing of the project but itself."""
