"""Retrieval-augmented generation as an editor: a memory of edited facts, and those that a prompt finds before it.

The baseline that a study of 2026 finds ahead of editors of weights (SCR, "Revisiting Parameter-Based Knowledge
Editing"): a new fact is a sentence in a memory. A prompt is a query; the facts with the highest scores are put before
it, and nothing where no fact scores enough. The score is BM25 (default) or the cosine of a sentence encoder.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from kg_edit.edits.edit import Edit
from kg_edit.patches.prompt_patch import PromptFact, PromptRule
from kg_edit.scoring.questions import new_fact
from kg_edit.text.fact_words import fact_words
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.in_context.base import PromptConfig, PromptMethod


class RagConfig(PromptConfig):
    """Settings of the retrieval. For embeddings, as in the study, set ``gate=similarity`` and ``encoder``."""

    gate: Literal["subject", "similarity", "bm25"] = Field(
        "bm25", description="score of a fact: BM25 of its prompt, or similarity (TF-IDF or encoder), or subject"
    )
    threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        description="score that is needed, as a share of the best one (BM25) or as a cosine; 0: every prompt; "
        "with gate=subject 0.75, unless it is set",
    )
    most: PositiveInt = Field(1, description="maximum number of facts before a prompt; those with the highest scores")

    @model_validator(mode="before")
    @classmethod
    def _threshold_of_the_gate(cls, settings: Any) -> Any:
        """Set the usual threshold for gate=subject: half of a name is in many others, which would find the fact."""
        if isinstance(settings, dict) and settings.get("gate") == "subject":
            return {"threshold": PromptRule.model_fields["threshold"].default, **settings}
        return settings


class Rag(PromptMethod):
    """Puts the stored fact that a prompt finds before it; a prompt that finds none stays as it is."""

    entry = method_entry("rag")
    config_class = RagConfig
    config: RagConfig

    puts_words = True

    def rule_in(self, language: str) -> PromptRule:
        """Return the rule with IKE's words around the fact: alone, a small model uses it less."""
        words = fact_words(language)
        return self.rule.model_copy(update={"before_fact": words.new_fact, "before_prompt": words.prompt})

    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """Return the fact as a sentence without a full stop, as in IKE's template."""
        return PromptFact(id=edit.id, subject=edit.subject, prompt=edit.text, text=new_fact(edit)), {}
