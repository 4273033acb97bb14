"""Run some of a model's blocks again: record one forward pass, then run its upper blocks as often as needed.

A change in block l does not change the blocks below it. So rows of tokens go through the whole model once, and after
that only through the blocks from l on. These blocks get the hidden states under test, and the same other arguments that
the model gave them in the recorded pass. `Ascending` runs rows again while block after block is being changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kg_edit.engine.prefix_cache import Prefix, base_model
from kg_edit.models.hooks import StopForwardError, catch_stop, hidden_state, tell_prompt_ends, tell_token_ids, watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Batch

Call = tuple[tuple[Any, ...], dict[str, Any]]  # a block's positional and keyword arguments, without the hidden state


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordedBlocks:
    """The recorded calls of consecutive blocks in one forward pass, which can be repeated with other hidden states.

    A call is all that a block got besides its hidden state: attention mask, position embeddings, the cache with a
    prefix. The model itself computed them for these rows, so masks, windows and positions are right in every family.
    The devices are right too, because accelerate's hooks move a call's tensors to its block again. A call fits all
    states [rows, tokens, d].

    ``calls`` holds the calls of the blocks from block ``first`` on. ``inputs`` maps a block to its input hidden states
    [rows, tokens, d], detached from the graph: always for ``first``, for other blocks only on request. ``batch`` has
    the rows' tokens and the ends of their prompts, which a patch may read.

    Memory: [rows, tokens, d] for each stored input. The other arguments are mostly the same tensors for all blocks.
    """

    model: LanguageModel
    first: int
    calls: tuple[Call, ...]
    inputs: Mapping[int, Tensor]
    batch: Batch

    @classmethod
    def record(
        cls,
        model: LanguageModel,
        batch: Batch,
        layers: range,
        *,
        prefix: Prefix | None = None,
        all_inputs: bool = False,
    ) -> tuple[RecordedBlocks, Tensor]:
        """Run ``batch`` through the model up to the last of ``layers``, and record the calls of ``layers``.

        Args:
            model: the model, with any hooks that the caller has put on its modules.
            batch: rows of tokens; with ``prefix``, they come after the same rows of it.
            layers: consecutive blocks (0-based). An empty range means a change after the last block: the output of the
                block before the range is then the recorded input, and no block is left to run.
            prefix: keys and values of earlier tokens.
            all_inputs: store the input of each of ``layers``, not only of the first one.

        Returns:
            The record, and the last block's output [rows, tokens, d]. The record does not store the output, because
            that may have the autograd graph of the hooks' changes.
        """
        calls = list[Call]()
        inputs = dict[int, Tensor]()

        def keep_call(layer: int, state: Tensor, call: Call) -> None:
            calls.append(call)
            if all_inputs or layer == layers.start:
                inputs[layer] = state.detach()

        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(_watch_calls(model.block(layer), layer, keep_call))
            output = block_output(model, batch, layers.stop - 1, prefix=prefix)
        if not inputs:  # an empty range
            inputs[layers.start] = output.detach()
        return cls(model=model, first=layers.start, calls=tuple(calls), inputs=inputs, batch=batch), output

    @property
    def first_input(self) -> Tensor:
        """The input of block ``first``, [rows, tokens, d]."""
        return self.inputs[self.first]

    def run(self, hidden: Tensor, *, first: int | None = None, stop: int | None = None) -> Tensor:
        """Run the blocks from ``first`` to before ``stop`` on ``hidden`` [rows, tokens, d]; return the last output.

        By default all recorded blocks run. Differentiable in ``hidden`` and in what hooks change.
        """
        first = self.first if first is None else first
        stop = self.first + len(self.calls) if stop is None else stop
        calls = self.calls[first - self.first : stop - self.first]
        # The embedding does not run here, so a patch can't see the token ids there; in `block_output` it can.
        with tell_token_ids(self.model, self.batch.ids), tell_batch_ends(self.model, self.batch):
            for layer, (args, kwargs) in enumerate(calls, start=first):
                hidden = hidden_state(self.model.blocks[layer](hidden, *args, **kwargs))
        return hidden


class Ascending:
    """Batches of rows that run again each time a higher block has been changed.

    A method that writes the blocks l_1 < ... < l_n one after the other needs, before each, what the model computes with
    the blocks below already changed. The blocks below l_1 run once. From then on each batch stores the input of the
    last block that was asked for, and runs from there. With the blocks 3, 4 and 5 to be written:

        run_through(3)   runs blocks 0 to 3 and stores the input of block 3     (block 3 is then written)
        run_through(4)   runs block 3, stores the input of block 4, runs 4      (block 4 is then written)
        run_through(5)   runs block 4, stores the input of block 5, runs 5

    Memory: two inputs [tokens, d] for each batch, the first one and the present one, as long as all batches together
    need at most ``memory`` MB. Further batches store nothing and run from the first block each time.
    """

    def __init__(self, model: LanguageModel, batches: Sequence[Batch], layers: range, *, memory: float) -> None:
        self._model = model
        self._batches = batches
        self._layers = layers
        self._records: dict[int, RecordedBlocks] = {}
        self._inputs: dict[int, Tensor] = {}
        self._stored = layers.start  # the block whose inputs are stored
        self._remaining = memory * 1e6  # bytes

    def run_through(self, layer: int, *, last: int | None = None) -> Iterator[Tensor]:
        """Run each batch and yield the output of block ``last``, [rows, tokens, d]; by default that of ``layer``.

        ``layer`` is the block that is written next: the first of ``layers`` in the first call, and never a lower one
        than in the call before. ``last`` is one of ``layers`` from ``layer`` on.

        This is a generator: a batch runs, and stores its input of ``layer``, only when its output is taken. So take the
        outputs of all batches before the next call.
        """
        last = layer if last is None else last
        if last not in self._layers or last < layer:
            raise ValueError(f"found last={last}; expected one of the recorded {self._layers} from {layer} on")
        stored = self._stored  # the inputs of this block are there
        self._stored = layer  # those of this one will be, when all outputs have been taken
        for number, batch in enumerate(self._batches):
            if number in self._records:
                yield self._run_on(number, stored, layer, last)
            elif layer == self._layers.start and self._reserve_memory(batch):  # the first call
                yield self._record(number, last)
            else:
                yield block_output(self._model, batch, last)

    def _run_on(self, number: int, stored: int, layer: int, last: int) -> Tensor:
        """Run a recorded batch from its input of block ``stored`` to ``last``; store that of ``layer`` instead."""
        record = self._records[number]
        self._inputs[number] = record.run(self._inputs[number], first=stored, stop=layer)
        return record.run(self._inputs[number], first=layer, stop=last + 1)

    def _reserve_memory(self, batch: Batch) -> bool:
        """Take the bytes of a batch's two inputs, the first and the present one in float32; return whether they fit."""
        self._remaining -= 2 * 4 * batch.ids.numel() * self._model.width
        return self._remaining >= 0

    def _record(self, number: int, last: int) -> Tensor:
        """Record the batch with this number, and return the output of block ``last``, [rows, tokens, d]."""
        record, output = RecordedBlocks.record(self._model, self._batches[number], self._layers)
        self._records[number] = record
        self._inputs[number] = record.first_input
        if last == self._layers.stop - 1:
            return output
        return record.run(record.first_input, stop=last + 1)


def block_output(model: LanguageModel, batch: Batch, layer: int, *, prefix: Prefix | None = None) -> Tensor:
    """Return the output of block ``layer`` (0-based) for rows of tokens, [rows, tokens, d]; no higher block runs.

    With ``prefix``, the rows come after the same rows of it, and their positions continue from there.
    """
    seen: list[Tensor] = []

    def keep_output(_: Tensor, output: Tensor) -> None:
        seen.append(output)
        raise StopForwardError

    mask = batch.mask
    positions = batch.positions
    cache = None
    if prefix is not None:
        mask = torch.cat([prefix.mask, batch.mask], -1)
        positions = prefix.lengths + batch.positions
        cache = prefix.frozen(len(model.blocks))
    with catch_stop(), watch(model.block(layer), keep_output), tell_batch_ends(model, batch):
        base_model(model)(
            input_ids=batch.ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=prefix is not None,
        )
    return seen[0]


def tell_batch_ends(model: LanguageModel, batch: Batch) -> AbstractContextManager[None]:
    """Pass to a patch where the prompts of ``batch`` end, if that is known."""
    if batch.ends is None:
        return nullcontext()
    return tell_prompt_ends(model, batch.ends)


@contextmanager
def _watch_calls(block: nn.Module, layer: int, see: Callable[[int, Tensor, Call], None]) -> Iterator[None]:
    """Call ``see(layer, hidden state, the other arguments)`` whenever ``block`` is about to run."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        other_kwargs = dict(kwargs)
        hidden = args[0] if args else other_kwargs.pop("hidden_states")
        see(layer, hidden, (args[1:], other_kwargs))

    with block.register_forward_pre_hook(hook, with_kwargs=True):
        yield
