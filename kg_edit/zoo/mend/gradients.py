"""The fine-tuning gradient of an edit as rank-one factors, and the loss of a model under low-rank changes.

For a linear module y = W u, W [out, in], the gradient of a loss L by W is a sum over tokens t (MEND, section 3.1):

    dL/dW = sum_t delta_t u_t^T,   delta = dL/dy [tokens, out],   u [tokens, in]

`gradient_factors` computes u and delta of one prompt. `EditedPasses` runs rows of prompts, each with the low-rank
change of its own edit; it repeats only the blocks from the first changed one on. Weights are named as in the state
dict; by default they are all matrices of the MLPs of the last blocks (`mlp_weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D

from kg_edit.engine.replay import RecordedBlocks
from kg_edit.engine.tail_forward import read_index
from kg_edit.errors import ConfigError, ModelError
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.patches.factors import Factors
from kg_edit.zoo.trained.lower_states import LowerStates

Shape = tuple[int, int]
Gradients = Mapping[str, tuple[Tensor, Tensor]]  # by weight: u [..., tokens, in], delta [..., tokens, out]
Changes = Mapping[str, tuple[Tensor, Tensor]]  # by weight: left [edits, tokens, out], right [edits, tokens, in]
_WEIGHT = ".weight"
_SCALE = 1024.0  # keeps small gradients from vanishing in half precision; a power of two adds no rounding error


def gradient_factors(
    model: LanguageModel, prompt: Prompt, names: Sequence[str]
) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """Return the factors u [tokens, in] and delta [tokens, out] by weight name, and the loss: the target's mean -log p.

    The factors are in float32, on the modules' devices. delta^T u is the gradient of the loss by the weight [out, in].
    """
    passes = EditedPasses(model, [prompt], names)
    loss = nll(passes, [0])
    factors = dict[str, tuple[Tensor, Tensor]]()
    for name, (u, delta) in edit_factors(passes, loss, rows=1).items():
        if not (torch.isfinite(u).all() and torch.isfinite(delta).all()):
            raise ModelError(
                f"the gradient of {prompt.text!r} is not finite (loss {float(loss.detach())}); "
                "if the model is in float16, load it in bfloat16 or float32"
            )
        factors[name] = u[0], delta[0]
    return factors, float(loss.detach())


def at_targets(prompt: Prompt, gradients: Gradients) -> dict[str, tuple[Tensor, Tensor]]:
    """Return copies of the factors u and delta, [..., tokens, size], of the tokens that predict the prompt's target."""
    count = len(prompt.target_ids)  # the last token that is read predicts the last one of the target
    of_target = dict[str, tuple[Tensor, Tensor]]()
    for name, (u, delta) in gradients.items():
        # Copies: a view would keep the factors of the whole prompt, and there may be thousands of edits.
        of_target[name] = u[..., -count:, :].clone(), delta[..., -count:, :].clone()
    return of_target


def has_gradient(deltas: Tensor) -> Tensor:
    """Return a mask [...] of the tokens whose gradient [..., out] is not 0.

    In the last block, for example, tokens before the target have the gradient 0.
    """
    return (deltas != 0).any(-1)


def nll(passes: EditedPasses, rows: Sequence[int], logits: Tensor | None = None) -> Tensor:
    """Return the mean over ``rows`` of the mean -log p of a row's target tokens; by default of the unchanged model."""
    tokens, shares = passes.targets(rows)
    if logits is None:
        logits = passes.logits(rows)
    losses = cross_entropy(logits, tokens, reduction="none")  # [tokens]
    return (losses * shares).sum()


def edit_factors(passes: EditedPasses, loss: Tensor, *, rows: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the factors u [rows, length, in] and delta [rows, length, out] of the first ``rows`` rows, by weight name.

    ``loss`` is the mean of the rows' losses; delta is the gradient of their sum.
    """
    deltas = passes.deltas(loss * rows)
    return {name: (passes.inputs[name][:rows].float(), delta[:rows]) for name, delta in deltas.items()}


class EditedPasses:
    """Left-padded rows [rows, length] of prompts with targets, run through the unchanged model and under changes.

    ``inputs`` has the input of each module [rows, length, in], by weight name. ``leaves`` has zeros that were added to
    its output: the gradient of the loss there is MEND's delta. The model is frozen, so below the first of these modules
    nothing is stored for the backward pass. With ``lower`` the blocks below do not run at all.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Prompt],
        names: Sequence[str],
        *,
        lower: LowerStates | None = None,
    ) -> None:
        self._model = model
        self._modules = edited_modules(model, names)
        self._prompts = prompts
        rows = [read_tokens(prompt) for prompt in prompts]
        ends = [_prompt_end(prompt) for prompt in prompts]
        self._batch = left_pad(rows, device=model.device, ends=ends)
        length = self._batch.ids.shape[1]
        self._shifts = [length - len(row) for row in rows]
        self._padding = ~self._batch.mask.bool()[..., None]  # [rows, length, 1]
        self.inputs = dict[str, Tensor]()
        self.leaves = dict[str, Tensor]()
        layers = range(first_block(model, names), len(model.blocks))
        with ExitStack() as stack:
            for name, module in self._modules.items():
                stack.enter_context(module.register_forward_hook(self._record(name)))
            if lower:
                stack.enter_context(lower.replayed(rows, length))
            # The blocks with their inputs, which can run again, and the last one's output, [rows, length, d]
            self._blocks, self._clean = RecordedBlocks.record(model, self._batch, layers)

    def _record(self, name: str) -> Callable[..., Tensor]:
        """Return a forward hook that keeps a module's input, and adds a zero to its output."""

        def hook(_: object, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # y + 0: the gradient at this zero is dL/dy, without a graph through the module's own weight
            leaf = torch.zeros_like(output, requires_grad=True)
            self.inputs[name] = self._without_padding(self._by_row(args[0].detach()))
            self.leaves[name] = leaf
            return output + leaf

        return hook

    def deltas(self, loss: Tensor) -> dict[str, Tensor]:
        """Return the gradient of ``loss`` at each module's output, [rows, length, out] in float32; 0 at padding."""
        gradients = torch.autograd.grad(_SCALE * loss, list(self.leaves.values()))
        deltas = dict[str, Tensor]()
        for name, gradient in zip(self.leaves, gradients, strict=True):
            deltas[name] = self._without_padding(self._by_row(gradient).float() / _SCALE)
        return deltas

    def logits(self, rows: Sequence[int], changes: Changes | None = None, owners: Tensor | None = None) -> Tensor:
        """Return the logits [reads, vocabulary] where ``rows`` predict a target token, row after row.

        ``changes`` are (left [edits, tokens, out], right [edits, tokens, in]) by weight name. Row r runs with the
        change of the edit ``owners[r]``; gradients flow back to the changes. None: the unchanged model.
        """
        hidden = self._clean
        if changes is not None and owners is not None:
            with self._changed(changes, owners):
                hidden = self._blocks.run(self._blocks.first_input)
        prompts = [self._prompts[row] for row in rows]
        shifts = [self._shifts[row] for row in rows]
        # For each logit that is read: which one of ``rows`` it is of, and its position in the padded row, [reads] each
        places, positions = read_index(prompts, shifts, hidden.device)
        row_numbers = torch.tensor(list(rows), device=hidden.device)[places]  # [reads]
        return self._model.logits(hidden[row_numbers, positions]).float()

    def targets(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the target tokens of ``rows``, row after row, and the weight of each token in the mean over rows."""
        tokens = list[int]()
        shares = list[float]()
        for row in rows:
            target = self._prompts[row].target_ids
            tokens += target
            shares += [1 / (len(target) * len(rows))] * len(target)
        device = self._model.model.get_output_embeddings().weight.device  # the device of the logits
        return torch.tensor(tokens).to(device), torch.tensor(shares).to(device)

    @contextmanager
    def _changed(self, changes: Changes, owners: Tensor) -> Iterator[None]:
        """Within the ``with`` block, each module's output y gets left^T (right x) of the row's own edit."""
        with ExitStack() as stack:
            for name, (left, right) in changes.items():
                stack.enter_context(self._modules[name].register_forward_hook(self._add(left, right, owners)))
            yield

    def _add(self, left: Tensor, right: Tensor, owners: Tensor) -> Callable[..., Tensor]:
        """Return a forward hook that adds left^T (right x) of the row's own edit to a module's output."""

        def hook(_: object, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs = self._by_row(args[0]).float()
            row_left = left.to(output.device)
            row_right = right.to(output.device)
            if len(left) > 1:  # else all rows run with the same change
                edits = owners.to(output.device)
                row_left = row_left[edits]
                row_right = row_right[edits]
            return output + low_rank(inputs, row_left, row_right).to(output).reshape(output.shape)

        return hook

    def _without_padding(self, state: Tensor) -> Tensor:
        """Return ``state`` [rows, length, size] with 0 at padding, where a model may compute NaN."""
        return state.masked_fill(self._padding.to(state.device), 0)

    def _by_row(self, state: Tensor) -> Tensor:
        """Return ``state`` as [rows, length, size]; some model families flatten the input of their MLP."""
        return state.reshape(*self._batch.ids.shape, -1)


def _prompt_end(prompt: Prompt) -> int | None:
    """Return the position of a prompt's last token, for patches that act from there on.

    None where the target starts at the second token: then the whole text is the target, and there is no prompt.
    """
    if prompt.target_start <= 1:
        return None
    return prompt.target_start - 1


def read_tokens(prompt: Prompt) -> tuple[int, ...]:
    """Return the tokens of a row that a model reads: the last one predicts nothing."""
    return tuple(prompt.ids[:-1])


def low_rank(inputs: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return inputs right^T left: [rows, length, in], [rows, tokens, out|in] -> [rows, length, out]."""
    return inputs @ right.transpose(1, 2) @ left


def as_factors(changes: Changes) -> dict[str, Factors]:
    """Return the changes of the only edit, or of all edits as one: left [1, tokens, out], right [1, tokens, in]."""
    factors = dict[str, Factors]()
    for name, (left, right) in changes.items():
        factors[name] = Factors(left=left[0].detach().T.contiguous(), right=right[0].detach().T.contiguous())
    return factors


def mlp_weights(model: LanguageModel, blocks: int) -> tuple[str, ...]:
    """Return the state-dict names of the MLPs' matrices in the last ``blocks`` blocks.

    They are the linear modules of the MLP: up, down, and gate if there is one.
    """
    depth = len(model.blocks)
    if not 1 <= blocks <= depth:
        raise ConfigError(f"blocks = {blocks}: {model.name} has {depth} blocks; give a number from 1 to {depth}")
    names = list[str]()
    for layer in range(depth - blocks, depth):
        names += block_weights(model, layer)
    return tuple(names)


def block_weights(model: LanguageModel, layer: int) -> tuple[str, ...]:
    """Return the state-dict names of the matrices of the MLP of block ``layer``: gate if there is one, up, down."""
    parent, _, _ = model.weight_name(layer).removesuffix(_WEIGHT).rpartition(".")  # such as model.layers.6.mlp
    children = model.model.get_submodule(parent).named_children()
    return tuple(f"{parent}.{name}{_WEIGHT}" for name, child in children if isinstance(child, nn.Linear | Conv1D))


def edited_modules(model: LanguageModel, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules whose weights have these names."""
    modules = dict[str, nn.Module]()
    for name in names:
        try:
            module = model.model.get_submodule(name.removesuffix(_WEIGHT))
        except AttributeError:
            module = None
        inside = name.startswith(f"{model.spec.blocks}.") and name.endswith(_WEIGHT)
        if not inside or not isinstance(module, nn.Linear | Conv1D):
            raise ConfigError(
                f"{name!r} is not the weight of a linear module in a block of {model.name}; give names such as "
                f"{model.weight_name(len(model.blocks) - 1)!r}"
            )
        modules[name] = module
    return modules


def weight_shapes(model: LanguageModel, names: Sequence[str]) -> dict[str, Shape]:
    """Return the shape (out, in) of each weight."""
    shapes = dict[str, Shape]()
    for name, module in edited_modules(model, names).items():
        rows, columns = weight_matrix(module).shape
        shapes[name] = rows, columns
    return shapes


def first_block(model: LanguageModel, names: Sequence[str]) -> int:
    """Return the lowest block (0-based) with one of the weights; an edit does not affect the blocks below it."""
    layers = list[int]()
    for name in names:
        number, _, _ = name.removeprefix(f"{model.spec.blocks}.").partition(".")  # such as 6 of 6.mlp.down_proj.weight
        layers.append(int(number))
    return min(layers)
