"""The corruption: Gaussian noise on the input embeddings of the subject's tokens (Meng et al. 2022, section 2.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.errors import PromptError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt

FACTOR = 3.0  # standard deviations, the paper's choice


def subject_tokens(prompt: Prompt) -> range:
    """The places of the subject's tokens.

    Raises:
        PromptError: the prompt was encoded without its subject.
    """
    if prompt.subject_first is None:
        raise PromptError(f"the prompt {prompt.text!r} was encoded without a subject; give subject=...")
    return range(prompt.subject_first, prompt.edited_at + 1)


@torch.no_grad()
def noise_level(model: LanguageModel, prompts: Sequence[Prompt], *, factor: float = FACTOR) -> float:
    """``factor`` times the standard deviation over all elements of the embeddings of all subjects' tokens.

    The embeddings are what the embedding module gives, before positions are added.
    """
    ids = [token for prompt in prompts for token in prompt.ids[subject_tokens(prompt).start : prompt.edited_at + 1]]
    embedded: Tensor = model.model.get_input_embeddings()(torch.tensor(ids, device=model.device))
    return factor * float(embedded.float().std())


def draw_noise(model: LanguageModel, prompt: Prompt, *, level: float, samples: int, seed: int) -> Tensor:
    """[samples, subject tokens, width] with the standard deviation ``level``; float32, on the CPU.

    The prompt's text is a part of the seed, so that a fact's noise does not depend on what else is traced.
    """
    said = hashlib.sha256(f"{seed} {prompt.text}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(said[:8]) >> 1)
    table = model.model.get_input_embeddings().weight
    assert isinstance(table, Tensor)  # noqa: S101 - true of every causal language model
    return level * torch.randn(samples, len(subject_tokens(prompt)), table.shape[-1], generator=generator)
