"""To ask again, at the host's pace, as long as that makes sense."""

import logging
from collections.abc import Callable
from typing import TypeVar

from wikidata_cache.endpoints.rate_limit import Pace, Patience
from wikidata_cache.errors import EndpointError

logger = logging.getLogger(__name__)

MOST = 4  # requests for one question
PASSING = ("throttled", "outage", "unavailable")  # troubles in which waiting helps
_TOLD_TO_WAIT = ("throttled", "outage")

T = TypeVar("T")


def insist(
    pace: Pace, url: str, once: Callable[[], T], *, patience: float, attempts: Callable[[EndpointError], int]
) -> T:
    """What `once` gives, each time in a turn of `pace`; at most `patience` seconds are waited in all.

    `attempts` says how many requests a failure is worth. Raises the last EndpointError, or where the host has
    asked to wait for longer, one that says until when.
    """
    left = Patience(patience)
    made = 0
    while True:
        made += 1
        try:
            with pace.turn(url, left):
                return once()
        except EndpointError as error:
            wait = pace.wait(url)
            if made >= attempts(error) or wait > left.left:
                if error.trouble in _TOLD_TO_WAIT and wait:
                    raise pace.refusal(url, left) from error
                raise
            logger.warning("%s Trying again in %.3g s", error, wait)
