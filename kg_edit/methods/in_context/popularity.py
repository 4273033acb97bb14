"""Adaptive retrieval (Mallen et al., ACL 2023, arXiv 2212.10511): a fact is looked up for unpopular subjects only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import Field

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.graphs.encoding import SubgraphSource
from kg_edit.methods.base import MethodConfig
from kg_edit.methods.in_context.base import PromptConfig, PromptMethod
from kg_edit.retrieval.demonstrations import new_fact
from kg_edit.retrieval.factbook import Fact
from kg_edit.retrieval.popularity import read_popularity, statements
from kg_edit.storage.input_hashes import NAMES_A_FILE


class PopularityConfig(PromptConfig):
    """Where popularity comes from, and up to which one a fact is told."""

    popularity: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="JSON file: name or id to number, or PopQA's rows (s_pop); unset: statements in the graph",
    )
    limit: float = Field(100.0, ge=0, description="tell facts about subjects up to this popularity")
    limits: dict[str, float] = Field(
        default_factory=dict, description="limits of single relations, by property id or label, over limit"
    )


class PopularityRetrieval(PromptMethod):
    """The fact in the prompt, but only where the subject is so unpopular that the model can't be trusted alone.

    What is withheld is not edited: of a popular subject the model goes on saying what it knows. The limits should be
    chosen for each relation on questions apart (`kg_edit.retrieval.popularity.best_threshold`).
    """

    name = "popularity-retrieval"
    paper = "Mallen et al., ACL 2023, arXiv 2212.10511"
    about = "the fact in the prompt for unpopular subjects only, the model's own knowledge for the others"
    config_class = PopularityConfig
    config: PopularityConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Also see that popularity can be had.

        Raises:
            ConfigError: there is neither a graph nor a file.
            EditFileError: the file can't be read.
        """
        super().check_inputs(config, graph, edits)
        assert isinstance(config, PopularityConfig)  # noqa: S101 - config_class
        if config.popularity:
            read_popularity(config.popularity)
        elif graph is None:
            raise ConfigError(
                f"the method {cls.name} needs to know how popular a subject is; give graph=... (CLI: --graph), or a "
                "file of popularities (CLI: --set popularity=FILE)"
            )

    def prepare(self) -> None:
        """Read the popularities.

        Raises:
            ConfigError: there is neither a graph nor a file.
            EditFileError: the file can't be read.
        """
        self.check_inputs(self.config, self.graph, ())

    @property
    def reads_graph(self) -> bool:
        """Whether statements are counted."""
        return self.config.popularity is None

    @cached_property
    def _table(self) -> Mapping[str, float] | None:
        return read_popularity(self.config.popularity) if self.config.popularity else None

    def fact(self, edit: Edit) -> tuple[Fact, dict[str, Any]]:
        """The fact as a sentence, withheld where its subject is popular."""
        popularity, limit = self._popularity(edit), self._limit(edit)
        withheld, told = popularity > limit, f"{new_fact(edit)}."
        fact = Fact(id=edit.id, subject=edit.subject, about=edit.text, told=told, withheld=withheld)
        return fact, {"popularity": popularity, "limit": limit, "withheld": withheld}

    def _popularity(self, edit: Edit) -> float:
        """Of the subject; of one that the file or the graph does not know, 0."""
        if self._table is not None:
            names = (edit.subject_id or "", edit.subject)
            return next((self._table[name.casefold()] for name in names if name.casefold() in self._table), 0.0)
        if self.graph is None:
            raise ConfigError(f"the method {self.name} needs a graph or a file of popularities")
        return statements(self.graph, edit)

    def _limit(self, edit: Edit) -> float:
        limits = self.config.limits
        names = (edit.relation_id or "", edit.relation_text)
        return next((limits[name] for name in names if name in limits), self.config.limit)
