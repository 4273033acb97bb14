"""Plans that are refused: of a model that is not there, or of a method that does not fit it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kg_edit.errors import ConfigError, ModelError, UnsupportedModelError
from kg_edit.methods import find_method
from kg_edit.planning.machine import Machine
from kg_edit.planning.memory import estimate
from kg_edit.planning.shape import ModelShape, shape_of
from tests.kg_edit.planning.test_estimate import CPU, small
from tests.refusals import Call, check_refused, refusals


def planned(name: str, shape: ModelShape, **settings: Any) -> Call:
    """The plan of a method's edit of a model of a shape."""
    chosen, where = find_method(name), Machine(device=CPU, host=None, accelerator=None)
    return lambda _: estimate(chosen, chosen.config_class.preset("default", settings), shape, where)


@refusals(
    {
        "folder without a model": (lambda folder: shape_of(str(folder)), ModelError, "config.json"),
        "misspelt model": (lambda _: shape_of("smollm2-135n"), ModelError, "did you mean 'smollm2-135m'"),
        # The hub may have such a name
        "misspelt model of a preset": (lambda _: shape_of("lama-3-8b"), ModelError, "did you mean 'llama-3-8b'?"),
        "layer that is not there": (
            planned("rome", small(), layer=10),
            ConfigError,
            "there is no layer 10: small has layers 0 to 9",
        ),
        **{
            f"{name} on recurrent blocks": (
                planned(name, replace(small(), recurrent=("conv",))),
                UnsupportedModelError,
                "small has recurrent blocks, and this method keeps",
            )
            for name in ("pmet", "glame-plus", "kn")
        },
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
