"""The runs of causal tracing for one fact (Meng et al. 2022, section 2.1): clean, corrupted, and with states restored.

- `CleanRun`: the unchanged model; its states at every site and its next-token probabilities.
- `CorruptedRun`: Gaussian noise on the input embeddings of the subject's tokens, for several samples of the noise, and
  P(answer) when clean states are restored at chosen layers and tokens.
- A site is the output of a block, of its MLP or of its attention (`site`); neighbouring layers are restored together
  (`default_window`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kg_edit.errors import PromptError, UnsupportedModelError
from kg_edit.models.hooks import hidden_state
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.models.replay import RecordedBlocks, block_output

Kind = Literal["hidden", "mlp", "attention"]
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attention")
_PAPER_WINDOW, _PAPER_LAYERS = 10, 48  # GPT-2 XL's, in Meng et al. 2022
FACTOR = 3.0  # standard deviations, the paper's choice
_TOKENS = 1024  # in a forward pass


class CleanRun:
    """The unchanged model on a prompt without target.

    ``states`` has each layer's output at the site, [tokens, width]; ``probabilities`` [vocabulary] are those of the
    next token.
    """

    @torch.no_grad()
    def __init__(self, model: LanguageModel, prompt: Prompt, *, kind: Kind) -> None:
        self.model, self.prompt = model, prompt
        self.sites = [site(model, kind, layer) for layer in range(len(model.blocks))]
        found: dict[int, Tensor] = {}

        def keep(layer: int, state: Tensor) -> None:
            found[layer] = state.reshape(len(prompt.ids), -1).clone()  # a copy: Falcon adds to it in place

        with outputs(self.sites, keep):
            hidden = block_output(model, left_pad([prompt.ids], device=model.device), len(model.blocks) - 1)
        self.states = [found[layer] for layer in range(len(self.sites))]
        self.probabilities = model.logits(hidden[0, -1]).float().softmax(-1).cpu()


class CorruptedRun:
    """The prompt of a `CleanRun` with noise [samples, subject tokens, width] on the subject's embeddings.

    ``probability`` [samples] is that of the token ``answer`` after the prompt. All rows of a batch have the same
    length, so nothing is padded. The states below the lowest restored layer are those of the corrupted run, computed
    once; the blocks from that layer on are run again (`RecordedBlocks`), on about ``tokens`` tokens at most in one
    pass.
    """

    def __init__(self, clean: CleanRun, *, noise: Tensor, answer: int, tokens: int = _TOKENS) -> None:
        self._clean, self._noise, self._answer = clean, noise, answer
        self._samples = len(noise)
        self._entries = max(1, tokens // (self._samples * len(clean.prompt.ids)))
        one_entry, self.probability = self._run(1)
        self._recorded = {1: one_entry}

    @torch.no_grad()
    def restored(self, layers: range, places: Sequence[Sequence[int]]) -> Tensor:
        """The answer's probability, [len(places), samples], with clean outputs restored.

        For each entry of ``places``, the clean outputs of ``layers`` are restored at these tokens, with the same noise.
        """
        parts = [
            self._restored(layers, places[start : start + self._entries])
            for start in range(0, len(places), self._entries)
        ]
        return torch.cat(parts) if parts else self.probability.new_zeros(0, self._samples)

    def _restored(self, layers: range, places: Sequence[Sequence[int]]) -> Tensor:
        sites = [self._clean.sites[layer] for layer in layers]
        at = self._index(places)

        def put_back(place: int, state: Tensor) -> Tensor:
            rows, columns = at.to(state.device)
            changed = state.reshape(len(places) * self._samples, len(self._clean.prompt.ids), -1).clone()
            changed[rows, columns] = self._clean.states[layers[place]].to(changed)[columns]
            return changed.reshape(state.shape)

        with outputs(sites, put_back):
            hidden = self._from_layer(layers[0] if layers else 0, len(places))
        return self._read(hidden).reshape(len(places), self._samples)

    def _index(self, places: Sequence[Sequence[int]]) -> Tensor:
        """[2, restored states]: the row and the column of each restored state; the rows of an entry are its samples."""
        pairs = [
            (entry * self._samples + sample, token)
            for entry, own in enumerate(places)
            for sample in range(self._samples)
            for token in own
        ]
        return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T

    def _from_layer(self, first: int, entries: int) -> Tensor:
        if entries not in self._recorded:
            self._recorded[entries], _ = self._run(entries)
        hidden = self._recorded[1].inputs[first].repeat(entries, 1, 1)
        return self._recorded[entries].run(hidden, first=first)

    @torch.no_grad()
    def _run(self, entries: int) -> tuple[RecordedBlocks, Tensor]:
        """Record the corrupted run with ``entries`` rows for each sample: each block's call, and the answer's
        probability.

        With one row for each sample, also record the input of each block, because any block may be the lowest restored
        one.
        """
        model = self._clean.model
        batch = left_pad([self._clean.prompt.ids] * (entries * self._samples), device=model.device)
        with outputs([model.model.get_input_embeddings()], self._corrupt):
            recorded, hidden = RecordedBlocks.record(model, batch, range(len(model.blocks)), all_inputs=entries == 1)
        return recorded, self._read(hidden)

    def _corrupt(self, _: int, embedded: Tensor) -> Tensor:
        places = subject_tokens(self._clean.prompt)
        changed = embedded.clone()
        noise = self._noise.repeat(len(embedded) // self._samples, 1, 1)
        changed[:, places.start : places.stop] += noise.to(embedded)
        return changed

    def _read(self, hidden: Tensor) -> Tensor:
        return self._clean.model.logits(hidden[:, -1]).float().softmax(-1)[:, self._answer].cpu()


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

    The embeddings are the output of the embedding module, before positions are added.
    """
    ids = [token for prompt in prompts for token in prompt.ids[subject_tokens(prompt).start : prompt.edited_at + 1]]
    embedded: Tensor = model.model.get_input_embeddings()(torch.tensor(ids, device=model.device))
    return factor * float(embedded.float().std())


def draw_noise(model: LanguageModel, prompt: Prompt, *, level: float, samples: int, seed: int) -> Tensor:
    """Draw noise [samples, subject tokens, width] with the standard deviation ``level``; float32, on the CPU.

    The prompt's text is a part of the seed, so that a fact's noise does not depend on the other traced facts.
    """
    said = hashlib.sha256(f"{seed} {prompt.text}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(said[:8]) >> 1)
    table = model.model.get_input_embeddings().weight
    assert isinstance(table, Tensor)  # noqa: S101 - true of every causal language model
    return level * torch.randn(samples, len(subject_tokens(prompt)), table.shape[-1], generator=generator)


def site(model: LanguageModel, kind: Kind, layer: int) -> nn.Module:
    """The module whose output is restored.

    For an MLP it is the down-projection. What a block does to its output afterwards (dropout, a norm) treats each token
    alone, so restoring the one restores the other.

    Raises:
        ModelError: the model has no such layer.
        UnsupportedModelError: the family's `ModelSpec` does not give the path of the attention.
    """
    if kind == "hidden":
        return model.block(layer)
    if kind == "mlp":
        return model.down_projection(layer)
    try:
        return model.block(layer).get_submodule(model.spec.attention)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"{model.name} has no attention at {model.spec.blocks}.{layer}.{model.spec.attention}; give its path in "
            "ModelSpec(attention=...), or trace hidden states or MLPs"
        ) from error


def default_window(model: LanguageModel, kind: Kind) -> int:
    """The number of layers to restore together: 1 for hidden states; else the paper's 10 of 48, scaled to the depth.

    A single MLP or attention hardly changes the answer; a hidden state contains the effect of all earlier layers.
    """
    return 1 if kind == "hidden" else max(1, round(_PAPER_WINDOW * len(model.blocks) / _PAPER_LAYERS))


def window_around(layer: int, *, size: int, layers: int) -> range:
    """The ``size`` layers around ``layer`` (one more below it if the size is even), cut off at both ends."""
    return range(max(0, layer - size // 2), min(layers, layer + (size + 1) // 2))


@contextmanager
def outputs(modules: Sequence[nn.Module], see: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``see(place, output)`` whenever one of ``modules`` has run; its result, unless None, replaces the output."""
    with ExitStack() as stack:
        for place, module in enumerate(modules):
            stack.callback(module.register_forward_hook(_hook(place, see)).remove)
        yield


def _hook(place: int, see: Callable[[int, Tensor], Tensor | None]) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        changed = see(place, hidden_state(output))
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook
