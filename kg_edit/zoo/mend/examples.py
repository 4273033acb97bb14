"""The training data of MEND: an edit's prompt, prompts that mean the same, and unrelated prompts (MEND, section 3).

PropMEND (arXiv 2506.08920) adds portability questions, and takes the gradient of the whole statement instead of its
target. `make_examples` encodes the prompts of edits, and `BatchOrder` draws the rows of each training step from them.

The seed and the number of a step determine its edits (`BatchOrder`), so a run that was killed continues with the same
edits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Self

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError, ModelError, PromptError
from kg_edit.models.first_token import line_break_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.models.sampling import sample_rows
from kg_edit.scoring.questions import query_of
from kg_edit.zoo.mend.network import MendTraining
from kg_edit.zoo.trained.edits import training_edits
from kg_edit.zoo.trained.training import Epochs, shuffled

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Example:
    """The encoded prompts of one edit.

    Attributes:
        edit: its prompt with the new target.
        statement: the row whose gradient is taken: the same prompt, of which all tokens may be targets.
        equivalents: paraphrases with the new target.
        unrelated: locality prompts with their answers.
        questions: portability questions with their answers.
    """

    edit: Prompt
    statement: Prompt
    equivalents: tuple[Prompt, ...] = ()
    unrelated: tuple[Prompt, ...] = ()
    questions: tuple[Prompt, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a step: the statements whose gradients are taken, one unrelated prompt per edit, and further prompts.

    Attributes:
        edits: the statements.
        unrelated: one prompt for each edit.
        further: pairs (index of the edit, prompt that the edited model should answer).
        learned: whether the statements' targets are learned too. They are not if ``further`` has the edits' prompts.
    """

    edits: tuple[Prompt, ...]
    unrelated: tuple[Prompt, ...]
    further: tuple[tuple[int, Prompt], ...]
    learned: bool = True

    @classmethod
    def of(cls, examples: Sequence[Example], texts: Sequence[Prompt], random: Random, *, questions: int = 0) -> Self:
        """Draw one equivalent prompt (if there is one), one unrelated prompt and ``questions`` for each example.

        An edit without neighbours gets one of ``texts`` as its unrelated prompt.
        """
        further = list[tuple[int, Prompt]]()
        unrelated = list[Prompt]()
        for owner, example in enumerate(examples):
            # Without equivalents None is drawn: if nothing were drawn, the seed would give other prompts after it.
            equivalent = random.choice(example.equivalents or (None,))
            unrelated.append(random.choice(example.unrelated or texts))
            if equivalent is not None:
                further.append((owner, equivalent))

        # With the gradient of the whole statement, the statement itself is not learned. The edit's own prompt is a
        # further prompt, so that the loss is that of the target alone.
        learned = all(example.statement is example.edit for example in examples)
        for owner, example in enumerate(examples):
            if not learned:
                further.append((owner, example.edit))
            sampled = random.sample(example.questions, min(questions, len(example.questions)))
            further += [(owner, question) for question in sampled]
        return cls(
            edits=tuple(example.statement for example in examples),
            unrelated=tuple(unrelated),
            further=tuple(further),
            learned=learned,
        )


def whole_statement(prompt: Prompt) -> Prompt:
    """Return the same row, in which every token but the first is a target."""
    return replace(prompt, target_start=1)


def make_examples(
    model: LanguageModel, items: Iterable[Edit | BenchmarkRecord], *, gradient_of: str = "target"
) -> list[Example]:
    """Encode the prompts of edits or records. Those that can't be encoded are left out, edits with a warning.

    The unrelated prompts are the edit's neighbours, or else the locality probes of its record.
    """
    examples = list[Example]()
    edits = training_edits(items)
    in_chat = sum(edit.chat is not False for edit, _ in edits)
    if in_chat:
        log.warning("%d edits have chat set; the training uses their prompts in plain text", in_chat)
    for edit, locality in edits:
        example = _make_example(model, edit, locality, gradient_of=gradient_of)
        if example:
            examples.append(example)
    left_out = len(edits) - len(examples)
    if left_out:
        log.warning(
            "%d edits are left out: their target's first token merges with the prompt's end, or they are longer than "
            "the model's positions",
            left_out,
        )
    return examples


def _make_example(
    model: LanguageModel, edit: Edit, locality: Iterable[tuple[str, str]], *, gradient_of: str
) -> Example | None:
    """Encode the prompts of an edit; return None if its own prompt can't be encoded.

    Args:
        model: the language model.
        edit: the edit.
        locality: its locality prompts with their answers.
        gradient_of: "target" or "text", as in `MendTraining`.
    """
    lead = line_break_before(model, edit.text, subject=edit.subject)
    encoded = _encode_all(model, [(lead + edit.text, edit.target_new)])
    if not encoded:
        return None
    (own,) = encoded
    statement = whole_statement(own) if gradient_of == "text" else own
    questions = list[tuple[str, str]]()
    for probe in edit.portability:
        text = probe.question
        if query_of(probe).form == "question":  # and not the start of a statement
            text = f"Q: {text}\nA:"
        questions.append((text, probe.answer))
    return Example(
        edit=own,
        statement=statement,
        equivalents=_encode_all(model, [(text, edit.target_new) for text in edit.paraphrases]),
        unrelated=_encode_all(model, locality),
        questions=_encode_all(model, questions),
    )


def _encode_all(model: LanguageModel, pairs: Iterable[tuple[str, str]]) -> tuple[Prompt, ...]:
    """Encode the pairs (text, target); those that can't be encoded are left out."""
    prompts = list[Prompt]()
    for text, target in pairs:
        try:
            prompts.append(model.encode(text.rstrip(), target=target))
        except (PromptError, ModelError):  # merged with its target, or longer than the model's positions
            continue
    return tuple(prompts)


def sample_prompts(model: LanguageModel, *, rows: int, tokens: int, seed: int) -> tuple[Prompt, ...]:
    """Sample texts from the model, in which every token is a target."""
    texts = sample_rows(model, rows=rows, tokens=tokens, seed=seed)
    return tuple(Prompt(text="", ids=row, target_start=1) for row in texts)


class BatchOrder:
    """The rows of each training step, and the rows that are held out for validation.

    ``texts`` are used as unrelated prompts for edits without neighbours.
    """

    def __init__(self, examples: Sequence[Example], texts: Sequence[Prompt], settings: MendTraining) -> None:
        self.settings = settings
        self._texts = texts
        order = shuffled(examples, f"split {settings.seed}")
        self.examples = order[settings.validation :]
        self._held_out = order[: settings.validation]
        self._epochs = Epochs(self.examples, batch=settings.batch, seed=settings.seed)

    @classmethod
    def of(cls, model: LanguageModel, edits: Sequence[Edit | BenchmarkRecord], settings: MendTraining) -> BatchOrder:
        """Return the order for a model; the texts are sampled from the model."""
        examples = make_examples(model, edits, gradient_of=settings.gradient_of)
        needed = settings.validation + max(settings.edits_per_step, settings.edits_to_normalise)
        if len(examples) < needed:
            raise ConfigError(
                f"found {len(examples)} usable edits, expected at least {needed}: validation = {settings.validation} "
                f"(held out), a step uses {settings.edits_per_step} (batch, times length if there is one), and "
                f"{settings.edits_to_normalise} are measured before the first step (normalise_on); give more edits, or "
                "lower these settings"
            )
        if settings.questions and not any(example.questions for example in examples):
            raise ConfigError(
                f"questions = {settings.questions}, and no edit has a portability question (field "
                "portability); draw edits with questions by kg-edit data edits --questions, or set questions=0"
            )
        texts = sample_prompts(model, rows=settings.texts, tokens=settings.text_tokens, seed=settings.seed)
        return cls(examples, texts, settings)

    def rows(self, step: int) -> Rows:
        """Return the rows of a step (from 0). Each pass over the examples has another order."""
        random = Random(f"step {step} {self.settings.seed}")  # noqa: S311 - no secret
        return Rows.of(self._epochs.examples(step), self._texts, random, questions=self.settings.questions)

    def validation(self) -> Iterator[Rows]:
        """Yield the held-out rows in batches; they are the same in each call."""
        random = Random(f"validation {self.settings.seed}")  # noqa: S311 - no secret
        for start in range(0, len(self._held_out), self.settings.batch):
            batch = self._held_out[start : start + self.settings.batch]
            yield Rows.of(batch, self._texts, random, questions=self.settings.questions)

    def prompts(self) -> Iterator[Prompt]:
        """Yield all prompts from which the rows of a step or of the validation are drawn."""
        for example in (*self.examples, *self._held_out):
            yield from (example.edit, example.statement, *example.equivalents, *example.unrelated)
            if self.settings.questions:
                yield from example.questions
        yield from self._texts

    def for_normalising(self) -> list[Prompt]:
        """Return the prompts of the edits from which the mean and the deviation of the factors are computed."""
        return [example.statement for example in self.examples[: self.settings.normalise_on]]
