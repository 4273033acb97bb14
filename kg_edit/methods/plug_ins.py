"""Which code of another package made an edit, for the records of a run."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from kg_edit.registry import package_of


def plug_in_code(target: str) -> dict[str, str | None] | None:
    """Return the package of a plug-in's method, its version, and the SHA-256 of its Python files.

    Args:
        target: the method's class, as in its entry: "module:Class".

    Returns:
        None for a method of this package.
    """
    package = package_of(target)
    if package is None:
        return None
    name, version = package
    top = sys.modules[target.partition(":")[0].partition(".")[0]]
    folders = [Path(folder) for folder in getattr(top, "__path__", ())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not files and top.__file__:  # a module outside a package
        files = [Path(top.__file__)]
    hashes = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    return {"package": name, "version": version, "sha256": hashlib.sha256(b"".join(hashes)).hexdigest()}
