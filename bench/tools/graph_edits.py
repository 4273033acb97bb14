"""A real graph in an on-disk store, and edits made of its statements."""

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyoxigraph import NamedNode, Store

from kg_common.ids import is_item, is_property
from wikidata_cache import packaged_extract
from wikidata_cache.ids import DIRECT, ENTITY, Statement
from wikidata_cache.sources.graph_files import load_file

GRAPH = Path(os.environ.get("KG_EDIT_MEASUREMENT_DATA", "measurement-data")) / "wikidata"  # docs/contributing/data.md


@dataclass(frozen=True)
class Edit:
    """An edit whose ids are all known."""

    subject: str
    relation: str
    target_new: str
    target_true: str
    subject_id: str
    relation_id: str
    target_new_id: str
    target_true_id: str


def graph_files(given: str | None) -> list[Path]:
    """The graph that was asked for, else the shared one with its labels, else the packaged extract."""
    if given:
        return [Path(part) for part in given.split(",")]
    files = [GRAPH / "wikidata.nt.gz", GRAPH / "labels.nt.gz"]
    return files if all(path.exists() for path in files) else [packaged_extract()]


def build_store(files: Sequence[Path], folder: Path) -> Store:
    """An on-disk store of these files, as `wikidata-cache load` makes one, opened read-only."""
    store = Store(str(folder))
    for file in files:
        load_file(store, file)
    store.flush()
    store.optimize()
    del store
    return Store.read_only(str(folder))


def real_edits(store: Store, count: int, *, seed: int = 0) -> list[Edit]:
    """Edits (s, r, o -> o*) of statements (s, r, o) that the graph holds, o* being another object of r."""
    facts = sorted(statement for quad in store if (statement := _statement(quad.subject, quad.predicate, quad.object)))
    objects = defaultdict(set)
    for statement in facts:
        objects[statement.property].add(statement.object)
    choices = {relation: sorted(values) for relation, values in objects.items() if len(values) > 1}
    chance = random.Random(seed)  # noqa: S311
    chosen = chance.sample([statement for statement in facts if statement.property in choices], count)
    return [_edit(s, chance.choice([o for o in choices[s.property] if o != s.object])) for s in chosen]


def _statement(*terms: object) -> Statement | None:
    if not all(isinstance(term, NamedNode) for term in terms):
        return None
    subject, relation, target = (term.value for term in terms)  # type: ignore[attr-defined]
    if not relation.startswith(DIRECT):
        return None
    fact = Statement(subject.removeprefix(ENTITY), relation.removeprefix(DIRECT), target.removeprefix(ENTITY))
    return fact if is_item(fact.subject) and is_property(fact.property) and is_item(fact.object) else None


def _edit(statement: Statement, new: str) -> Edit:
    subject, relation, old = statement
    return Edit(*(subject, relation, new, old), *(subject, relation, new, old))
