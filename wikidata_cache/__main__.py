"""The command `wikidata-cache`, also as `python -m wikidata_cache`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C is one line and exit code 130, also while the commands are imported."""
    try:
        from wikidata_cache.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
