"""Input augmentation (Onoe et al., ACL 2023, arXiv 2305.01651): the fact and definitions stand before the prompt.

Definitions are the graph's descriptions of s and o*: "LeBron James: American basketball player.".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from pydantic import Field

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.in_context.base import PromptConfig, PromptMethod
from kg_edit.methods.in_context.ike import new_fact
from kg_edit.patches.prompt_patch import PromptFact


class DefinitionConfig(PromptConfig):
    """Settings of ``definition``: whether the fact, definitions, or both are told."""

    tell: Literal["fact", "definition", "both"] | None = Field(
        None, description="the fact, the graph's descriptions of s and o*, or both; unset: both if a graph is given"
    )


class Definition(PromptMethod):
    """The fact as a sentence, and what a graph describes its subject and new object as, before the prompt."""

    name = "definition"
    paper = "Onoe et al., ACL 2023, arXiv 2305.01651"
    about = "the fact, or an entity's definition, in the prompt: what a model could do that knows it"
    config_class = DefinitionConfig
    config: DefinitionConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Also see that there is a graph where definitions are asked for.

        Raises:
            ConfigError: there is none.
        """
        super().check_inputs(config, graph, edits)
        assert isinstance(config, DefinitionConfig)  # noqa: S101 - config_class
        if config.tell in ("definition", "both") and _descriptions(graph) is None:
            raise ConfigError(
                f"tell={config.tell} takes definitions from a graph with descriptions; give graph=WikidataCache(...) "
                "(CLI: --graph, with a file of descriptions), or tell=fact"
            )

    def prepare(self) -> None:
        """See that there is a graph where one is needed.

        Raises:
            ConfigError: there is none.
        """
        self.check_inputs(self.config, self.graph, ())

    @property
    def reads_graph(self) -> bool:
        """Whether descriptions are looked up in the graph."""
        return _descriptions(self.graph) is not None and self.config.tell != "fact"

    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """The text told of an edit: definitions first, then the fact; withheld where that is empty."""
        defined = self._definitions(edit)
        sentences = [] if self.config.tell == "definition" else [f"{new_fact(edit)}."]
        told = " ".join([*defined, *sentences])
        fact = PromptFact(id=edit.id, subject=edit.subject, about=edit.text, told=told, withheld=not told)
        return fact, {"told": told}

    def _definitions(self, edit: Edit) -> list[str]:
        """ "LeBron James: American basketball player." of s and of o*, of those that have an id and a description."""
        known = _descriptions(self.graph)
        if known is None or self.config.tell == "fact":
            return []
        names = {edit.subject_id: edit.subject, edit.target_new_id: edit.target_new}
        found = known.descriptions([key for key in names if key])
        return [f"{name}: {found[key]}." for key, name in names.items() if key in found]


class Descriptions(Protocol):
    """What a graph says about items, as `wikidata_cache.WikidataCache.facts` does."""

    def descriptions(self, ids: Sequence[str]) -> dict[str, str]:
        """The descriptions of those of ``ids`` (Wikidata items) that have one, by id."""


def _descriptions(graph: object) -> Descriptions | None:
    found: Descriptions | None = getattr(graph, "facts", None)
    return found if hasattr(found, "descriptions") else None
