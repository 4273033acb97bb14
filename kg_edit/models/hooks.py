"""What is done to a model inside a ``with`` block, and undone at its end: hooks on modules, and marks on the model.

1. Hooks on a module: `watch` and `record_last_call` read its input and output, `change_output` changes its output,
   `run_at_positions` runs it on some tokens only. A hook may end the forward pass early by `StopForwardError`, which
   `catch_stop` catches.
2. `keep_untouched`: the model in evaluation mode, with frozen weights, for a descent; all is as before afterwards.
3. A mark is an attribute of the model that other code reads. `mark_patched` says that a patch is applied, so that
   `refuse_patched` refuses a second one. Code that runs a forward pass tells patches what they can't see in the states:
   `tell_prompt_ends` at which tokens a prompt ends, `tell_token_ids` the tokens themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Size, Tensor, nn

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel

# 1. Hooks


@contextmanager
def watch(module: nn.Module, see: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Call ``see(input, output)`` whenever ``module`` runs.

    The output is a copy, because Falcon adds the attention's output to its MLP's in place.
    """

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        see(args[0], hidden_state(output).clone())

    with module.register_forward_hook(hook):
        yield


class LastCall:
    """The input and the output of a module in its latest call (`record_last_call`)."""

    input: Tensor
    output: Tensor


@contextmanager
def record_last_call(module: nn.Module) -> Iterator[LastCall]:
    """Record the input and the output of ``module`` whenever it runs; those of its latest call can then be read.

    To read the keys of a layer, for example:

        with record_last_call(model.down_projection(layer)) as call:
            model.model(ids)
        keys = call.input
    """
    call = LastCall()

    def note(module_input: Tensor, output: Tensor) -> None:
        call.input = module_input
        call.output = output

    with watch(module, note):
        yield call


@contextmanager
def change_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace ``module``'s output by ``change(output)``."""

    def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        return change(output)

    with module.register_forward_hook(hook):
        yield


@contextmanager
def run_at_positions(module: nn.Module | None, positions: tuple[Tensor, ...]) -> Iterator[None]:
    """Run ``module`` only at some positions of a state [rows, columns, d]; its output elsewhere is 0.

    Args:
        module: it must treat each token alone. All its positional arguments are states (BLOOM's MLP also takes the
            residual). None: nothing is changed.
        positions: the row index and the column index of each position, (rows [p], columns [p]).
    """
    if module is None:
        yield
        return
    shape_of_call: list[Size] = []  # (rows, columns): `pick` adds it before the module runs, `put` takes it afterwards

    def pick(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shape_of_call.append(args[0].shape[:2])
        return tuple(state[index_for(positions, state)] for state in args)  # [p, d] each

    def put(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        full_output = output.new_zeros(*shape_of_call.pop(), output.shape[-1])  # [rows, columns, d]
        return full_output.index_put(index_for(positions, output), output)  # ``output`` [p, d] at the positions

    with module.register_forward_pre_hook(pick), module.register_forward_hook(put):
        yield


class StopForwardError(Exception):
    """Raised by a hook to end a forward pass early; `catch_stop` catches it."""


@contextmanager
def catch_stop() -> Iterator[None]:
    """Catch the `StopForwardError` that a hook raised on purpose."""
    try:
        yield
    except StopForwardError:
        return


def is_hooked(module: nn.Module) -> bool:
    """Return whether a hook, such as an adapter's, reads or changes ``module`` or a module in it."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def hidden_state(output: Any) -> Tensor:
    """Return a block's hidden state: the output itself, or a tuple's first element in older transformers."""
    state = output[0] if isinstance(output, tuple) else output
    assert isinstance(state, Tensor)  # noqa: S101 - true of every transformers block
    return state


def index_for(indices: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, ...]:
    """Return ``indices`` on the device of ``state``, as an index for it: ``state[index_for(indices, state)]``.

    The blocks of a model may be on several devices.
    """
    return tuple(index.to(state.device) for index in indices)


# 2. Evaluation


@contextmanager
def keep_untouched(model: LanguageModel) -> Iterator[None]:
    """Inside the ``with`` block, prepare the model for a descent; afterwards nothing of it has changed.

    - Its modules are in evaluation mode, and its weights need no gradient (``requires_grad``).
    - Gradients are on, even if the caller has turned them off (``torch.no_grad``), for what the descent trains.
    - Random numbers may be drawn and seeds set.

    Afterwards the modes, the flags, whether gradients are on, and the random state are as before.
    """
    modes = [(module, module.training) for module in model.model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.model.parameters()]
    with torch.random.fork_rng(devices=model.cuda_devices), torch.enable_grad():
        try:
            all_off = [(module, False) for module, _ in modes]
            all_frozen = [(parameter, False) for parameter, _ in flags]
            _set_all(all_off, all_frozen)
            yield
        finally:
            _set_all(modes, flags)


def _set_all(modes: Iterable[tuple[nn.Module, bool]], flags: Iterable[tuple[nn.Parameter, bool]]) -> None:
    """Set the modes and the ``requires_grad`` flags that differ; to set them is slow, and to read them is not."""
    for module, mode in modes:
        if module.training is not mode:
            module.training = mode
    for parameter, flag in flags:
        if parameter.requires_grad is not flag:
            parameter.requires_grad_(flag)


# 3. Marks

_APPLIED = "_kg_edit_applied_patch"
_ENDS = "_kg_edit_prompt_ends"
_ENDS_NEEDED = "_kg_edit_needs_prompt_ends"
_TOKENS = "_kg_edit_tokens"


@contextmanager
def _with_mark(model: LanguageModel, name: str, value: object) -> Iterator[None]:
    """Set an attribute of the transformers model inside the ``with`` block; ``value`` is not None."""
    before = getattr(model.model, name, None)
    setattr(model.model, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(model.model, name)
        else:
            setattr(model.model, name, before)


@contextmanager
def mark_patched(model: LanguageModel) -> Iterator[None]:
    """Mark the model as patched inside the ``with`` block, since two nested patches could not restore its weights."""
    refuse_patched(model)
    with _with_mark(model, _APPLIED, True):
        yield


def refuse_patched(model: LanguageModel) -> None:
    """Refuse a model with an applied patch, for work that needs the model's own weights."""
    if getattr(model.model, _APPLIED, False):
        raise PatchError(
            "a patch is already applied to this model; leave its `with` block first, or apply the sum: "
            "(first + second).applied(...)"
        )


def ask_for_prompt_ends(model: LanguageModel) -> AbstractContextManager[None]:
    """Inside the ``with`` block, mark that a patch on the model acts where prompts end.

    A patch enters this block while it is applied. Code that shares tokens between prompts asks `needs_prompt_ends`,
    because prompts that end at different tokens can't share these. `tell_prompt_ends` says where the ends are.
    """
    return _with_mark(model, _ENDS_NEEDED, True)


def needs_prompt_ends(model: LanguageModel) -> bool:
    """Return whether a patch that is applied to the model acts where prompts end (`ask_for_prompt_ends`)."""
    return getattr(model.model, _ENDS_NEEDED, False)


def tell_prompt_ends(model: LanguageModel, ends: Tensor | None) -> AbstractContextManager[None]:
    """Tell patches at which tokens a prompt ends, in the forward passes of the ``with`` block.

    ``ends`` is a mask [rows, tokens]; None means that no prompt ends in these passes.
    """
    return _with_mark(model, _ENDS, (ends,))  # in a tuple, because None is a value here, and not a missing mark


def read_prompt_ends(model: LanguageModel, rows: int, tokens: int) -> Tensor:
    """Return a mask [rows, tokens], on the CPU, of the tokens of a forward pass at which a prompt ends.

    Without `tell_prompt_ends`, a row of several tokens counts as a prompt that ends at its last token, and a row of
    one token counts as the next step of an answer. A mask of another shape was meant for another pass; then no prompt
    ends in this one.
    """
    mask = torch.zeros(rows, tokens, dtype=torch.bool)
    told: tuple[Tensor | None] | None = getattr(model.model, _ENDS, None)
    if told is None:
        is_prompt = tokens > 1
        mask[:, -1] = is_prompt
        return mask
    (ends,) = told
    if ends is not None and ends.shape == mask.shape:
        return ends.cpu()
    return mask


def tell_token_ids(model: LanguageModel, ids: Tensor) -> AbstractContextManager[None]:
    """Tell patches the token ids [rows, tokens] of blocks that run without the embedding before them."""
    return _with_mark(model, _TOKENS, ids)


def read_token_ids(model: LanguageModel) -> Tensor | None:
    """Return the token ids that `tell_token_ids` tells; None outside of its ``with`` block."""
    token_ids: Tensor | None = getattr(model.model, _TOKENS, None)
    return token_ids
