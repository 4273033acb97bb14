"""The base class of in-context methods: an edit becomes a fact in the prompt; no weight changes.

Each method (IKE, definitions, retrieval by popularity) defines the text for an edit in `PromptMethod.fact`.
`kg_edit.patches.prompt_patch` selects the facts for a prompt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.methods.base import EditingMethod
from kg_edit.methods.config import MethodConfig
from kg_edit.patches.base import Patch
from kg_edit.patches.prompt_patch import PromptFact, PromptPatch, PromptRule
from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.text.fact_words import warn_of_english


class PromptConfig(MethodConfig):
    """Settings of in-context methods: which facts are put before which prompt."""

    gate: Literal["subject", "similarity", "bm25"] = Field(
        "subject",
        description="put a fact before prompts that name its subject, that are similar to the edit's prompt, or that "
        "find this prompt by BM25",
    )
    threshold: float = Field(
        0.75,
        ge=0,
        le=1,
        description="part of the subject that must be named, or the similarity that is needed; 0: every prompt",
    )
    most: PositiveInt = Field(3, description="maximum number of facts before a prompt; the most similar ones are used")
    encoder: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="sentence encoder for similarity: a sentence-transformers name or folder; unset: TF-IDF",
    )

    def idle(self) -> dict[str, str]:
        """Return the encoder, if BM25 compares."""
        if self.gate != "bm25":
            return {}
        return {"encoder": "gate=bm25 compares words; set gate=similarity"}


class PromptMethod(EditingMethod):
    """Makes a `PromptFact` of each edit. It needs no pass of the model, and the model's weights stay as they are."""

    family = "in-context"
    changed_part = "prompt"
    separable = True
    puts_words: ClassVar[bool] = False  # whether the method puts more before a prompt than the fact itself
    patch_class: ClassVar[type[PromptPatch]] = PromptPatch
    config: PromptConfig

    @property
    def rule(self) -> PromptRule:
        """The rule of the patch: which facts belong to a prompt."""
        config = self.config
        return PromptRule(gate=config.gate, threshold=config.threshold, most=config.most, encoder=config.encoder)

    def rule_in(self, language: str) -> PromptRule:
        """Return the rule of the patch with the words that it puts before facts in a language; by default none."""
        return self.rule

    def check(self, edits: Sequence[Edit]) -> None:
        """Check the edits, and warn of languages in which the method has no words."""
        super().check(edits)
        if self.puts_words:
            warn_of_english(edits, method=self.name)

    @property
    def context(self) -> int | None:
        """The number of tokens that the model can read, or was trained to read; None if that is not known."""
        length = self.model.max_positions or getattr(self.model.text_config, "max_position_embeddings", None)
        return length if isinstance(length, int) else None

    @abstractmethod
    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """Return the text of the fact for an edit, and notes for the edit's record in the provenance."""

    @cached_property
    def _checked(self) -> bool:
        """True; the first time, the inputs are checked."""
        self.check_inputs(self.config, self.graph, ())
        return True

    def prepare(self) -> None:
        """Check the settings, the graph and the files, as `check_inputs` does; once, because it reads the files."""
        _ = self._checked

    def empty_patch(self) -> Patch:
        """Return a patch of the prompt without facts; it changes nothing."""
        return self.patch_class(facts=(), provenance=self.provenance())

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Return a patch of the prompt with the fact of the one edit, and the edit's record in its provenance."""
        (edit,) = edits
        fact, notes = self.fact(edit)
        provenance = {**self.provenance(), "edits": [{**self.record(edit), **notes}]}
        return self.patch_class(facts=((self.rule_in(edit.language), fact),), provenance=provenance)
