"""Extracts: a small graph file out of a big graph, with the neighbourhoods of some seeds and all labels they need.

The packaged extract (`data/extract.nt.gz`, described in `data/extract.md`) was made by this module from
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
from wikidata_cache.subgraphs.expand import Expansion, expand
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.options import SubgraphPlan

PER_NODE = (80, 20, 4)  # statements kept of each seed, of each of its neighbours, and so on


@dataclass(frozen=True)
class ExtractReport:
    """Sizes of an extract that was written: statements, labels, bytes of the file, and its sha256 as hex."""

    statements: int
    labels: int
    bytes: int
    sha256: str


def packaged_extract() -> Path:
    """The path of the extract that ships with the package (CC0), for demonstrations and tests without network."""
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

    `seeds` are item ids, and property ids of which only the label is wanted. Each item is expanded
    `len(per_node)` times, and an item keeps per_node[hop] of its statements (by hash priority under `seed`).
    Housekeeping statements and those without labels stay out. The same graph gives the same bytes.

    Raises BadOptionError where a seed is no id, or `out` does not end in .nt.gz or cannot be written.
    """
    check_out(out)
    wanted = check_ids(seeds)
    facts = Facts(source, meta=deny_lists.meta_properties(), internal=deny_lists.internal_classes())
    items = [entity for entity in wanted if is_item(entity)]
    expansion = Expansion(frontier=items, hops=dict.fromkeys(items, 0))
    expand(facts, [expansion], SubgraphPlan(seed=seed), per_node=per_node)
    statements = sorted(expansion.steps)
    labels = facts.labels({entity for statement in statements for entity in statement}.union(wanted))
    return _write(out, statements, labels)


def check_out(out: Path) -> None:
    """Raise BadOptionError for a file of another name, or in a missing folder, before any work is done for it."""
    if not out.name.endswith(".nt.gz"):
        raise BadOptionError(f"{out}: expected a name ending in .nt.gz.")
    if not out.parent.is_dir():
        raise _unwritable(out, f"there is no folder {out.parent}")


def read_seeds(path: Path) -> list[str]:
    """The ids in the first column of a TSV file with a header row, such as `data/extract_seeds.tsv`."""
    return [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]


def _write(out: Path, statements: Sequence[Statement], labels: dict[str, str]) -> ExtractReport:
    triples = [Triple(NamedNode(ENTITY + s), NamedNode(DIRECT + p), NamedNode(ENTITY + o)) for s, p, o in statements]
    for entity, label in sorted(labels.items()):
        triples.append(Triple(NamedNode(ENTITY + entity), NamedNode(RDFS_LABEL), Literal(label, language="en")))
    text = serialize(triples, format=RdfFormat.N_TRIPLES)
    buffer = io.BytesIO()
    # No name and no time in the header, so that equal content is equal bytes.
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
