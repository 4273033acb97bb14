"""The training examples of glame-net, and the prompts that a training step uses for each edit.

An `Example` is an edit, the part of its subgraph that the network reads, and the composed facts that follow from it. A
visit of an example asks for o* in the bare prompt, and for some composed facts; by the settings also for o* in one
context (``context_lengths``) and in a question (``own``). Questions come after example facts in the same form. The seed
and the number of the step determine the choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from kg_edit.edits.edit import Edit
from kg_edit.errors import PromptError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.locate_then_edit.objective import ExtraTarget, Request
from kg_edit.methods.glame_net.consequences import composed_facts, known_objects
from kg_edit.methods.glame_net.network import ReadSubgraph
from kg_edit.methods.glame_net.store import NetTraining
from kg_edit.methods.glame_plus.questions import WORDINGS, ComposedFact, first_hop
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.ripples.drawn import Excluded
from kg_edit.ripples.edits import hashed
from kg_edit.text.relation_nouns import relation_nouns

_WORDINGS = WORDINGS[:2]  # few, because the prefixes of all wordings are cached during the whole training


@dataclass(frozen=True, kw_only=True)
class Example:
    """An edit with the subgraph that the network reads, and the facts that follow from it.

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
    """Make the examples of ``edits``. An edit is left out if the graph does not know its o*."""
    found = known_objects(source, edits, seed=settings.seed, excluded=excluded)
    return [_example(edit, objects, settings) for edit, objects in found]


def _example(edit: Edit, objects: dict[str, list[str]], settings: NetTraining) -> Example:
    closed, facts = {relation_nouns().get(relation) for relation in settings.held_out}, composed_facts(edit, objects)
    return Example(
        edit=edit,
        graph=ReadSubgraph.of(edit, objects, statements=settings.statements, per_relation=settings.per_relation),
        own=ComposedFact(hop=first_hop(edit), target=edit.target_new),
        composed=tuple(fact for noun, fact in facts.items() if noun not in closed),
        held_out=tuple(fact for noun, fact in facts.items() if noun in closed),
    )


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
        """All texts that stand before the prompts of these examples, to be cached."""
        facts = {fact for one in examples for fact in (one.own, *one.composed, *one.held_out)}
        texts = {fact.context(wording, shown=self.settings.shown) for fact in facts for wording in _WORDINGS}
        return [*self.contexts, *sorted(texts)]

    def may(self, example: Example) -> bool:
        """Whether the edit's prompt can be encoded with its target."""
        try:
            Request.of(self.model, example.edit, self.contexts)
        except PromptError:
            return False
        return True

    def request(self, example: Example, *, seed: str) -> Request:
        """The prompts of one visit: the bare prompt and one context, the edit as a question, some composed facts."""
        random = Random(f"{seed} {example.edit.id}")  # noqa: S311 - no secret
        contexts = (self.contexts[0], *(random.sample(self.contexts[1:], 1) if self.contexts[1:] else ()))
        some = random.sample(example.composed, min(self.settings.composed, len(example.composed)))
        facts = [*[example.own] * self.settings.own, *some]
        rows = [self._row(example.edit, fact, random.choice(_WORDINGS)) for fact in facts]
        return self._request(example.edit, contexts, rows)

    def check(self, example: Example, facts: Sequence[ComposedFact]) -> Request:
        """The prompts for validation: the bare prompt, and ``facts`` in the first wording."""
        rows = [self._row(example.edit, fact, _WORDINGS[0]) for fact in facts]
        return self._request(example.edit, self.contexts[:1], rows)

    def _request(self, edit: Edit, contexts: Sequence[str], rows: Sequence[Prompt | None]) -> Request:
        asked, base = [row for row in rows if row], Request.of(self.model, edit, contexts)
        further = (ExtraTarget(prompt=row, weight=self.settings.ripple_weight / len(asked)) for row in asked)
        return Request(rewrites=base.rewrites, essence=base.essence, further=tuple(further))

    def _row(self, edit: Edit, fact: ComposedFact, wording: str) -> Prompt | None:
        """The question for a fact, with its target; None if the wording can't be encoded with the target."""
        context, template = fact.context(wording, shown=self.settings.shown), fact.prompt(wording)
        try:
            return encode(self.model.tokenizer, template, subject=edit.subject, target=fact.target, context=context)
        except PromptError:
            return None
