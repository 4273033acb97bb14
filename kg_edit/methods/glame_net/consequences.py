"""What follows from edits by the graph: composed facts (s, r of r', o') from statements (o*, r', o').

Only relations with a single object give composed facts: o* has one capital, but may have had three heads of government.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kg_edit.edits.edit import Edit, Question
from kg_edit.graphs.facts import overlaps
from kg_edit.graphs.source import FAILURES, SubgraphSource, edit_subgraph
from kg_edit.methods.glame_plus.questions import ComposedFact, first_hop, objects_of
from kg_edit.ripples.drawn import Excluded
from wikidata_cache.subgraphs.options import SubgraphOptions

STATEMENTS_READ = 500  # statements of o* that are read; most o* have fewer
_NOBODY = {"subject": "\u2205", "subject_id": None}  # a subject that no graph knows


def known_objects(
    source: SubgraphSource, edits: Iterable[Edit], *, seed: int, excluded: Excluded
) -> Iterator[tuple[Edit, dict[str, list[str]]]]:
    """Yield each edit whose o* the graph knows, with the objects of o*'s statements by the relation's noun.

    The statements depend only on o* and the relation, so the graph is asked once for each such pair, without a subject;
    objects that name the edit's subject are then left out.
    """
    known: dict[tuple[str | None, str | None], dict[str, list[str]]] = {}
    for edit in edits:
        key = edit.target_new_id or edit.target_new, edit.relation_id
        try:
            if key not in known:
                known[key] = _objects(source, edit.model_copy(update=_NOBODY), seed, excluded)
        except FAILURES:
            continue
        yield edit, _without_subject(known[key], edit)


def _without_subject(objects: Mapping[str, Sequence[str]], edit: Edit) -> dict[str, list[str]]:
    others = {
        noun: [label for label in labels if not overlaps(label, edit.subject)] for noun, labels in objects.items()
    }
    return {noun: labels for noun, labels in others.items() if labels}


def _objects(source: SubgraphSource, edit: Edit, seed: int, excluded: Excluded) -> dict[str, list[str]]:
    """The objects of the graph's statements about o*, by the relation's noun, without excluded things."""
    graph = edit_subgraph(source, edit, SubgraphOptions(per_node=STATEMENTS_READ, seed=seed)).copy()
    gone = [key for key, data in graph.nodes(data=True) if excluded.has(str(key), str(data.get("label", "")))]
    ends = {key for key, data in graph.nodes(data=True) if data.get("role") in ("subject", "target_new")}
    graph.remove_nodes_from([key for key in gone if key not in ends])
    return objects_of(edit, graph, exclude=())


def composed_facts(edit: Edit, objects: Mapping[str, Sequence[str]]) -> dict[str, ComposedFact]:
    """The composed facts of an edit by the noun of r', for each r' with a single object."""
    first = first_hop(edit)
    single = {noun: labels[0] for noun, labels in objects.items() if len(labels) == 1}
    return {noun: ComposedFact(hop=f"{noun} of the {first}", target=label) for noun, label in single.items()}


def with_questions(source: SubgraphSource, edits: Iterable[Edit], *, seed: int, excluded: Excluded) -> list[Edit]:
    """The edits whose o* the graph knows, each with a question for each of its composed facts."""
    found = known_objects(source, edits, seed=seed, excluded=excluded)
    return [edit.model_copy(update={"portability": tuple(_questions(edit, objects))}) for edit, objects in found]


def _questions(edit: Edit, objects: Mapping[str, Sequence[str]]) -> Iterator[Question]:
    for noun, fact in composed_facts(edit, objects).items():
        asked = f"What is the {fact.hop} of {edit.subject}?"
        yield Question(question=asked, answer=fact.target, recalled_relation=f"The {noun} of {edit.target_new}")
