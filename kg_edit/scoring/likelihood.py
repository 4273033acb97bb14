"""Teacher-forced scores of many (prompt, candidate) pairs: mean NLL per token, token accuracy, arg-max tokens.

For a candidate of tokens t_1 … t_n after a prompt p:

    NLL       =  -1/n  sum_i log p(t_i | p, t_1 … t_(i-1))                       in nats per token
    accuracy  =   1/n  sum_i [t_i is the arg-max after p, t_1 … t_(i-1)]

Prompts that share a beginning share its computation: a `TokenTree` packs many sequences into one row, in which a token
attends only to its own sequence. A prompt that does not fit into the model's positions is refused.

A tree needs a model in which the mask and the position ids alone decide what a token attends to (`mask_decides`). Other
models read each prompt in a row of its own, padded on the left. Such padding changes no result in any model.

`score_each` scores pairs on the same model with several patches. Each prompt then has an ``owner``: the index of the
patch with which it is scored. Prompts of different owners share passes, but no tokens of a tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kg_edit.engine.prefix_cache import mask_decides
from kg_edit.errors import ModelError
from kg_edit.models.architectures import width_of_experts
from kg_edit.models.devices import pass_megabytes
from kg_edit.models.hooks import index_for, needs_prompt_ends, tell_prompt_ends
from kg_edit.models.language_model import LanguageModel, matrix_shape
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.patches.per_token import patch_each_token
from kg_edit.patches.weight_patch import WeightPatch, place_factors
from kg_edit.scoring.pairs import LIKELIEST, Pair, TokenScores
from kg_edit.scoring.token_tree import TokenTree, TreeRows, pack_groups

# The most nodes of a tree, and on a CPU also of a forward pass. A tree whose first prompt is longer than half of it may
# have twice as many nodes as this prompt.
_NODES = 768
_WIDTH = 128  # nodes in a row of a pass: attention costs rows x width^2
_ROWS = 32  # prompts in a pass of `next_tokens`
Places = tuple[Tensor, Tensor]  # the rows and the columns of some tokens of a pass, each [places]


@dataclass(frozen=True)
class _Asked:
    """A prompt with its target, to be scored on the model with patch number ``owner``."""

    owner: int
    prompt: Prompt


def score(model: LanguageModel, pairs: Iterable[Pair]) -> dict[Pair, TokenScores]:
    """Score each pair, with a space between prompt and candidate (Meng et al. 2022, their evaluation code)."""
    (scores,) = score_each(model, [pairs], patches=[None])
    return scores


def score_each(
    model: LanguageModel, pair_lists: Sequence[Iterable[Pair]], *, patches: Sequence[WeightPatch | None]
) -> list[dict[Pair, TokenScores]]:
    """Run `score` for each of ``pair_lists`` on the model with its patch applied (None: unpatched), in the same passes.

    A pair that several unpatched lists share is scored once.
    """
    placed = place_factors(model, patches)
    owners = _find_owners(placed)
    lists = [tuple(pairs) for pairs in pair_lists]
    asked = dict[tuple[int, Pair], _Asked]()  # by the owner and the pair, each once
    for owner, pairs in zip(owners, lists, strict=True):
        for pair in pairs:
            if (owner, pair) not in asked:
                asked[owner, pair] = _Asked(owner, model.encode(pair.prompt, target=pair.candidate))

    results = _score_all(model, list(asked.values()), placed)
    by_pair = {key: results[number] for number, key in enumerate(asked)}  # numbered in the order of `asked`
    scores = []
    for owner, pairs in zip(owners, lists, strict=True):
        scores.append({pair: by_pair[owner, pair] for pair in pairs})
    return scores


def _find_owners(patches: Sequence[WeightPatch | None]) -> list[int]:
    """Return the index of each patch; the first None owns the pairs of all: [None, a, None] has owners [0, 1, 0]."""
    owners = list(range(len(patches)))
    if None in patches:
        first_unpatched = patches.index(None)
        owners = [first_unpatched if patch is None else index for index, patch in enumerate(patches)]
    return owners


def _score_all(
    model: LanguageModel, items: Sequence[_Asked], patches: Sequence[WeightPatch | None]
) -> dict[int, TokenScores]:
    """Return the scores of all prompts, by their number.

    Prompts that begin alike are a group, which has one tree. A row has the trees of one or several groups, and a
    forward pass has several rows.
    """
    groups = _make_groups(items)
    results: dict[int, TokenScores] = {}
    sizes = [len(group.tree) for group in groups]
    # A pass such as [[0, 3], [1]] has two rows: the first one has the trees of the groups 0 and 3.
    for rows in pack_groups(sizes, width=_WIDTH, nodes=nodes_at_once(model)):
        numbers = list[int]()  # of all prompts of the pass, row after row
        items_by_row = list[list[_Asked]]()
        for row in rows:
            numbers_in_row = list[int]()
            for group in row:
                numbers_in_row += groups[group].numbers
            numbers += numbers_in_row
            items_by_row.append([items[number] for number in numbers_in_row])
        results.update(zip(numbers, _score_rows(model, items_by_row, patches), strict=True))
    return results


def nodes_at_once(model: LanguageModel) -> int:
    """Return how many tokens are scored in one pass: 768, on an accelerator as many as its memory allows, if more."""
    megabytes = pass_megabytes(model.device)
    if megabytes is None:
        return _NODES
    # The states of one block, the mask, and logits in float32 with two copies, as if each token were read.
    if model.spec.down_projection is None:
        inner = width_of_experts(model.text_config)
    else:
        inner = matrix_shape(model.down_projection(0))[1]
    states = (4 * model.width + 3 * inner + _WIDTH) * model.model.dtype.itemsize
    logits = 3 * 4 * model.model.get_output_embeddings().weight.shape[0]
    return max(_NODES, int(1e6 * megabytes / (states + logits)))


@dataclass(frozen=True, eq=False)
class _Group:
    """Prompts of one owner (their numbers) that begin with the same token; their tree has at most ``limit`` nodes."""

    limit: int
    numbers: list[int] = field(default_factory=list)
    # It only counts the nodes. `_plant_trees` builds the tree of a row, which is larger if it also marks prompt ends.
    tree: TokenTree = field(default_factory=TokenTree)

    def has_room(self, item: _Asked) -> bool:
        """Return whether the tree has room for one more prompt."""
        new_nodes = self.tree.count_missing(item.prompt.ids[:-1], owner=item.owner)
        return len(self.tree) + new_nodes <= self.limit


def _make_groups(items: Sequence[_Asked]) -> list[_Group]:
    """Group the prompts. A tree has at most `_NODES` nodes, or twice those of its first prompt if that is more."""
    groups: list[_Group] = []
    latest: dict[tuple[int, int], _Group] = {}  # by owner and first token: the newest group
    for number, item in enumerate(items):
        key = (item.owner, item.prompt.ids[0])
        group = latest.get(key)
        if group is None or not group.has_room(item):
            group = _Group(limit=max(_NODES, 2 * len(item.prompt.ids)))
            latest[key] = group
            groups.append(group)
        group.numbers.append(number)
        group.tree.add(item.prompt.ids[:-1], owner=item.owner)
    return groups


def _score_rows(
    model: LanguageModel, rows: Sequence[Sequence[_Asked]], patches: Sequence[WeightPatch | None]
) -> list[TokenScores]:
    """Return the scores of all prompts, row by row."""
    items = list(chain.from_iterable(rows))
    # Decided for each pass: under a sliding window, the mask alone decides where all prompts are shorter than it.
    if mask_decides(model, max(len(item.prompt.ids) for item in items)):
        logits, logit_rows = _read_trees(model, rows, patches)
        return list(_compute_scores(items, logits, logit_rows))
    # The model can't read trees here, so the prompts are grouped anew, in rows of their own.
    scores: dict[int, TokenScores] = {}
    for indices in _group_by_length([item.prompt for item in items], nodes=nodes_at_once(model)):
        alike = [items[index] for index in indices]
        logits = _read_rows(model, alike, patches)
        own_rows = torch.arange(len(logits))  # each target token has a row of its own
        scores.update(zip(indices, _compute_scores(alike, logits, own_rows), strict=True))
    return [scores[index] for index in range(len(items))]


def _group_by_length(prompts: Sequence[Prompt], *, nodes: int) -> Iterator[list[int]]:
    """Yield the numbers of the prompts of a pass, by length: with padding at most ``nodes`` tokens, or one prompt."""
    group: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids)):
        padded = (len(group) + 1) * len(prompts[index].ids)
        if group and padded > nodes:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _compute_scores(items: Sequence[_Asked], logits: Tensor, logit_rows: Tensor) -> Iterator[TokenScores]:
    """Yield the scores of the prompts; ``logit_rows`` has the row of ``logits`` that predicts each target token."""
    # Computed on the logits' device, with one transfer: the logits of all reads may be hundreds of megabytes.
    target_ids = list[int]()
    for item in items:
        target_ids += item.prompt.target_ids
    targets = torch.tensor(target_ids, device=logits.device)
    logit_rows = logit_rows.to(logits.device)
    each = logits.logsumexp(-1)[logit_rows] - logits[logit_rows, targets]  # -log softmax, [all target tokens]
    is_best = logits.argmax(-1)[logit_rows] == targets
    nll, right = torch.stack([each, is_best.to(each)]).cpu()
    if not torch.isfinite(nll).all():
        raise ModelError(
            "the model's output is not finite, so nothing can be scored; make a weaker edit, or load the model in "
            "float32"
        )
    sizes = [len(item.prompt.target_ids) for item in items]
    for losses, hits in zip(nll.split(sizes), right.split(sizes), strict=True):
        yield TokenScores(nll=losses.mean().item(), accuracy=hits.mean().item(), tokens=len(losses))


def _read_trees(
    model: LanguageModel, rows: Sequence[Sequence[_Asked]], patches: Sequence[WeightPatch | None]
) -> tuple[Tensor, Tensor]:
    """Return the logits [nodes, vocabulary] of nodes that predict a target token, and the node of each target token."""
    planted = _plant_trees(rows, marks_ends=needs_prompt_ends(model))
    # A node that predicts target tokens of several prompts is read once
    nodes, logit_rows = torch.tensor(planted.reads).unique(dim=0, return_inverse=True)  # [nodes, 2], [target tokens]
    ends = torch.tensor(planted.ends)  # [prompts, 2]
    tree_rows = TreeRows(planted.trees)
    with patch_each_token(model, patches, tree_rows.owners()):
        logits = _forward(
            model,
            tree_rows.ids(),
            tree_rows.mask(model.model.dtype),
            tree_rows.positions(),
            at=(nodes[:, 0], nodes[:, 1]),
            ends=(ends[:, 0], ends[:, 1]),
        )
    return logits, logit_rows


class _PlantedTrees(NamedTuple):
    """The trees of a pass, one a row, and places in them as (row, node).

    ``reads`` has the node before each target token, prompt by prompt; ``ends`` the node at which each prompt ends. For
    "Rome is in" with the target "southern Italy", the nodes of "in" and "southern" are read, and "in" is the end.
    """

    trees: list[TokenTree]
    reads: list[tuple[int, int]]
    ends: list[tuple[int, int]]


def _plant_trees(rows: Sequence[Sequence[_Asked]], *, marks_ends: bool) -> _PlantedTrees:
    """Put the prompts of each row with their targets into a tree.

    With ``marks_ends``, prompts that end at different tokens share no node from the first of these ends on, because a
    patch acts at the ends of prompts: "Rome is" + "in Italy" and "Rome is in" + "Italy" share "Rome" alone.
    """
    planted = _PlantedTrees([], [], [])
    for row, items in enumerate(rows):
        tree = TokenTree()
        for item in items:
            last = item.prompt.target_start - 1  # the prompt's last token
            end = None
            if marks_ends:
                end = last
            ids = item.prompt.ids[:-1]  # the target's last token predicts no target token
            path = tree.add(ids, owner=item.owner, end=end)
            planted.reads.extend((row, node) for node in path[last:])
            planted.ends.append((row, path[last]))
        planted.trees.append(tree)
    return planted


def _read_rows(model: LanguageModel, items: Sequence[_Asked], patches: Sequence[WeightPatch | None]) -> Tensor:
    """Return the logits [target tokens, vocabulary] before each target token, one left-padded row a prompt."""
    batch = left_pad([item.prompt.ids for item in items], device=torch.device("cpu"))
    # The positions before each target token, counted from the end of the row; the first one is the prompt's end.
    rows = list[int]()
    columns = list[int]()
    prompt_ends = list[int]()
    for row, item in enumerate(items):
        end_column = -len(item.prompt.target_ids) - 1
        prompt_ends.append(end_column)
        for column in range(end_column, -1):
            rows.append(row)
            columns.append(column)
    at = (torch.tensor(rows), torch.tensor(columns))
    ends = (torch.arange(len(items)), torch.tensor(prompt_ends))
    owners = torch.tensor([[item.owner] for item in items])  # [rows, 1], one for all tokens of a row
    with patch_each_token(model, patches, owners):
        return _forward(model, batch.ids, batch.mask, batch.positions, at=at, ends=ends)


@torch.no_grad()
def _forward(model: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, *, at: Places, ends: Places) -> Tensor:
    """Return the logits [reads, vocabulary] at the places ``at`` of ids [rows, columns], in float32.

    ``ends`` are the places of the last tokens of the prompts.
    """
    device = model.device
    marks = torch.zeros(ids.shape, dtype=torch.bool)
    marks[ends] = True
    with _head_only_at(model, at), tell_prompt_ends(model, marks):
        output = model.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            use_cache=False,
        )
    logits: Tensor = output.logits[0]
    return logits.float()


@contextmanager
def _head_only_at(model: LanguageModel, at: Places) -> Iterator[None]:
    """Apply the head only at the positions ``at``: over whole rows, it costs as much as several blocks."""

    def pick(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        states = args[0]  # [rows, columns, d]
        places = index_for(at, states)  # on the device of the states
        return (states[places][None],)  # [1, reads, d]

    with model.model.get_output_embeddings().register_forward_pre_hook(pick):
        yield


def next_tokens(
    model: LanguageModel, prompts: Iterable[str], *, tokens_of: Mapping[str, Iterable[int]] | None = None
) -> dict[str, dict[int, float]]:
    """Return log p of tokens that may follow each prompt.

    Args:
        model: the model.
        prompts: the prompts, without a space at the end.
        tokens_of: the tokens of each prompt; None: the likeliest ones.
    """
    encoded = {prompt: model.encode(prompt) for prompt in dict.fromkeys(prompts)}
    log_p: dict[str, dict[int, float]] = {}
    for start in range(0, len(encoded), _ROWS):
        chunk = list(encoded)[start : start + _ROWS]
        all_log_p = _log_p_after_rows(model, [encoded[prompt].ids for prompt in chunk])
        for prompt, row in zip(chunk, all_log_p, strict=True):
            if tokens_of is None:
                tokens = row.topk(LIKELIEST).indices.tolist()
            else:
                tokens = list(tokens_of[prompt])
            values = [round(value, 6) for value in row[tokens].tolist()]
            log_p[prompt] = dict(zip(tokens, values, strict=True))
    return log_p


def next_token_log_p(model: LanguageModel, prompts: Sequence[str]) -> Tensor:
    """Return log p of the token after each prompt, [prompts, vocabulary]; float32, on the CPU."""
    return _log_p_after_rows(model, [model.encode(prompt).ids for prompt in prompts])


def _log_p_after_rows(model: LanguageModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return log p of the token after each row of tokens, [rows, vocabulary]; float32, on the CPU."""
    batch = left_pad(rows, device=torch.device("cpu"))
    last = (torch.arange(len(rows)), torch.full((len(rows),), -1))
    logits = _forward(model, batch.ids, batch.mask, batch.positions, at=last, ends=last)
    return logits.log_softmax(-1).cpu()


def predictions(model: LanguageModel, pairs: Iterable[Pair]) -> dict[Pair, tuple[int, ...]]:
    """Return the arg-max token id at each of a candidate's positions, given the prompt and the tokens before.

    Each prompt is read in a row of its own, and in no tree.
    """
    distinct = list(dict.fromkeys(pairs))
    items = [_Asked(0, model.encode(pair.prompt, target=pair.candidate)) for pair in distinct]
    predicted: dict[Pair, tuple[int, ...]] = {}
    for indices in _group_by_length([item.prompt for item in items], nodes=nodes_at_once(model)):
        alike = [items[index] for index in indices]
        best = _read_rows(model, alike, [None]).argmax(-1).cpu()  # [target tokens]
        tokens = best.split([len(item.prompt.target_ids) for item in alike])
        for index, row in zip(indices, tokens, strict=True):
            predicted[distinct[index]] = tuple(row.tolist())
    return {pair: predicted[pair] for pair in distinct}


def divergence(unedited: Tensor, edited: Tensor) -> float:
    """Return the mean over rows of KL(unedited || edited), in nats; both are log p [rows, vocabulary]."""
    return float((unedited.exp() * (unedited - edited)).sum(-1).mean())
