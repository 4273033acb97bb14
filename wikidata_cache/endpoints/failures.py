"""Turn replies and connection failures of an endpoint into rows, or into an `EndpointError` with a suggestion.

This module knows the statuses, headers and bodies of Wikidata's query service (Blazegraph), QLever, Virtuoso and
proxies. `parse_reply` reads SPARQL 1.1 JSON results (https://www.w3.org/TR/sparql11-results-json/) and refuses anything
else.
"""

import time
from collections.abc import Container, Mapping
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPException, InvalidURL
from typing import Any

from kg_common.json_text import parse
from wikidata_cache.endpoints.rate_limit import ELSEWHERE, LONGEST_WAIT
from wikidata_cache.endpoints.transport import Reply
from wikidata_cache.endpoints.web import LIMIT_VARIABLE, AnswerTooLargeError
from wikidata_cache.errors import EndpointError, EndpointTrouble
from wikidata_cache.sources.source import Binding

_FEWER = f"Ask for fewer edits or hops at a time, or give a longer timeout. {ELSEWHERE}"
_BANNED = "You are banned, or your User-Agent was refused: check the contact address, and do not retry."
_TIMEOUT_SIGNS = ("timeoutexception", "timed out", "timeout", "time-out", "operation has been cancelled")
_LITERAL = ("literal", "typed-literal")
_TRUNCATION_SIGNS = ("sr353", "sorted top clause")  # Virtuoso cannot sort more rows than it may return
_OVERLOAD_SIGNS = ("gateway", "unavailable", "overload", "maintenance", "too many", "try again", "outage")


def parse_reply(reply: Reply, url: str, *, literals: Container[str] | None = None) -> list[Binding]:
    """Return the rows of SPARQL 1.1 JSON results.

    Blank nodes are left out, since their names have no meaning outside the answer. `literals` are the variables of our
    own queries that have literals: an IRI there is an error, and a literal in another variable is left out.
    """
    if reply.status != 200:
        raise _explain_wrong_status(reply, url)
    if "x-sql-state" in reply.headers:  # Virtuoso sends this header when it stops early
        raise explain_timeout(url, f"the server stopped early (X-SQL-State {reply.headers['x-sql-state']})", status=200)
    if "json" not in reply.headers.get("content-type", ""):
        raise _explain_wrong_content(reply, url)
    content = None
    if reply.is_complete:
        with suppress(ValueError):  # the text is not JSON, or not UTF-8
            content = parse(reply.body)
    if content is None and _has(_read_text(reply.body[-4_000:]), _TIMEOUT_SIGNS):
        raise explain_timeout(url, "the answer was cut off by a time limit of the server", status=200)
    if content is None:
        problem = f"the answer ended too early, after {len(reply.body)} bytes"
        raise EndpointError(url, "cut off", problem, f"Try again later, or ask for fewer edits at a time. {ELSEWHERE}")
    try:
        return [_parse_binding(binding, literals) for binding in content["results"]["bindings"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _explain_wrong_content(reply, url) from error


def _parse_binding(binding: Mapping[str, Mapping[str, Any]], literals: Container[str] | None) -> Binding:
    """Return a row as {variable: text}, by the rules of `parse_reply`, which catches the errors of wrong JSON."""
    row: dict[str, str] = {}
    for name, term in binding.items():
        if term["type"] == "uri":
            if literals is not None and name in literals:
                raise ValueError(f"an IRI as ?{name}")
            row[name] = read_term(term)
        elif term["type"] in _LITERAL and (literals is None or name in literals):
            row[name] = read_term(term)
    return row


def read_term(term: Mapping[str, Any]) -> str:
    """Return the text of a term, with lone surrogates replaced: RDF does not allow them, and files cannot hold them."""
    value = term["value"]
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {value!r:.80}")
    if value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _explain_wrong_content(reply: Reply, url: str) -> EndpointError:
    """Return the error for a reply with the status 200 that is not SPARQL JSON, such as the page of a proxy."""
    kind = reply.headers.get("content-type") or "no content type"
    start = _read_text(reply.body[:80])
    problem = f"expected SPARQL JSON, found {kind} with {len(reply.body)} bytes: {start!r}"
    if "html" in kind and _has(_read_text(reply.body[:4_000]), _OVERLOAD_SIGNS):
        return EndpointError(
            url, "unavailable", problem, f"A proxy reports an error; try again later. {ELSEWHERE}", status=200
        )
    suggestion = (
        f"This may be the page of a proxy, or a wrong URL (the right one often ends in /sparql or /query). {ELSEWHERE}"
    )
    return EndpointError(url, "bad answer", problem, suggestion, status=200)


def _explain_wrong_status(reply: Reply, url: str) -> EndpointError:
    """Return the error for a reply with another status than 200, by the status and the signs in its text."""
    status = reply.status
    wait = read_retry_after(reply.headers)
    message = make_printable(f"{reply.reason} {_read_text(reply.body[:4_000])}")
    reason = f"HTTP {status} {message[:160]}".strip()
    if status in (400, 500) and _has(message, _TRUNCATION_SIGNS):
        return EndpointError(url, "truncated", reason, _FEWER, status=status)
    if status in (206, 504) or (status in (400, 429, 500, 503) and _has(message, _TIMEOUT_SIGNS)):
        return explain_timeout(url, reason, status=status)
    if status in (413, 414, 431):
        return EndpointError(url, "too long", reason, f"The query is too long for this server. {_FEWER}", status=status)
    trouble, advice = _find_trouble(reply, message, wait)
    return EndpointError(url, trouble, reason, f"{advice} {ELSEWHERE}", status=status, retry_after=wait)


def _find_trouble(reply: Reply, message: str, wait: float | None) -> tuple[EndpointTrouble, str]:
    """Return the kind of failure that a status stands for, and what to do about it.

    Args:
        reply: with another status than 200.
        message: its reason phrase and the start of its body, as one line.
        wait: the seconds that it asks to wait, or None.
    """
    status = reply.status
    if status == 429 and _has(message, ("outage", "aggressively")):
        return "outage", "The service limits all clients during an outage; try again later."
    if status == 429 and wait is None:
        return "throttled", "Wait a minute before asking again."
    if status == 429:
        return "throttled", f"Wait {wait:.0f} s before asking again."
    if status == 403:
        return "refused", _BANNED
    if status >= 500 or status == 408:
        return "unavailable", "The server has a problem; try again later."
    advice = "Check a query of your own, and the URL: of a SPARQL 1.1 query endpoint, or an Action API."
    location = make_printable(reply.headers.get("location", ""))
    if location:
        advice += f" The endpoint has moved to {location}."
    return "rejected", advice


def explain_connection_error(error: Exception, url: str, timeout: float) -> EndpointError:
    """Return the EndpointError for an exception of urllib or http.client; raise other exceptions again.

    The order counts: an AnswerTooLargeError is a ValueError, and a TimeoutError is an OSError.
    """
    if isinstance(error, AnswerTooLargeError):
        problem = f"the answer has more than {error.limit / 1e6:g} MB"
        suggestion = f"Ask for less at a time, or set {LIMIT_VARIABLE} to a larger number of megabytes. {ELSEWHERE}"
        return EndpointError(url, "too large", problem, suggestion)
    if isinstance(error, TimeoutError):
        return explain_timeout(url, f"no complete answer within the time limit of {timeout:g} s of this client")
    if isinstance(error, InvalidURL | ValueError):  # in the URL itself, or in that of a redirect
        return EndpointError(url, "rejected", f"not a valid URL: {error}", f"Correct the URL. {ELSEWHERE}")
    if isinstance(error, HTTPException | OSError):  # such as a URLError with a TimeoutError inside: no connection
        problem = f"no connection: {getattr(error, 'reason', '') or type(error).__name__}"
        return EndpointError(url, "unavailable", problem, f"Check the URL and the network. {ELSEWHERE}")
    raise error


def explain_timeout(url: str, problem: str, *, status: int | None = None) -> EndpointError:
    """Return the error for a query that exceeded the time limit of the server or of this client; `problem` names it."""
    return EndpointError(url, "timeout", problem, _FEWER, status=status)


def explain_truncated_answer(url: str, rows: int) -> EndpointError:
    """Return the error for a well-formed answer that lacks its end mark after `rows` rows."""
    problem = f"the answer lacks its end after {rows} rows: the endpoint does not send more rows"
    suggestion = f"Raise this limit of the endpoint (Virtuoso: ResultSetMaxRows). {ELSEWHERE}"
    return EndpointError(url, "truncated", problem, suggestion, status=200)


def explain_wrong_answer(url: str, problem: str) -> EndpointError:
    """Return the error for SPARQL JSON that does not fit the query, or is the answer to another query."""
    advice = f"Check the proxies between you and the endpoint. {ELSEWHERE}"
    return EndpointError(url, "bad answer", make_printable(problem), advice)


def name_single_id(error: EndpointError, kind: str, name: str) -> EndpointError:
    """Return the same error for a question about the single id `name`, which cannot be split further."""
    problem = f"asked for the single id {name!r} ({kind}): {error.problem}"
    suggestion = error.suggestion
    if error.trouble == "timeout":
        suggestion = f"Give a longer timeout, or try again when the endpoint is less busy. {ELSEWHERE}"
    return EndpointError(
        error.url, error.trouble, problem, suggestion, status=error.status, retry_after=error.retry_after
    )


def _has(text: str, signs: tuple[str, ...]) -> bool:
    """Return whether a text has one of the signs, whatever its case."""
    lowered = text.lower()
    return any(sign in lowered for sign in signs)


def _read_text(body: bytes) -> str:
    """Return a body as one line of printable characters."""
    return make_printable(body.decode("utf-8", "replace"))


def make_printable(text: str) -> str:
    """Return a foreign text as one line of printable characters."""
    characters = []
    for character in text:
        if not character.isprintable():
            character = " "
        characters.append(character)
    return " ".join("".join(characters).split())


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the header Retry-After (seconds or an HTTP date) in seconds, at most 30 days; None if it is neither.

    A date is compared with the date of the reply, since the clock of this machine may be wrong.
    """
    retry_after = headers.get("retry-after")
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return min(float(retry_after), LONGEST_WAIT)
    until = _parse_date(retry_after)
    if until is None:
        return None
    since = _parse_date(headers.get("date"))
    if since is None:
        since = time.time()
    return min(max(0.0, until - since), LONGEST_WAIT)


def _parse_date(date: str | None) -> float | None:
    """Return the Unix time of an HTTP date; None if the text is not a date."""
    if not date:
        return None
    try:
        moment = parsedate_to_datetime(date)
        if moment.tzinfo is None:  # the old form "Fri Nov 27 21:46:59 2026" is in UTC too (RFC 9110, 5.6.7)
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
