"""The commands and services of ship."""

from kg_edit.registry import CommandEntry, ServiceEntry

COMMANDS = (
    CommandEntry(
        "patch",
        "Store patches with their history in a folder (a ledger); remove, check and export edits.",
        target="kg_edit.ship.cli.patch:app",
        panel="Ship",
        is_group=True,
    ),
    CommandEntry(
        "audit",
        "Compare an edited checkpoint with its base, and say what a ledger does not explain.",
        target="kg_edit.ship.cli.audit:audit",
        panel="Ship",
    ),
    CommandEntry(
        "serve",
        "Serve a web page to try edits, with the answers of the unedited and the edited model.",
        target="kg_edit.ship.cli.serve:serve",
        panel="Ship",
    ),
)

SERVICES = (ServiceEntry("ledger", target="kg_edit.ship.ledger.listing"),)
