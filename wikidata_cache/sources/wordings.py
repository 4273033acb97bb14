"""Questions about labels, descriptions and names in other languages than English (`Template`s).

Each is asked by a key: an entity and a family of languages, written "Q42 zh", or a family and a name, "zh 北京". The
answer has the texts in all codes of the family, so that it fits every chain of languages (`languages.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from pyoxigraph import Literal

from kg_common.ids import is_entity
from wikidata_cache.ids import ENTITY, local_id
from wikidata_cache.languages import Languages, find_family, list_codes, list_own_languages
from wikidata_cache.sources.queries import (
    parse_named_in,
    parse_words_of,
    write_marked_select,
    write_named_in,
    write_words_of,
)
from wikidata_cache.sources.source import Binding, Fact, Json, Kind, LanguageKind, Template
from wikidata_cache.sources.templates import TEMPLATES, match_words
from wikidata_cache.stores.ntriples import KIND_IRIS

_LABEL = f"<{KIND_IRIS['label']}>"
_DESCRIPTION = f"<{KIND_IRIS['description']}>"


def _make_words_query_writer(predicate: str) -> Callable[[Sequence[str]], str]:
    """Return a function from keys such as "Q42 zh" to the query of their texts: rows e, l, lang."""

    def write_query(keys: Sequence[str]) -> str:
        entities: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            entity, family = parse_words_of(key)
            entities[family].append(entity)
        parts = []
        for family, ids in sorted(entities.items()):
            names = " ".join(f"wd:{entity}" for entity in sorted(ids))
            words = match_words("e", predicate, list_codes(family))
            parts.append(f"VALUES ?e {{ {names} }} {words}")
        return write_marked_select("?e ?l ?lang", *parts)

    return write_query


def _read_key(row: Binding) -> str:
    return write_words_of(local_id(row["e"]), find_family(row["lang"]))


def _make_words_reader(kind: LanguageKind) -> Callable[[Sequence[str], Sequence[Binding]], list[Fact]]:
    """Return the reader of texts: the value of a fact has a pair [code, text] for each code that has one."""

    def read(keys: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
        texts: dict[str, dict[str, str]] = defaultdict(dict)
        for row in sorted(rows, key=lambda row: row["l"]):
            if row["l"].strip():  # of several texts in one code, the first in alphabetical order stays
                texts[_read_key(row)].setdefault(row["lang"], row["l"])
        facts = []
        for key in keys:
            pairs = [[code, text] for code, text in sorted(texts[key].items())]
            facts.append(Fact(kind, key, pairs))
        return facts

    return read


def _write_named_query(keys: Sequence[str]) -> str:
    """Return the query for the entities with exactly these labels in these languages: rows e, l, lang."""
    literals = []
    for key in sorted(keys):
        family, label = parse_named_in(key)
        literals += [str(Literal(label, language=code)) for code in list_codes(family)]
    labelled = f"VALUES ?l {{ {' '.join(literals)} }} ?e {_LABEL} ?l . BIND(LCASE(LANG(?l)) AS ?lang)"
    return write_marked_select("?e ?l ?lang", f'{labelled} FILTER(STRSTARTS(STR(?e), "{ENTITY}"))')


def _read_name(row: Binding) -> str:
    return write_named_in(row["l"], find_family(row["lang"]))


def _read_named(keys: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    entities: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        entities[_read_name(row)].add(local_id(row["e"]))
    return [Fact("named_in", key, sorted(filter(is_entity, entities[key]))) for key in keys]


_write_labels_query = _make_words_query_writer(_LABEL)
_write_descriptions_query = _make_words_query_writer(_DESCRIPTION)
LABELS_IN = Template("labels_in/1", "label_in", _write_labels_query, _make_words_reader("label_in"), _read_key)
DESCRIPTIONS_IN = Template(
    "descriptions_in/1",
    "description_in",
    _write_descriptions_query,
    _make_words_reader("description_in"),
    _read_key,
)
# A name is written in up to nine codes of a family, so fewer names fit into the length of a URL.
NAMED_IN = Template("named_in/1", "named_in", _write_named_query, _read_named, _read_name, size=10)

# The question in other languages for each question about words.
IN_LANGUAGES: dict[Kind, Template] = {"label": LABELS_IN, "description": DESCRIPTIONS_IN, "named": NAMED_IN}
ALL_TEMPLATES: dict[Kind, Template] = TEMPLATES | {template.kind: template for template in IN_LANGUAGES.values()}


def choose_texts(answers: Mapping[str, Json], languages: Languages) -> dict[str, str]:
    """Return {id: text} of answers {key: [[code, text], ...]}: the text in the first of the chain's own languages.

    An id without a text in these is left out. English at the end of a chain is not among them: other templates ask it.

    choose_texts({"Q64 zh": [["zh", "柏林"], ["zh-tw", "柏林市"]]}, ("zh-tw", "zh", "en")) -> {"Q64": "柏林市"}
    """
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    for key, pairs in answers.items():
        entity, _ = parse_words_of(key)
        texts[entity].update((code, text) for code, text in pairs)
    chosen = {}
    for entity, by_code in texts.items():
        available = [code for code in list_own_languages(languages) if code in by_code]
        if available:
            chosen[entity] = by_code[available[0]]
    return chosen


class AskedFacts(NamedTuple):
    """What was asked, for a message: facts of a kind about ids, and the families of languages."""

    kind: Kind  # a plain one, such as "label"
    ids: list[str]  # labels for the kind "named"
    families: tuple[str, ...]  # () for the default languages


def describe_question(kind: Kind, keys: Sequence[str]) -> AskedFacts:
    """Return what a question of this kind with these keys asks: sorted ids (or labels) and families.

    The pairs are lost: "Q42 zh" and "Q5 ko" give both ids and both families, as if each id was asked in both.

    describe_question("label_in", ["Q42 zh"]) -> AskedFacts("label", ["Q42"], ("zh",))
    """
    for plain_kind, template in IN_LANGUAGES.items():
        if template.kind == kind:
            pairs = [_parse_key(plain_kind, key) for key in keys]
            asked = {id_or_label for id_or_label, _ in pairs}
            families = {family for _, family in pairs}
            return AskedFacts(plain_kind, sorted(asked), tuple(sorted(families)))
    return AskedFacts(kind, list(keys), ())  # a question in the default languages, whose keys are ids or labels


def _parse_key(kind: Kind, key: str) -> tuple[str, str]:
    """Return (id or label, family) of a key; `kind` is the plain one, such as "named"."""
    if kind == "named":
        family, label = parse_named_in(key)
        return label, family
    return parse_words_of(key)


def write_keys(kind: Kind, asked: Iterable[str], families: Iterable[str]) -> list[str]:
    """Return the keys of a question in `IN_LANGUAGES` for what is asked: ids, or labels for the kind "named".

    write_keys("label", ["Q42"], ["zh", "ko"]) -> ["Q42 zh", "Q42 ko"], and for "named" ["zh 北京", "ko 北京"].
    """
    families = list(families)
    keys = []
    for id_or_label in asked:
        if kind == "named":
            keys += [write_named_in(id_or_label, family) for family in families]
        else:
            keys += [write_words_of(id_or_label, family) for family in families]
    return keys
