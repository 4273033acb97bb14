"""Where a clean state can be put back: a block's output, its MLP's, its attention's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from kg_edit.errors import UnsupportedModelError
from kg_edit.models.hooks import hidden_state
from kg_edit.models.language_model import LanguageModel

Kind = Literal["hidden", "mlp", "attention"]
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attention")
_PAPER_WINDOW, _PAPER_LAYERS = 10, 48  # GPT-2 XL's, in Meng et al. 2022


def site(model: LanguageModel, kind: Kind, layer: int) -> nn.Module:
    """The module whose output is put back.

    For an MLP it is the down-projection: what a block does to its output afterwards (dropout, a norm) looks at each
    token alone, so that restoring one restores the other.

    Raises:
        ModelError: the model has no such layer.
        UnsupportedModelError: the family's `ModelSpec` does not say where the attention is.
    """
    if kind == "hidden":
        return model.block(layer)
    if kind == "mlp":
        return model.down_projection(layer)
    try:
        return model.block(layer).get_submodule(model.spec.attention)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"{model.name} has no attention at {model.spec.blocks}.{layer}.{model.spec.attention}; give its path in "
            "ModelSpec(attention=...), or trace hidden states or MLPs"
        ) from error


def default_window(model: LanguageModel, kind: Kind) -> int:
    """How many layers are restored together: 1 for hidden states; else 10 of 48 as in the paper, scaled to the depth.

    One MLP or attention alone hardly moves the answer; a hidden state carries all that came before it.
    """
    return 1 if kind == "hidden" else max(1, round(_PAPER_WINDOW * len(model.blocks) / _PAPER_LAYERS))


def window_around(layer: int, *, size: int, layers: int) -> range:
    """The ``size`` layers around ``layer`` (one more below it where the size is even), cut at both ends."""
    return range(max(0, layer - size // 2), min(layers, layer + (size + 1) // 2))


@contextmanager
def outputs(modules: Sequence[nn.Module], see: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``see(place, output)`` whenever one of ``modules`` has run; what it returns takes the output's place."""
    with ExitStack() as stack:
        for place, module in enumerate(modules):
            stack.callback(module.register_forward_hook(_hook(place, see)).remove)
        yield


def _hook(place: int, see: Callable[[int, Tensor], Tensor | None]) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        changed = see(place, hidden_state(output))
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook
