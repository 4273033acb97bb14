"""IKE (Zheng et al., EMNLP 2023, arXiv 2305.12740): the new fact in the prompt, after demonstrations of its use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt

from kg_edit.edits.edit import Edit
from kg_edit.graphs.encoding import SubgraphSource
from kg_edit.methods.base import MethodConfig
from kg_edit.methods.in_context.base import PromptConfig, PromptMethod
from kg_edit.retrieval.demonstrations import NEW_FACT, PROMPT, Demonstrations, new_fact, read_demonstrations
from kg_edit.retrieval.factbook import Fact, TellingRule
from kg_edit.storage.input_hashes import NAMES_A_FILE
from kg_edit.text.similarity import similarity


class IkeConfig(PromptConfig):
    """IKE's settings; ``paper`` has 32 demonstrations and tells the fact before every prompt, as published."""

    demonstrations: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="training file: a benchmark's or one of edits; unset: other facts of the patch, copied",
    )
    count: NonNegativeInt = Field(16, description="demonstrations before a fact")
    seed: int = Field(0, description="of which demonstration is a copy, an update, or one to retain")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {"count": 32, "threshold": 0.0, "most": 1},
    }


class Ike(PromptMethod):
    """``New Fact: …`` and ``Prompt: …``, after demonstrations that copy a fact, reword it, or leave a neighbour alone.

    Demonstrations are chosen by how like their facts are to the edit's, the one most like it last. Those of a training
    file become part of the patch.
    """

    name = "ike"
    paper = "Zheng et al., EMNLP 2023, arXiv 2305.12740"
    about = "the new fact in the prompt, after demonstrations of how to use one"
    config_class = IkeConfig
    config: IkeConfig

    @property
    def rule(self) -> TellingRule:
        """As every method's, in the published template."""
        own = 0 if self.config.demonstrations else self.config.count
        lead = {"before_fact": NEW_FACT, "before_prompt": PROMPT, "own_examples": own}
        return super().rule.model_copy(update=lead)

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Also read the demonstrations.

        Raises:
            EditFileError: their file can't be read.
        """
        super().check_inputs(config, graph, edits)
        assert isinstance(config, IkeConfig)  # noqa: S101 - config_class
        if config.demonstrations:
            read_demonstrations(config.demonstrations, similarity(config.encoder))

    def prepare(self) -> None:
        """Read the demonstrations.

        Raises:
            EditFileError: their file can't be read.
        """
        _ = self._pool

    @cached_property
    def _pool(self) -> Demonstrations | None:
        return read_demonstrations(self.config.demonstrations, self.alike) if self.config.demonstrations else None

    def fact(self, edit: Edit) -> tuple[Fact, dict[str, Any]]:
        """The fact without a full stop, and its demonstrations."""
        count, seed = self.config.count, self.config.seed
        examples = self._pool.examples(edit, count=count, seed=seed) if self._pool else ()
        told = new_fact(edit)
        fact = Fact(id=edit.id, subject=edit.subject, about=edit.text, told=told, examples=examples)
        return fact, {"demonstrations": len(examples)}
