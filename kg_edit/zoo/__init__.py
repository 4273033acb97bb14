"""The other editors, the networks that they train, and their commands. Imports the core and `kg_edit.evaluation`."""
