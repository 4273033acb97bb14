"""A model with a patch, in memory, for EleutherAI's lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from kg_edit.errors import ConfigError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch, as_patch


@contextmanager
def lm_eval_model(
    model: LanguageModel, patch: Patch | str | Path | None = None, *, batch_size: int = 8
) -> Iterator[Any]:
    """Yield an ``lm_eval.models.huggingface.HFLM`` of a model with a patch applied, within a ``with`` block.

    Pass it to the harness: ``lm_eval.simple_evaluate(model=lm, tasks=["hellaswag"])``. Nothing is copied or saved;
    after the block the model is as before, bit for bit. A patch of the prompt puts its facts before each context. A
    whole text (a task of ``loglikelihood_rolling``) has no context, so it is not changed. Needs the extra
    ``kg-edit[lm-eval]``.

    Args:
        model: the unedited model.
        patch: the patch, or its path; None: the unedited model.
        batch_size: rows of a forward pass.
    """
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ConfigError("this needs lm-eval, which is not installed: pip install 'kg-edit[lm-eval]'") from error
    if patch:
        application = as_patch(patch).applied(model)
    else:
        application = nullcontext(model)
    with application as edited:
        transform = edited.prompt_transform

        class Transformed(HFLM):  # type: ignore[misc,unused-ignore]
            """A model whose contexts are transformed; the continuations stay as they are."""

            def _encode_pair(self, context: str, continuation: str) -> Any:
                if transform:
                    context = transform(context)
                return super()._encode_pair(context, continuation)

            def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
                """Generate texts after the transformed contexts."""
                if transform:
                    requests = [_transform_context(request, transform) for request in requests]
                return super().generate_until(requests, disable_tqdm=disable_tqdm)

        chosen = Transformed if transform else HFLM
        yield chosen(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch_size)


def _transform_context(request: Any, transform: Callable[[str], str]) -> Any:
    """Return a request of the harness, whose first argument is its context, with the context transformed."""
    context, *others = request.args
    return replace(request, arguments=(transform(context), *others))
