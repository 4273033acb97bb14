"""SERAC's training data: texts inside and outside the scope of each edit, and questions for the counterfactual model.

- inside: the edit's paraphrases, or its own prompt;
- outside: its neighbours (the same relation of other subjects) or its record's locality probes, its subject in another
  edit's prompt, the texts of other edits, and texts that the model writes itself.

A part of the texts, inside and outside, comes after a text by the model, because prompts are rarely alone in
practice. The seed and the number of a step determine its edits.
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
from kg_edit.zoo.trained.training import Passes, shuffled

_LEAD = 48  # largest number of letters of a text before a prompt
_TRIES = 20  # number of edits among which an edit with another prompt is searched


@dataclass(frozen=True, kw_only=True)
class ScopeRows:
    """The edits of a step, and texts inside and outside their scopes.

    ``inside`` has one text for each edit, in its scope. ``outside`` has pairs (index of an edit, text outside its
    scope). ``texts`` are outside all scopes.
    """

    edits: tuple[Edit, ...]
    inside: tuple[str, ...]
    outside: tuple[tuple[int, str], ...]
    texts: tuple[str, ...]

    def is_outside(self, edit: int, text: str, owner: int | None) -> bool:
        """Return whether a text is certainly out of the scope of ``edit``.

        It is not certain if the text was taken for this edit (``owner``), or if it contains the edit's subject.
        """
        return owner != edit and self.edits[edit].subject.casefold() not in text.casefold()


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question for the counterfactual model: a fact, a prompt in its scope, and the target."""

    fact: str
    prompt: str
    target: str


def own_texts(model: LanguageModel, *, rows: int, tokens: int, seed: int) -> tuple[str, ...]:
    """Sample texts from the model, each on one line; an empty one becomes "."."""
    ids = sample_text(model, rows=rows, tokens=tokens, seed=seed).tolist()
    decoded = (str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in ids)
    return tuple(" ".join(text.split()) or "." for text in decoded)


class ExampleOrder:
    """The edits of each training step, the texts drawn for them, and the held-out edits."""

    def __init__(self, items: Sequence[Edit | BenchmarkRecord], texts: Sequence[str], settings: SeracTraining) -> None:
        edits = training_edits(items)
        self._settings, self._texts, self._all = settings, texts, [edit for edit, _ in edits]
        order = shuffled(edits, f"split {settings.seed}")
        self.examples, self._held_out = order[settings.validation :], order[: settings.validation]
        self._scope_passes = Passes(self.examples, batch=settings.scope_batch, seed=settings.seed)
        self._passes = Passes(self.examples, batch=settings.batch, seed=settings.seed + 1)

    @classmethod
    def of(cls, model: LanguageModel, items: Sequence[Edit | BenchmarkRecord], settings: SeracTraining) -> Self:
        """Return the order for a model; the texts are sampled from the model.

        Raises:
            ConfigError: there are too few edits.
        """
        needed = settings.validation + max(settings.batch, settings.scope_batch)
        if (count := len(training_edits(items))) < needed:
            raise ConfigError(
                f"found {count} edits, expected at least {needed}: validation = {settings.validation} (held out), "
                f"scope_batch = {settings.scope_batch}, batch = {settings.batch}; give more edits, or lower these"
            )
        texts = own_texts(model, rows=settings.texts, tokens=settings.text_tokens, seed=settings.seed)
        return cls(items, texts, settings)

    def scope_rows(self, step: int) -> ScopeRows:
        """Return the texts of a step (from 0)."""
        return self._rows(self._scope_passes.examples(step), self._random(f"scope {step}"))

    def questions(self, step: int) -> list[Question]:
        """Return the questions for the counterfactual model in a step (from 0)."""
        draw = self._random(f"questions {step}")
        return [self._question(edit, draw) for edit, _ in self._passes.examples(step)]

    def held_out_rows(self) -> Iterator[ScopeRows]:
        """Yield the texts of the held-out edits in batches; they are the same in each call."""
        size, draw = self._settings.scope_batch, self._random("validation")
        for start in range(0, len(self._held_out), size):
            yield self._rows(self._held_out[start : start + size], draw)

    def held_out_questions(self) -> list[Question]:
        """Return a question for each held-out edit."""
        draw = self._random("validation questions")
        return [self._question(edit, draw) for edit, _ in self._held_out]

    def _random(self, what: str) -> Random:
        return Random(f"{what} {self._settings.seed}")  # noqa: S311 - no secret

    def _question(self, edit: Edit, draw: Random) -> Question:
        prompt = self._placed(draw.choice((edit.text, *edit.paraphrases)))
        return Question(fact=new_fact(edit), prompt=prompt, target=edit.target_new)

    def _rows(self, examples: Sequence[TrainingEdit], draw: Random) -> ScopeRows:
        edits = tuple(edit for edit, _ in examples)
        # outside: a prompt of the same relation for each edit that has one, then another fact about its subject
        outside = [(n, self._placed(draw.choice(prompts)[0])) for n, (_, prompts) in enumerate(examples) if prompts]
        other_facts = [self._other_relation(edit) for edit in edits]
        outside += [(n, self._placed(text)) for n, text in enumerate(other_facts) if text]
        return ScopeRows(
            edits=edits,
            inside=tuple(self._placed(draw.choice(edit.paraphrases or (edit.text,))) for edit in edits),
            outside=tuple(outside),
            texts=tuple(draw.sample(list(self._texts), min(len(self._texts), len(edits)))),
        )

    def _other_relation(self, edit: Edit) -> str | None:
        """Return the edit's subject in another edit's prompt: another fact about it. The choice is fixed for each edit.

        A prompt of the same relation is left out if the file names the relations, and so is one that states the edit.
        """
        draw = self._random(f"other {edit.id}")
        relation = edit.relation_id or edit.relation
        for other in draw.sample(self._all, min(_TRIES, len(self._all))):
            text = other.prompt.replace("{}", edit.subject)
            same = relation is not None and relation == (other.relation_id or other.relation)
            if not same and text not in (edit.text, *edit.paraphrases):
                return text
        return None

    def _placed(self, text: str) -> str:
        """Return the text, or with the probability ``behind`` the text after one by the model; fixed for each text."""
        draw = self._random(f"before {text}")
        if draw.random() >= self._settings.behind:
            return text
        lead = draw.choice(self._texts)[:_LEAD].rstrip().removesuffix(".")
        return f"{lead}. {text}"
