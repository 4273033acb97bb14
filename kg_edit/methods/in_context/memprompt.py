"""MemPrompt (Madaan et al., EMNLP 2022, arXiv 2201.06009): a memory of clarifications, looked up and told.

What a model was corrected on is written down: the question, and the correction in words. A later question that is like
one of the memory, by few letters that differ or by meaning, is asked with that correction before it. An edit is such a
correction: the question is its prompt, the clarification its fact. So the memory grows with the edits.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.methods.in_context.base import PromptConfig, PromptMethod
from kg_edit.methods.in_context.ike import new_fact
from kg_edit.patches.prompt_patch import PromptFact, TellingRule
from kg_edit.scoring.generation import ask
from kg_edit.text.matching import begins_with

CLARIFICATION = "Clarification: "
_TOKENS = 24  # of the answer that decides whether there is something to clarify
_SHOTS = (
    f"{CLARIFICATION}The colour of the Fell bridge is green.\nThe colour of the Fell bridge is green",
    f"{CLARIFICATION}Anna Belk wrote Paper Moons.\nQuestion: Who wrote Paper Moons?\nAnswer: Anna Belk",
    f"{CLARIFICATION}The head office of Tallis House is in Leeds.\n"
    "Question: Where is the head office of Tallis House?\nAnswer: Leeds",
)


class MemPromptConfig(PromptConfig):
    """Settings of the memory; ``paper``: a clarification is noted where the model is wrong, and told from .9 on."""

    gate: Literal["subject", "similarity"] = Field(
        "similarity", description="a clarification is for a question like its own, or for one that names its subject"
    )
    threshold: float = Field(
        0.5, ge=0, le=1, description="how alike the two questions must be; published, with an encoder: 0.9"
    )
    letters: NonNegativeInt = Field(
        5, description="or so many letters apart at most, in any case and without punctuation"
    )
    most: PositiveInt = Field(1, description="clarifications told before one question, the closest")
    feedback: Literal["always", "mistakes"] = Field(
        "always", description="which edits are noted: all, or those that the model without memory does not say"
    )
    shots: NonNegativeInt = Field(len(_SHOTS), le=len(_SHOTS), description="fixed examples of a clarification in use")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {"threshold": 0.9, "feedback": "mistakes"},
    }


class MemPrompt(PromptMethod):
    """The clarification of the question that is closest to the one asked, before it, if it is close enough."""

    name = "memprompt"
    paper = "Madaan et al., EMNLP 2022, arXiv 2201.06009"
    about = "a growing memory of clarifications; that of the closest question is told before a prompt"
    config_class = MemPromptConfig
    config: MemPromptConfig

    @property
    def rule(self) -> TellingRule:
        """The rule of every in-context method, and how many letters apart a question may be."""
        return super().rule.model_copy(update={"letters": self.config.letters, "before_fact": CLARIFICATION})

    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """The clarification; withheld where nothing was wrong."""
        notes = self._mistake(edit) if self.config.feedback == "mistakes" else {}
        fact = PromptFact(
            id=edit.id,
            subject=edit.subject,
            about=edit.text,
            told=f"{new_fact(edit)}.",
            examples=_SHOTS[: self.config.shots],
            withheld=notes.get("withheld", False),
        )
        return fact, notes

    def _mistake(self, edit: Edit) -> dict[str, Any]:
        """What the model says without the memory, and whether that needs no clarification."""
        said = ask(self.model, edit.text, tokens=_TOKENS)
        return {"said": said, "withheld": begins_with(said, edit.target_new)}
