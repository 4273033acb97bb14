"""Greedy decoding of many token rows in one batch; each row may use its own patched model.

1. Rows of one patch that begin alike (the examples before a question) share the keys and values of their beginning.
2. Prompts are read in groups of similar length, but all rows write in one batch, because a step with few rows takes
   almost as long as one with many. A finished row leaves the batch. When there is room, the next group is read.
3. Keys and values are written in place, not copied at each token.

A row's tokens are, in the words of this file:

    | beginning, shared with other rows | tail | written tokens ...
      read once for all of them           read   one a step

Rows of different lengths are padded on the left, which changes no result. Padding between a beginning and its tail
changes what a token attends to in a model that counts it (ALiBi, a sliding window). Where `mask_decides` is false, rows
have therefore no beginnings, and each is read whole.

Besides keys and values, a `Prefix` has ``sums``: the running sums that a patch of `kg_edit.zoo.token_means` keeps of a
row's tokens. There is one sum for each row, and none for each token, so padding is never cut from them.

`greedy` returns the arg-max tokens after each row, and the most probable tokens at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kg_edit.engine.cache_sums import SummedCache
from kg_edit.engine.prefix_cache import (
    Prefix,
    SharedContexts,
    base_model,
    empty_prefix,
    mask_decides,
    run_prefix,
    stack_prefixes,
)
from kg_edit.models.devices import pass_megabytes
from kg_edit.models.hooks import record_last_call, tell_prompt_ends
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Batch, left_pad
from kg_edit.patches.per_token import patch_each_token
from kg_edit.patches.weight_patch import WeightPatch, place_factors

BATCH_ROWS = 64  # half of them are read in one forward pass
_LEAST_SHARED = 24  # rows must share this many first tokens to share their computation
_SHRINK = 0.75  # finished rows are removed once at most this share of the batch is active
# In a group of rows, the longest has at most _SPREAD times the tokens of the shortest, and _SLACK more.
_SPREAD = 1.5
_SLACK = 8
Tokens = tuple[int, ...]


def _is_never_finished(_: Sequence[int]) -> bool:
    return False


@dataclass(frozen=True, eq=False)
class Written:
    """The tokens that a model writes after a row, with the most probable tokens and their probabilities at each step.

    ``tokens`` is [steps]; ``likeliest`` and ``probabilities`` are [steps, top_k]. The first entry of a step is the
    token that was written.
    """

    tokens: tuple[int, ...]
    likeliest: Tensor
    probabilities: Tensor


@dataclass(frozen=True, eq=False)
class _Beginning:
    """The first ``length`` tokens of a row: their keys and values are in row ``prefix_row`` of ``prefix``.

    The beginnings of all rows of a call of `greedy` are in one prefix.
    """

    prefix: Prefix
    prefix_row: int
    length: int


@torch.no_grad()
def greedy(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    *,
    limits: Sequence[int],
    top_k: int = 1,
    patches: Sequence[WeightPatch | None] | None = None,
    is_finished: Callable[[Sequence[int]], bool] = _is_never_finished,
    contexts: SharedContexts | None = None,
    keep: Callable[[Prefix], None] | None = None,
) -> list[Written]:
    """Return at most ``limits`` arg-max tokens after each row, up to the one with which the row ``is_finished``.

    Args:
        model: the model.
        rows: the token ids of each prompt.
        limits: the largest number of tokens to write after each row.
        top_k: the number of most probable tokens to return for each step.
        patches: the patch of each row's model; None: the unpatched model.
        is_finished: whether a row is finished, by the tokens that are written after it so far.
        contexts: beginnings of the rows, computed with the unpatched model; only without ``patches``.
        keep: a function that is called with the keys and values of each group of rows, once these are read; not for a
            recurrent model.
    """
    if contexts is not None and patches is not None:
        raise ValueError("contexts are of the unpatched model; give contexts or patches")
    prompts = [tuple(row) for row in rows]
    # The same patch of several rows stays one object, so that its id tells which rows have it.
    row_patches = place_factors(model, patches or [None] * len(rows))
    most_written = max(limits, default=0)
    longest = max((len(tokens) for tokens in prompts), default=0) + most_written
    beginnings: list[_Beginning | None] = [None] * len(prompts)
    if mask_decides(model, longest):
        if contexts is None:
            beginnings = _compute_beginnings(model, prompts, row_patches)
        else:
            beginnings = [_find_beginning(contexts, tokens) for tokens in prompts]
        # With padding between beginning and tail, a row may no longer fit into the window.
        if not mask_decides(model, _most_columns(prompts, beginnings) + most_written):
            beginnings = [None] * len(prompts)
    decoder = _Decoder(
        model=model,
        rows=prompts,
        limits=limits,
        patches=row_patches,
        beginnings=beginnings,
        top_k=top_k,
        is_finished=is_finished,
        at_once=rows_at_once(model, longest),
        keep=keep,
    )
    return decoder.run()


def rows_at_once(model: LanguageModel, tokens: int) -> int:
    """Return how many rows of up to ``tokens`` tokens write together: 64, more if an accelerator has memory for them.

    There a step of many rows takes as long as one of few: that of reading the weights.
    """
    megabytes = pass_megabytes(model.device)
    if megabytes is None:
        return BATCH_ROWS
    cache = 2 * len(model.blocks) * model.width * tokens * model.model.dtype.itemsize  # more than it is if heads share
    logits = 3 * 4 * model.model.get_output_embeddings().weight.shape[0]
    row = 2 * cache + logits  # bytes; the cache is copied while a group joins
    return max(BATCH_ROWS, int(1e6 * megabytes / row))


def _find_beginning(contexts: SharedContexts, tokens: Tokens) -> _Beginning | None:
    """Return the longest of the computed ``contexts`` with which a row begins; None if it begins with none."""
    found = contexts.find_start(tokens)
    if found is None:
        return None
    prefix, prefix_row, length = found
    return _Beginning(prefix, prefix_row, length)


def _compute_beginnings(
    model: LanguageModel, rows: Sequence[Tokens], patches: Sequence[WeightPatch | None]
) -> list[_Beginning | None]:
    """Compute the beginnings that rows of one patch share; None for a row that shares too few tokens with others."""
    beginnings: list[_Beginning | None] = [None] * len(rows)
    groups = _group_by_first_tokens(rows, patches)
    if not groups:
        return beginnings
    shared_tokens = list[Tokens]()  # of each group
    for group in groups:
        shared_tokens.append(_common_beginning([rows[row] for row in group]))
    group_patches = [patches[group[0]] for group in groups]  # all rows of a group have one patch
    # Row i of the prefix is the beginning of group i, and is computed with the patch of group i.
    owners = torch.arange(len(groups))[:, None]  # [groups, 1], one for all tokens of a row
    with patch_each_token(model, group_patches, owners), tell_prompt_ends(model, None):
        prefix = run_prefix(model, shared_tokens)
    for number, group in enumerate(groups):
        for row in group:
            beginnings[row] = _Beginning(prefix, number, len(shared_tokens[number]))
    return beginnings


def _group_by_first_tokens(rows: Sequence[Tokens], patches: Sequence[WeightPatch | None]) -> list[list[int]]:
    """Return the groups of rows, by their numbers, that have one patch and the same first `_LEAST_SHARED` tokens."""
    groups: dict[tuple[int, Tokens], list[int]] = {}  # by the id of the patch and the first tokens
    for row, (tokens, patch) in enumerate(zip(rows, patches, strict=True)):
        groups.setdefault((id(patch), tokens[:_LEAST_SHARED]), []).append(row)
    shared = list[list[int]]()
    for (_, first_tokens), group in groups.items():
        if len(group) > 1 and len(first_tokens) == _LEAST_SHARED:
            shared.append(group)
    return shared


def _common_beginning(rows: Sequence[Tokens]) -> Tokens:
    """Return the longest common beginning of all rows, at most one token shorter than the shortest row."""
    most = min(len(tokens) for tokens in rows) - 1  # the last token is read anew: its logits are needed
    count = 0
    while count < most and all(tokens[count] == rows[0][count] for tokens in rows):
        count += 1
    return rows[0][:count]


def _most_columns(rows: Sequence[Tokens], beginnings: Sequence[_Beginning | None]) -> int:
    """Return the most columns that `_Decoder` may need to read rows with a beginning, padding included."""
    longest_beginning = 0
    longest_tail = 0
    for tokens, beginning in zip(rows, beginnings, strict=True):
        if beginning is not None:
            longest_beginning = max(longest_beginning, beginning.length)
            longest_tail = max(longest_tail, len(tokens) - beginning.length)
    return longest_beginning + longest_tail


def _group_alike(rows: Sequence[Tokens], beginnings: Sequence[_Beginning | None], *, most: int) -> Iterator[list[int]]:
    """Yield groups of rows, by their numbers, that are read together.

    A group has at most ``most`` rows, whose tails have similar lengths. Either all rows of a group have a shared
    beginning, or none has.
    """
    beginning_lengths = list[int]()  # of each row: the tokens of its beginning
    tail_lengths = list[int]()  # of each row: the tokens of its tail
    with_beginning = list[int]()
    without = list[int]()
    for row, (tokens, beginning) in enumerate(zip(rows, beginnings, strict=True)):
        if beginning is None:
            without.append(row)
            beginning_lengths.append(0)
        else:
            with_beginning.append(row)
            beginning_lengths.append(beginning.length)
        tail_lengths.append(len(tokens) - beginning_lengths[row])
    for numbers in (with_beginning, without):
        numbers.sort(key=lambda row: (beginning_lengths[row], tail_lengths[row]))
        yield from _cut_into_groups(numbers, tail_lengths, most=most)


def _cut_into_groups(numbers: Sequence[int], tail_lengths: Sequence[int], *, most: int) -> Iterator[list[int]]:
    """Cut rows, in their order, into groups of at most ``most`` whose tails have similar lengths.

    The rows are sorted by their beginnings first, so a row may also have a much shorter tail than those before it.
    """
    group: list[int] = []
    for row in numbers:
        lengths = [tail_lengths[member] for member in (*group, row)]
        is_too_long = max(lengths) > _SPREAD * min(lengths) + _SLACK
        if group and (len(group) == most or is_too_long):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


@dataclass(frozen=True, eq=False, kw_only=True)
class _OpenRows:
    """Rows that are being written together; some of them may be finished.

    ``numbers`` says which rows they are. ``cached`` holds the keys and values of the tokens that were read so far,
    ``ids`` [rows, 1] the token to read next: the last one that was written.
    """

    numbers: list[int]
    cached: Prefix
    ids: Tensor

    def select(self, kept: Collection[int]) -> _OpenRows:
        """Return only those of the rows whose numbers are in ``kept``."""
        remaining = [row for row in self.numbers if row in kept]
        index = _find_positions(self.numbers, kept).to(self.ids.device)
        return _OpenRows(numbers=remaining, cached=self.cached.select_rows(index), ids=self.ids[index])


def _find_positions(numbers: Sequence[int], kept: Collection[int]) -> Tensor:
    """Return where in ``numbers`` those are that are in ``kept``, as an index: ([7, 3, 5], {5, 7}) gives [0, 2]."""
    positions = [position for position, row in enumerate(numbers) if row in kept]
    return torch.tensor(positions, dtype=torch.long)


@dataclass(eq=False, kw_only=True)
class _Decoder:
    """All rows, and what each has written so far; a row is known by its number, the index in ``rows``.

    `run` opens the rows group by group: each group is read with its first written token (`_open`), and joins the rows
    that are open. Before that, these write on until there is room. At the end all write on until each is finished
    (`_write_on`). Every step calls `_next_logits` and then `_write_tokens`, which notes the tokens in
    ``_tokens`` and ``_best`` and takes finished rows out of ``_active``.

    ``at_once`` is how many rows write in one batch; the other fields are as in `greedy`.
    """

    model: LanguageModel
    rows: Sequence[Tokens]
    limits: Sequence[int]
    patches: Sequence[WeightPatch | None]
    beginnings: Sequence[_Beginning | None]
    top_k: int
    is_finished: Callable[[Sequence[int]], bool]
    at_once: int
    keep: Callable[[Prefix], None] | None
    # `run` sets these:
    _tokens: list[list[int]] = field(init=False)  # of each row: what it has written
    _best: list[list[tuple[Tensor, Tensor]]] = field(init=False)  # of each row, at each step: likeliest tokens, their p
    _active: set[int] = field(init=False)  # the rows that are not finished

    def run(self) -> list[Written]:
        """Decode until every row is finished."""
        self._tokens = [[] for _ in self.rows]
        self._best = [[] for _ in self.rows]
        self._active = {row for row, limit in enumerate(self.limits) if limit > 0}
        open_rows: _OpenRows | None = None
        for alike in _group_alike(self.rows, self.beginnings, most=self.at_once // 2):
            group = [row for row in alike if row in self._active]
            if not group:
                continue
            if self.model.is_recurrent:
                self._write_whole(group)
                continue
            if open_rows is not None:
                open_rows = self._write_on(open_rows, until=self.at_once - len(group))  # now there is room
            open_rows = _join(open_rows, self._open(group))
        if open_rows is not None:
            self._write_on(open_rows, until=0)
        return [self._finish(tokens, best) for tokens, best in zip(self._tokens, self._best, strict=True)]

    def _finish(self, tokens: Sequence[int], best: Sequence[tuple[Tensor, Tensor]]) -> Written:
        """Return what a row has written, with the likeliest tokens and their probabilities at each step."""
        likeliest = torch.zeros(0, self.top_k, dtype=torch.long)
        probabilities = torch.zeros(0, self.top_k)
        if best:
            likeliest = torch.stack([step_tokens for step_tokens, _ in best])  # [steps, top_k]
            probabilities = torch.stack([step_probabilities for _, step_probabilities in best])
        return Written(tuple(tokens), likeliest, probabilities)

    def _open(self, group: list[int]) -> _OpenRows:
        """Read the rows of ``group``, write their first token, and return those that are not finished with it."""
        # The keys and values of the shared beginnings come first; the tail of each row is read now. All rows of a group
        # have a beginning, or none has (`_group_alike`); without one, the whole row is the tail. Beginnings and tails
        # are both padded on the left (-), so a row may have padding between them:
        #
        #     a b c - x
        #     - a b y z
        beginnings = list[_Beginning]()
        tails = list[Tokens]()
        for row in group:
            beginning = self.beginnings[row]
            if beginning is None:
                tails.append(self.rows[row])
            else:
                beginnings.append(beginning)
                tails.append(self.rows[row][beginning.length :])
        prefix = _stack_beginnings(self.model, beginnings, len(group))
        batch = left_pad(tails, device=self.model.device, ends=[len(tail) - 1 for tail in tails])
        cache = prefix.growing(len(self.model.blocks))
        mask = torch.cat([prefix.mask, batch.mask], -1)  # [rows, beginning + tail]
        positions = prefix.lengths + batch.positions  # [rows, tail], counted from the first token of the beginning
        logits = self._next_logits(group, replace(batch, mask=mask, positions=positions), cache)
        self._write_tokens(logits, group)
        cached = _prefix_of(cache, mask)
        if self.keep is not None:
            self.keep(cached)
        return _OpenRows(numbers=group, cached=cached, ids=self._last_tokens(group)).select(self._active)

    def _write_on(self, open_rows: _OpenRows, *, until: int) -> _OpenRows | None:
        """Decode until at most ``until`` rows are active; return these, or None if no row is left."""
        numbers = open_rows.numbers
        ids = open_rows.ids
        mask = open_rows.cached.mask  # [rows, tokens so far]
        room = max(self.limits[row] - len(self._tokens[row]) for row in numbers)  # for the tokens that may be written
        cache = open_rows.cached.growing(len(self.model.blocks), room=room)
        active = [row for row in numbers if row in self._active]
        while len(active) > until:
            if len(active) <= _SHRINK * len(numbers):  # drop the finished rows
                index = _find_positions(numbers, self._active).to(ids.device)
                cache.batch_select_indices(index)
                numbers = active
                ids = ids[index]
                mask = mask[index]
            mask = torch.cat([mask, torch.ones_like(ids)], -1)
            positions = mask.sum(-1, keepdim=True) - 1  # [rows, 1], of the token to read: padding is not counted
            step = Batch(ids=ids, mask=mask, positions=positions)
            logits = self._next_logits(numbers, step, cache)
            self._write_tokens(logits, numbers)
            ids = self._last_tokens(numbers)
            active = [row for row in numbers if row in self._active]
        if not active:
            return None
        cached = _prefix_of(cache, mask)
        return _OpenRows(numbers=numbers, cached=cached, ids=ids).select(self._active)

    def _write_whole(self, group: list[int]) -> None:
        """Decode rows, each of which is read whole at each step: a recurrent block has no keys and values to keep."""
        numbers = [row for row in group if row in self._active]
        while numbers:
            rows = [(*self.rows[row], *self._tokens[row]) for row in numbers]
            prompt_ends = [len(self.rows[row]) - 1 for row in numbers]
            batch = left_pad(rows, device=self.model.device, ends=prompt_ends)
            self._write_tokens(self._next_logits(numbers, batch, None), numbers)
            numbers = [row for row in numbers if row in self._active]

    def _next_logits(self, numbers: Sequence[int], batch: Batch, cache: SummedCache | None) -> Tensor:
        """Return the logits [rows, vocabulary] after the last token of ``batch``, which is read after ``cache``."""
        # Rows of one patch have one owner, the patch's number, so that its weights are computed once.
        distinct = {id(self.patches[row]): self.patches[row] for row in numbers}
        number_of = {patch_id: number for number, patch_id in enumerate(distinct)}
        owners = torch.tensor([[number_of[id(self.patches[row])]] for row in numbers])  # [rows, 1], for all tokens
        with (
            patch_each_token(self.model, list(distinct.values()), owners),
            tell_prompt_ends(self.model, batch.ends),
            record_last_call(self.model.blocks[-1]) as last_block,
        ):
            base_model(self.model)(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        last_states = last_block.output[:, -1]  # [rows, d], before the final norm, which `logits` applies
        return self.model.logits(last_states).float()

    def _write_tokens(self, logits: Tensor, numbers: Sequence[int]) -> None:
        """Write the next token of each active row, and mark the rows that are finished."""
        best = logits.softmax(-1).topk(min(self.top_k, logits.shape[-1]))
        # One transfer for both: float32 holds each token's number exactly.
        both = torch.stack([best.indices.to(best.values), best.values]).cpu()  # [2, rows, top_k]
        tokens = both[0].long()  # [rows, top_k], the likeliest first
        probabilities = both[1]  # [rows, top_k]
        first = tokens[:, 0].tolist()
        for position, row in enumerate(numbers):
            if row not in self._active:
                continue
            self._best[row].append((tokens[position], probabilities[position]))
            self._tokens[row].append(first[position])
            if len(self._tokens[row]) >= self.limits[row] or self.is_finished(self._tokens[row]):
                self._active.discard(row)

    def _last_tokens(self, numbers: Sequence[int]) -> Tensor:
        """Return the last token of each row, [rows, 1]."""
        return torch.tensor([self._tokens[row][-1:] for row in numbers], device=self.model.device)


def _stack_beginnings(model: LanguageModel, beginnings: Sequence[_Beginning], rows: int) -> Prefix:
    """Return the keys and values of the ``beginnings`` of a group of ``rows`` rows.

    There is one for each row of the group, or none at all (`_group_alike`): then the prefix has no tokens.
    """
    if not beginnings:
        return empty_prefix(model, rows)
    index = torch.tensor([beginning.prefix_row for beginning in beginnings], device=model.device)
    prefix = beginnings[0].prefix.select_rows(index)  # the prefix of all beginnings (`_Beginning`)
    # Without the padding for longer beginnings of rows outside of this group
    width = max(beginning.length for beginning in beginnings)
    layers = tuple((keys[..., -width:, :], values[..., -width:, :]) for keys, values in prefix.layers)
    return Prefix(mask=prefix.mask[:, -width:], layers=layers, sums=prefix.sums)


def _join(open_rows: _OpenRows | None, new: _OpenRows) -> _OpenRows | None:
    """Return old and new rows together, the shorter ones padded on the left; None if there is no row."""
    if not new.numbers:
        return open_rows
    if open_rows is None:
        return new
    cached = stack_prefixes([open_rows.cached, new.cached])
    ids = torch.cat([open_rows.ids, new.ids])
    return _OpenRows(numbers=[*open_rows.numbers, *new.numbers], cached=cached, ids=ids)


def _prefix_of(cache: SummedCache, mask: Tensor) -> Prefix:
    """Return the tokens that were read into ``cache`` as a prefix; ``mask`` [rows, tokens] has 0 for padding."""
    layers: list[Any] = list(cache.layers)
    states = tuple((layer.keys, layer.values) for layer in layers)
    return Prefix(mask=mask, layers=states, sums=dict(cache.token_sums))
