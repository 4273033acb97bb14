"""The unedited model as a teacher: what it answers when it is asked directly, with examples and facts in the prompt.

Its next-token distributions become soft targets q for the edited model, which is asked for the same through the edited
fact and without the facts (context distillation, Askell et al. 2021, arXiv 2112.00861; Hinton et al. 2015). The loss is
the cross-entropy -sum q log p, with q [tokens, k].

The teacher also ranks a statement's objects (`likeliest_first`): Wikidata says of Rome that its country is the
Byzantine Empire, the Papal States, Italy and a dozen more, and the model finds one of them likeliest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch

from kg_edit.errors import PromptError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_store import PrefixStore
from kg_edit.scoring.greedy import Written, greedy
from kg_edit.scoring.likelihood import Pair, score
from kg_edit.text.matching import begins_with
from kg_edit.value.rows import SoftTarget

# For a relation without examples of its own: they show the form only. Questions that score a model are asked in another
# one (`scoring.questions`).
_SHOTS = (
    ("largest planet", "the solar system", "Jupiter"),
    ("chemical symbol", "gold", "Au"),
    ("author", "Hamlet", "William Shakespeare"),
    ("season", "snow", "Winter"),
)
_KEPT, _SHOWN = 64, 4


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the teacher says, its tokens, and what it expected at each of them."""

    text: str
    ids: tuple[int, ...]
    lesson: SoftTarget


@dataclass(frozen=True, kw_only=True)
class TeacherQuestion:
    """A question for the ``noun`` of a thing; ``examples`` are facts (thing, object) of the same relation."""

    noun: str
    of: str
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def question(self) -> TeacherPrompt:
        """The question as it is asked."""
        return self._worded("Q: What is the {noun} of {thing}?\nA:", "\n\n")

    @property
    def sentence(self) -> TeacherPrompt:
        """The same as a sentence to go on with: an answer that both get is known rather than guessed."""
        return self._worded("The {noun} of {thing} is", ".\n")

    def _worded(self, form: str, end: str) -> TeacherPrompt:
        facts = [(self.noun, *fact) for fact in self.examples if fact[0] != self.of] or _SHOTS
        shown = "".join(f"{_filled(form, noun, thing)} {target}{end}" for noun, thing, target in facts[:_SHOWN])
        begun = form.partition(" {thing}")[0].replace("{noun}", self.noun)
        return TeacherPrompt(start=shown + begun, shown=shown, alone=_filled(form, self.noun, self.of))


@dataclass(frozen=True, kw_only=True)
class TeacherPrompt:
    """A question ``alone`` and the facts that are ``shown`` before it; ``start`` is the same for any thing."""

    start: str
    shown: str
    alone: str

    @property
    def forms(self) -> tuple[str, str]:
        """With the facts, and alone, for models that can read no more."""
        return self.shown + self.alone, self.alone


def _filled(form: str, noun: str, thing: str) -> str:
    return form.replace("{noun}", noun).replace("{thing}", thing)


@torch.no_grad()
def answers_of(
    model: LanguageModel, asked: Sequence[TeacherQuestion], *, most: int, store: PrefixStore | None = None
) -> list[Answer | None]:
    """The model's greedy answer to each question, of at most ``most`` tokens.

    None where it says nothing, or something else as a sentence: then it guesses. A question takes the first of its
    prompts that fits into the model's positions; where none does, it has no answer. ``store`` keeps what stands before
    the thing for later calls.
    """
    said = _said(model, [*(one.question for one in asked), *(one.sentence for one in asked)], most, store)
    return [
        answer if answer and other and _agree(answer.text, other.text) else None
        for answer, other in zip(said[: len(asked)], said[len(asked) :], strict=True)
    ]


def _agree(one: str, other: str) -> bool:
    return begins_with(one, other) or begins_with(other, one)


def _said(
    model: LanguageModel, asked: Sequence[TeacherPrompt], most: int, store: PrefixStore | None
) -> list[Answer | None]:
    """What is written after the first form of each prompt that fits."""
    fitting = [_fitting(model, one.forms, most) for one in asked]
    rows = [ids for ids in fitting if ids]
    begun = (model.encode(one.start, fitting=False).ids for one in asked)
    known = [start for start, ids in zip(begun, fitting, strict=True) if ids and ids[: len(start)] == start]
    written = greedy(
        model,
        rows,
        limits=[most] * len(rows),
        kept=_KEPT,
        is_last=partial(_ends, model),
        starts=store.contexts(model, known) if store and known else None,
    )
    said = (_answer(model, one) for one in written)
    return [next(said) if ids else None for ids in fitting]


def _fitting(model: LanguageModel, prompts: Sequence[str], most: int) -> tuple[int, ...] | None:
    limit = model.positions
    encoded = (model.encode(prompt, fitting=False).ids for prompt in prompts)
    return next((ids for ids in encoded if limit is None or len(ids) + most <= limit), None)


def _ends(model: LanguageModel, token: int) -> bool:
    """Whether an answer ends before this token."""
    text = str(model.tokenizer.decode([token]))
    return token in model.tokenizer.all_special_ids or "\n" in text or text.strip() in (".", ",")


def _answer(model: LanguageModel, written: Written) -> Answer | None:
    """The first line, or sentence, of what was written; None if it is empty."""
    texts = [str(model.tokenizer.decode([token])) for token in written.tokens]
    stop = next((place for place, token in enumerate(written.tokens) if _ends(model, token)), len(texts))
    while stop and not texts[stop - 1].strip(" ."):
        stop -= 1
    text = str(model.tokenizer.decode(list(written.tokens[:stop]))).strip()
    if not text:
        return None
    shares = written.probabilities / written.probabilities.sum(-1, keepdim=True)
    lesson = SoftTarget(tokens=written.likeliest[:stop], probabilities=shares[:stop])
    return Answer(text=text, ids=written.tokens[:stop], lesson=lesson)


_MOST = 40  # objects of a noun that are compared


def likeliest_first(
    model: LanguageModel, thing: str, objects: Mapping[str, Sequence[str]], *, nouns: int
) -> dict[str, list[str]]:
    """The first ``nouns`` of ``objects``, with the likeliest answer to "What is the [noun] of [thing]?" first.

    Likely is a whole object: the sum over its tokens of -log p. What can't be scored stands last.
    """
    found = {noun: list(some[:_MOST]) for noun, some in islice(objects.items(), nouns)}
    pairs = {
        (noun, label): Pair(TeacherQuestion(noun=noun, of=thing).question.alone, label)
        for noun, labels in found.items()
        for label in labels
        if len(labels) > 1
    }
    sizes = {pair: _tokens(model, pair) for pair in pairs.values()}
    scores = score(model, [pair for pair, size in sizes.items() if size])
    costs = {place: scores[pair].nll * sizes[pair] for place, pair in pairs.items() if pair in scores}
    return {
        noun: sorted(labels, key=lambda label: costs.get((noun, label), math.inf)) for noun, labels in found.items()
    }


def _tokens(model: LanguageModel, pair: Pair) -> int:
    """Of the candidate; 0 where it can't be scored after its prompt."""
    limit = model.positions or math.inf
    try:
        prompt = model.encode(pair.prompt, target=pair.candidate, fitting=False)
    except PromptError:
        return 0
    return len(prompt.target_ids) if len(prompt.ids) <= limit else 0
