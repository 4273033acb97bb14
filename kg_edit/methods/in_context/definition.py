"""Input augmentation (Onoe et al., ACL 2023, arXiv 2305.01651): the fact and definitions are put before the prompt.

Definitions are the graph's descriptions of s and o*: "LeBron James: American basketball player.". An edit of ECBD or
Entity Inferences is itself a definition, which is used whole. The baseline of the paper uses the definition of a random
entity instead (``tell=random``), to show the effect of any text before the prompt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from kg_edit.datasets import readable_records
from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.graphs.controls import WithAnswersNamed, Withheld, withheld_names
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.config import MethodConfig, asked_answers
from kg_edit.methods.in_context.base import PromptConfig, PromptMethod
from kg_edit.patches.prompt_patch import PromptFact
from kg_edit.scoring.questions import new_fact
from kg_edit.storage.run_folder import NAMES_A_FILE
from kg_edit.storage.seeds import Seed
from kg_edit.text.matching import mentions


class DefinitionConfig(PromptConfig):
    """Settings of ``definition``: whether the fact, the definitions, or both are put before the prompt."""

    tell: Literal["fact", "definition", "both", "random"] | None = Field(
        None,
        description="the fact, the graph's descriptions of s and o*, both, or another entity's fact (random); unset: "
        "both if a graph is given",
    )
    exclude_answers: bool = Field(
        False,
        exclude_if=lambda on: not on,
        description="leave out descriptions that contain an answer of the edit's test questions",
    )
    others: str | None = Field(
        None,
        exclude_if=lambda found: found is None,
        json_schema_extra=NAMES_A_FILE,
        description="benchmark file whose facts are used with tell=random",
    )
    seed: Seed = Field(0, exclude_if=lambda found: found == 0, description="random seed of the choice of this fact")

    def idle(self) -> dict[str, str]:
        """The seed without ``tell=random``, and ``exclude_answers`` where no description is told."""
        drawn = {} if self.tell == "random" else {"seed": "only tell=random draws a fact"}
        if self.tell not in ("fact", "random"):
            return drawn
        return {**drawn, "exclude_answers": f"tell={self.tell} tells no description"}


class Definition(PromptMethod):
    """Puts the fact as a sentence, and a graph's descriptions of its subject and new object, before the prompt."""

    name = "definition"
    paper = "Onoe et al., ACL 2023, arXiv 2305.01651"
    about = "the fact, or an entity's definition, in the prompt; a reference for methods that change the model"
    config_class = DefinitionConfig
    config: DefinitionConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs: ``tell=definition`` and ``both`` need a graph, ``tell=random`` needs the file ``others``.

        Raises:
            ConfigError: the graph or the file is missing, or the file is given without need.
            EditFileError: the file can't be read.
        """
        super().check_inputs(config, graph, edits)
        assert isinstance(config, DefinitionConfig)  # noqa: S101 - config_class
        if (config.tell == "random") != (config.others is not None):
            raise ConfigError(
                "tell=random and others (the file with the other facts) are only used together; set both "
                "(CLI: --set tell=random --set others=specificity_popular_20np_20random.json), or neither"
            )
        if config.others:
            read_facts(config.others)
        if config.tell in ("definition", "both") and _descriptions(graph) is None:
            raise ConfigError(
                f"tell={config.tell} needs a graph with descriptions; give graph=WikidataCache(...) "
                "(CLI: --graph, with a file of descriptions), or tell=fact"
            )

    def prepare(self) -> None:
        """Check the settings, the graph and the file, as `check_inputs` does.

        Raises:
            ConfigError: the graph or the file is missing, or the file is given without need.
        """
        self.check_inputs(self.config, self.graph, ())

    @property
    def reads_graph(self) -> bool:
        """Whether the method reads descriptions from the graph."""
        return _descriptions(self.graph) is not None and self.config.tell not in ("fact", "random")

    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """The text for an edit: definitions first, then the fact; withheld if the text is empty."""
        if self.config.tell == "random":
            return self._random(edit)
        defined = self._definitions(edit)
        sentences = [] if self.config.tell == "definition" else [f"{new_fact(edit)}."]
        told = " ".join([*defined, *sentences])
        fact = PromptFact(id=edit.id, subject=edit.subject, about=edit.text, told=told, withheld=not told)
        return fact, {"told": told}

    def _random(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """The fact of a random other entity, instead of the edit's own."""
        own = edit.subject.casefold()
        others = [other for other in self._others if other.subject.casefold() != own]
        if not others:
            raise ConfigError(
                f"{self.config.others} only has facts about {edit.subject!r}; expected other subjects too"
            )
        drawn = random.Random(f"{self.config.seed}/{edit.id}").choice(others)  # noqa: S311 - nothing secret
        told = f"{new_fact(drawn)}."
        return PromptFact(id=edit.id, subject=edit.subject, about=edit.text, told=told), {"told": told}

    @cached_property
    def _others(self) -> tuple[Edit, ...]:
        return read_facts(self.config.others) if self.config.others else ()

    def _definitions(self, edit: Edit) -> list[str]:
        """The definitions of s and o* in the graph, such as "LeBron James: American basketball player."."""
        known = _descriptions(self.graph)
        if known is None or self.config.tell == "fact":
            return []
        names = {edit.subject_id: edit.subject, edit.target_new_id: edit.target_new}
        found = known.descriptions([key for key in names if key])
        hidden = [*withheld_names(self.graph, edit), *(asked_answers(edit) if self.config.exclude_answers else ())]
        shown = {key: text for key, text in found.items() if not any(mentions(text, answer) for answer in hidden)}
        return [f"{name}: {shown[key]}." for key, name in names.items() if key in shown]


def read_facts(path: str | Path) -> tuple[Edit, ...]:
    """Read all edits of a benchmark's file, or of a file of edits.

    Raises:
        EditFileError: the file can't be read, or its records belong to no known benchmark.
    """
    return tuple(edit for record in readable_records(path) for edit in record.edits)


class Descriptions(Protocol):
    """A source of item descriptions, such as `wikidata_cache.WikidataCache.facts`."""

    def descriptions(self, ids: Sequence[str]) -> dict[str, str]:
        """The descriptions of those of ``ids`` (Wikidata items) that have one, by id."""


def _descriptions(graph: object) -> Descriptions | None:
    while isinstance(graph, Withheld | WithAnswersNamed):  # `fact` leaves out what they withhold
        graph = graph.right
    found: Descriptions | None = getattr(graph, "facts", None)
    return found if hasattr(found, "descriptions") else None
