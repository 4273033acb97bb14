"""Portability questions of edits, drawn from a graph: facts of o*, composed with the edit, such as PropMEND learns."""

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

    Excluded things, and objects that name the edit's subject, are left out.
    """
    known: dict[tuple[str | None, str | None], dict[str, list[str]]] = {}
    for edit in edits:
        # The statements depend only on o* and the relation, so the graph is asked once for each such pair, without a
        # subject.
        key = edit.target_new_id or edit.target_new, edit.relation_id
        try:
            if key not in known:
                anyone = edit.model_copy(update=_NOBODY)
                graph = edit_subgraph(source, anyone, SubgraphOptions(per_node=STATEMENTS_READ, seed=seed)).copy()
                gone = [
                    node
                    for node, data in graph.nodes(data=True)
                    if data.get("role") not in ("subject", "target_new")
                    and excluded.has(str(node), str(data.get("label", "")))
                ]
                graph.remove_nodes_from(gone)
                known[key] = objects_of(anyone, graph, exclude=())
        except FAILURES:
            continue
        others = {
            noun: [label for label in labels if not overlaps(label, edit.subject)]
            for noun, labels in known[key].items()
        }
        yield edit, {noun: labels for noun, labels in others.items() if labels}


def composed_facts(edit: Edit, objects: Mapping[str, Sequence[str]]) -> dict[str, ComposedFact]:
    """Return the composed facts of an edit by the noun of r', for each r' with a single object."""
    first = first_hop(edit)
    single = {noun: labels[0] for noun, labels in objects.items() if len(labels) == 1}
    return {noun: ComposedFact(hop=f"{noun} of the {first}", target=label) for noun, label in single.items()}


def with_questions(source: SubgraphSource, edits: Iterable[Edit], *, seed: int, excluded: Excluded) -> list[Edit]:
    """Return the edits whose o* the graph knows, each with a portability question for each of its composed facts."""
    found = list[Edit]()
    for edit, objects in known_objects(source, edits, seed=seed, excluded=excluded):
        questions = tuple(
            Question(
                question=f"What is the {fact.hop} of {edit.subject}?",
                answer=fact.target,
                recalled_relation=f"The {noun} of {edit.target_new}",
            )
            for noun, fact in composed_facts(edit, objects).items()
        )
        found.append(edit.model_copy(update={"portability": questions}))
    return found
