"""The SPARQL this package asks: portable SPARQL 1.1, the same for embedded stores and endpoints.

No label service, no hints, no RAND, no implicit prefixes, no empty VALUES, and no LIMIT where the choice of
rows would matter. Ids inside VALUES are sorted, so equal questions are equal texts.
"""

from collections.abc import Iterator, Sequence

from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL

IDS_PER_QUERY = 200  # 3.8 kB as a GET request, well under the common 8 kB limit of a URL

# English first; "mul" holds the names for which Wikidata has deleted the English copy.
LANGUAGES = ("en", "mul", "en-gb", "en-ca", "en-us", "simple")

_PREFIX = f"PREFIX wd: <{ENTITY}> "
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def batches(ids: Sequence[str], *, size: int = IDS_PER_QUERY) -> Iterator[Sequence[str]]:
    """Cut ids into blocks of at most `size`, in order."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def out_query(ids: Sequence[str]) -> str:
    """All truthy statements of these ids whose value is an item: rows s, p, o."""
    return (
        f"{_PREFIX}SELECT ?s ?p ?o WHERE {{ VALUES ?s {{ {_names(ids)} }} ?s ?p ?o . FILTER(isIRI(?o)) "
        f'FILTER(STRSTARTS(STR(?p), "{DIRECT}P")) FILTER(STRSTARTS(STR(?o), "{ENTITY}Q")) }}'
    )


def types_query(ids: Sequence[str]) -> str:
    """What these ids are instances of: rows s, o."""
    return (
        f"{_PREFIX}SELECT ?s ?o WHERE {{ VALUES ?s {{ {_names(ids)} }} ?s <{DIRECT}P31> ?o . "
        f'FILTER(STRSTARTS(STR(?o), "{ENTITY}Q")) }}'
    )


def labels_query(ids: Sequence[str]) -> str:
    """Labels of these ids in the languages of LANGUAGES: rows e, l, lang."""
    wanted = ", ".join(f'"{language}"' for language in LANGUAGES)
    return (
        f"{_PREFIX}SELECT ?e ?l (LCASE(LANG(?l)) AS ?lang) WHERE {{ VALUES ?e {{ {_names(ids)} }} "
        f"?e <{RDFS_LABEL}> ?l . FILTER(LCASE(LANG(?l)) IN ({wanted})) }}"
    )


def find_query(label: str) -> str:
    """The entities with exactly this label in a language of LANGUAGES: rows e."""
    quoted = '"' + "".join(_ESCAPES.get(character, character) for character in label) + '"'
    wanted = " ".join(f"{quoted}@{language}" for language in LANGUAGES)
    return (
        f"SELECT DISTINCT ?e WHERE {{ VALUES ?l {{ {wanted} }} ?e <{RDFS_LABEL}> ?l . "
        f'FILTER(STRSTARTS(STR(?e), "{ENTITY}")) }}'
    )


def mentioned_query(entity: str) -> str:
    """One row if any statement has this entity as its value, none otherwise."""
    return f"{_PREFIX}SELECT ?s WHERE {{ ?s ?p wd:{entity} }} LIMIT 1"


def _names(ids: Sequence[str]) -> str:
    return " ".join(f"wd:{entity}" for entity in sorted(ids))
