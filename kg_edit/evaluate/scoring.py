"""Teacher-forced scores of many (prompt, candidate) pairs: what prompts share is computed once, nothing is padded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from kg_edit.errors import ModelError
from kg_edit.evaluate.lengths import check_lengths
from kg_edit.evaluate.token_tree import TokenTree
from kg_edit.language_model import LanguageModel
from kg_edit.prompts import Prompt, encode, left_pad

_NODES = 768  # of a forward pass: attention over more costs more than another pass


class Pair(NamedTuple):
    """A prompt and a text that may follow it."""

    prompt: str
    candidate: str


class TokenScores(NamedTuple):
    """How a model scores a candidate after its prompt."""

    nll: float  # mean over the candidate's tokens of -log p(token | all before), in nats
    accuracy: float  # share of the candidate's tokens that are the arg-max, given those before


def score(model: LanguageModel, pairs: Iterable[Pair]) -> dict[Pair, TokenScores]:
    """Score each pair, a space between prompt and candidate (Meng et al. 2022, their evaluation code).

    Raises:
        PromptError: a candidate can't be told from its prompt's end.
        ModelError: the model's output is not finite, or a pair does not fit into its positions.
    """
    distinct = list(dict.fromkeys(pairs))
    encoded = [encode(model.tokenizer, pair.prompt, target=pair.candidate) for pair in distinct]
    check_lengths(model, encoded)
    found = [scores for chunk in _chunks(encoded) for scores in _score_chunk(model, chunk)]
    return dict(zip(distinct, found, strict=True))


def _chunks(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Cut the pairs so that no tree is much larger than it should be."""
    tree, chunk = TokenTree(), list[Prompt]()
    for prompt in prompts:
        if len(tree) + len(prompt.ids) > _NODES and chunk:
            yield chunk
            tree, chunk = TokenTree(), []
        tree.add(prompt.ids[:-1])
        chunk.append(prompt)
    if chunk:
        yield chunk


def _score_chunk(model: LanguageModel, prompts: Sequence[Prompt]) -> Iterator[TokenScores]:
    logits, places = (_tree_logits if _takes_trees(model, prompts) else _row_logits)(model, prompts)
    targets = torch.tensor([token for prompt in prompts for token in prompt.target_ids])
    nll = logits.logsumexp(-1)[places] - logits[places, targets]
    if not torch.isfinite(nll).all():
        raise ModelError(
            "the model's output is not finite, so nothing can be scored; edit with less force, or in float32"
        )
    right = (logits.argmax(-1)[places] == targets).float()
    sizes = [len(prompt.target_ids) for prompt in prompts]
    for losses, hits in zip(nll.split(sizes), right.split(sizes), strict=True):
        yield TokenScores(nll=losses.mean().item(), accuracy=hits.mean().item())


def _takes_trees(model: LanguageModel, prompts: Sequence[Prompt]) -> bool:
    """Whether the mask alone decides what is attended to: not ALiBi, nor a window shorter than a prompt."""
    config = model.model.config
    window = getattr(config, "sliding_window", None) or math.inf
    plain = not getattr(config, "alibi", False) and config._attn_implementation in ("eager", "sdpa")
    return plain and max(len(prompt.ids) for prompt in prompts) <= window


def _tree_logits(model: LanguageModel, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """Logits [nodes, vocabulary] that predict some target's token, and for each token of each target its node."""
    tree, reads = TokenTree(), list[int]()
    for prompt in prompts:
        reads += tree.add(prompt.ids[:-1])[prompt.target_start - 1 :]  # the last token predicts nothing asked for
    nodes, places = torch.tensor(reads).unique(return_inverse=True)
    mask = tree.mask(model.model.dtype)
    return _forward(model, tree.ids(), mask, tree.positions(), at=(torch.zeros_like(nodes), nodes)), places


def _row_logits(model: LanguageModel, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """The same from a left-padded row for each pair."""
    batch = left_pad([prompt.ids for prompt in prompts], device=torch.device("cpu"))
    rows = [row for row, prompt in enumerate(prompts) for _ in prompt.target_ids]
    columns = [place for prompt in prompts for place in range(-len(prompt.target_ids) - 1, -1)]
    at = (torch.tensor(rows), torch.tensor(columns))
    return _forward(model, batch.ids, batch.mask, batch.positions, at=at), torch.arange(len(rows))


@torch.no_grad()
def _forward(
    model: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, *, at: tuple[Tensor, Tensor]
) -> Tensor:
    """Logits [reads, vocabulary] at (rows, columns) of ids [rows, columns]; float32, on the CPU."""
    device = model.device
    with _head_only_at(model, at):
        output = model.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            use_cache=False,
        )
    logits: Tensor = output.logits[0]
    return logits.float().cpu()


@contextmanager
def _head_only_at(model: LanguageModel, at: tuple[Tensor, Tensor]) -> Iterator[None]:
    """Give the head, in one row, only what is read: over whole rows it costs as much as several blocks."""
    head = model.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][at][None],))
    try:
        yield
    finally:
        handle.remove()
