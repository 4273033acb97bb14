"""Which release this is."""

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The installed version, or "0" where the package runs uninstalled."""
    try:
        return version("kg-edit")
    except PackageNotFoundError:
        return "0"
