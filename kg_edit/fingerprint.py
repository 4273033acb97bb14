"""Telling models apart by what is in them, whatever they are called and wherever they lie."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor
from transformers import PreTrainedModel

FORMAT = "2-"  # what stands before a fingerprint; the first kind saw one column of most matrices and had nothing


def content_fingerprint(model: PreTrainedModel) -> str:
    """A hash of the family and of every parameter: name, shape, an element of each row and of each column.

    So a row or a column that is another shows, and whatever changes many of them. The elements are taken as bfloat16,
    to survive a cast.
    """
    digest = hashlib.sha256(model.config.model_type.encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(json.dumps([name, list(parameter.shape)]).encode())
        digest.update(_diagonal(parameter.detach()).to(torch.bfloat16).float().cpu().numpy().tobytes())
    return f"{FORMAT}{digest.hexdigest()[:16]}"


def _diagonal(parameter: Tensor) -> Tensor:
    """The elements (0, 0), (1, 1), … of the parameter as a matrix, going round until all rows and columns are seen."""
    matrix = parameter.reshape(-1, parameter.shape[-1]) if parameter.dim() else parameter.reshape(1, 1)
    rows, columns = matrix.shape
    steps = torch.arange(max(rows, columns) if matrix.numel() else 0, device=matrix.device)
    return matrix[steps % max(rows, 1), steps % max(columns, 1)]
