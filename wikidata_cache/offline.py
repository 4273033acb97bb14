"""KG_OFFLINE: an environment variable that forbids every request."""

import os

from wikidata_cache.errors import OfflineError


def offline_forced() -> bool:
    """Return whether the environment variable KG_OFFLINE is set to anything but 0, false, no or the empty text."""
    return os.environ.get("KG_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


def forbid_when_offline(url: str) -> None:
    """Raise OfflineError if KG_OFFLINE forbids the network."""
    if offline_forced():
        raise OfflineError(
            f"{url} is an endpoint, but KG_OFFLINE is set. Unset KG_OFFLINE, or give a graph file "
            f"(FILE.nt.gz), a folder of them, or oxigraph:FOLDER."
        )
