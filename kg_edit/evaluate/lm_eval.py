"""The edited model in memory as a model of EleutherAI's lm-evaluation-harness, so that its tasks say what it still can.

Needs the extra ``kg-edit[lm-eval]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from kg_edit.errors import ConfigError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch


@contextmanager
def lm_eval_model(model: LanguageModel, patch: Patch | None = None, *, batch_size: int = 8) -> Iterator[Any]:
    """An ``lm_eval.models.huggingface.HFLM`` of ``model`` with ``patch`` in it, for the length of a ``with`` block.

    Hand it to the harness: ``lm_eval.simple_evaluate(model=found, tasks=["hellaswag"])``. Nothing is copied or saved;
    after the block the model is bit for bit as before.

    Raises:
        ConfigError: lm-eval is not installed, or the patch is one of the prompt.
        PatchError: another patch is applied to this model.
        PatchMismatchError: the patch is for another model.
    """
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ConfigError("this needs lm-eval, which is not installed: pip install 'kg-edit[lm-eval]'") from error
    with patch.applied(model) if patch else nullcontext(model) as edited:
        if edited.prompt_transform:
            raise ConfigError("the harness asks the model itself, which a patch of the prompt does not change")
        yield HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch_size)
