"""Portability questions of edits, drawn from a graph: facts of o*, composed with the edit, such as PropMEND learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kg_edit.edits.edit import Edit, Question
from kg_edit.errors import FAILURES
from kg_edit.evaluation.ripples.ripple_edits import Excluded
from kg_edit.graphs.facts import overlaps
from kg_edit.graphs.source import SubgraphSource, edit_subgraph
from kg_edit.languages import fill
from kg_edit.methods.composed_facts import ComposedFact, composed_fact, objects_of
from kg_edit.text.fact_words import fact_words
from wikidata_cache.subgraphs.options import SubgraphOptions

STATEMENTS_READ = 500  # statements of o* that are read; most o* have fewer
_NOBODY = {"subject": "\u2205", "subject_id": None}  # a subject that no graph knows


def with_questions(source: SubgraphSource, edits: Iterable[Edit], *, seed: int, excluded: Excluded) -> list[Edit]:
    """Return the edits whose o* the graph knows, each with a portability question for each of its composed facts.

    There is one for each relation r' of o* with a single object. Excluded things, and objects that name the edit's
    subject, are left out.
    """
    extended = list[Edit]()
    cached: dict[tuple[str | None, str | None], dict[str, list[str]]] = {}  # objects by the relation's noun
    for edit in edits:
        # The statements depend only on o* and the relation, so the graph is asked once for each such pair, without a
        # subject.
        key = edit.target_new_id or edit.target_new, edit.relation_id
        try:
            if key not in cached:
                cached[key] = _read_objects(source, edit, seed=seed, excluded=excluded)
        except FAILURES:
            continue
        questions = _ask_composed(edit, cached[key])
        extended.append(edit.model_copy(update={"portability": questions}))
    return extended


def _read_objects(source: SubgraphSource, edit: Edit, *, seed: int, excluded: Excluded) -> dict[str, list[str]]:
    """Read the objects of the statements of o*, by the relation's noun, without excluded things."""
    anyone = edit.model_copy(update=_NOBODY)
    graph = edit_subgraph(source, anyone, SubgraphOptions(per_node=STATEMENTS_READ, seed=seed)).copy()
    for node, data in list(graph.nodes(data=True)):
        of_the_edit = data.get("role") in ("subject", "target_new")
        if not of_the_edit and excluded.has(str(node), str(data.get("label", ""))):
            graph.remove_node(node)
    return objects_of(anyone, graph, exclude=())


def _ask_composed(edit: Edit, objects: Mapping[str, Sequence[str]]) -> tuple[Question, ...]:
    """Return a question for each relation with a single object, apart from objects that name the edit's subject."""
    questions = []
    for noun, labels in objects.items():
        answers = [label for label in labels if not overlaps(label, edit.subject)]
        if len(answers) != 1:
            continue
        fact = composed_fact(edit, noun, answers[0])
        if fact is None:
            continue
        words = fact_words(fact.language)
        question = Question(
            question=fill(fact.prompt(words.question), edit.subject, fact.language),
            answer=fact.target,
            recalled_relation=_recall(fact, edit.target_new),
        )
        questions.append(question)
    return tuple(questions)


def _recall(fact: ComposedFact, thing: str) -> str:
    """Return the relation r' of a thing in words: "The currency of Japan"."""
    if fact.forms is None:
        return f"The {fact.noun} of {thing}"
    words = fact_words(fact.language)
    return fill(fact.prompt(words.heading, hop=fact.forms.hop), thing, fact.language).rstrip(":\uff1a")
