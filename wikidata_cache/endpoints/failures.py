"""From what an endpoint did to an EndpointError that says what to do about it."""

import time
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from urllib.error import HTTPError

from wikidata_cache.errors import EndpointError

_LOCAL = "Or work from a local graph: FILE.nt.gz, a folder, or oxigraph:FOLDER."
_THROTTLED_WAIT = 60.0  # seconds, where the endpoint names none
_TIMEOUT_SIGNS = ("timeoutexception", "timed out", "timeout", "operation has been cancelled")
# SPARQLWrapper turns these statuses into exceptions of its own, which keep only the body.
_WRAPPER_STATUS = {
    "QueryBadFormed": 400,
    "Unauthorized": 401,
    "EndPointNotFound": 404,
    "URITooLong": 414,
    "EndPointInternalError": 500,
}


def classify(error: Exception, url: str, timeout: float) -> EndpointError:
    """The EndpointError for whatever urllib, http.client or SPARQLWrapper raised."""
    if isinstance(error, HTTPError):
        body = error.read(2_000).decode("utf-8", "replace")
        wait = _seconds(error.headers.get("Retry-After"))
        return _from_status(url, error.code, f"{error.reason} {body}", wait, timeout)
    if type(error).__name__ in _WRAPPER_STATUS:
        return _from_status(url, _WRAPPER_STATUS[type(error).__name__], str(error), None, timeout)
    if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
        return too_slow(url, timeout)
    if isinstance(error, HTTPException | OSError):
        found = f"no complete answer: {type(error).__name__}: {error}"
        return EndpointError(url, "unavailable", found, f"Check the URL and the network. {_LOCAL}")
    raise error


def too_slow(url: str, timeout: float, *, status: int | None = None) -> EndpointError:
    """A query that ran past the server's limit or ours."""
    found = f"no complete answer within the time limit ({timeout:g} s here; 60 s at Wikidata)"
    way_out = f"Ask for fewer edits or hops at a time, or give a longer timeout. {_LOCAL}"
    return EndpointError(url, "timeout", found, way_out, status=status)


def bad_answer(url: str, content_type: str, body: bytes) -> EndpointError:
    """A 200 that is not SPARQL JSON: cut off by a server-side timeout, or somebody's web page."""
    tail = body[-4_000:].decode("utf-8", "replace")
    if "json" in content_type and any(sign in tail.lower() for sign in _TIMEOUT_SIGNS):
        found, way_out = (
            "the answer was cut off by a time limit of the server",
            "Ask for fewer edits at a time.",
        )
        return EndpointError(url, "timeout", found, f"{way_out} {_LOCAL}", status=200)
    start = " ".join(body[:80].decode("utf-8", "replace").split())
    found = f"expected SPARQL JSON, found {content_type or 'no content type'} with {len(body)} bytes: {start!r}"
    way_out = f"It may be cut off, a proxy's page, or the wrong URL (often it ends in /sparql or /query). {_LOCAL}"
    return EndpointError(url, "bad answer", found, way_out, status=200)


def _from_status(url: str, status: int, text: str, wait: float | None, timeout: float) -> EndpointError:
    lowered = text.lower()
    found = f"HTTP {status} {' '.join(text.split())[:160]}".strip()
    if status in (429, 500) and any(sign in lowered for sign in _TIMEOUT_SIGNS):
        return too_slow(url, timeout, status=status)
    if status == 429 and ("outage" in lowered or "aggressively" in lowered):
        way_out = f"The service limits everybody during an outage; come back later. {_LOCAL}"
        return EndpointError(url, "outage", found, way_out, status=status, retry_after=wait)
    if status == 429:
        wait = _THROTTLED_WAIT if wait is None else wait
        way_out = f"Wait {wait:g} s before asking again; asking sooner gets you banned. {_LOCAL}"
        return EndpointError(url, "throttled", found, way_out, status=status, retry_after=wait)
    if status == 403:
        way_out = f"You are banned or your User-Agent was refused: check contact, do not retry. {_LOCAL}"
        return EndpointError(url, "refused", found, way_out, status=status)
    if status >= 500:
        way_out = f"The server is in trouble; try again later. {_LOCAL}"
        return EndpointError(url, "unavailable", found, way_out, status=status, retry_after=wait)
    way_out = f"Check that the URL is a SPARQL 1.1 query endpoint. {_LOCAL}"
    return EndpointError(url, "rejected", found, way_out, status=status)


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header in seconds; it holds a number or an HTTP date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
