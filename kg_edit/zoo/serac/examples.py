"""SERAC's training data: texts inside and outside the scope of each edit, and questions for the counterfactual model.

- inside: the edit's paraphrases, or its own prompt;
- outside: its neighbours (the same relation of other subjects) or its record's locality probes, its subject in another
  edit's prompt, the texts of other edits, and texts that the model writes itself.

A part of the texts, inside and outside, comes after a text by the model, because prompts are rarely alone in
practice.

All choices are random, and each is determined by the seed and a name (`ExampleOrder._start_draw`), so that a training
that was killed continues with the same examples:

- by the step: its edits, and which of their texts it takes;
- by the edit: the other fact about its subject, the same in each step;
- by the text: whether it comes after a text by the model, and after which one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Self

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import sample_text
from kg_edit.scoring.questions import new_fact
from kg_edit.zoo.serac.network import SeracTraining
from kg_edit.zoo.trained.edits import TrainingEdit, training_edits
from kg_edit.zoo.trained.training import Epochs, shuffled

_LEAD = 48  # largest number of letters of a text before a prompt
_TRIES = 20  # number of edits among which an edit with another prompt is searched


@dataclass(frozen=True, kw_only=True)
class ScopeRows:
    """The edits of a step, and texts inside and outside their scopes.

    Attributes:
        edits: the edits.
        inside: one text for each edit, in its scope.
        outside: pairs (index of an edit, text outside its scope).
        texts: texts outside all scopes.
    """

    edits: tuple[Edit, ...]
    inside: tuple[str, ...]
    outside: tuple[tuple[int, str], ...]
    texts: tuple[str, ...]

    def is_surely_outside(self, text: str, *, edit_index: int, drawn_for: int | None) -> bool:
        """Return whether a text is certainly out of the scope of an edit.

        It is not certain if the text was drawn for this edit, or if it contains the edit's subject.

        Args:
            text: the text.
            edit_index: the edit's index among the step's edits.
            drawn_for: the index of the edit for which the text was drawn; None if it was drawn for no edit.
        """
        if drawn_for == edit_index:
            return False
        subject = self.edits[edit_index].subject
        return subject.casefold() not in text.casefold()


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question for the counterfactual model: a fact, a prompt in its scope, and the target."""

    fact: str
    prompt: str
    target: str


def write_texts(model: LanguageModel, *, rows: int, tokens: int, seed: int) -> tuple[str, ...]:
    """Let the model write texts, each on one line; an empty one becomes "."."""
    texts = list[str]()
    for ids in sample_text(model, rows=rows, tokens=tokens, seed=seed).tolist():
        text = str(model.tokenizer.decode(ids, skip_special_tokens=True))
        one_line = " ".join(text.split())
        texts.append(one_line or ".")
    return tuple(texts)


class ExampleOrder:
    """The edits of each training step, the texts drawn for them, and the held-out edits."""

    def __init__(self, items: Sequence[Edit | BenchmarkRecord], texts: Sequence[str], settings: SeracTraining) -> None:
        edits = training_edits(items)
        order = shuffled(edits, f"split {settings.seed}")
        self._settings = settings
        self._texts = texts
        self._all = [example.edit for example in edits]
        self._held_out = order[: settings.validation]
        self.examples = order[settings.validation :]
        self._scope_epochs = Epochs(self.examples, batch=settings.scope_batch, seed=settings.seed)
        self._question_epochs = Epochs(self.examples, batch=settings.batch, seed=settings.seed + 1)

    @classmethod
    def of(cls, model: LanguageModel, items: Sequence[Edit | BenchmarkRecord], settings: SeracTraining) -> Self:
        """Return the order for a model; the texts are sampled from the model."""
        needed = settings.validation + max(settings.batch, settings.scope_batch)
        count = len(training_edits(items))
        if count < needed:
            raise ConfigError(
                f"found {count} edits, expected at least {needed}: validation = {settings.validation} (held out), "
                f"scope_batch = {settings.scope_batch}, batch = {settings.batch}; give more edits, or lower these"
            )
        texts = write_texts(model, rows=settings.texts, tokens=settings.text_tokens, seed=settings.seed)
        return cls(items, texts, settings)

    def scope_rows(self, step: int) -> ScopeRows:
        """Draw the texts of a step (from 0)."""
        draw = self._start_draw(f"scope {step}")
        return self._draw_rows(self._scope_epochs.examples(step), draw)

    def questions(self, step: int) -> list[Question]:
        """Draw the questions for the counterfactual model in a step (from 0)."""
        draw = self._start_draw(f"questions {step}")
        return [self._draw_question(example.edit, draw) for example in self._question_epochs.examples(step)]

    def held_out_rows(self) -> Iterator[ScopeRows]:
        """Yield the texts of the held-out edits in batches; they are the same in each call."""
        size = self._settings.scope_batch
        draw = self._start_draw("validation")
        for start in range(0, len(self._held_out), size):
            yield self._draw_rows(self._held_out[start : start + size], draw)

    def held_out_questions(self) -> list[Question]:
        """Draw a question for each held-out edit."""
        draw = self._start_draw("validation questions")
        return [self._draw_question(example.edit, draw) for example in self._held_out]

    def _start_draw(self, what: str) -> Random:
        """Return a random generator that is determined by the seed and a name."""
        return Random(f"{what} {self._settings.seed}")  # noqa: S311 - no secret

    def _draw_question(self, edit: Edit, draw: Random) -> Question:
        """Draw the edit's prompt or one of its paraphrases as a question."""
        prompt = draw.choice((edit.text, *edit.paraphrases))
        return Question(fact=new_fact(edit), prompt=self._put_after_text(prompt), target=edit.target_new)

    def _draw_rows(self, examples: Sequence[TrainingEdit], draw: Random) -> ScopeRows:
        """Draw the texts inside and outside the scopes of these edits."""
        # Outside each edit's scope: a locality prompt, if it has one, and another fact about its subject
        outside = list[tuple[int, str]]()
        for index, example in enumerate(examples):
            if example.locality:
                prompt, _ = draw.choice(example.locality)
                outside.append((index, self._put_after_text(prompt)))
        for index, example in enumerate(examples):
            other_fact = self._find_other_fact(example.edit)
            if other_fact:
                outside.append((index, self._put_after_text(other_fact)))

        inside = list[str]()
        for example in examples:
            prompts = example.edit.paraphrases
            if not prompts:
                prompts = (example.edit.text,)
            inside.append(self._put_after_text(draw.choice(prompts)))

        count = min(len(self._texts), len(examples))
        texts = draw.sample(list(self._texts), count)
        edits = tuple(example.edit for example in examples)
        return ScopeRows(edits=edits, inside=tuple(inside), outside=tuple(outside), texts=tuple(texts))

    def _find_other_fact(self, edit: Edit) -> str | None:
        """Return the edit's subject in another edit's prompt: another fact about it. The choice is fixed for each edit.

        A prompt of the same relation is left out if the file names the relations, and so is one that states the edit.
        """
        own_texts = (edit.text, *edit.paraphrases)
        draw = self._start_draw(f"other {edit.id}")
        relation = edit.relation_id or edit.relation
        for other in draw.sample(self._all, min(_TRIES, len(self._all))):
            text = other.prompt.replace("{}", edit.subject)
            is_same_relation = relation is not None and relation == (other.relation_id or other.relation)
            if not is_same_relation and text not in own_texts:
                return text
        return None

    def _put_after_text(self, text: str) -> str:
        """Put one of the model's texts before a text, with the probability ``behind``; fixed for each text."""
        draw = self._start_draw(f"before {text}")
        if draw.random() >= self._settings.behind:
            return text
        lead = draw.choice(self._texts)[:_LEAD].rstrip().removesuffix(".")
        return f"{lead}. {text}"
