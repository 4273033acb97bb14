"""Write an extract: a small graph file with the neighbourhoods of some seed items in a big graph, and their labels.

This module made the packaged extract (`data/extract.nt.gz`, described in `data/extract.md`) from
`data/extract_seeds.tsv`.
"""

import gzip
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyoxigraph import Literal, NamedNode, RdfFormat, Triple, serialize

from wikidata_cache import deny_lists
from wikidata_cache.atomic import write_atomically
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL, Statement, check_ids, is_item
from wikidata_cache.sources.source import Source
from wikidata_cache.subgraphs.build import Expansion, expand
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.options import SubgraphOptions

PER_NODE = (80, 20, 4)  # statements to keep for each item at distance 0 (a seed), 1 and 2


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


def build_extract(
    source: Source,
    seeds: Iterable[str],
    out: Path,
    *,
    per_node: Sequence[int] = PER_NODE,
    seed: int = 0,
) -> ExtractReport:
    """Write the labelled out-neighbourhoods of the seeds to `out`, a gzipped N-Triples file.

    `seeds` are item ids and property ids; of a property, only the label is written. Each item is expanded
    `len(per_node)` times, and an item at distance `hop` keeps per_node[hop] of its statements, chosen by hash priority
    under `seed`. Housekeeping statements and statements without labels stay out. The same graph gives the same bytes.

    Raises BadOptionError where a seed is not an id, or `out` does not end in .nt.gz or cannot be written.
    """
    check_out(out)
    wanted = check_ids(seeds)
    facts = Facts(source, meta=deny_lists.meta_properties(), internal=deny_lists.internal_classes())
    items = [entity for entity in wanted if is_item(entity)]
    expansion = Expansion(frontier=items, hops=dict.fromkeys(items, 0))
    expand(facts, [expansion], SubgraphOptions(seed=seed), per_node=per_node)
    statements = sorted(expansion.steps)
    labels = facts.labels({entity for statement in statements for entity in statement}.union(wanted))
    return _write(out, statements, labels)


def check_out(out: Path) -> None:
    """Raise BadOptionError if `out` does not end in .nt.gz or its folder is missing; call it before the real work."""
    if not out.name.endswith(".nt.gz"):
        raise BadOptionError(f"{out}: expected a name ending in .nt.gz.")
    if not out.parent.is_dir():
        raise _unwritable(out, f"there is no folder {out.parent}")


def read_seeds(path: Path) -> list[str]:
    """Return the ids in the first column of a TSV file, such as `data/extract_seeds.tsv`. A header is left out.

    Raises BadOptionError for a file without ids.
    """
    if not (ids := deny_lists.first_column(path.read_text(encoding="utf-8-sig"))):
        raise BadOptionError(f"{path} has no ids; expected one in the first column of each row, such as Q1345.")
    return ids


def _write(out: Path, statements: Sequence[Statement], labels: dict[str, str]) -> ExtractReport:
    triples = [Triple(NamedNode(ENTITY + s), NamedNode(DIRECT + p), NamedNode(ENTITY + o)) for s, p, o in statements]
    for entity, label in sorted(labels.items()):
        triples.append(Triple(NamedNode(ENTITY + entity), NamedNode(RDFS_LABEL), Literal(label, language="en")))
    text = serialize(triples, format=RdfFormat.N_TRIPLES)
    buffer = io.BytesIO()
    # No file name and no time in the gzip header, so that equal content gives equal bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as file:
        file.write(text or b"")
    data = buffer.getvalue()
    try:
        write_atomically(out, data)
    except OSError as error:
        raise _unwritable(out, error.strerror or str(error)) from error
    return ExtractReport(len(statements), len(labels), len(data), hashlib.sha256(data).hexdigest())


def _unwritable(out: Path, reason: str) -> BadOptionError:
    return BadOptionError(f"{out} cannot be written ({reason}); give a file in a folder that you may write to.")
