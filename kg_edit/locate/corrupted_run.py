"""A fact's clean run, its corrupted run, and the corrupted run with clean states put back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.locate.noise import subject_tokens
from kg_edit.locate.sites import Kind, outputs, site
from kg_edit.models.hooks import Call, recorded
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import base_model
from kg_edit.models.prompts import Prompt, left_pad

_TOKENS = 1024  # of a forward pass


class CleanRun:
    """The model as it is on a prompt without target.

    ``states`` holds for each layer the site's output [tokens, width]; ``probabilities`` [vocabulary] follow the prompt.
    """

    @torch.no_grad()
    def __init__(self, model: LanguageModel, prompt: Prompt, *, kind: Kind) -> None:
        self.model, self.prompt = model, prompt
        self.sites = [site(model, kind, layer) for layer in range(len(model.blocks))]
        found: dict[int, Tensor] = {}

        def keep(layer: int, state: Tensor) -> None:
            found[layer] = state.reshape(len(prompt.ids), -1).clone()  # Falcon adds its attention to it in place

        with outputs(self.sites, keep):
            hidden = _hidden(model, [prompt.ids])
        self.states = [found[layer] for layer in range(len(self.sites))]
        self.probabilities = model.logits(hidden[0, -1]).float().softmax(-1).cpu()


class CorruptedRun:
    """The same with noise [samples, subject tokens, width] on the subject's embeddings, and ways back.

    ``probability`` [samples] is that of the token ``answer`` after the prompt. Rows of one batch are equally long, so
    nothing is padded. What lies below the lowest restored layer is the corrupted run's own state, computed once: the
    blocks from there on are called as the model itself calls them (masks, windows and positions are its own).
    """

    def __init__(self, clean: CleanRun, *, noise: Tensor, answer: int, tokens: int = _TOKENS) -> None:
        self._clean, self._noise, self._answer = clean, noise, answer
        self._samples = len(noise)
        self._entries = max(1, tokens // (self._samples * len(clean.prompt.ids)))
        calls, self.probability = self._run(1)
        self._inputs = [_input(call) for call in calls]
        self._calls = {1: [_without_input(call) for call in calls]}

    @torch.no_grad()
    def restored(self, layers: range, places: Sequence[Sequence[int]]) -> Tensor:
        """[len(places), samples]: the answer's probability with the clean outputs of ``layers`` put back at the tokens
        of each entry of ``places``; the same noise for each."""
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
        """[2, restored states]: row and column of each; the rows of an entry are its samples."""
        pairs = [
            (entry * self._samples + sample, token)
            for entry, own in enumerate(places)
            for sample in range(self._samples)
            for token in own
        ]
        return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T

    def _from_layer(self, first: int, entries: int) -> Tensor:
        if entries not in self._calls:
            self._calls[entries] = [_without_input(call) for call in self._run(entries)[0]]
        hidden = self._inputs[first].repeat(entries, 1, 1)
        for layer in range(first, len(self._inputs)):
            hidden = _block(self._clean.model, layer, self._calls[entries][layer], hidden)
        return hidden

    @torch.no_grad()
    def _run(self, entries: int) -> tuple[list[Call], Tensor]:
        """The corrupted run with ``entries`` rows a sample: each block's call, and the answer's probability."""
        model, calls = self._clean.model, dict[int, Call]()
        with outputs([model.model.get_input_embeddings()], self._corrupt), recorded(model.blocks, calls):
            hidden = _hidden(model, [self._clean.prompt.ids] * (entries * self._samples))
        return [calls[layer] for layer in range(len(model.blocks))], self._read(hidden)

    def _corrupt(self, _: int, embedded: Tensor) -> Tensor:
        places = subject_tokens(self._clean.prompt)
        changed = embedded.clone()
        noise = self._noise.repeat(len(embedded) // self._samples, 1, 1)
        changed[:, places.start : places.stop] += noise.to(embedded)
        return changed

    def _read(self, hidden: Tensor) -> Tensor:
        return self._clean.model.logits(hidden[:, -1]).float().softmax(-1)[:, self._answer].cpu()


def _hidden(model: LanguageModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """The last block's output [rows, tokens, d] for equally long rows."""
    batch, found = left_pad(rows, device=model.device), list[Tensor]()
    with outputs([model.blocks[-1]], lambda _, state: found.append(state)):
        base_model(model)(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False)
    return found[0]


def _input(call: Call) -> Tensor:
    args, kwargs = call
    state: Tensor = args[0] if args else kwargs["hidden_states"]
    return state


def _without_input(call: Call) -> Call:
    args, kwargs = call
    return args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}


def _block(model: LanguageModel, layer: int, call: Call, hidden: Tensor) -> Tensor:
    args, kwargs = call
    found = model.blocks[layer](hidden, *args, **kwargs)
    state: Tensor = found[0] if isinstance(found, tuple) else found
    return state
