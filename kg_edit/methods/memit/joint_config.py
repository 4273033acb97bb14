"""The settings of the methods that write many facts at once, and the layers that they write.

- `JointConfig`: the descent, the contexts, and the chunks of a text.
- `SpreadConfig`: the same, for methods that spread the change over several layers. `default_layers` and
  `choose_one_layer` say which.
- `JOINT_PUBLISHED`, `JOINT_FAST`: what the presets ``paper`` and ``fast`` of these methods have in common.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, PositiveInt

from kg_edit.errors import UnsupportedModelError
from kg_edit.locate_then_edit.descent import OPTIMISER_DESCRIPTION, Optimiser
from kg_edit.methods.config import Layers, MethodConfig, Workload, default_layer
from kg_edit.methods.value_method import ValueConfig
from kg_edit.models.sampling import STARTS

JOINT_PUBLISHED: dict[str, Any] = {"further_steps": 0, "hold": 0.0, "remember": 0.0}
JOINT_FAST: dict[str, Any] = {"descent_dtype": "bfloat16", "steps": 12, "learning_rate": 1.0}


class JointConfig(ValueConfig):
    """Settings of methods that write the values of a batch of facts at once."""

    optimiser: Optimiser = Field("adam", description=OPTIMISER_DESCRIPTION)
    weight_decay: float = Field(0.5, ge=0, description="weight of |z - h| / |h|^2 in the loss")
    clamp_norm_factor: float = Field(0.75, gt=0, description="maximum of |z - h|, as a multiple of |h|")
    context_starts: tuple[str, ...] = Field(STARTS, description="first words of the contexts; one context for each")
    context_tokens: PositiveInt = Field(10, description="length of a context, in tokens")
    chunk_tokens: PositiveInt = Field(40, description="length of the chunks of a target_text, in tokens")

    def workload(self, *, edits: int) -> Workload:
        """Return the cost of one descent on the fact's prompt in every context, and one covariance C for each layer.

        It is the same for any number of ``edits`` in a call.
        """
        return Workload(
            rows=1 + len(self.context_starts),
            context_tokens=len(self.context_starts) * self.context_tokens,
            covariance=self.covariance,
            keys=self.remember > 0,
        )


class SpreadConfig(JointConfig):
    """Settings of joint methods that spread the change over several layers."""

    layers: Layers | None = Field(
        None,
        min_length=1,
        description="edited blocks, 0-based; default five around 0.2 of the depth, fewer in a small model; one (Gemma, "
        "Granite, OLMo) where a block normalises after its MLP or scales it",
    )

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers of the settings, or by default up to five around 0.2 of the depth."""
        return self.layers or default_layers(blocks)


def default_layers(blocks: int) -> tuple[int, ...]:
    """Return the layer at 0.2 of the depth and up to two on each side: 4 to 8 of 30 blocks, 1 to 3 of 12."""
    centre = default_layer(blocks)
    around = min(2, round(blocks / 15))
    return tuple(range(max(0, centre - around), min(blocks, centre + around + 1)))


def choose_one_layer(config: MethodConfig, blocks: int, *, name: str, family: str) -> tuple[int, ...]:
    """Return the one layer to write in a model whose changes of several blocks do not add up, as a tuple of one.

    One layer that the settings give is taken, and several are refused. If they give none, a `SpreadConfig` would spread
    the change, so the layer at 0.2 of the depth is taken. EMMET's settings have one layer anyway.

    Args:
        config: the settings.
        blocks: the number of blocks.
        name: the model's name, for the message.
        family: the model's family, for the message.
    """
    default = default_layer(blocks)
    if isinstance(config, SpreadConfig) and config.layers is None:
        return (default,)
    layers = config.written_layers(blocks)
    if len(layers) > 1:
        raise UnsupportedModelError(
            f"{name} ({family}) normalises after its MLP or scales it, so changes in several layers do not add up; "
            f"give one layer, as in --set layers=[{default}]"
        )
    return layers
