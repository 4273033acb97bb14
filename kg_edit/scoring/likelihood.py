"""Teacher-forced scores of many (prompt, candidate) pairs: what prompts share is computed once, nothing is padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from kg_edit.errors import ModelError
from kg_edit.evaluate.lengths import check_lengths
from kg_edit.evaluate.pair import Pair as Pair
from kg_edit.evaluate.pair import TokenScores as TokenScores
from kg_edit.evaluate.token_tree import TokenTree
from kg_edit.forward.attention import mask_decides
from kg_edit.models.hooks import beside
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.patches.batched import each_patched
from kg_edit.patches.weight_patch import WeightPatch

_NODES = 768  # of a forward pass: attention over more costs more than another pass


@dataclass(frozen=True)
class _Asked:
    """A prompt with its target, asked of the model with the patch ``owner``."""

    owner: int
    prompt: Prompt


def score(model: LanguageModel, pairs: Iterable[Pair]) -> dict[Pair, TokenScores]:
    """Score each pair, a space between prompt and candidate (Meng et al. 2022, their evaluation code).

    Raises:
        PromptError: a candidate can't be told from its prompt's end.
        ModelError: the model's output is not finite, or a pair does not fit into its positions.
    """
    (found,) = score_each(model, [pairs], patches=[None])
    return found


def score_each(
    model: LanguageModel, asked: Sequence[Iterable[Pair]], *, patches: Sequence[WeightPatch | None]
) -> list[dict[Pair, TokenScores]]:
    """`score` of each entry of ``asked`` on the model with the patch in its place (None: as it is), all together.

    Raises:
        PromptError: a candidate can't be told from its prompt's end.
        ModelError: an edited model's output is not finite, or a pair does not fit into its positions.
        PatchMismatchError: a patch is for another model.
    """
    distinct = [list(dict.fromkeys(pairs)) for pairs in asked]
    encoded = [
        _Asked(owner, model.encode(pair.prompt, target=pair.candidate))
        for owner, pairs in enumerate(distinct)
        for pair in pairs
    ]
    check_lengths(model, [one.prompt for one in encoded])
    found = (scores for chunk in _chunks(encoded) for scores in _score_chunk(model, chunk, patches))
    return [dict(zip(pairs, islice(found, len(pairs)), strict=True)) for pairs in distinct]


def _chunks(asked: Sequence[_Asked]) -> Iterator[list[_Asked]]:
    """Cut what is asked so that no tree is much larger than it should be."""
    tree, chunk = TokenTree(), list[_Asked]()
    for one in asked:
        if len(tree) + len(one.prompt.ids) > _NODES and chunk:
            yield chunk
            tree, chunk = TokenTree(), []
        tree.add(one.prompt.ids[:-1], owner=one.owner)
        chunk.append(one)
    if chunk:
        yield chunk


def _score_chunk(
    model: LanguageModel, asked: Sequence[_Asked], patches: Sequence[WeightPatch | None]
) -> Iterator[TokenScores]:
    takes_trees = mask_decides(model, max(len(one.prompt.ids) for one in asked))
    logits, places = (_tree_logits if takes_trees else _row_logits)(model, asked, patches)
    targets = torch.tensor([token for one in asked for token in one.prompt.target_ids])
    nll = logits.logsumexp(-1)[places] - logits[places, targets]
    if not torch.isfinite(nll).all():
        raise ModelError(
            "the model's output is not finite, so nothing can be scored; edit with less force, or in float32"
        )
    right = (logits.argmax(-1)[places] == targets).float()
    sizes = [len(one.prompt.target_ids) for one in asked]
    for losses, hits in zip(nll.split(sizes), right.split(sizes), strict=True):
        yield TokenScores(nll=losses.mean().item(), accuracy=hits.mean().item())


def _tree_logits(
    model: LanguageModel, asked: Sequence[_Asked], patches: Sequence[WeightPatch | None]
) -> tuple[Tensor, Tensor]:
    """Logits [nodes, vocabulary] that predict some target's token, and for each token of each target its node."""
    tree, reads = TokenTree(), list[int]()
    for one in asked:
        path = tree.add(one.prompt.ids[:-1], owner=one.owner)
        reads += path[one.prompt.target_start - 1 :]  # the last token predicts nothing that is asked for
    nodes, places = torch.tensor(reads).unique(return_inverse=True)
    mask = tree.mask(model.model.dtype)
    with each_patched(model, patches, tree.owners()):
        logits = _forward(model, tree.ids(), mask, tree.positions(), at=(torch.zeros_like(nodes), nodes))
    return logits, places


def _row_logits(
    model: LanguageModel, asked: Sequence[_Asked], patches: Sequence[WeightPatch | None]
) -> tuple[Tensor, Tensor]:
    """The same from a left-padded row for each pair."""
    batch = left_pad([one.prompt.ids for one in asked], device=torch.device("cpu"))
    rows = [row for row, one in enumerate(asked) for _ in one.prompt.target_ids]
    columns = [place for one in asked for place in range(-len(one.prompt.target_ids) - 1, -1)]
    owners = torch.tensor([[one.owner] for one in asked])
    with each_patched(model, patches, owners):
        at = (torch.tensor(rows), torch.tensor(columns))
        logits = _forward(model, batch.ids, batch.mask, batch.positions, at=at)
    return logits, torch.arange(len(rows))


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
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][beside(at, args[0])][None],))
    try:
        yield
    finally:
        handle.remove()
