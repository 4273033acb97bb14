"""The command `kg-edit`, also as `python -m kg_edit`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C is one line and exit code 130, also while the commands are imported."""
    try:
        from kg_edit.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("kg-edit: stopped\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
