"""The training examples of glame-net: an edit, the part of its subgraph that the network reads, and composed facts.

A statement (o*, r', o') of the graph and an edit (s, r, o*) compose to the fact (s, r' of r, o'). Only relations with a
single object give composed facts: o* has one capital, but may have had three heads of government.

A visit of an example (an edit in a training step) asks for o* in the bare prompt, and for some composed facts; by the
settings also for o* in one context (``context_lengths``) and in a question (``own``). Questions come after example
facts in the same form. The seed and the number of the step determine the choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from kg_edit.edits.edit import Edit, Question
from kg_edit.errors import PromptError
from kg_edit.graphs.facts import overlaps
from kg_edit.graphs.source import FAILURES, SubgraphSource, edit_subgraph
from kg_edit.locate_then_edit.objective import ExtraTarget, Request
from kg_edit.methods.glame_net.network import NetTraining, ReadSubgraph
from kg_edit.methods.glame_plus.questions import WORDINGS, ComposedFact, first_hop, objects_of
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.ripples.drawn import Excluded
from kg_edit.ripples.edits import hashed
from kg_edit.text.relation_nouns import relation_nouns
from wikidata_cache.subgraphs.options import SubgraphOptions

STATEMENTS_READ = 500  # statements of o* that are read; most o* have fewer
_NOBODY = {"subject": "\u2205", "subject_id": None}  # a subject that no graph knows
_WORDINGS = WORDINGS[:2]  # few, because the prefixes of all wordings are cached during the whole training


@dataclass(frozen=True, kw_only=True)
class Example:
    """An edit with the subgraph that the network reads, and its composed facts.

    ``own`` is the edit as a question. ``composed`` facts are learned; ``held_out`` facts are only used for validation.
    """

    edit: Edit
    graph: ReadSubgraph
    own: ComposedFact
    composed: tuple[ComposedFact, ...]
    held_out: tuple[ComposedFact, ...]


def make_examples(
    source: SubgraphSource, edits: Iterable[Edit], settings: NetTraining, *, excluded: Excluded
) -> list[Example]:
    """Return the examples of ``edits``. An edit is left out if the graph does not know its o*."""
    held_out, found = {relation_nouns().get(relation) for relation in settings.held_out}, list[Example]()
    for edit, objects in known_objects(source, edits, seed=settings.seed, excluded=excluded):
        facts = composed_facts(edit, objects)
        found.append(
            Example(
                edit=edit,
                graph=ReadSubgraph.of(
                    edit, objects, statements=settings.statements, per_relation=settings.per_relation
                ),
                own=ComposedFact(hop=first_hop(edit), target=edit.target_new),
                composed=tuple(fact for noun, fact in facts.items() if noun not in held_out),
                held_out=tuple(fact for noun, fact in facts.items() if noun in held_out),
            )
        )
    return found


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


def split(examples: Sequence[Example], settings: NetTraining) -> tuple[list[Example], list[Example]]:
    """Split the examples into those to learn from and those for validation.

    A share of all o* is held out: examples with these o* are only used for validation.
    """
    names = {example.edit.target_new.casefold() for example in examples}
    order = sorted(names, key=lambda name: (hashed("held out", settings.seed, name), name))
    held = set(order[: math.ceil(settings.targets_held_out * len(order))])
    closed = [example for example in examples if example.edit.target_new.casefold() in held]
    closed.sort(key=lambda example: hashed("validation", settings.seed, example.edit.id))
    left = [example for example in examples if example.edit.target_new.casefold() not in held]
    return left, closed[: settings.validation]


@dataclass(frozen=True, kw_only=True)
class Visits:
    """Makes the prompts of visits for ``model``; the first of ``contexts`` is the bare one."""

    model: LanguageModel
    settings: NetTraining
    contexts: tuple[str, ...]

    def shared(self, examples: Iterable[Example]) -> list[str]:
        """Return all texts that come before the prompts of these examples, to be cached."""
        facts = {fact for one in examples for fact in (one.own, *one.composed, *one.held_out)}
        texts = {fact.context(wording, shown=self.settings.shown) for fact in facts for wording in _WORDINGS}
        return [*self.contexts, *sorted(texts)]

    def can_encode(self, example: Example) -> bool:
        """Return whether the edit's prompt can be encoded with its target."""
        try:
            Request.of(self.model, example.edit, self.contexts)
        except PromptError:
            return False
        return True

    def request(self, example: Example, *, seed: str) -> Request:
        """Return the prompts of a visit: the bare prompt, one context, the edit as a question, some composed facts."""
        random = Random(f"{seed} {example.edit.id}")  # noqa: S311 - no secret
        contexts = (self.contexts[0], *(random.sample(self.contexts[1:], 1) if self.contexts[1:] else ()))
        some = random.sample(example.composed, min(self.settings.composed, len(example.composed)))
        facts = [*[example.own] * self.settings.own, *some]
        return self._request(example.edit, contexts, [(fact, random.choice(_WORDINGS)) for fact in facts])

    def check(self, example: Example, facts: Sequence[ComposedFact]) -> Request:
        """Return the prompts for validation: the bare prompt, and ``facts`` in the first wording."""
        return self._request(example.edit, self.contexts[:1], [(fact, _WORDINGS[0]) for fact in facts])

    def _request(self, edit: Edit, contexts: Sequence[str], questions: Iterable[tuple[ComposedFact, str]]) -> Request:
        rows = list[Prompt]()
        for fact, wording in questions:
            context, template = fact.context(wording, shown=self.settings.shown), fact.prompt(wording)
            try:
                rows.append(
                    encode(self.model.tokenizer, template, subject=edit.subject, target=fact.target, context=context)
                )
            except PromptError:
                continue  # this wording can't be encoded with the target
        base = Request.of(self.model, edit, contexts)
        further = tuple(ExtraTarget(prompt=row, weight=self.settings.ripple_weight / len(rows)) for row in rows)
        return Request(rewrites=base.rewrites, essence=base.essence, further=further)
