"""The training data of MEND: an edit's prompt, prompts that mean the same, and unrelated prompts (MEND, section 3).

The seed and the number of a step determine its edits (`BatchOrder`), so a run that was killed continues with the same
edits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Self

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, PromptError
from kg_edit.methods.mend.store import MendTraining
from kg_edit.methods.trained.training import Passes, shuffled
from kg_edit.models.first_token import lead_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.models.sampling import document_start, sample_text

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One edit: its prompt with the new target, paraphrases with the new target, neighbours with the old target."""

    edit: Prompt
    equivalents: tuple[Prompt, ...] = ()
    unrelated: tuple[Prompt, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a step: the edits' prompts, one unrelated prompt per edit, and equivalent prompts.

    ``equivalents`` are pairs (index of the edit, equivalent prompt).
    """

    edits: tuple[Prompt, ...]
    unrelated: tuple[Prompt, ...]
    equivalents: tuple[tuple[int, Prompt], ...]

    @classmethod
    def of(cls, examples: Sequence[Example], texts: Sequence[Prompt], random: Random) -> Self:
        """Draw one equivalent prompt (if there is one) and one unrelated prompt for each example.

        An edit without neighbours gets one of ``texts`` as its unrelated prompt.
        """
        drawn = [(random.choice(one.equivalents or (None,)), random.choice(one.unrelated or texts)) for one in examples]
        return cls(
            edits=tuple(example.edit for example in examples),
            unrelated=tuple(unrelated for _, unrelated in drawn),
            equivalents=tuple((place, prompt) for place, (prompt, _) in enumerate(drawn) if prompt is not None),
        )


def make_examples(model: LanguageModel, edits: Iterable[Edit]) -> list[Example]:
    """Encode the prompts of ``edits``. Edits and paraphrases that can't be encoded are left out, with a warning."""
    found: list[Example] = []
    left_out = 0
    for edit in edits:
        own = _encoded(model, [lead_before(model, edit.text, subject=edit.subject) + edit.text], edit.target_new)
        left_out += not own
        found += [
            Example(
                edit=prompt,
                equivalents=_encoded(model, edit.paraphrases, edit.target_new),
                unrelated=_encoded(model, edit.neighborhood, edit.target_true or edit.target_new),
            )
            for prompt in own
        ]
    if left_out:
        log.warning("%d edits are left out: their target's first token merges with the prompt's end", left_out)
    return found


def own_texts(model: LanguageModel, *, rows: int, tokens: int, seed: int) -> tuple[Prompt, ...]:
    """Sample texts from the model, in which every token is a target."""
    start = document_start(model.tokenizer)
    ids = sample_text(model, rows=rows, tokens=tokens, seed=seed).tolist()
    return tuple(Prompt(text="", ids=(start, *row), target_start=1) for row in ids)


def _encoded(model: LanguageModel, texts: Iterable[str], target: str) -> tuple[Prompt, ...]:
    found: list[Prompt] = []
    for text in texts:
        try:
            found.append(model.encode(text.rstrip(), target=target))
        except PromptError:
            continue
    return tuple(found)


class BatchOrder:
    """The rows of each training step, and the rows that are held out for validation.

    ``texts`` are used as unrelated prompts for edits without neighbours.
    """

    def __init__(self, examples: Sequence[Example], texts: Sequence[Prompt], settings: MendTraining) -> None:
        self._settings, self._texts = settings, texts
        order = shuffled(examples, f"split {settings.seed}")
        self.examples, self._held_out = order[settings.validation :], order[: settings.validation]
        self._passes = Passes(self.examples, batch=settings.batch, seed=settings.seed)

    @classmethod
    def of(cls, model: LanguageModel, edits: Sequence[Edit], settings: MendTraining) -> BatchOrder:
        """The order for a model; the texts are sampled from the model.

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
        """The rows of a step (from 0). Each pass over the examples has another order."""
        random = Random(f"step {step} {self._settings.seed}")  # noqa: S311 - no secret
        return Rows.of(self._passes.batch(step), self._texts, random)

    def validation(self) -> Iterator[Rows]:
        """Yield the held-out rows in batches; they are the same in each call."""
        random = Random(f"validation {self._settings.seed}")  # noqa: S311 - no secret
        for start in range(0, len(self._held_out), self._settings.batch):
            yield Rows.of(self._held_out[start : start + self._settings.batch], self._texts, random)

    def for_normalising(self) -> list[Prompt]:
        """The prompts of the edits from which the mean and the deviation of the factors are computed."""
        return [example.edit for example in self.examples[: self._settings.normalise_on]]
