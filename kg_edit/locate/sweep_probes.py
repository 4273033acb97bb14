"""What a sweep asks of each edit: does it hold in other words and company, and is what stands near left alone?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.evaluate.pair import Pair
from kg_edit.forward.attention import mask_decides
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode, left_pad
from kg_edit.models.sampling import BARE, sample_contexts

_CONTEXTS, _CONTEXT_TOKENS = 3, 8
_SEED = 7_919  # far from those of the contexts that a method learns with
_NEIGHBOURS, _PARAPHRASES = 4, 4  # of an edit, at most


@dataclass(frozen=True, kw_only=True)
class SweepProbes:
    """``general``: prompts that should go on with the new target; ``near``: prompts whose next token should stay."""

    edit: Edit
    general: tuple[str, ...]
    near: tuple[str, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The new target after the edit's own prompt, then after the general ones."""
        return tuple(Pair(prompt, self.edit.target_new) for prompt in (self.edit.text, *self.general))


def sweep_probes(model: LanguageModel, edits: Sequence[Edit]) -> tuple[SweepProbes, ...]:
    """The probes of each edit.

    General are its paraphrases, and its prompt after three texts that the model writes (others than those that a method
    learns with). Near are its neighborhood prompts, and its own prompt about the other edits' subjects; for an edit
    that has neither, the texts alone.
    """
    contexts = sample_contexts(model, lengths=((_CONTEXT_TOKENS, _CONTEXTS),), seed=_SEED)[1:]
    return tuple(
        SweepProbes(
            edit=edit,
            general=(
                *(prompt.rstrip() for prompt in edit.paraphrases[:_PARAPHRASES]),
                *(context.replace(BARE, edit.text) for context in contexts),
            ),
            near=tuple(_near(edit, edits)) or tuple(context.replace(BARE, "").rstrip() for context in contexts),
        )
        for edit in edits
    )


def _near(edit: Edit, edits: Sequence[Edit]) -> Iterator[str]:
    yield from (prompt.rstrip() for prompt in edit.neighborhood[:_NEIGHBOURS])
    others = dict.fromkeys(other.subject for other in edits if other.subject.casefold() != edit.subject.casefold())
    yield from (edit.prompt.replace("{}", subject) for subject in list(others)[:_NEIGHBOURS])


@torch.no_grad()
def next_token(model: LanguageModel, prompts: Sequence[str]) -> Tensor:
    """log p of the token after each prompt, [prompts, vocabulary]; float32, on the CPU."""
    rows = [encode(model.tokenizer, prompt).ids for prompt in prompts]
    together = mask_decides(model, max(map(len, rows)))
    found = [_last_logits(model, batch) for batch in ([rows] if together else [[row] for row in rows])]
    return torch.cat(found).float().log_softmax(-1).cpu()


def _last_logits(model: LanguageModel, rows: Sequence[Sequence[int]]) -> Tensor:
    batch = left_pad(rows, device=model.device)
    output = model.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1]
    return logits


def divergence(before: Tensor, after: Tensor) -> float:
    """The mean over rows of KL(before || after), in nats; both are log p [rows, vocabulary]."""
    return float((before.exp() * (before - after)).sum(-1).mean())
