"""COMEBA: MEMIT's updates behind a gate that knows the edited subjects."""

METHODS = {"comeba": "method:Comeba"}
