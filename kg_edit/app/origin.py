"""Which requests another site's page may have sent: a browser sends a form's POST to any address, also this one."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.requests import Request

_READING = ("GET", "HEAD", "OPTIONS")
_JSON = "application/json"
_OWN = ("same-origin", "none")  # none: the person at the browser
_FOREIGN, _NOT_JSON = 403, 415


class Refusal(NamedTuple):
    """Why a request is not answered; ``kind`` as of a `Problem`."""

    code: int
    kind: str
    message: str


def refusal_of(request: Request) -> Refusal | None:
    """Why a request that changes something is refused; None for one of this page, or of a program.

    A browser tells the page's origin, which no page can change, and sends JSON elsewhere only with leave, which is
    never given here. A program that is no browser tells none.
    """
    if request.method in _READING:
        return None
    if site := _foreign(request):
        return Refusal(_FOREIGN, "ForeignRequestError", f"the request comes from {site}; open {_own(request)} instead")
    found = request.headers.get("content-type", "")
    if found.partition(";")[0].strip().lower() != _JSON:
        said = f"the content type is {found!r}" if found else "there is no content type"
        return Refusal(_NOT_JSON, "ContentTypeError", f"{said}; send JSON with the header Content-Type: {_JSON}")
    return None


def _foreign(request: Request) -> str | None:
    """What other place the browser says that the request comes from."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin is not None and _place(origin) != request.headers.get("host", "").lower():
        return f"a page at {origin!r}"
    return f"another page ({site})" if site is not None and site not in _OWN else None


def _place(origin: str) -> str | None:
    """Host and port; None of the origin ``null``, and of what is none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _own(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}/"
