"""Plain fine-tuning of one down-projection in three variants, which differ in the predicted tokens.

- ``ft``: the whole sentence is predicted, including the prompt.
- ``ft-l``: the last prompt token predicts the whole target (EasyEdit's FT-L, and ROME's baseline).
- ``ft-m``: each target token is predicted after those before it; the prompt is masked.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from kg_edit.methods.entries import method_entry
from kg_edit.methods.fine_tuning.base import FineTuning, FineTuningConfig
from kg_edit.methods.fine_tuning.rows import Aim

_AIM = "trained tokens: of the target, of the whole text, or the target after the prompt's last token"


class FtConfig(FineTuningConfig):
    """Settings of plain fine-tuning."""

    aim: Aim = Field("text", description=_AIM)


class Ft(FineTuning):
    """Plain fine-tuning on the sentence that states the fact, including the prompt."""

    entry = method_entry("ft")
    config_class = FtConfig


class FtLConfig(FineTuningConfig):
    """Settings of FT-L. The preset ``paper`` has EasyEdit's for GPT-2 XL.

    It has one more evaluation of the loss, because here no step follows the last one.
    """

    aim: Aim = Field("prompt_last", description=_AIM)

    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"layer": 0, "steps": 26}}


class FtL(FineTuning):
    """The last prompt token predicts all of the target's tokens at once, as in ROME's and EasyEdit's baseline."""

    entry = method_entry("ft-l")
    config_class = FtLConfig


class FtM(FineTuning):
    """Cross entropy on the target's tokens, each predicted from the tokens before it; the prompt is masked."""

    entry = method_entry("ft-m")
    config_class = FineTuningConfig
