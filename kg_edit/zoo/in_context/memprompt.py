"""MemPrompt (Madaan et al., EMNLP 2022, arXiv 2201.06009): a memory of clarifications that are put before questions.

When a model is corrected, the memory stores the question and the correction in words. If a later question is similar to
a stored one, because few letters differ or because of its meaning, the correction is put before it. An edit is such a
correction: its prompt is the question, its fact the clarification. So the memory grows with the edits.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.models.hooks import keep_untouched
from kg_edit.patches.prompt_patch import PromptFact, PromptRule
from kg_edit.scoring.generation import ask
from kg_edit.scoring.questions import fact_sentence, format_question
from kg_edit.text.fact_words import fact_words
from kg_edit.text.matching import begins_with
from kg_edit.writing_systems import join
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.in_context.base import PromptConfig, PromptMethod

_TOKENS = 24  # length of the model's answer that is checked for a mistake
_SHOTS = 3  # examples in each language


class MemPromptConfig(PromptConfig):
    """Settings of the memory.

    With the preset ``paper``, a clarification is used only if the model was wrong, and from a similarity of 0.9 on.
    """

    gate: Literal["subject", "similarity"] = Field(
        "similarity", description="put a clarification before questions similar to its own, or that name its subject"
    )
    threshold: float = Field(
        0.5, ge=0, le=1, description="similarity of the two questions that is needed; published, with an encoder: 0.9"
    )
    letters: NonNegativeInt = Field(
        5, description="or they differ in at most this many letters, ignoring case and punctuation"
    )
    most: PositiveInt = Field(
        1, description="maximum number of clarifications before a question; the most similar ones are used"
    )
    feedback: Literal["always", "mistakes"] = Field(
        "always",
        description="which edits are used: all (always), or only those that the model answers wrongly (mistakes)",
    )
    shots: NonNegativeInt = Field(
        _SHOTS, le=_SHOTS, description="number of fixed examples that show how a clarification is used"
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"threshold": 0.9, "feedback": "mistakes"}}


class MemPrompt(PromptMethod):
    """Puts the clarification of the most similar stored question before a prompt, if it is similar enough."""

    entry = method_entry("memprompt")
    config_class = MemPromptConfig
    config: MemPromptConfig

    puts_words = True

    def rule_in(self, language: str) -> PromptRule:
        """Return the rule of every in-context method, with the number of letters by which a question may differ."""
        before_fact = fact_words(language).clarification
        return self.rule.model_copy(update={"letters": self.config.letters, "before_fact": before_fact})

    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """Return the clarification; with ``feedback=mistakes`` it is withheld if the model is right without it."""
        notes: dict[str, Any] = {}
        if self.config.feedback == "mistakes":
            answers = self._ask(edit)
            wrong = [answer for answer in answers if not begins_with(answer, edit.target_new)]
            notes = {"answer": answers[0], "withheld": True}
            if wrong:
                notes = {"answer": wrong[0], "withheld": False}
        fact = PromptFact(
            id=edit.id,
            subject=edit.subject,
            prompt=edit.text,
            text=fact_sentence(edit),
            examples=clarified_examples(edit.language)[: self.config.shots],
            withheld=notes.get("withheld", False),
        )
        return fact, notes

    def _ask(self, edit: Edit) -> list[str]:
        """Return the model's answer in each form in which the edit is made, plain and chat."""
        answers = list[str]()
        with keep_untouched(self.model):
            for chat in edit.forms:
                reader = self.model.in_chat() if chat else self.model
                answers.append(ask(reader, edit.text, tokens=_TOKENS))
        return answers


def clarified_examples(language: str) -> tuple[str, ...]:
    """Return examples of a clarification with what it answers, a sentence or a question, in a language."""
    words = fact_words(language)
    examples = []
    for clarification, question, sentence, answer in words.clarified:
        asked = sentence or format_question(question, language=words.language)
        examples.append(f"{words.clarification}{clarification}\n{join(asked, answer)}")
    return tuple(examples)
