"""Which edits a training sees at which step: decided by the seed and the step's number alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.mend.settings import MendTraining
from kg_edit.methods.mend.examples import Example, Rows, make_examples, own_texts
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt


class Course:
    """The examples to learn from, those held out, and texts for the ones without neighbours."""

    def __init__(self, examples: Sequence[Example], texts: Sequence[Prompt], settings: MendTraining) -> None:
        self._settings, self._texts = settings, texts
        shuffled = _shuffled(examples, f"split {settings.seed}")
        self.examples, self._held_out = shuffled[settings.validation :], shuffled[: settings.validation]

    @classmethod
    def of(cls, model: LanguageModel, edits: Sequence[Edit], settings: MendTraining) -> Course:
        """The course of a model, which writes the texts itself.

        Raises:
            ConfigError: there are too few edits.
        """
        examples = make_examples(model, edits)
        needed = settings.validation + max(settings.batch, settings.normalise_on)
        if len(examples) < needed:
            raise ConfigError(
                f"{len(examples)} edits can be used, and {needed} are needed: validation = {settings.validation} are "
                f"held out, normalise_on = {settings.normalise_on}, batch = {settings.batch}; give more edits, or "
                "lower these"
            )
        texts = own_texts(model, rows=settings.texts, tokens=settings.text_tokens, seed=settings.seed)
        return cls(examples, texts, settings)

    def rows(self, step: int) -> Rows:
        """The rows of a step (from 0). Each pass over the examples has an order of its own."""
        batch, seed = self._settings.batch, self._settings.seed
        steps = len(self.examples) // batch  # in a pass; what is left over comes in another one
        order = _shuffled(self.examples, f"pass {step // steps} {seed}")
        start = step % steps * batch
        return Rows.of(order[start : start + batch], self._texts, Random(f"step {step} {seed}"))  # noqa: S311

    def validation(self) -> Iterator[Rows]:
        """The held-out rows, the same each time, in batches."""
        random = Random(f"validation {self._settings.seed}")  # noqa: S311 - no secret
        for start in range(0, len(self._held_out), self._settings.batch):
            yield Rows.of(self._held_out[start : start + self._settings.batch], self._texts, random)

    def for_normalising(self) -> list[Prompt]:
        """The prompts of the edits from which mean and deviation of the factors are taken."""
        return [example.edit for example in self.examples[: self._settings.normalise_on]]


def _shuffled(examples: Sequence[Example], seed: str) -> list[Example]:
    order = list(examples)
    Random(seed).shuffle(order)  # noqa: S311 - no secret
    return order
