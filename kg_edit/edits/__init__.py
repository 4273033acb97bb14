"""The `Edit` class, the readers and writers of edit files and rows, and the relation templates."""
