"""MEMoE's adapter: a mixture of experts that is added to one frozen layer, routed by the names in a text.

With x [d_ff] the down-projection's input at a token, E experts W_e [d, d_ff] and a router W_g [E, d_ff + d]:

    g = top-k(softmax(W_g [x; anchor(x)]))                        the others are 0
    y = W_0 x + scale sum_e g_e W_e x

The layer's own weight W_0 does not change. The experts start at 0, the router from random numbers.

anchor(x) [d] is the mean embedding of the names up to this token, and 0 before the first name
(`kg_edit.zoo.token_means`), because a token can't know what comes after it. MEMoE finds the named entities of a
sentence with another model. Here a simple rule does: a token belongs to a name if it begins a word with a capital
letter. Only the first token of each word counts. The first word of a text has a capital letter in any case; it does not
count if the tokenizer writes no space before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from transformers import PreTrainedTokenizerBase

from kg_edit.models.hooks import read_token_ids
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.adapters.summed import AdapterSettings, SummedAdapter, linear_init
from kg_edit.zoo.token_means import TokenMeans

_SPACES = ("\u0120", "\u2581", " ")  # how byte-level and sentence-piece vocabularies write a space


class ExpertSettings(AdapterSettings):
    """The number of experts, and how tokens are routed."""

    experts: PositiveInt = Field(4, description="E: number of experts")
    top: PositiveInt = Field(1, description="k: number of experts that are used for a token")
    scale: float = Field(1.0, gt=0, description="lambda: weight of the experts' output")
    anchors: bool = Field(
        True, description="the router reads the names so far as well as the token; false: only the token"
    )
    seed: Seed = Field(0, description="random seed of the router's initial weights")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.top > self.experts:
            raise ValueError(f"top={self.top} is more than the {self.experts} experts; give a smaller top")
        return self


@dataclass(frozen=True, eq=False, kw_only=True)
class Experts(SummedAdapter):
    """The router [E, d_ff + d], and the experts stacked by rows, [E * d, d_ff]."""

    method: ClassVar[str] = "memoe"
    settings_class = ExpertSettings
    settings: ExpertSettings

    @property
    def summary(self) -> str:
        """The number of experts, and how many a token uses."""
        return f"{self.settings.experts} experts, {self.settings.top} a token"

    def initial(self) -> dict[str, Tensor]:
        """Return a random router like a linear layer, from the seed, and experts 0."""
        draw = torch.Generator().manual_seed(self.settings.seed)
        rows, columns = self.size
        router = linear_init(self.settings.experts, columns + rows, draw)
        return {"router": router, "experts": torch.zeros(self.settings.experts * rows, columns)}

    @contextmanager
    def preparing_inputs(self, model: LanguageModel, layer: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield a function from x to [x; anchor(x)], [tokens, d_ff + d]; the anchor is 0 without ``anchors``."""
        width = self.size[0]
        with Anchors(model, layer, name=self.method).attached() as anchors:

            def add_anchor(inputs: Tensor) -> Tensor:
                if not self.settings.anchors:
                    return torch.cat([inputs, inputs.new_zeros(len(inputs), width)], -1)
                anchor = anchors.of(inputs)
                # The embeddings of some models are narrower than their blocks, so they are filled up with zeros.
                fitting = pad(anchor, (0, max(0, width - anchor.shape[1])))[:, :width]
                return torch.cat([inputs, fitting], -1)

            yield add_anchor

    def compute_gates(self, parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """Return g [tokens, E]: the router's probabilities, set to 0 except the ``top`` largest."""
        # Each of x and anchor is scaled to entries of the size 1: their norms differ by orders of magnitude.
        _, d_ff = self.size
        parts = features.split([d_ff, features.shape[1] - d_ff], -1)  # x, anchor(x)
        scaled = torch.cat([normalize(part, dim=-1) * part.shape[1] ** 0.5 for part in parts], -1)
        probabilities = (scaled @ parameters["router"].T).softmax(-1)  # [tokens, E]
        largest = probabilities.topk(self.settings.top).indices  # [tokens, top]
        is_used = torch.zeros_like(probabilities).scatter(1, largest, 1.0)  # 1 for the largest, else 0
        return probabilities * is_used

    def forward(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, output: Tensor, *, training: bool = False
    ) -> Tensor:
        """Return W_0 x + scale sum_e g_e W_e x; ``inputs`` are [x; anchor(x)]."""
        d, d_ff = self.size
        outputs = inputs[:, :d_ff] @ parameters["experts"].T  # W_e x of all experts, [tokens, E * d]
        outputs = outputs.reshape(len(inputs), -1, d)  # [tokens, E, d]
        gates = self.compute_gates(parameters, inputs)[..., None]  # [tokens, E, 1]
        return output + self.settings.scale * (gates * outputs).sum(1)


class Anchors:
    """The anchors of the tokens in the last call of block ``layer``."""

    def __init__(self, model: LanguageModel, layer: int, *, name: str) -> None:
        embedding = model.model.get_input_embeddings()
        assert isinstance(embedding, nn.Module)  # noqa: S101 - true of every causal language model
        self._embedding = embedding
        self._names = find_name_tokens(model.tokenizer, len(embedding.weight))  # type: ignore[arg-type]
        self._model = model
        self._means = TokenMeans(model, layer, name=name)
        self._ids: Tensor | None = None

    @contextmanager
    def attached(self) -> Iterator[Anchors]:
        """Record the embedded token ids and the calls of the block inside the ``with`` block."""

        def record_ids(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._ids = args[0]

        try:
            with self._embedding.register_forward_pre_hook(record_ids), self._means.attached():
                yield self
        finally:
            self._ids = None

    @torch.no_grad()
    def of(self, inputs: Tensor) -> Tensor:
        """Return the anchors [tokens, d] in float32 for ``inputs`` [tokens, d_ff]; 0 if the token ids are unknown."""
        weight = self._embedding.weight
        assert isinstance(weight, Tensor)  # noqa: S101 - an embedding has one
        ids = read_token_ids(self._model)  # if the blocks run without the embedding before them
        if ids is None:
            ids = self._ids
        if ids is None or ids.numel() != len(inputs):
            return torch.zeros(len(inputs), weight.shape[1], device=inputs.device)
        ids = ids.reshape(-1).to(weight.device)
        is_name = self._names.to(ids.device)[ids][:, None]  # [tokens, 1]
        # The mean over the names is (mean of is_name * embedding) / (mean of is_name), both over all tokens so far.
        features = torch.cat([is_name * weight[ids].float(), is_name], -1)  # [tokens, d + 1]
        means = self._means.of(features.to(inputs.device))
        share_of_names = means[:, -1:].clamp(min=torch.finfo(means.dtype).eps)  # not 0 before the first name
        return means[:, :-1] / share_of_names


def find_name_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> Tensor:
    """Return a vector [size] with 1 for each token id that begins a word with a capital letter, else 0.

    A tokenizer that puts a space before every text writes its first word like any other one. With it, the words with
    which texts usually begin ("The", "Where") can't be distinguished from names, and count.
    """
    words: list[str | None] = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))  # type: ignore[assignment]

    def begins_with_capital(word: str) -> bool:
        first = word[1:2]  # after the space
        if not (first.isascii() and first.isalpha()):  # a byte-level vocabulary writes other letters as bytes
            first = str(tokenizer.convert_tokens_to_string([word])).lstrip()[:1]
        return first.isupper()

    is_name = torch.zeros(size)
    for number, word in enumerate(words):
        if word and word.startswith(_SPACES) and begins_with_capital(word):
            is_name[number] = 1.0
    return is_name
