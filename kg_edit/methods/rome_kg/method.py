"""ROME-KG, a baseline of GLAME's paper (Zhang et al., EMNLP 2024, arXiv 2402.13593): the graph's facts are edits too.

1. The edit's subgraph has statements o* -r'-> o'. `graph_facts` puts them into words: a fact about o*, one about s over
   the edited relation, or a continuation of the edit's prompt. `FurtherFactsConfig` sets how many of each kind.
2. ROME makes the edit, then one fact after the other, each on the model with the earlier ones.

`FurtherFactsMethod` has the first step; MEMIT-KG (`kg_edit.methods.memit_kg`) shares it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import networkx as nx
from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.graphs.facts import GraphFact, Kind, consequence_facts, graph_facts, overlaps, relations_without_words
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import Workload
from kg_edit.methods.entries import method_entry
from kg_edit.methods.graph_reader import GraphReader, GraphSettings
from kg_edit.methods.rome.method import PUBLISHED, Rome, RomeConfig
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.setting_fields import Seed
from kg_edit.text.fact_words import warn_of_english, warn_of_left_out

PUBLISHED_FACTS: dict[str, Any] = {"statements": 0, "composed": 0, "chained": 20}


class FurtherFactsConfig(GraphSettings):
    """Settings: which facts of an edit's subgraph are made as further edits, and how many."""

    statements: NonNegativeInt = Field(5, description="number of facts o* -r'-> o' (about o*) that are edited in too")
    composed: NonNegativeInt = Field(
        5, description="number of facts s -r-> o* -r'-> o' (about s) that are edited in too"
    )
    chained: NonNegativeInt = Field(
        0, description="number of such facts as continuations of the edit's prompt: ... o*, r' o'"
    )
    per_node: PositiveInt = Field(20, description="m: number of statements of o* to choose from")
    seed: Seed = Field(0, description="random seed of the sampled statements, facts and contexts")

    def workload(self, *, edits: int) -> Workload:
        """Return the workload of the method, with the largest possible number of further facts."""
        return replace(super().workload(edits=edits), facts=1 + self.statements + self.composed + self.chained)

    def check_subgraph(self, edit: Edit, subgraph: nx.MultiDiGraph) -> None:
        """Check that the facts of the edit's subgraph can be put into words."""
        self.facts(edit, subgraph)

    def facts(self, edit: Edit, subgraph: nx.MultiDiGraph) -> tuple[GraphFact, ...]:
        """Return the facts of an edit's subgraph that become further edits: statements, composed, chained.

        With rules (the setting ``graph.rules``), the facts are instead what follows from the edit, at most as many as
        the three counts add up to. A fact that is asked in the edit's own words would undo the edit, and is left out:
        the rule r(x,y) & r(y,z) => r(x,z) gives such facts.
        """
        if self.graph.rules is not None:
            most = self.statements + self.composed + self.chained
            consequences = consequence_facts(edit, subgraph, limit=most + 1)
            return self._drop_own_words(edit, consequences, most)
        chosen = list[GraphFact]()
        # One fact more than needed of each kind is asked for, as one may be left out for the edit's own words.
        kinds: dict[Kind, int] = {"statement": self.statements, "composed": self.composed, "chained": self.chained}
        for kind, most in kinds.items():
            facts = graph_facts(edit, subgraph, limit=most + 1, seed=self.seed, kinds=(kind,))
            chosen += self._drop_own_words(edit, facts, most)
        return tuple(chosen)

    def _drop_own_words(self, edit: Edit, facts: Sequence[GraphFact], most: int) -> tuple[GraphFact, ...]:
        """Return at most ``most`` facts that are not in the edit's own words."""
        others = [fact for fact in facts if fact.text != edit.text]
        return tuple(others[:most])


class FurtherFactsMethod(GraphReader):
    """Mixin for methods without a graph: adds the facts of an edit's subgraph as further edits.

    If the graph has no statement about o*, there are no such facts, and the edit is made alone.
    """

    config: FurtherFactsConfig

    def further_edits(self, edit: Edit) -> tuple[Edit, ...]:
        """Return the subgraph's facts as edits in the edit's form; their ids are ``ID/1``, ``ID/2``, …"""
        facts = self.config.facts(edit, self.subgraph(edit))
        further = []
        for number, fact in enumerate(facts, 1):
            further.append(fact.as_edit(f"{edit.id}/{number}").with_form(chat=edit.chat))
        return tuple(further)

    def warn_of_words(self, edits: Sequence[Edit]) -> None:
        """Warn of what can't be said in the languages of the edits."""
        warn_of_english(edits, method=self.name)
        for edit in edits:
            with annotate_errors(edit):
                warn_of_left_out(edit, relations_without_words(edit, self.subgraph(edit)), method=self.name)

    def notes(self, edit: Edit) -> dict[str, Any]:
        """Return further entries of an edit's record.

        With ``graph.rules`` these are what follows by which rule; for an edit with test questions, how many further
        facts have an object that overlaps an answer.
        """
        notes: dict[str, Any] = {}
        if self.config.graph.rules is not None:
            notes["consequences"] = self.subgraph(edit).graph.get("consequences", [])
        answers = self.test_answers(edit)
        if answers:
            objects = [fact.target_new for fact in self.further_edits(edit)]
            notes["answers_met"] = sum(_overlaps_any(object_, answers) for object_ in objects)
        return notes

    def provenance(self) -> dict[str, Any]:
        """Return the method's provenance, with the identity of the graph."""
        provenance = super().provenance()
        provenance["methods"][0] |= {"graph": dict(self.graph_identity or {})}
        return provenance


def _overlaps_any(object_: str, answers: Sequence[str]) -> bool:
    """Return whether a fact's object overlaps one of the ``answers`` of an edit's test questions."""
    return any(overlaps(object_, answer) for answer in answers)


class RomeKgConfig(FurtherFactsConfig, RomeConfig):
    """ROME's settings, and how many facts of each kind become further edits.

    The facts about o* share one key, and the composed ones share that of the edit. Each is therefore written over the
    earlier ones, with a value m* of up to 3 |m|, as ``clamp_norm_factor`` lets m* - m be 2 |m|. So with five of each
    kind most edits fail (docs/glame.md). The preset ``paper`` has ROME's published settings and 20 facts of the kind
    ``chained``, no others.
    """

    statements: NonNegativeInt = Field(2, description="number of facts o* -r'-> o' (about o*) that are edited in too")
    composed: NonNegativeInt = Field(
        0, description="number of facts s -r-> o* -r'-> o' (about s) that are edited in too"
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        **RomeConfig.presets,
        "paper": {**PUBLISHED, **PUBLISHED_FACTS},
    }
    published_as: ClassVar[str | None] = "rome"


class RomeKg(FurtherFactsMethod, Rome):
    """The edit itself, then the subgraph's facts as further ROME edits, each on the model with the earlier ones.

    In the patch, the record of an edit has a field ``requests``, in which `gather` puts the records of its facts.
    """

    entry = method_entry("rome-kg")
    config_class = RomeKgConfig
    config: RomeKgConfig

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make the edit, then each fact, one ROME edit after the other."""
        (edit,) = edits
        patch = self.empty_patch()
        for fact in (edit, *self.further_edits(edit)):
            with patch.applied_on_top(self.model):
                # The keys that it protects are those in ``before`` only, and not those of the facts in ``patch``,
                # because most share a key.
                update = self._make_rome_edit(fact, before)
            patch = patch + update
        return self.gather(edit, patch)

    def _make_rome_edit(self, fact: Edit, before: Patch) -> Patch:
        """Return ROME's patch of one fact, on the model as it is now."""
        (result,) = Rome.make_each(self, (fact,), before=before)  # that of this class would call `make`
        if isinstance(result, Exception):
            raise result
        return result

    def gather(self, edit: Edit, patch: Patch) -> WeightPatch:
        """Return the patch of an edit and its facts with one record, which lists those of the facts."""
        assert isinstance(patch, WeightPatch)  # noqa: S101 - a sum of weight patches
        first, *further = patch.edits
        provenance = {**patch.provenance, "edits": [{**first, **self.notes(edit), "requests": further}]}
        return WeightPatch(factors=patch.factors, provenance=provenance, state=patch.state)

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Call `make` for each edit: a fact needs the model with the earlier facts, so edits can't share a descent."""
        return EditingMethod.make_each(self, edits, before=before)  # ROME's has one descent for all edits

    def check(self, edits: Sequence[Edit]) -> None:
        """Warn of what can't be said in the edits' languages; encode the prompts of every edit and of its facts."""
        self.warn_of_words(edits)
        for edit in edits:
            with annotate_errors(edit):
                super().check((edit, *self.further_edits(edit)))
