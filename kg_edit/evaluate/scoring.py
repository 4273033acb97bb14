"""Teacher-forced scores of many (prompt, candidate) pairs: whatever prompts share is computed once, nothing is padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from kg_edit.errors import ModelError
from kg_edit.evaluate.token_tree import TokenTree
from kg_edit.language_model import LanguageModel
from kg_edit.prompts import Prompt, encode

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
        ModelError: the model's output is not finite.
    """
    distinct = list(dict.fromkeys(pairs))
    encoded = [encode(model.tokenizer, pair.prompt, target=pair.candidate) for pair in distinct]
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
    tree, reads, targets = TokenTree(), list[int](), list[int]()
    for prompt in prompts:
        path = tree.add(prompt.ids[:-1])  # the last token predicts nothing that is asked for
        reads += path[prompt.target_start - 1 :]
        targets += prompt.target_ids
    nodes, places = torch.tensor(reads).unique(return_inverse=True)
    logits = _logits(model, tree, nodes)
    wanted = torch.tensor(targets)
    nll = logits.logsumexp(-1)[places] - logits[places, wanted]
    if not torch.isfinite(nll).all():
        raise ModelError(
            "the model's output is not finite, so nothing can be scored; edit with less force, or in float32"
        )
    right = (logits.argmax(-1)[places] == wanted).float()
    sizes = [len(prompt.target_ids) for prompt in prompts]
    for losses, hits in zip(nll.split(sizes), right.split(sizes), strict=True):
        yield TokenScores(nll=losses.mean().item(), accuracy=hits.mean().item())


@torch.no_grad()
def _logits(model: LanguageModel, tree: TokenTree, nodes: Tensor) -> Tensor:
    """Logits [nodes, vocabulary] in float32 on the CPU."""
    device = model.device
    with _head_only_at(model, nodes):
        output = model.model(
            input_ids=tree.ids().to(device),
            attention_mask=tree.mask(model.model.dtype).to(device),
            position_ids=tree.positions().to(device),
            use_cache=False,
        )
    logits: Tensor = output.logits[0]
    return logits.float().cpu()


@contextmanager
def _head_only_at(model: LanguageModel, nodes: Tensor) -> Iterator[None]:
    """Give the head only the nodes that are read: over a whole row it costs as much as several blocks."""
    head = model.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][:, nodes.to(args[0].device)],))
    try:
        yield
    finally:
        handle.remove()
