"""The work behind the commands of `kg-edit`, independent of the command line."""
