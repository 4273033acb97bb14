"""COMEBA: MEMIT's updates behind a gate that opens for the edited subjects."""
