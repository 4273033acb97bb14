"""Find subjects that end in the first token of a text, which many models do not read: that token is an attention sink.

Whatever the first token is, it gets the same hidden state, many times as long as all others (Xiao et al. 2024,
arXiv 2309.17453; Sun et al. 2024, arXiv 2402.17762). The model can't distinguish a subject that ends there from
another one: a value written under its key is written for the first token of every text. After a line break the subject
is read: SmolLM2 continues "France's capital is the city of" with Rome, but with Paris after a line break.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.models.hooks import keep_untouched, watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.models.sampling import BARE

log = logging.getLogger(__name__)

LINE_BREAK = "\n"
# A token whose state is this many times as long as those of later tokens counts as a sink. In SmolLM2 a sink's is 7 to
# 100 times as long, and another token's at most 1.5 times.
_TIMES = 3.0


def begins_unread(model: LanguageModel, prompt: Prompt) -> bool:
    """Return whether the prompt's subject ends in the text's first token, and that is an attention sink in this model.

    Special tokens before the text do not count. With BOS there, the sink is usually BOS, and the subject is read.
    """
    special = set(model.tokenizer.all_special_ids)
    positions = [position for position, token in enumerate(prompt.ids) if token not in special]
    if not positions or prompt.subject_last != positions[0]:
        return False
    return is_sink(model, prompt.ids, positions[0])


def is_sink(model: LanguageModel, ids: Sequence[int], position: int) -> bool:
    """Return whether the state at ``position`` is, after some block, `_TIMES` as long as the median of later ones."""
    if len(ids) <= position + 1:  # a sink is recognised by comparison with later tokens
        ids = [*ids, *model.tokenizer(" and", add_special_tokens=False)["input_ids"]]
    norms = list[Tensor]()

    def note(_: Tensor, state: Tensor) -> None:  # state [1, tokens, d]
        norms.append(state[0].float().norm(dim=-1))

    with ExitStack() as reading:  # not by output_hidden_states, after which transformers leaves its hooks on the model
        for block in model.blocks:
            reading.enter_context(watch(block, note))
        reading.enter_context(keep_untouched(model))  # no dropout, which would also use the caller's random state
        with torch.no_grad():
            model.model(torch.tensor([list(ids)], device=model.device))
    lengths = torch.stack([norm.cpu() for norm in norms])  # |h_l,t|, [blocks, tokens]
    later = lengths[:, position + 1 :].median(dim=-1).values  # [blocks]
    return bool((lengths[:, position] > _TIMES * later).any())


def readable_contexts(model: LanguageModel, prompt: Prompt, contexts: Sequence[str]) -> tuple[str, ...]:
    """Return ``contexts``, with a line break before the bare one if the model would not read the subject there.

    The other contexts have text before the subject already.
    """
    if not begins_unread(model, prompt):
        return tuple(contexts)
    return tuple(LINE_BREAK + BARE if context == BARE else context for context in contexts)


def line_break_before(model: LanguageModel, text: str, *, subject: str) -> str:
    """Return a line break if ``text`` begins with a subject that the model would not read; else ""."""
    if not subject or not text.startswith(subject):
        return ""
    template = text.replace(subject, "{}", 1)
    if begins_unread(model, encode(model.tokenizer, template, subject=subject)):
        return LINE_BREAK
    return ""


def readable_edit(model: LanguageModel, edit: Edit) -> Edit:
    """Return the edit with a line break before each of its prompts that begins with a subject the model would not read.

    This is the form in which `kg-edit edit` makes and asks it.
    """
    prompt = line_break_before(model, edit.text, subject=edit.subject) + edit.prompt
    paraphrases = [line_break_before(model, text, subject=edit.subject) + text for text in edit.paraphrases]
    return edit.model_copy(update={"prompt": prompt, "paraphrases": tuple(paraphrases)})


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
