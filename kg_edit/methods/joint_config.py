"""Settings of methods that write many values at once."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from kg_edit.covariance.store import CovarianceConfig
from kg_edit.forward.descent_model import DESCENT_DTYPE, DescentDtype
from kg_edit.methods.base import MethodConfig
from kg_edit.methods.common_settings import Layers, default_layer
from kg_edit.models.sampling import STARTS

_MOST_BESIDE = 2


class JointConfig(MethodConfig):
    """How values are found, and from what C is measured."""

    steps: PositiveInt = Field(20, description="evaluations of the objective at most")
    learning_rate: float = Field(0.5, gt=0, description="of Adam")
    kl_weight: float = Field(0.0625, ge=0, description="weight of L_a in Eq. 7")
    weight_decay: float = Field(0.5, ge=0, description="weight of |z - h| / |h|^2 in the loss")
    stop_below: float = Field(0.05, description="a loss that is small enough")
    clamp_norm_factor: float = Field(0.75, gt=0, description="|z - h| is at most so many times |h|")
    context_starts: tuple[str, ...] = Field(STARTS, description="words that the contexts begin with, one each")
    context_tokens: PositiveInt = Field(10, description="tokens of a context")
    seed: int = Field(0, description="of the contexts, and of all else that is drawn")
    covariance: CovarianceConfig = Field(CovarianceConfig(), description="what C is measured from")
    descent_dtype: DescentDtype = Field("model", description=DESCENT_DTYPE)


class SpreadConfig(JointConfig):
    """Of those that spread the change over several layers."""

    layers: Layers | None = Field(
        None,
        min_length=1,
        description="edited layers, 0-based; default five around 0.2 of the depth, fewer in a small model",
    )


def default_layers(blocks: int) -> tuple[int, ...]:
    """The layer at 0.2 of the depth with up to two on each side: 4 to 8 of 30, 1 to 3 of 12."""
    centre, beside = default_layer(blocks), min(_MOST_BESIDE, round(blocks / 15))
    return tuple(range(max(0, centre - beside), min(blocks, centre + beside + 1)))
