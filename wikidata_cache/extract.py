"""Write an extract: a small graph file with the neighbourhoods of some seed items in a big graph, and their labels.

This module made the packaged extract (`data/extract.nt.gz`, described in `data/extract.md`) from
`data/extract_seeds.tsv`.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyoxigraph import Literal, NamedNode, RdfFormat, Triple, serialize

from kg_common.atomic import check_out, gzipped, write_atomically
from kg_common.ids import is_item
from wikidata_cache import deny_lists
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL, SAME_AS, Statement, check_ids
from wikidata_cache.languages import DEFAULT_LANGUAGES, Languages, list_own_languages
from wikidata_cache.sources.source import Source
from wikidata_cache.subgraphs.facts import Facts, look_up_or_skip
from wikidata_cache.subgraphs.options import SubgraphOptions

logger = logging.getLogger(__name__)

EXTRACT = "extract"  # the name of the packaged extract, where a source is named
PER_NODE = (80, 20, 4)  # statements of each item at distance 0 (a seed), 1 and 2


@dataclass(frozen=True)
class ExtractReport:
    """Size of a written extract: numbers of statements, labels and bytes, and the sha256 of the file as hex."""

    statements: int
    labels: int
    bytes: int
    sha256: str


def packaged_extract() -> Path:
    """Return the path of the extract (CC0) that ships with the package, for demos and tests without a network."""
    return Path(__file__).parent / "data" / "extract.nt.gz"


def packaged_labels() -> Path:
    """Return the path of the labels of the extract in other languages than English (CC0)."""
    return packaged_extract().with_name("extract_labels.nt.gz")


def add_labels(files: Sequence[Path], languages: Languages | None) -> list[Path]:
    """Return the files; if the packaged extract is one of them, with its labels in other languages than English.

    Args:
        files: graph files.
        languages: the languages that are wanted; None for all. If English is the only one, nothing is added.
    """
    wants_others = languages is None or bool(list_own_languages(languages))
    if wants_others and packaged_extract() in files:
        return [*files, packaged_labels()]
    return list(files)


def names_extract(name: str | Path) -> bool:
    """Return whether a source's name is that of the packaged extract; a file or a folder of this name comes first."""
    return str(name) == EXTRACT and not Path(EXTRACT).exists()


def build_extract(
    source: Source,
    seeds: Iterable[str],
    out: Path,
    *,
    per_node: Sequence[int] = PER_NODE,
    sampling_seed: int = 0,
    languages: Languages = DEFAULT_LANGUAGES,
) -> ExtractReport:
    """Write the labelled out-neighbourhoods of some items to a gzipped N-Triples file.

    Housekeeping statements and statements without labels stay out. A seed that was merged into another item gives the
    statements of that item. A warning names the items of which the graph has no statement, and the properties without a
    label. The same graph gives the same bytes.

    Args:
        source: the big graph.
        seeds: ids of items, and of properties of which only the label is written.
        out: the file to write, .nt.gz.
        per_node: numbers of statements; an item at distance `hop` from the seeds gets per_node[hop] of its statements,
            chosen by hash priority. The expansion has `len(per_node)` rounds.
        sampling_seed: the number that makes the sampling repeatable.
        languages: the languages of labels. English labels are always written, those in other languages in addition.

    Returns:
        The size of the extract.
    """
    check_out(out, ".nt.gz")
    meta = deny_lists.read_meta_properties()
    facts = Facts(source, meta=meta, internal=deny_lists.read_internal_classes(), languages=languages)
    ids = check_ids(seeds)
    merged = _find_merged(facts, ids)
    ids = list(dict.fromkeys(merged.get(entity, entity) for entity in ids))  # two seeds may be one item now
    statements = _sample_statements(facts, ids, per_node, sampling_seed=sampling_seed)
    labels = _find_labels(facts, ids, statements)
    if not labels:
        raise BadOptionError(
            f"{source.name} has nothing about {', '.join(ids[:5])}; check the ids, or give another graph."
        )
    silent = _find_silent(facts, ids, labels)
    if silent:
        missing = "no statement about an item, or no label of a property"
        logger.warning("%s has %s: %s; check the ids", source.name, missing, ", ".join(silent))

    label_triples = _label_triples(facts.own_labels(labels))  # in other languages than English
    triples = _to_triples(statements, labels, merged) + label_triples
    content = gzipped(serialize(triples, format=RdfFormat.N_TRIPLES) or b"")
    write_atomically(out, content)
    label_count = len(labels) + len(label_triples)
    return ExtractReport(len(statements), label_count, len(content), hashlib.sha256(content).hexdigest())


def _find_merged(facts: Facts, ids: Sequence[str]) -> dict[str, str]:
    """Return {id: the item that replaces it} of the items without statements that were merged into another item."""
    stated = facts.out([entity for entity in ids if is_item(entity)])
    without_statements = [item for item, pairs in stated.items() if not pairs]
    return look_up_or_skip(facts.redirects, without_statements)


def _sample_statements(
    facts: Facts, ids: Sequence[str], per_node: Sequence[int], *, sampling_seed: int
) -> list[Statement]:
    """Return the sampled statements around the items, sorted; the arguments are those of `build_extract`."""
    from wikidata_cache.subgraphs.build import Expansion, expand  # networkx takes a tenth of a second to import

    items = [entity for entity in ids if is_item(entity)]
    expansion = Expansion(frontier=items, hops=dict.fromkeys(items, 0))
    expand(facts, [expansion], SubgraphOptions(seed=sampling_seed), most_by_round=per_node)  # adds to `steps`
    return sorted(expansion.steps)


def _find_labels(facts: Facts, ids: Iterable[str], statements: Iterable[Statement]) -> Mapping[str, str]:
    """Return the English labels of the ids, and of all parts of the statements."""
    entities = set(ids)
    for statement in statements:
        entities.update(statement)  # subject, property and object
    return facts.default_labels(entities)


def _find_silent(facts: Facts, ids: Sequence[str], labels: Mapping[str, str]) -> list[str]:
    """Return the items without a statement, and the properties without a label."""
    stated = facts.out([entity for entity in ids if is_item(entity)])
    silent = []
    for entity in ids:
        if is_item(entity):
            is_known = bool(stated[entity])
        else:
            is_known = entity in labels
        if not is_known:
            silent.append(entity)
    return silent


def _to_triples(statements: Iterable[Statement], labels: Mapping[str, str], merged: Mapping[str, str]) -> list[Triple]:
    """Return statements, labels and redirects as triples, each kind sorted."""
    triples = []
    for subject, relation, target in statements:
        triples.append(Triple(NamedNode(ENTITY + subject), NamedNode(DIRECT + relation), NamedNode(ENTITY + target)))
    for entity, label in sorted(labels.items()):
        triples.append(Triple(NamedNode(ENTITY + entity), NamedNode(RDFS_LABEL), Literal(label, language="en")))
    for old, new in sorted(merged.items()):
        triples.append(Triple(NamedNode(ENTITY + old), NamedNode(SAME_AS), NamedNode(ENTITY + new)))
    return triples


def _label_triples(labels: Mapping[str, Mapping[str, str]]) -> list[Triple]:
    """Return the triples of {id: {language: label}}, sorted."""
    triples = []
    for entity, texts in sorted(labels.items()):
        for code, text in sorted(texts.items()):
            triples.append(Triple(NamedNode(ENTITY + entity), NamedNode(RDFS_LABEL), Literal(text, language=code)))
    return triples


def read_seeds(path: Path) -> list[str]:
    """Return the ids in the first column of a TSV file, such as `data/extract_seeds.tsv`. A header is left out."""
    ids = deny_lists.list_first_column(path.read_text(encoding="utf-8-sig"))
    if not ids:
        raise BadOptionError(f"{path} has no ids; expected one in the first column of each row, such as Q1345.")
    return ids
