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
from itertools import islice

import torch

from kg_edit.errors import PromptError
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.greedy import Written, greedy
from kg_edit.scoring.likelihood import Pair, positions, score
from kg_edit.value.objective import SoftTarget

# They show the form only. Questions that score a model are asked in another one (`evaluate.questions`).
_SHOTS = (
    ("largest planet", "the solar system", "Jupiter"),
    ("chemical symbol", "gold", "Au"),
    ("author", "Hamlet", "William Shakespeare"),
    ("season", "snow", "Winter"),
)
_KEPT = 64


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the teacher says, its tokens, and what it expected at each of them."""

    text: str
    ids: tuple[int, ...]
    lesson: SoftTarget


def examples() -> str:
    """Answered questions, which all prompts begin with."""
    return "\n\n".join(f"Q: What is the {noun} of {thing}?\nA: {answer}" for noun, thing, answer in _SHOTS)


@dataclass(frozen=True, kw_only=True)
class TeacherQuestion:
    """A question for the ``noun`` of a thing; ``facts`` are told before it."""

    noun: str
    of: str
    facts: str = ""

    @property
    def prompts(self) -> tuple[str, str, str]:
        """With examples and facts, with facts, and alone, for models that can read no more."""
        question = f"Q: What is the {self.noun} of {self.of}?\nA:"
        told = "\n".join(filter(None, [self.facts, question]))
        return f"{examples()}\n\n{told}", told, question


@torch.no_grad()
def answers_of(model: LanguageModel, asked: Sequence[TeacherQuestion], *, most: int) -> list[Answer | None]:
    """The model's greedy answer to each question, of at most ``most`` tokens; None where it says nothing.

    A question takes the first of its prompts that fits into the model's positions; where none does, it has no answer.
    """
    fitting = [_fitting(model, one, most) for one in asked]
    rows = [ids for ids in fitting if ids]
    written = greedy(model, rows, limits=[most] * len(rows), kept=_KEPT)
    said = (_answer(model, one) for one in written)
    return [next(said) if ids else None for ids in fitting]


def _fitting(model: LanguageModel, asked: TeacherQuestion, most: int) -> tuple[int, ...] | None:
    limit = positions(model)
    encoded = (model.encode(prompt).ids for prompt in asked.prompts)
    return next((ids for ids in encoded if limit is None or len(ids) + most <= limit), None)


def _answer(model: LanguageModel, written: Written) -> Answer | None:
    """The first line of what was written; None if it is empty."""
    texts = [str(model.tokenizer.decode([token])) for token in written.tokens]
    specials = set(model.tokenizer.all_special_ids)
    ends = (token in specials or "\n" in text for token, text in zip(written.tokens, texts, strict=True))
    stop = next((place for place, end in enumerate(ends) if end), len(texts))
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
        (noun, label): Pair(TeacherQuestion(noun=noun, of=thing).prompts[-1], label)
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
    limit = positions(model) or math.inf
    try:
        prompt = model.encode(pair.prompt, target=pair.candidate)
    except PromptError:
        return 0
    return len(prompt.target_ids) if len(prompt.ids) <= limit else 0
