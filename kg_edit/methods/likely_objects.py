"""Which of several objects of a statement is meant: the one that the model itself finds likeliest.

Wikidata says of Rome that its country is the Byzantine Empire, the Papal States, Italy and a dozen more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

from kg_edit.errors import PromptError
from kg_edit.evaluate.lengths import positions
from kg_edit.evaluate.pair import Pair
from kg_edit.methods.glame_plus.teacher import Asked
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.likelihood import score

_MOST = 40  # objects of a noun that are compared


def likeliest_first(
    model: LanguageModel, thing: str, objects: Mapping[str, Sequence[str]], *, nouns: int
) -> dict[str, list[str]]:
    """The first ``nouns`` of ``objects``, with the likeliest answer to "What is the [noun] of [thing]?" first.

    Likely is a whole object: the sum over its tokens of -log p. What can't be scored stands last.
    """
    found = {noun: list(some[:_MOST]) for noun, some in islice(objects.items(), nouns)}
    pairs = {
        (noun, label): Pair(Asked(noun=noun, of=thing).prompts[-1], label)
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
