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
from typing import Any

import torch
from torch import Tensor

from kg_edit.errors import PromptError
from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import base_model, empty_prefix, mask_decides, run_prefix
from kg_edit.models.prompts import left_pad
from kg_edit.scoring.likelihood import Pair, positions, score
from kg_edit.scoring.likelihood import positions as positions_of
from kg_edit.value.objective import SoftTarget

# They show the form only. Questions that score a model are asked in another one (`evaluate.questions`).
_SHOTS = (
    ("largest planet", "the solar system", "Jupiter"),
    ("chemical symbol", "gold", "Au"),
    ("author", "Hamlet", "William Shakespeare"),
    ("season", "snow", "Winter"),
)
_ROWS, _KEPT = 48, 64


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
    said = [
        _answer(model, written, lesson)
        for start in range(0, len(rows), _ROWS)
        for written, lesson in zip(*_greedy(model, rows[start : start + _ROWS], most), strict=True)
    ]
    found = iter(said)
    return [next(found) if ids else None for ids in fitting]


def _fitting(model: LanguageModel, asked: TeacherQuestion, most: int) -> tuple[int, ...] | None:
    limit = positions_of(model)
    encoded = (model.encode(prompt).ids for prompt in asked.prompts)
    return next((ids for ids in encoded if limit is None or len(ids) + most <= limit), None)


def _greedy(
    model: LanguageModel, rows: Sequence[tuple[int, ...]], most: int
) -> tuple[list[list[int]], list[SoftTarget]]:
    """The arg-max tokens after each row, and what was expected at each; what all rows begin with is computed once."""
    shared = _shared(model, rows, most)
    start = run_prefix(model, [rows[0][:shared]]) if shared else empty_prefix(model, 1)
    start = start.rows(torch.zeros(len(rows), dtype=torch.long, device=model.device))
    cache, batch = start.growing(len(model.blocks)), left_pad([row[shared:] for row in rows], device=model.device)
    ids, mask, positions = batch.ids, torch.cat([start.mask, batch.mask], -1), start.lengths + batch.positions
    written, expected = list[Tensor](), list[Any]()
    for _ in range(most):
        final = list[Tensor]()  # before the last norm, which is a part of `LanguageModel.logits`
        with watched(model.blocks[-1], partial(_keep, final)):
            base_model(model)(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
        logits = model.logits(final[0][:, -1]).float()
        best = logits.softmax(-1).topk(min(_KEPT, logits.shape[-1]))
        expected.append(best)
        ids = best.indices[:, :1].to(model.device)
        written.append(ids)
        mask, positions = torch.cat([mask, torch.ones_like(ids)], -1), positions[:, -1:] + 1
    tokens, shares = (torch.stack([getattr(best, part) for best in expected], 1) for part in ("indices", "values"))
    shares = shares / shares.sum(-1, keepdim=True)
    lessons = [SoftTarget(tokens=own, probabilities=share) for own, share in zip(tokens, shares, strict=True)]
    return torch.cat(written, -1).tolist(), lessons


def _keep(seen: list[Tensor], _: Tensor, output: Tensor) -> None:
    seen.append(output)


def _shared(model: LanguageModel, rows: Sequence[tuple[int, ...]], most: int) -> int:
    """How many tokens all rows begin with, one less than the shortest at most; 0 where a mask does not decide."""
    if not mask_decides(model, max(map(len, rows)) + most):
        return 0
    alike = (len(set(column)) == 1 for column in zip(*rows, strict=False))
    count = next((place for place, same in enumerate(alike) if not same), len(rows[0]))
    return min(count, min(map(len, rows)) - 1)


def _answer(model: LanguageModel, ids: list[int], lesson: SoftTarget) -> Answer | None:
    """The first line of what was written; None if it is empty."""
    texts = [str(model.tokenizer.decode([token])) for token in ids]
    specials = set(model.tokenizer.all_special_ids)
    ends = (token in specials or "\n" in text for token, text in zip(ids, texts, strict=True))
    stop = next((place for place, end in enumerate(ends) if end), len(ids))
    while stop and not texts[stop - 1].strip(" ."):
        stop -= 1
    text = str(model.tokenizer.decode(ids[:stop])).strip()
    if not text:
        return None
    kept = SoftTarget(tokens=lesson.tokens[:stop], probabilities=lesson.probabilities[:stop])
    return Answer(text=text, ids=tuple(ids[:stop]), lesson=kept)


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
