"""Teacher-forced scores of many (prompt, candidate) pairs: mean NLL per token, token accuracy, arg-max tokens.

Prompts that share a beginning share its computation: a `TokenTree` packs many sequences into one row, in which a token
attends only to its own sequence. Nothing is padded. A prompt that does not fit into the model's positions is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from kg_edit.errors import ModelError
from kg_edit.models.hooks import beside, telling_prompt_ends, wants_prompt_ends
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import mask_decides
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.patches.weight_patch import WeightPatch, each_patched

_NODES = 768  # in one forward pass; with more nodes, attention costs more than a second pass
_ROWS = 32
Ends = tuple[Tensor, list[int]]  # rows and columns at which prompts end


class Pair(NamedTuple):
    """A prompt, and a candidate text that may follow it."""

    prompt: str
    candidate: str


class TokenScores(NamedTuple):
    """The scores of a candidate after its prompt."""

    nll: float  # mean over the candidate's tokens of -log p(token | all before), in nats
    accuracy: float  # share of the candidate's tokens that are the arg-max, given those before


class TokenTree:
    """Prefix trees of token sequences, packed into one row. A node attends to its ancestors and itself; position =
    depth.

    One forward pass over the nodes, without padding, gives each sequence the same hidden states as a pass of its own.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._depths: list[int] = []
        self._owners: list[int] = []
        self._children: dict[tuple[int, int, bool], int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, ids: Sequence[int], *, owner: int = 0, end: int | None = None) -> list[int]:
        """Add a sequence, and return its nodes, one for each token. Sequences of different owners share no nodes.

        If ``end`` is given, the token at ``end`` and the tokens after it are shared only with sequences of the same
        ``end``.
        """
        path: list[int] = []
        for depth, token in enumerate(ids):
            path.append(self._child(path[-1] if path else -1 - owner, token, depth, owner, depth == end))
        return path

    def _child(self, parent: int, token: int, depth: int, owner: int, ends: bool) -> int:
        node = self._children.setdefault((parent, token, ends), len(self._tokens))
        if node == len(self._tokens):
            self._tokens.append(token)
            self._parents.append(parent)
            self._depths.append(depth)
            self._owners.append(owner)
        return node

    def ids(self) -> Tensor:
        """Token ids of all nodes in one row, [1, nodes]."""
        return torch.tensor([self._tokens])

    def positions(self) -> Tensor:
        """Position ids (the depth of a node in its tree), [1, nodes]."""
        return torch.tensor([self._depths])

    def owners(self) -> Tensor:
        """The owner of each node, as given to `add`, [1, nodes]."""
        return torch.tensor([self._owners])

    def mask(self, dtype: torch.dtype) -> Tensor:
        """The additive attention mask [1, 1, nodes, nodes]: 0 where a node attends, else the dtype's minimum."""
        seen = torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self._parents):
            if parent >= 0:  # parents stand before their children
                seen[node] |= seen[parent]
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[None, None]


def check_lengths(model: LanguageModel, prompts: Iterable[Prompt], *, more: int = 0) -> None:
    """Check that each prompt, with ``more`` tokens after it, fits into the model's positions.

    Raises:
        ModelError: a prompt does not fit; the message names it and its length.
    """
    for prompt in prompts:
        model.check_length(prompt, more=more)


@dataclass(frozen=True)
class _Asked:
    """A prompt with its target, to be scored on the model with patch number ``owner``."""

    owner: int
    prompt: Prompt


def score(model: LanguageModel, pairs: Iterable[Pair]) -> dict[Pair, TokenScores]:
    """Score each pair, with a space between prompt and candidate (Meng et al. 2022, their evaluation code).

    Raises:
        PromptError: a candidate can't be separated from its prompt's end.
        ModelError: the model's output is not finite, or a pair does not fit into its positions.
    """
    (found,) = score_each(model, [pairs], patches=[None])
    return found


def score_each(
    model: LanguageModel, asked: Sequence[Iterable[Pair]], *, patches: Sequence[WeightPatch | None]
) -> list[dict[Pair, TokenScores]]:
    """Run `score` for each entry of ``asked`` on the model with its patch applied (None: unpatched), all in one batch.

    Raises:
        PromptError: a candidate can't be separated from its prompt's end.
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
    """Split the prompts into chunks whose trees have at most `_NODES` nodes, if each prompt has fewer."""
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
            "the model's output is not finite, so nothing can be scored; make a weaker edit, or load the model in "
            "float32"
        )
    right = (logits.argmax(-1)[places] == targets).float()
    sizes = [len(one.prompt.target_ids) for one in asked]
    for losses, hits in zip(nll.split(sizes), right.split(sizes), strict=True):
        yield TokenScores(nll=losses.mean().item(), accuracy=hits.mean().item())


def _tree_logits(
    model: LanguageModel, asked: Sequence[_Asked], patches: Sequence[WeightPatch | None]
) -> tuple[Tensor, Tensor]:
    """Logits [nodes, vocabulary] of the nodes that predict a target token, and for each target token its node."""
    tree, reads, ends = TokenTree(), list[int](), list[int]()
    wanted = wants_prompt_ends(model)
    for one in asked:
        last = one.prompt.target_start - 1
        path = tree.add(one.prompt.ids[:-1], owner=one.owner, end=last if wanted else None)
        reads += path[last:]  # the last token is left out: it predicts no target token
        ends.append(path[last])
    nodes, places = torch.tensor(reads).unique(return_inverse=True)
    mask = tree.mask(model.model.dtype)
    with each_patched(model, patches, tree.owners()):
        at = (torch.zeros_like(nodes), nodes)
        logits = _forward(model, tree.ids(), mask, tree.positions(), at=at, ends=(torch.zeros(len(ends)).long(), ends))
    return logits, places


def _row_logits(
    model: LanguageModel, asked: Sequence[_Asked], patches: Sequence[WeightPatch | None]
) -> tuple[Tensor, Tensor]:
    """The same as `_tree_logits`, from one left-padded row for each pair."""
    batch = left_pad([one.prompt.ids for one in asked], device=torch.device("cpu"))
    rows = [row for row, one in enumerate(asked) for _ in one.prompt.target_ids]
    columns = [place for one in asked for place in range(-len(one.prompt.target_ids) - 1, -1)]
    owners = torch.tensor([[one.owner] for one in asked])
    with each_patched(model, patches, owners):
        at = (torch.tensor(rows), torch.tensor(columns))
        logits = _forward(
            model, batch.ids, batch.mask, batch.positions, at=at, ends=_row_ends([one.prompt for one in asked])
        )
    return logits, torch.arange(len(rows))


def _row_ends(prompts: Sequence[Prompt]) -> Ends:
    """The places (rows, columns) at which the prompts end in left-padded rows."""
    return torch.arange(len(prompts)), [-len(prompt.target_ids) - 1 for prompt in prompts]


def _marked(shape: torch.Size, ends: Ends) -> Tensor:
    """A mask of the given shape [rows, tokens] with the places ``ends``."""
    marks = torch.zeros(shape, dtype=torch.bool)
    marks[ends] = True
    return marks


@torch.no_grad()
def _forward(
    model: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, *, at: tuple[Tensor, Tensor], ends: Ends
) -> Tensor:
    """Logits [reads, vocabulary] at the places ``at`` (rows, columns) of ids [rows, columns]; float32, on the CPU.

    ``ends`` are the places at which a prompt ends.
    """
    device = model.device
    with _head_only_at(model, at), telling_prompt_ends(model, _marked(ids.shape, ends)):
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
    """Apply the head only at the places ``at``: over whole rows, it costs as much as several blocks."""
    head = model.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][beside(at, args[0])][None],))
    try:
        yield
    finally:
        handle.remove()


def predictions(model: LanguageModel, pairs: Iterable[Pair]) -> dict[Pair, tuple[int, ...]]:
    """For each pair, the arg-max token id at each of the candidate's places, given the prompt and the tokens before.

    Raises:
        PromptError: a candidate can't be separated from its prompt's end.
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
    with telling_prompt_ends(model, _marked(batch.ids.shape, _row_ends(prompts))):
        output = model.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        )
    for logits, prompt in zip(output.logits, prompts, strict=True):
        yield tuple(logits[-len(prompt.target_ids) - 1 : -1].argmax(-1).tolist())
