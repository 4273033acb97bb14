"""What a model would have said at each place of a candidate: its arg-max tokens under teacher forcing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from kg_edit.evaluate.lengths import check_lengths
from kg_edit.evaluate.pair import Pair
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad

_ROWS = 32


def predictions(model: LanguageModel, pairs: Iterable[Pair]) -> dict[Pair, tuple[int, ...]]:
    """For each pair the likeliest token id at each of the candidate's places, given the prompt and the tokens before.

    Raises:
        PromptError: a candidate can't be told from its prompt's end.
        ModelError: a pair does not fit into the model's positions.
    """
    distinct = list(dict.fromkeys(pairs))
    encoded = [model.encode(pair.prompt, target=pair.candidate) for pair in distinct]
    check_lengths(model, encoded)
    order = sorted(range(len(distinct)), key=lambda place: len(encoded[place].ids))
    found: dict[Pair, tuple[int, ...]] = {}
    for start in range(0, len(order), _ROWS):
        rows = order[start : start + _ROWS]
        found |= zip([distinct[row] for row in rows], _predicted(model, [encoded[row] for row in rows]), strict=True)
    return {pair: found[pair] for pair in distinct}


@torch.no_grad()
def _predicted(model: LanguageModel, prompts: Sequence[Prompt]) -> Iterator[tuple[int, ...]]:
    batch = left_pad([prompt.ids for prompt in prompts], device=model.device)
    output = model.model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False)
    for logits, prompt in zip(output.logits, prompts, strict=True):
        yield tuple(logits[-len(prompt.target_ids) - 1 : -1].argmax(-1).tolist())
