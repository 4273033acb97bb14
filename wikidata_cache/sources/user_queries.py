"""Read SELECT queries written by users: two checks (`check_select`, `forbid_service`), the cache key, the columns.

All use a small SPARQL 1.1 tokenizer (strings, IRIs, comments, names, words). It can't tell every IRI: engines may read
"<a#b>" as an IRI, or as "less than a" and a comment. A query with such a token is doubtful. Its text stays as it is in
the key, and all of it counts as code in the check for SERVICE.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator

from wikidata_cache.errors import ServiceForbiddenError, UserQueryError
from wikidata_cache.ids import is_text
from wikidata_cache.sources.source import Binding

_TOKEN = re.compile(
    r"""(?P<string>\"{3}(?:\"{0,2}(?:[^"\\]|\\.))*\"{3}  # three double quotes around the text
          | '{3}(?:'{0,2}(?:[^'\\]|\\.))*'{3}            # three single quotes
          | "(?:[^"\\\n\r]|\\.)*"                        # "Rome"
          | '(?:[^'\\\n\r]|\\.)*')                       # 'Rome'
      | (?P<iri><[^<>"{}|^`\\\x00-\x20]*>)               # <http://www.wikidata.org/entity/Q42>
      | (?P<comment>\#[^\n\r]*)                          # from "#" to the end of the line
      | (?P<space>\s+)
      | (?P<name>[?$]\w+                                 # ?item or $item
          | @[A-Za-z]+(?:-[A-Za-z0-9]+)*                 # @en-gb
          | :[\w-]*)                                     # :Q42 in wd:Q42
      | (?P<word>\w+)                                    # SELECT, or wd in wd:Q42
      | (?P<other>.)                                     # a bracket, a dot, ...
    """,
    re.VERBOSE | re.DOTALL,
)
# What is an IRI for every engine: "<http://...", or "<...>" without a "#" and other signs of code, as in "<Q42>".
_SURELY_IRI = re.compile(r"<[A-Za-z][A-Za-z0-9+.-]*://|<[\w/.:%-]*>$")
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})")
_FORMS = ("select", "ask", "construct", "describe")
_UPDATES = ("insert", "delete", "load", "clear", "create", "drop", "copy", "move", "add", "with")


def check_select(query: str) -> None:
    """Refuse a text that is not a SELECT query."""
    if not is_text(query):
        raise UserQueryError("The query contains a lone surrogate (half of a character); remove it.")
    form = _find_form(query)
    if form in _UPDATES:
        raise UserQueryError(
            f"The query is an update ({form.upper()}). Graphs are only read here: write a SELECT query."
        )
    if form != "select":
        problem = "has no SELECT"
        if form:
            problem = f"has the form {form.upper()}"
        raise UserQueryError(f"The query {problem}; only SELECT queries return rows. Write SELECT ... WHERE {{ ... }}.")


def _find_form(query: str) -> str | None:
    """Return the word that tells what the query does, such as "select" or "insert"; None if there is none."""
    for word in _list_words(query):
        if word in _FORMS or word in _UPDATES:
            return word
    return None


def canonicalize(query: str) -> str:
    """Return a query without comments and with single spaces; a doubtful query stays as it is, and so do strings."""
    tokens = list(_split_tokens(query))
    if any(_is_doubtful(kind, text) for kind, text in tokens):
        return query.strip()
    parts: list[str] = []
    for kind, text in tokens:
        if kind not in ("comment", "space"):
            parts.append(text)
        elif parts and parts[-1] != " ":
            parts.append(" ")
    return "".join(parts).strip(" ")


def query_key(query: str) -> str:
    """Return the id of a query's rows in a cache: the sha256 of its canonical text."""
    return hashlib.sha256(canonicalize(query).encode("utf-8", "surrogatepass")).hexdigest()


def order_variables(query: str, rows: Iterable[Binding]) -> list[Binding]:
    """Return the rows with their variables in the order in which the query names them; unnamed columns come last."""
    places: dict[str, int] = {}
    for kind, text in _split_tokens(query):
        if kind == "name" and text.startswith(("?", "$")):
            places.setdefault(text[1:], len(places))
    ordered: list[Binding] = []
    for row in rows:
        names = sorted(row, key=lambda name: (places.get(name, len(places)), name))
        ordered.append({name: row[name] for name in names})
    return ordered


def forbid_service(query: str, where: str) -> None:
    """Raise ServiceForbiddenError if the code of the query contains SERVICE; `where` gives the reason in the message.

    A prefix named "service" is refused as well.
    """
    if "service" not in query.lower() and not _ESCAPE.search(query):
        return
    # Some engines read escapes such as \u0053 (S) before they look for strings and words, others do not.
    for text in (query, _ESCAPE.sub(_read_escape, query)):
        if _has_service(text):
            raise ServiceForbiddenError(
                f"The query contains SERVICE, which would connect to another server, but {where}. Remove "
                f"SERVICE (and do not name a prefix 'service'), or ask an endpoint online."
            )


def _has_service(query: str) -> bool:
    """Return whether a word of the code contains "service"; in a doubtful query, whether any text does."""
    tokens = list(_split_tokens(query))
    if any(_is_doubtful(kind, text) for kind, text in tokens):
        return "service" in query.lower()
    return any(kind == "word" and "service" in text.lower() for kind, text in tokens)


def _is_doubtful(kind: str, text: str) -> bool:
    """Return whether engines may disagree about a token: an IRI, or "less than" and what follows (see the top)."""
    return kind == "iri" and not _SURELY_IRI.match(text)


def _list_words(query: str) -> Iterator[str]:
    """Yield the words of the code in lower case, without the prefix names that the prologue declares."""
    previous = ""
    for kind, text in _split_tokens(query):
        if kind == "word" and previous != "prefix":
            yield text.lower()
        if kind not in ("space", "comment"):
            previous = text.lower()


def _split_tokens(query: str) -> Iterator[tuple[str, str]]:
    """Yield the tokens of a query: the kind, a group of `_TOKEN`, and the text."""
    for match in _TOKEN.finditer(query):
        yield match.lastgroup or "other", match[0]  # a group always matches; the "or" is for mypy


def _read_escape(escape: re.Match[str]) -> str:
    """Return the character of an escape such as \\u0053, or the escape itself if there is no such character."""
    number = int(escape[1] or escape[2], 16)
    if number >= 0x110000:
        return escape[0]
    return chr(number)
