"""The runs of causal tracing for one fact (Meng et al. 2022, section 2.1): clean, corrupted, and with states restored.

- `CleanRun`: the unchanged model; its states at every site and its next-token probabilities.
- `CorruptedRun`: Gaussian noise on the input embeddings of the subject's tokens, for several samples of the noise, and
  P(answer) when clean states are restored at chosen layers and tokens.
- A site is the output of a block, of its MLP or of its attention (`find_site`). Neighbouring layers are restored
  together (`default_window`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kg_edit.engine.replay import RecordedBlocks, block_output
from kg_edit.errors import PromptError
from kg_edit.models.hooks import hidden_state
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad

Kind = Literal["hidden", "mlp", "attention"]
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attention")
# GPT-2 XL's, in Meng et al. 2022
_PAPER_WINDOW = 10
_PAPER_LAYERS = 48
FACTOR = 3.0  # standard deviations, the paper's choice
_TOKENS = 1024  # in a forward pass


class CleanRun:
    """The unedited, undisturbed model on a prompt without target.

    ``states`` has each layer's output at the site, [tokens, width]; ``probabilities`` [vocabulary] are those of the
    next token.
    """

    @torch.no_grad()
    def __init__(self, model: LanguageModel, prompt: Prompt, *, kind: Kind) -> None:
        self.model = model
        self.prompt = prompt
        self.sites = [find_site(model, kind, layer) for layer in range(len(model.blocks))]
        states: dict[int, Tensor] = {}

        def record(layer: int, state: Tensor) -> None:
            states[layer] = state.reshape(len(prompt.ids), -1).clone()  # a copy: Falcon adds to it in place

        with watch_outputs(self.sites, record):
            hidden = block_output(model, left_pad([prompt.ids], device=model.device), len(model.blocks) - 1)
        self.states = [states[layer] for layer in range(len(self.sites))]
        self.probabilities = model.logits(hidden[0, -1]).float().softmax(-1).cpu()


class CorruptedRun:
    """The prompt of a `CleanRun` with noise on the embeddings of the subject's tokens.

    The rows of a batch have the same length, so nothing is padded. The states below the lowest restored layer are those
    of the corrupted run, computed once; only the blocks from that layer on are run again (`RecordedBlocks`).

    Args:
        clean: the clean run.
        noise: [samples, subject tokens, width].
        answer: the token whose probability is read.
        tokens: about the largest number of tokens in one forward pass.

    Attributes:
        probability: P(answer) after the corrupted prompt, [samples].
    """

    def __init__(self, clean: CleanRun, *, noise: Tensor, answer: int, tokens: int = _TOKENS) -> None:
        self._clean = clean
        self._noise = noise
        self._answer = answer
        self._samples = len(noise)
        self._entries = max(1, tokens // (self._samples * len(clean.prompt.ids)))  # entries in one forward pass
        # By the number of entries in a batch: the masks and positions that a record has fit that number of rows only.
        self._records = dict[int, RecordedBlocks]()
        self._records[1], self.probability = self._record(1)

    @torch.no_grad()
    def restore(self, layers: range, positions: Sequence[Sequence[int]]) -> Tensor:
        """Return P(answer), [len(positions), samples], with clean states restored.

        Each entry of ``positions`` is a run of its own, with the same noise: the clean outputs of ``layers`` are put
        back at its tokens. So restore(range(3, 6), [[7], [7, 8], []]) restores blocks 3 to 5 at token 7, then at the
        tokens 7 and 8, then nothing.
        """
        parts = list[Tensor]()
        for start in range(0, len(positions), self._entries):
            parts.append(self._restore_batch(layers, positions[start : start + self._entries]))
        if not parts:
            return self.probability.new_zeros(0, self._samples)
        return torch.cat(parts)

    def _restore_batch(self, layers: range, batch: Sequence[Sequence[int]]) -> Tensor:
        """Return `restore` of a part of the entries, which one forward pass takes: [len(batch), samples].

        Each entry has one row for each sample, so that entry 1 with three samples has the rows 3, 4 and 5.
        """
        clean = self._clean
        rows = len(batch) * self._samples
        # The row and the token of each restored state: [2, restored states].
        pairs = []
        for entry, tokens in enumerate(batch):
            for row in range(entry * self._samples, (entry + 1) * self._samples):
                pairs += [(row, token) for token in tokens]
        at = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T

        def put_back(index: int, state: Tensor) -> Tensor:
            """Put the clean states of block layers[index] into the output of its site, where they are restored."""
            rows_at, tokens_at = at.to(state.device)
            clean_state = clean.states[layers[index]].to(state)  # [tokens, width]
            changed = state.reshape(rows, len(clean.prompt.ids), -1).clone()  # [rows, tokens, width]
            changed[rows_at, tokens_at] = clean_state[tokens_at]  # [restored states, width]
            return changed.reshape(state.shape)

        if len(batch) not in self._records:
            self._records[len(batch)], _ = self._record(len(batch))
        # What enters the lowest restored block is the same for all entries: the corrupted run's state there.
        first = 0
        if layers:
            first = layers[0]
        inputs = self._records[1].inputs[first]  # [samples, tokens, width]; only this record has all inputs
        hidden = inputs.repeat(len(batch), 1, 1)  # [rows, tokens, width]
        with watch_outputs([clean.sites[layer] for layer in layers], put_back):
            hidden = self._records[len(batch)].run(hidden, first=first)
        return self._read(hidden).reshape(len(batch), self._samples)

    @torch.no_grad()
    def _record(self, entries: int) -> tuple[RecordedBlocks, Tensor]:
        """Record the corrupted run for a batch of ``entries``, and return P(answer) of each of its rows.

        The record of one entry also has the input of each block, because any block may be the lowest restored one. In a
        larger batch the inputs of each entry would be the same.
        """
        model = self._clean.model
        subject = subject_tokens(self._clean.prompt)

        def corrupt(_: int, embedded: Tensor) -> Tensor:
            """Add the noise to the embeddings [rows, tokens, width] of the subject's tokens."""
            changed = embedded.clone()
            noise = self._noise.repeat(entries, 1, 1)  # [rows, subject tokens, width]
            changed[:, subject.start : subject.stop] += noise.to(embedded)
            return changed

        batch = left_pad([self._clean.prompt.ids] * (entries * self._samples), device=model.device)
        with watch_outputs([model.model.get_input_embeddings()], corrupt):
            recorded, hidden = RecordedBlocks.record(model, batch, range(len(model.blocks)), all_inputs=entries == 1)
        return recorded, self._read(hidden)

    def _read(self, hidden: Tensor) -> Tensor:
        """Return P(answer) after each row's last token, [rows], from the last block's output [rows, tokens, width]."""
        probabilities = self._clean.model.logits(hidden[:, -1]).float().softmax(-1)  # [rows, vocabulary]
        return probabilities[:, self._answer].cpu()


def subject_tokens(prompt: Prompt) -> range:
    """Return the positions of the subject's tokens."""
    if prompt.subject_first is None:
        raise PromptError(f"the prompt {prompt.text!r} was encoded without a subject; give subject=...")
    return range(prompt.subject_first, prompt.edited_at + 1)


@torch.no_grad()
def noise_level(model: LanguageModel, prompts: Sequence[Prompt]) -> float:
    """Return `FACTOR` times the standard deviation over all elements of the embeddings of all subjects' tokens.

    The embeddings are the output of the embedding module, before positions are added.
    """
    ids = list[int]()
    for prompt in prompts:
        subject = subject_tokens(prompt)
        ids += prompt.ids[subject.start : subject.stop]
    embedded: Tensor = model.model.get_input_embeddings()(torch.tensor(ids, device=model.device))
    return FACTOR * float(embedded.float().std())


def draw_noise(model: LanguageModel, prompt: Prompt, *, level: float, samples: int, seed: int) -> Tensor:
    """Draw noise for the subject's embeddings.

    The prompt's text is a part of the seed, so that a fact's noise does not depend on the other traced facts.

    Args:
        model: the model, for the width of its embeddings.
        prompt: a prompt with its subject.
        level: the standard deviation.
        samples: the number of samples.
        seed: the seed.

    Returns:
        [samples, subject tokens, width], float32, on the CPU.
    """
    digest = hashlib.sha256(f"{seed} {prompt.text}".encode()).digest()
    number = int.from_bytes(digest[:8]) >> 1  # 63 bits: torch takes signed seeds
    generator = torch.Generator().manual_seed(number)
    table = model.model.get_input_embeddings().weight
    assert isinstance(table, Tensor)  # noqa: S101 - true of every causal language model
    return level * torch.randn(samples, len(subject_tokens(prompt)), table.shape[-1], generator=generator)


def find_site(model: LanguageModel, kind: Kind, layer: int) -> nn.Module:
    """Return the module whose output is restored.

    For an MLP it is the down-projection. What a block does to its output afterwards (dropout, a norm) treats each token
    alone, so restoring the one restores the other.
    """
    if kind == "hidden":
        return model.block(layer)
    if kind == "mlp":
        return model.down_projection(layer)
    return model.attention(layer)


def default_window(model: LanguageModel, kind: Kind) -> int:
    """Return the number of layers to restore together: 1 for hidden states, else 10/48 of the depth (the paper's).

    A single MLP or attention hardly changes the answer; a hidden state contains the effect of all earlier layers.
    """
    if kind == "hidden":
        return 1
    return max(1, round(_PAPER_WINDOW * len(model.blocks) / _PAPER_LAYERS))


def window_around(layer: int, *, size: int, layers: int) -> range:
    """Return the ``size`` layers around ``layer`` (one more below it if the size is even), cut off at both ends."""
    return range(max(0, layer - size // 2), min(layers, layer + (size + 1) // 2))


@contextmanager
def watch_outputs(modules: Sequence[nn.Module], see: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``see(index, output)`` whenever modules[index] has run; its result, unless None, replaces the output."""

    def hook(index: int, _: nn.Module, __: Any, output: Any) -> Any:
        changed = see(index, hidden_state(output))
        if changed is None:
            return None
        if isinstance(output, tuple):
            return (changed, *output[1:])
        return changed

    with ExitStack() as stack:
        for index, module in enumerate(modules):
            stack.callback(module.register_forward_hook(partial(hook, index)).remove)
        yield
