"""The command line: `kg-edit`, one file a command."""
