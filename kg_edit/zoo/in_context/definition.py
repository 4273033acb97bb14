"""Input augmentation (Onoe et al., ACL 2023, arXiv 2305.01651): the fact and definitions are put before the prompt.

Definitions are the graph's descriptions of s and o*: "LeBron James: American basketball player.". An edit of ECBD or
Entity Inferences is itself a definition, which is used whole. The baseline of the paper uses the definition of a random
entity instead (``insert=random``), to show the effect of any text before the prompt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, Protocol

from pydantic import Field

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.evaluation.datasets import readable_records
from kg_edit.graphs.controls import WithAnswersNamed, Withheld, withheld_names
from kg_edit.graphs.source import SubgraphSource
from kg_edit.languages import words_of
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.graph_reader import GraphMethod, asked_answers
from kg_edit.patches.prompt_patch import PromptFact
from kg_edit.scoring.questions import fact_sentence
from kg_edit.storage.setting_fields import NAMES_A_FILE, Seed
from kg_edit.text.matching import mentions
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.in_context.base import PromptConfig, PromptMethod


class DefinitionConfig(PromptConfig):
    """Settings of ``definition``: whether the fact, the definitions, or both are put before the prompt."""

    insert: Literal["fact", "definition", "both", "random"] | None = Field(
        None,
        description="the fact, the graph's descriptions of s and o*, both, or another entity's fact (random); unset: "
        "both if a graph has descriptions, else the fact",
    )
    exclude_answers: bool = Field(
        False, description="leave out descriptions that contain an answer of the edit's test questions"
    )
    others: str | None = Field(
        None, json_schema_extra=NAMES_A_FILE, description="benchmark file whose facts are used with insert=random"
    )
    seed: Seed = Field(0, description="random seed of the choice of this fact")

    def idle(self) -> dict[str, str]:
        """Return the seed without ``insert=random``, and ``exclude_answers`` where no description is inserted."""
        idle = super().idle()
        if self.insert in ("fact", "random"):
            idle["exclude_answers"] = f"insert={self.insert} inserts no description"
        if self.insert != "random":
            idle["seed"] = "only insert=random draws a fact"
        return idle


class Definition(GraphMethod, PromptMethod):
    """Puts the fact as a sentence, and a graph's descriptions of its subject and new object, before the prompt."""

    entry = method_entry("definition")
    takes_graph = True
    config_class = DefinitionConfig
    config: DefinitionConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs: definitions need a graph that has descriptions, ``insert=random`` the file ``others``."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, DefinitionConfig)  # noqa: S101 - config_class
        if (config.insert == "random") != (config.others is not None):
            raise ConfigError(
                "insert=random and others (the file with the other facts) are only used together; set both "
                "(CLI: --set insert=random --set others=specificity_popular_20np_20random.json), or neither"
            )
        if config.others:
            readable_records(config.others)
        if config.insert in ("definition", "both") and _find_descriptions(graph) is None:
            raise ConfigError(
                f"insert={config.insert} needs a graph with descriptions; give graph=WikidataCache(...) "
                "(CLI: --graph, with a file of descriptions), or insert=fact"
            )

    @property
    def reads_graph(self) -> bool:
        """Whether the method reads descriptions from the graph."""
        return _find_descriptions(self.graph) is not None and self.config.insert not in ("fact", "random")

    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """Return the text for an edit: definitions first, then the fact; withheld if the text is empty."""
        sentences = list[str]()
        if self.config.insert == "random":
            sentences = [fact_sentence(self._other(edit))]
        else:
            if self.reads_graph:
                sentences += self._definitions(edit)
            if self.config.insert != "definition":
                sentences.append(fact_sentence(edit))
        text = words_of(edit.language).gap.join(sentences)
        fact = PromptFact(id=edit.id, subject=edit.subject, prompt=edit.text, text=text, withheld=not text)
        return fact, {"text": text}

    def _other(self, edit: Edit) -> Edit:
        """Draw the fact of another entity; the seed and the edit's id determine it."""
        others = [other for other in self._others if other.subject.casefold() != edit.subject.casefold()]
        if not others:
            raise ConfigError(
                f"{self.config.others} only has facts about {edit.subject!r}; expected other subjects too"
            )
        return random.Random(f"{self.config.seed}/{edit.id}").choice(others)  # noqa: S311 - nothing secret

    @cached_property
    def _others(self) -> tuple[Edit, ...]:
        edits = list[Edit]()
        if self.config.others:
            for record in readable_records(self.config.others):
                edits += record.edits
        return tuple(edits)

    def _definitions(self, edit: Edit) -> list[str]:
        """Return the definitions of s and o* in the graph, such as "LeBron James: American basketball player."."""
        descriptions = _find_descriptions(self.graph)
        assert descriptions is not None  # noqa: S101 - reads_graph
        names = {edit.subject_id: edit.subject, edit.target_new_id: edit.target_new}
        texts = descriptions.descriptions([key for key in names if key])

        # What a control of the graph withholds, a description must not give away either.
        hidden = list(withheld_names(self.graph, edit))
        if self.config.exclude_answers:
            hidden += asked_answers(edit)

        words = words_of(edit.language)
        colon = ": " if words.gap else "\uff1a"
        definitions = list[str]()
        for key, name in names.items():
            if key in texts and not any(mentions(texts[key], answer) for answer in hidden):
                definitions.append(f"{name}{colon}{texts[key]}{words.stop}")
        return definitions


class Descriptions(Protocol):
    """A source of item descriptions, such as `wikidata_cache.WikidataCache.facts`."""

    def descriptions(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the descriptions of those of ``ids`` (Wikidata items) that have one, by id."""


def _find_descriptions(graph: object) -> Descriptions | None:
    """Return the source of descriptions of a graph, or of the one that a control changes; None if it has none."""
    while isinstance(graph, Withheld | WithAnswersNamed):  # `_definitions` leaves out what they withhold
        graph = graph.right
    source: Descriptions | None = getattr(graph, "facts", None)
    return source if hasattr(source, "descriptions") else None
