"""The unedited model as a teacher: its answers to direct questions, with example facts in the prompt.

The teacher's next-token distributions become soft targets q for the edited model. The edited model is asked for the
same answer through the edited fact, and without the example facts (context distillation, Askell et al. 2021,
arXiv 2112.00861; Hinton et al. 2015). The loss is the cross-entropy -sum q log p, with q [tokens, k].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kg_edit.engine.prefix_store import PrefixStore
from kg_edit.locate_then_edit.objective import SoftTarget
from kg_edit.methods.composed_facts import Answer, direct_question
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.greedy import Written, greedy
from kg_edit.text.matching import begins_with

# Examples for relations without examples of their own; they only show the form of an answer. The questions that score a
# model have another form (`scoring.questions`).
_SHOTS = (
    ("largest planet", "the solar system", "Jupiter"),
    ("chemical symbol", "gold", "Au"),
    ("author", "Hamlet", "William Shakespeare"),
    ("season", "snow", "Winter"),
)
_KEPT = 64  # likeliest tokens of a soft target
_SHOWN = 4  # example facts before a question


@dataclass(frozen=True, kw_only=True)
class TeacherQuestion:
    """A question for the ``noun`` of the thing ``of``; ``examples`` are facts (thing, object) of the same relation."""

    noun: str
    of: str
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def question(self) -> TeacherPrompt:
        """The prompt in question form."""
        return self._worded(direct_question("{noun}", "{thing}"), "\n\n")

    @property
    def sentence(self) -> TeacherPrompt:
        """The prompt as a sentence to continue. If both forms get the same answer, the model knows it."""
        return self._worded("The {noun} of {thing} is", ".\n")

    def _worded(self, form: str, end: str) -> TeacherPrompt:
        facts = [(self.noun, *fact) for fact in self.examples if fact[0] != self.of] or _SHOTS
        shown = "".join(f"{_filled(form, noun, thing)} {target}{end}" for noun, thing, target in facts[:_SHOWN])
        begun = form.partition(" {thing}")[0].replace("{noun}", self.noun)
        return TeacherPrompt(start=shown + begun, shown=shown, alone=_filled(form, self.noun, self.of))


@dataclass(frozen=True, kw_only=True)
class TeacherPrompt:
    """A question ``alone``, and the facts ``shown`` before it; ``start`` is the part before the thing's name."""

    start: str
    shown: str
    alone: str

    @property
    def forms(self) -> tuple[str, str]:
        """The prompt with the facts, and without them for models with a short context."""
        return self.shown + self.alone, self.alone


def _filled(form: str, noun: str, thing: str) -> str:
    return form.replace("{noun}", noun).replace("{thing}", thing)


@torch.no_grad()
def answers_of(
    model: LanguageModel, questions: Sequence[TeacherQuestion], *, most: int, store: PrefixStore | None = None
) -> list[Answer | None]:
    """Return the model's greedy answer to each question, with at most ``most`` tokens.

    An answer is None if it is empty, or if the sentence form gets another answer, which means that the model guesses.
    A question uses the first of its prompts that fits into the model's positions; if none fits, the answer is None.
    ``store`` caches the prefixes before the thing for later calls.
    """
    prompts = [*(question.question for question in questions), *(question.sentence for question in questions)]
    limit = model.positions
    fitting: list[tuple[int, ...] | None] = []
    for prompt in prompts:
        forms = (model.encode(form, fitting=False).ids for form in prompt.forms)
        fitting.append(next((ids for ids in forms if limit is None or len(ids) + most <= limit), None))
    rows = [ids for ids in fitting if ids]
    starts = (model.encode(prompt.start, fitting=False).ids for prompt in prompts)
    prefixes = [start for start, ids in zip(starts, fitting, strict=True) if ids and ids[: len(start)] == start]
    written = greedy(
        model,
        rows,
        limits=[most] * len(rows),
        top_k=_KEPT,
        ends=lambda tokens: _ends(model, tokens[-1]),
        starts=store.contexts(model, prefixes) if store and prefixes else None,
    )
    answers = (_answer(model, row) for row in written)
    by_prompt = [next(answers) if ids else None for ids in fitting]
    return [
        one if one and two and (begins_with(one.text, two.text) or begins_with(two.text, one.text)) else None
        for one, two in zip(by_prompt[: len(questions)], by_prompt[len(questions) :], strict=True)
    ]


def _ends(model: LanguageModel, token: int) -> bool:
    """Whether an answer ends before this token."""
    text = str(model.tokenizer.decode([token]))
    return token in model.tokenizer.all_special_ids or "\n" in text or text.strip() in (".", ",")


def _answer(model: LanguageModel, written: Written) -> Answer | None:
    """The first line or sentence of the written text, as an answer; None if it is empty."""
    texts = [str(model.tokenizer.decode([token])) for token in written.tokens]
    stop = next((index for index, token in enumerate(written.tokens) if _ends(model, token)), len(texts))
    while stop and not texts[stop - 1].strip(" ."):
        stop -= 1
    text = str(model.tokenizer.decode(list(written.tokens[:stop]))).strip()
    if not text:
        return None
    shares = written.probabilities / written.probabilities.sum(-1, keepdim=True)
    lesson = SoftTarget(tokens=written.likeliest[:stop], probabilities=shares[:stop])
    return Answer(text=text, ids=written.tokens[:stop], lesson=lesson)
