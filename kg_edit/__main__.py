"""`python -m kg_edit`: the same as the command `kg-edit`."""

from kg_edit.cli.app import main

if __name__ == "__main__":
    main()
