"""R-ROME (Gupta et al., EMNLP Findings 2024, arXiv 2403.07175): ROME with the mean key throughout."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from kg_edit.closed_form.rank_one import KeyVariant
from kg_edit.forward.descent_model import FAST
from kg_edit.methods.rank_one.base import RankOneConfig
from kg_edit.methods.rank_one.rome import Rome, RomeConfig


class RRomeConfig(RomeConfig):
    """ROME's settings with the other key; with it an edit disturbs less and says less, so it may push as published."""

    key: KeyVariant = Field("r-rome", description="key in the residual: bare prompt's (rome), or the mean")
    clamp_norm_factor: float = Field(4.0, gt=0, description="|m* - m| is at most so many times |m|")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "fast": FAST, "paper": RankOneConfig.published}


class RRome(Rome):
    """The update answers the mean key, so that a sequence of edits does not break the model."""

    name = "r-rome"
    paper = "Gupta et al., EMNLP Findings 2024, arXiv 2403.07175"
    about = "ROME with one key throughout: stable in a sequence of edits"
    config_class = RRomeConfig
