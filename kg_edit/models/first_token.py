"""Find subjects that end in the first token of a text, which many models do not read: that token is an attention sink.

Whatever the first token is, it gets the same hidden state, many times as long as all others (Xiao et al. 2024,
arXiv 2309.17453; Sun et al. 2024, arXiv 2402.17762). The model can't distinguish a subject that ends there from
another one: a value written under its key is written for the first token of every text. After a line break the subject
is read: SmolLM2 continues "France's capital is the city of" with Rome, but with Paris after a line break.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.models.sampling import BARE

log = logging.getLogger(__name__)

LEAD = "\n"
_TIMES = 3.0  # a sink's state is 7 to 100 times as long as the others' in SmolLM2, another token's 1.5 times at most


def begins_unread(model: LanguageModel, prompt: Prompt) -> bool:
    """Whether the prompt's subject ends in its first token, and that token is an attention sink in this model."""
    special = set(model.tokenizer.all_special_ids)
    first = next((place for place, token in enumerate(prompt.ids) if token not in special), None)
    return prompt.subject_last is not None and prompt.subject_last == first and is_sink(model, prompt.ids, first)


@torch.no_grad()
def is_sink(model: LanguageModel, ids: Sequence[int], place: int) -> bool:
    """Whether, after some block, the state at ``place`` is much longer (`_TIMES`) than the median later state."""
    if len(ids) <= place + 1:
        ids = [*ids, *encode(model.tokenizer, " and").ids]
    found: list[Tensor] = []
    with ExitStack() as reading:  # transformers' own output_hidden_states leaves its hooks behind
        for block in model.blocks:
            reading.enter_context(watched(block, lambda _, state: found.append(state[0].float().norm(dim=-1).cpu())))
        reading.enter_context(_evaluating(model))
        model.model(torch.tensor([list(ids)], device=model.device))
    sizes = torch.stack(found)  # [blocks, tokens]
    behind = sizes[:, place + 1 :].median(dim=-1).values
    return bool((sizes[:, place] > _TIMES * behind).any())


@contextmanager
def _evaluating(model: LanguageModel) -> Iterator[None]:
    """Within the ``with`` block the model has no dropout, which would also use the random state of the caller."""
    modes = {module: module.training for module in model.model.modules()}
    try:
        model.model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def readable(model: LanguageModel, prompt: Prompt, contexts: Sequence[str]) -> tuple[str, ...]:
    """Return ``contexts`` with a line break before the bare context, if the model would not read the subject there."""
    if not begins_unread(model, prompt):
        return tuple(contexts)
    return tuple(LEAD + BARE if context == BARE else context for context in contexts)


def lead_before(model: LanguageModel, text: str, *, subject: str) -> str:
    """A line break if ``text`` begins with a subject that the model would not read; else ""."""
    if not text.startswith(subject):
        return ""
    template = text.replace(subject, "{}", 1)
    return LEAD if begins_unread(model, encode(model.tokenizer, template, subject=subject)) else ""


def warn_of_unread(model: LanguageModel, prompt: Prompt, *, edit: str) -> None:
    """Warn if the model does not read the subject of the edit with this id."""
    if begins_unread(model, prompt):
        log_unread(prompt.text, edit=edit)


def log_unread(text: str, *, edit: str) -> None:
    """Log the warning about the prompt ``text`` of the edit with this id."""
    log.warning(
        "edit %r: the subject is the first token of %r, and this model does not read the first token; the edit is made "
        "after a line break, and has an effect only after a line break or other text",
        edit,
        text,
    )
