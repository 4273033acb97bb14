"""A model's modules without its weights: enough to see what kind each one is, in no memory to speak of."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from kg_edit.errors import ModelError
from kg_edit.models.loading import resolve_model


def blank_model(name: str) -> nn.Module:
    """The causal language model ``name`` (named model, hub id, folder or .gguf) on the meta device.

    Raises:
        ModelError: it is not here.
    """
    path = resolve_model(name)
    try:
        config = AutoConfig.from_pretrained(path)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # of a damaged folder, transformers raises anything
        raise ModelError(
            f"can't read the configuration of {name!r}: {error}; give its name or folder: --model"
        ) from error
    return model
