"""Read keys and states from the model, layer after layer: at the subject's last token, and at the other tokens.

A key [d_ff] is the input of a block's down-projection. The closed forms need the keys of the subject's last token, the
present states [d] there (`SubjectStates`), and the keys of the other tokens of the prompts (`OtherTokens`).

Why the other tokens: the descent finds m* as if the change were made at the subject's last token only, but the written
update adds (n . u) times the change at every token with key n. That is little in ordinary text, but up to half of the
change for tokens that are rare in the text that C was measured from, such as the pieces of a German word. With H of
these keys (`kg_edit.covariance.moment.OtherKeys`) in the closed form, U = (C + w H)^-1 K, the written model computes
what the descent computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from kg_edit.covariance.moment import OtherKeys
from kg_edit.engine import chosen_engine
from kg_edit.engine.replay import Ascending
from kg_edit.locate_then_edit.objective import Request
from kg_edit.models.hooks import change_output, record_last_call, tell_prompt_ends
from kg_edit.models.language_model import LanguageModel, matrix_shape
from kg_edit.models.prompts import Batch, Prompt, left_pad

Site = Literal["block", "value"]  # the block's output, or the output of its down-projection
OTHER_ROWS = 2  # rewrites read per edit; more are not needed, because C already covers the ordinary text of contexts
_TOKENS = 2048  # the most tokens of a pass that reads states
_OTHER_TOKENS = 1024  # the most tokens of a pass that reads the keys of other tokens
_SLACK = 0.05  # relative tolerance of `adds_mlp`; bfloat16 has only two significant digits


class WholeRuns:
    """Runs batches of rows through the whole model each time: what `Ascending` does faster."""

    def __init__(self, model: LanguageModel, batches: Sequence[Batch]) -> None:
        self._model = model
        self._batches = batches

    def run_through(self, layer: int, *, last: int | None = None) -> Iterator[Tensor]:
        """Run each batch and yield the output of block ``last``, [rows, tokens, d]; by default that of ``layer``.

        ``layer`` is the block that is written next. `Ascending` has to know it to store its input; here every run is a
        whole one, so ``layer`` only stands in for a missing ``last``.
        """
        if last is None:
            last = layer
        block = self._model.block(last)
        for batch in self._batches:
            with tell_prompt_ends(self._model, batch.ends), record_last_call(block) as call:
                self._model.model(
                    input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
                )
            yield call.output


def choose_runs(
    model: LanguageModel, batches: Sequence[Batch], layers: Sequence[int], *, memory: float
) -> Ascending | WholeRuns:
    """Return what runs ``batches`` while the blocks ``layers`` are written one after the other."""
    if chosen_engine() == "plain":
        return WholeRuns(model, batches)
    return Ascending(model, batches, range(layers[0], layers[-1] + 1), memory=memory)


class SubjectStates:
    """The keys and states of ``prompts`` at the subject's last token, for one layer after the other.

    Tokens after the subject do not run. Prompts of the same length up to there share a pass, so none is padded.
    ``memory`` is as in `Ascending`.
    """

    def __init__(
        self, model: LanguageModel, prompts: Sequence[Prompt], layers: Sequence[int], *, site: Site, memory: float
    ) -> None:
        self._model = model
        self._last = layers[-1]
        self._site = site
        self._groups = _group_by_length(prompts)
        batches = []
        for group in self._groups:
            rows = [prompts[index].ids[: prompts[index].edited_at + 1] for index in group]
            # Where the prompts end: mostly behind their rows, which are cut at the subject. `left_pad` drops such ends.
            ends = [prompts[index].target_start - 1 for index in group]
            batches.append(left_pad(rows, device=model.device, ends=ends))
        self._runs = choose_runs(model, batches, layers, memory=memory)

    @torch.no_grad()
    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the keys of block ``layer`` [prompts, d_ff] and the states of the last block [prompts, d], float32."""
        keys = dict[int, Tensor]()
        states = dict[int, Tensor]()
        with (
            record_last_call(self._model.down_projection(layer)) as call,
            record_last_call(self._model.down_projection(self._last)) as last_layer_call,
        ):
            # Each round of this loop lets `run_through` run the pass of one group. The hooks note that pass in both
            # calls, so they are read before the next round.
            for group, output in zip(self._groups, self._runs.run_through(layer, last=self._last), strict=True):
                state = output if self._site == "block" else last_layer_call.output
                group_keys = _last_token(call.input, len(group))
                group_states = _last_token(state, len(group))
                for row, index in enumerate(group):
                    keys[index] = group_keys[row]
                    states[index] = group_states[row]
        in_order = range(len(keys))
        all_keys = torch.stack([keys[index] for index in in_order])
        all_states = torch.stack([states[index] for index in in_order])
        return all_keys, all_states


def _group_by_length(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return groups of the indices of prompts that are equally long up to the subject's end; each group is a pass."""
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(prompt.edited_at + 1, []).append(index)
    groups = list[list[int]]()
    for length, indices in sorted(by_length.items()):
        size = max(1, _TOKENS // length)
        for start in range(0, len(indices), size):
            groups.append(indices[start : start + size])
    return groups


def _last_token(state: Tensor, rows: int) -> Tensor:
    """Return the last token's states [rows, d] in float32; some models flatten rows and tokens."""
    return state.reshape(rows, -1, state.shape[-1])[:, -1].float()


def subject_states(
    model: LanguageModel, prompts: Sequence[Prompt], *, layer: int, last: int, site: Site = "block"
) -> tuple[Tensor, Tensor]:
    """Return the keys of block ``layer`` [prompts, d_ff] and the states of block ``last`` [prompts, d], in float32.

    Both are read at the subject's last token. Later tokens and the blocks above ``last`` do not run.
    """
    return SubjectStates(model, prompts, (layer, last), site=site, memory=0.0).at(layer)


class OtherTokens:
    """The other tokens of all ``requests``, whose keys are read in one layer after the other.

    Two rewrites of each request are read; an edit in both forms has one of each form. ``memory`` is as in `Ascending`.
    """

    def __init__(
        self, model: LanguageModel, requests: Sequence[Request], layers: Sequence[int], *, memory: float
    ) -> None:
        self._model = model
        self._passes = _group_requests(requests)
        batches = []
        for group in self._passes:
            prompts = list(chain.from_iterable(group))
            ends = [prompt.target_start - 1 for prompt in prompts]
            batches.append(left_pad([prompt.ids for prompt in prompts], device=model.device, ends=ends))
        self._runs = choose_runs(model, batches, layers, memory=memory)

    @torch.no_grad()
    def at(self, layer: int) -> OtherKeys:
        """Return H of all requests together in block ``layer``, on the model in its present state."""
        down = self._model.down_projection(layer)
        others = OtherKeys.none(matrix_shape(down)[1], next(down.parameters()).device)
        with record_last_call(down) as call:
            # Each round of this loop lets `run_through` run the pass of one group, which the hook notes in the call.
            for group, _ in zip(self._passes, self._runs.run_through(layer), strict=True):
                keys = _without_subjects(call.input, list(chain.from_iterable(group)))  # of each row
                first = 0
                for rows in group:  # the rows of one request, which count as one
                    others = others.plus(torch.cat(keys[first : first + len(rows)]))
                    first += len(rows)
        return others


def _group_requests(requests: Sequence[Request]) -> list[list[Sequence[Prompt]]]:
    """Return the passes: of each the requests that share it, and of each request the rows that are read.

    With two rows each of the requests a, b and c, the last of which has a pass of its own:

        [[(a1, a2), (b1, b2)], [(c1, c2)]]

    The rows of a pass have at most `_OTHER_TOKENS` tokens, padding included, unless those of one request have more.
    """
    passes = list[list[Sequence[Prompt]]]()
    for request in requests:
        step = math.ceil(len(request.rewrites) / OTHER_ROWS)
        rows = request.rewrites[::step]  # two, spread over all: the first and the fourth of six
        if passes and _count_padded_tokens([*passes[-1], rows]) <= _OTHER_TOKENS:
            passes[-1].append(rows)
        else:
            passes.append([rows])
    return passes


def _count_padded_tokens(group: Sequence[Sequence[Prompt]]) -> int:
    """Return the tokens of a pass with the rows of these requests, padding included."""
    lengths = [len(row.ids) for row in chain.from_iterable(group)]
    return len(lengths) * max(lengths)


@torch.no_grad()
def other_keys(model: LanguageModel, rows: Sequence[Prompt], layer: int) -> Tensor:
    """Return the keys of block ``layer`` at the other tokens of ``rows``, [n, d_ff] in float32.

    These are all tokens, targets included, except the last token of each mention of the subject. The blocks above
    ``layer`` do not run.
    """
    batch = left_pad([row.ids for row in rows], device=model.device, ends=[row.target_start - 1 for row in rows])
    with record_last_call(model.down_projection(layer)) as call:
        for _ in choose_runs(model, [batch], [layer], memory=0.0).run_through(layer):
            pass  # the round runs the only pass, and the hook notes its keys in the call
    return torch.cat(_without_subjects(call.input, rows))


def _without_subjects(keys: Tensor, rows: Sequence[Prompt]) -> list[Tensor]:
    """Return each row's keys of other tokens, [n, d_ff] in float32, from the keys of a left-padded batch."""
    others = list[Tensor]()
    by_row = keys.reshape(len(rows), -1, keys.shape[-1])  # [rows, tokens, d_ff]; some models flatten rows and tokens
    for row, padded_keys in zip(rows, by_row, strict=True):
        # In a row without a subject (`memit.chunks`) all tokens up to the site count as one, which occurs once. So only
        # the site is left out.
        subject = row.ids[row.subject_first : row.edited_at + 1]
        # Of each token: whether no mention of the subject ends there. For the subject "s t", and 1 for true:
        #     x s t y s t z
        #     1 1 0 1 1 0 1
        is_other = list[bool]()
        for end in range(1, len(row.ids) + 1):
            ends_a_mention = row.ids[max(0, end - len(subject)) : end] == subject
            is_other.append(not ends_a_mention)
        for position in row.also_edited:  # other facts of the same edit are written there
            is_other[position] = False
        row_keys = padded_keys[len(padded_keys) - len(row.ids) :]  # without the padding
        others.append(row_keys[torch.tensor(is_other, device=row_keys.device)].float())
    return others


def adds_mlp(model: LanguageModel, layer: int) -> bool:
    """Return whether a change of the down-projection's output changes the block's output by the same amount.

    It does not in a block that normalises after its MLP (Gemma, OLMo 2) or scales the MLP's output (Granite).
    """
    prompt = Prompt(text="", ids=(0,), target_start=1, site=0)
    _, clean = subject_states(model, [prompt], layer=layer, last=layer)
    change = clean.roll(1, -1)  # a change of the states' own size, in another direction

    def add_change(output: Tensor) -> Tensor:
        return output + change.to(output).reshape(output.shape)

    with change_output(model.down_projection(layer), add_change):
        _, changed = subject_states(model, [prompt], layer=layer, last=layer)
    return bool((changed - clean - change).norm() <= _SLACK * change.norm())
