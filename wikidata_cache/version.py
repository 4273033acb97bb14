"""The installed version, which stores, snapshots and requests name."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """Return the installed version of the distribution kg-edit, or "0" where it is not installed."""
    try:
        return version("kg-edit")
    except PackageNotFoundError:
        return "0"
