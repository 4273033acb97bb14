"""The command `kg-edit`, also as `python -m kg_edit`."""

import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C is one line and exit code 130, also while the commands are imported."""
    # Read when PyTorch is loaded. Idle OpenMP threads spin by default; where another program has the core that they
    # spin on, `kg-edit demo` took twice the time (on idle cores sleeping costs 5 to 15 %).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from kg_edit.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("kg-edit: stopped\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
