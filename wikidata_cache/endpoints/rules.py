"""What hosts ask of their clients: a way to reach whoever asks, and how often one may ask."""

import os
from urllib.parse import urlsplit

from wikidata_cache.errors import MissingContactError, OfflineError
from wikidata_cache.release import release

OUTAGE_RATE = 1 / 62  # requests a second: a little slower than the one a minute of the outages of 2026
ELSEWHERE = "Or use another endpoint, or a local graph: FILE.nt.gz, a folder, or oxigraph:FOLDER."

_WIKIMEDIA = ("wikidata.org", "wikimedia.org", "wikipedia.org", "mediawiki.org")
_ONE_A_SECOND = (*_WIKIMEDIA, "qlever.dev")


def host_of(url: str) -> str:
    """The host name and port by which an endpoint counts its clients' requests."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def usual_rate(host: str) -> float | None:
    """How many requests a second a host bears with, None where only its answers will tell."""
    return 1.0 if _belongs(host, _ONE_A_SECOND) else None


def wants_contact(url: str) -> bool:
    """Whether whoever runs this endpoint asks every client for an address."""
    return _belongs(host_of(url), _WIKIMEDIA)


def user_agent(url: str, contact: str | None) -> str:
    """The User-Agent that names `contact`, else KG_EDIT_CONTACT; raises MissingContactError for Wikimedia without."""
    host = host_of(url)
    contact = contact or os.environ.get("KG_EDIT_CONTACT", "")
    reachable = contact.isprintable() and ("@" in contact or "://" in contact)
    if (wants_contact(url) and not reachable) or not contact.isprintable():
        raise MissingContactError(
            f"{host} asks every client to say whom to write to, and found contact={contact!r}. Give "
            f"--contact you@example.org (in Python contact='you@example.org'), or a URL of yours, or set "
            f"KG_EDIT_CONTACT. It is sent along."
        )
    return f"wikidata-cache/{release()} ({contact or 'no contact given'}) SPARQLWrapper/2"


def forbid_when_offline(url: str) -> None:
    """Raise OfflineError where the environment sets KG_OFFLINE to anything but 0 or nothing."""
    if os.environ.get("KG_OFFLINE", "").strip().lower() not in ("", "0", "false", "no"):
        raise OfflineError(
            f"{url} is an endpoint, and KG_OFFLINE is set. Unset KG_OFFLINE, or give a graph file "
            f"(FILE.nt.gz), a folder of them, or oxigraph:FOLDER."
        )


def _belongs(host: str, domains: tuple[str, ...]) -> bool:
    name = host.partition(":")[0]
    return any(name == domain or name.endswith("." + domain) for domain in domains)
