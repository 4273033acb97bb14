"""The fast way to ask what a change does: run only what it can reach.

A change at the subject's last token in layer l reaches that token from layer l on, and later tokens from layer l+1 on.
Everything before is computed once: the prefix as a key/value cache, the later tokens' states up to layer l+1. The
blocks are the model's own and get the arguments that the model itself gave them, so masks, windows, positions, norms
after the MLP and parallel attention are right by construction.

Asking what a change does: the plain way, and the fast ones that run only what it can reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.models.hooks import (
    Call,
    StopForwardError,
    added,
    beside,
    hidden_state,
    recorded,
    run_at_positions,
    stopping,
    watched,
)
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import Prefix, SharedContexts, base_model, quick_backward, run_prefix
from kg_edit.models.prompts import Prompt
from kg_edit.value.plain_forward import read_index, read_positions


class TailForward:
    """Same answers as `PlainForward`, from the tail tokens alone.

    ``keys`` [rows, d_ff] and ``values`` [rows, d] are the clean input and output of the down-projection there.
    """

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        rows: Sequence[Prompt],
        *,
        contexts: SharedContexts | None = None,
        prefix: Prefix | None = None,
    ) -> None:
        starts = [row.ids[: row.edited_at] for row in rows]
        tails = [tail(row) for row in rows]
        if prefix is None:
            beyond = max(map(len, tails))
            prefix = contexts.prefix(model, starts, beyond=beyond) if contexts else run_prefix(model, starts)
        self._model, self._layer, self._rows, self._prefix = model, layer, rows, prefix
        self._reads = read_index(rows, [-row.edited_at for row in rows], model.device)
        with torch.no_grad():
            self._record_edited_block(tails)
            self._record_blocks_above(tails)

    def kept(self, rows: Sequence[int]) -> TailForward:
        """The same for some of the rows; their prefix is not computed again."""
        prefix = self._prefix.rows(torch.tensor(rows, device=self._model.device))
        return TailForward(self._model, self._layer, [self._rows[row] for row in rows], prefix=prefix)

    def _record_edited_block(self, tails: list[Sequence[int]]) -> None:
        """The edited block's call with the subject's last token alone; key and value there."""
        seen: list[Tensor] = []

        def stop(*_: Tensor) -> None:
            raise StopForwardError

        down, block = self._model.down_projection(self._layer), self._model.blocks[self._layer]
        with watched(down, lambda key, value: seen.extend((key, value))), watched(block, stop):
            calls, _ = self._record([tail[:1] for tail in tails])
        self.keys, self.values = (state.reshape(len(tails), -1) for state in seen)
        self._edited_call = calls[self._layer]

    def _record_blocks_above(self, tails: list[Sequence[int]]) -> None:
        calls, final = self._record(tails)
        above = [calls[index] for index in range(self._layer + 1, len(self._model.blocks))]
        self._clean_final = final[0]
        self._clean_later = (_first(above[0]) if above else final[0])[:, 1:]
        self._calls = [_without_first(call) for call in above]

    def _record(self, tails: Sequence[Sequence[int]]) -> tuple[dict[int, Call], list[Tensor]]:
        """Run the model over the tails; the blocks' calls, and the last block's output unless a watcher stops it."""
        width = max(len(tail) for tail in tails)
        device = self._model.device
        ids = torch.tensor([[*tail, *[0] * (width - len(tail))] for tail in tails], device=device)
        real = torch.tensor([[1] * len(tail) + [0] * (width - len(tail)) for tail in tails], device=device)
        calls: dict[int, Call] = {}
        final: list[Tensor] = []
        with (
            stopping(),
            recorded(self._model.blocks, calls),
            watched(self._model.blocks[-1], lambda _, out: final.append(out)),
        ):
            base_model(self._model)(
                input_ids=ids,
                attention_mask=torch.cat([self._prefix.mask, real], -1),
                position_ids=self._prefix.lengths + torch.arange(width, device=device),
                past_key_values=self._prefix.frozen(len(self._model.blocks)),
                use_cache=True,
            )
        return calls, final

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Logits [reads, vocabulary] wherever the loss reads them, with ``change`` [rows, d] (None: the clean model).

        Read are, row after row: each position that predicts a target token; for a row without target, the subject's
        last token.
        """
        with quick_backward(self._clean_final):
            hidden = self._clean_final if change is None else self._changed(change)
        return self._model.logits(hidden[beside(self._reads, hidden)])

    def _changed(self, change: Tensor) -> Tensor:
        module = self._model.down_projection(self._layer)
        with added(module, lambda output: output + change.to(output).reshape(output.shape)):
            first = self._call(self._layer, self._edited_call, _first(self._edited_call))
        hidden = torch.cat([first, self._clean_later.to(first.device)], 1)
        last = len(self._model.blocks) - 1
        for index, call in enumerate(self._calls, start=self._layer + 1):
            with run_at_positions(self._model.mlp(last) if index == last else None, self._reads):
                hidden = self._call(index, call, hidden)
        return hidden

    def _call(self, index: int, call: Call, hidden: Tensor) -> Tensor:
        args, kwargs = call
        if args:
            return hidden_state(self._model.blocks[index](hidden, *args[1:], **kwargs))
        return hidden_state(self._model.blocks[index](**{**kwargs, "hidden_states": hidden}))


def tail(row: Prompt) -> Sequence[int]:
    """The tokens that the loss can feel: from the subject's last one to the last one that predicts something."""
    return row.ids[row.edited_at : read_positions(row)[-1] + 1]


def _without_first(call: Call) -> Call:
    """The call but for its hidden state, which is replaced anyway, and whose memory is wanted."""
    args, kwargs = call
    return ((None, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": None})


def _first(call: Call) -> Tensor:
    args, kwargs = call
    state: Tensor = args[0] if args else kwargs["hidden_states"]
    return state
