"""MeLLo (Zhong et al., EMNLP 2023, arXiv 2305.14795): answer a question in steps, and check each step with the edits.

The model writes subquestions and tentative answers. After each, the edited fact nearest to the subquestion is inserted,
and the model decides whether the two contradict each other (`mello.loop`). An edit is just a fact in the
memory. Making an edit computes nothing; all the work is done when the model is asked.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.patches.prompt_patch import PromptFact
from kg_edit.scoring.questions import new_fact
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.in_context.base import PromptConfig, PromptMethod
from kg_edit.zoo.mello.demonstrations import DEMONSTRATIONS, show_demonstrations
from kg_edit.zoo.mello.loop import loop_words
from kg_edit.zoo.mello.patch import LoopPatch, LoopRule

_LINE = 64  # tokens reserved for the question, and for each fact that is put in


class MelloConfig(PromptConfig):
    """Settings of the loop. The preset ``paper`` writes up to 256 tokens at a time.

    Facts are selected for a subquestion by similarity only.
    """

    gate: Literal["subject", "similarity"] = Field(
        "similarity",
        description="put a fact after subquestions that are similar to its prompt, or that name its subject",
    )
    threshold: float = Field(0.0, ge=0, le=1, description="similarity that is needed; 0: always show the nearest fact")
    most: PositiveInt = Field(1, description="number of facts after a subquestion: only the nearest", le=1)
    steps: PositiveInt = Field(4, description="maximum number of subquestions")
    tokens: PositiveInt = Field(
        96, description="maximum number of tokens that the model writes before a fact is inserted; published: 256"
    )
    shots: NonNegativeInt = Field(
        len(DEMONSTRATIONS),
        le=len(DEMONSTRATIONS),
        description="maximum number of answered examples; fewer if the model's context is too short",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"tokens": 256}}


class Mello(PromptMethod):
    """Subquestions, tentative answers, and the nearest edited fact after each, until there is a final answer.

    The model reads the dialogue instead of the prompt, so it answers after "Final answer:". As soon as there is an
    edit, every prompt is asked in this way, whatever it is about.
    """

    entry = method_entry("mello")
    config_class = MelloConfig
    patch_class = LoopPatch
    config: MelloConfig

    puts_words = True

    def rule_in(self, language: str) -> LoopRule:
        """Return the rule of the patch in a language, with as many examples as fit into the model's context."""
        config = self.config
        shots = self.shots_in(language)
        code = loop_words(language).language
        return LoopRule(**dict(self.rule), steps=config.steps, tokens=config.tokens, shots=shots, language=code)

    def shots_in(self, language: str) -> int:
        """Return the number of examples: at most ``shots`` of the settings, and what half of a short context holds."""
        config = self.config
        count = config.shots
        if self.context is None:
            return count
        dialogue = _LINE + config.steps * (config.tokens + _LINE)
        room = self.context - min(dialogue, self.context // 2)
        while count > 0 and self._tokens_of_examples(count, language) > room:
            count -= 1
        return count

    def _tokens_of_examples(self, count: int, language: str) -> int:
        encoded = self.model.tokenizer(show_demonstrations(count, language), add_special_tokens=False)
        return len(encoded["input_ids"])

    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """Return the fact without a full stop, and the number of examples as a note."""
        fact = PromptFact(id=edit.id, subject=edit.subject, prompt=edit.text, text=new_fact(edit))
        return fact, {"shots": self.shots_in(edit.language)}
