"""Causal tracing of one fact: which clean state, put back into the corrupted run, brings the answer back?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from kg_edit.errors import ConfigError, ModelError
from kg_edit.locate.corrupted_run import CleanRun, CorruptedRun
from kg_edit.locate.fact import Fact
from kg_edit.locate.noise import draw_noise, subject_tokens
from kg_edit.locate.roles import roles
from kg_edit.locate.sites import Kind, default_window, window_around
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.value.optimise import untouched

Answer = Literal["predicted", "true"]
ANSWERS: tuple[Answer, ...] = ("predicted", "true")
Grid = tuple[tuple[float, ...], ...]


class TraceSettings(BaseModel):
    """What is restored, and how often it is drawn what it is restored from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "mlp"
    window: int | None = None  # layers restored together; None: `default_window`
    samples: int = 10  # of the noise
    answer: Answer = "predicted"  # the model's own next token, or the first token of the fact's answer
    seed: int = 0


class Trace(BaseModel):
    """What was found for a fact; probabilities are means over the noise's samples.

    ``restored`` is [tokens][layers], the layer being the window's middle. ``known``: the model's own next token is the
    first one of the fact's answer (None where the fact names no answer).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    prompt: str
    answer: str  # the token whose probability this is about
    known: bool | None
    kind: Kind
    window: int
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    clean: float
    corrupted: float
    restored: Grid

    @property
    def total_effect(self) -> float:
        """p[clean] - p[corrupted]."""
        return self.clean - self.corrupted

    @property
    def effects(self) -> Grid:
        """Indirect effects p[restored] - p[corrupted], [tokens][layers]."""
        return tuple(tuple(value - self.corrupted for value in row) for row in self.restored)


def trace(
    model: LanguageModel,
    fact: Fact,
    settings: TraceSettings | None = None,
    *,
    level: float,
    progress: Callable[[int], object] = lambda _: None,
) -> Trace:
    """Trace one fact with noise of the standard deviation ``level`` (see `noise_level`).

    ``progress`` is called with the number of states that were restored since its last call. The model is left as it is.

    Raises:
        ConfigError: the fact's answer is to be traced, and it names none.
        PromptError: the subject can't be found in the prompt's tokens, or the answer not told from the prompt's end.
        ModelError: the model's output is not finite.
        UnsupportedModelError: the model's `ModelSpec` does not say where its attention is.
    """
    settings = settings or TraceSettings()
    prompt = encode(model.tokenizer, fact.prompt, subject=fact.subject)
    with untouched(model):
        clean = CleanRun(model, prompt, kind=settings.kind)
        predicted, wanted = int(clean.probabilities.argmax()), _first_token(model, fact)
        answer = predicted if settings.answer == "predicted" else _named(fact, wanted)
        noise = draw_noise(model, prompt, level=level, samples=settings.samples, seed=settings.seed)
        run = CorruptedRun(clean, noise=noise, answer=answer)
        window = settings.window or default_window(model, settings.kind)
        grid = _grid(run, prompt, window=window, layers=len(model.blocks), progress=progress)
    if not all(map(math.isfinite, (float(clean.probabilities.sum()), *chain(*grid)))):
        raise ModelError(f"the model's output after {fact.text!r} is not finite, so nothing can be traced; use float32")
    decode = model.tokenizer.decode
    return Trace(
        id=fact.id,
        prompt=fact.text,
        answer=str(decode([answer])),
        known=None if wanted is None else predicted == wanted,
        kind=settings.kind,
        window=window,
        tokens=tuple(str(decode([token])) for token in prompt.ids),
        roles=roles(prompt),
        clean=float(clean.probabilities[answer]),
        corrupted=float(run.probability.mean()),
        restored=grid,
    )


def is_known(model: LanguageModel, fact: Fact) -> bool | None:
    """Whether the model's own next token is the first one of the fact's answer; None where the fact names none.

    Raises:
        PromptError: the subject can't be found in the prompt's tokens, or the answer not told from the prompt's end.
    """
    wanted = _first_token(model, fact)
    prompt = encode(model.tokenizer, fact.prompt, subject=fact.subject)
    with untouched(model):
        found = CleanRun(model, prompt, kind="hidden").probabilities
    return None if wanted is None else int(found.argmax()) == wanted


def _first_token(model: LanguageModel, fact: Fact) -> int | None:
    if fact.answer is None:
        return None
    return encode(model.tokenizer, fact.prompt, subject=fact.subject, target=fact.answer).target_ids[0]


def _named(fact: Fact, token: int | None) -> int:
    """The first token of the fact's answer, if there is one."""
    if token is None:
        raise ConfigError(
            f"the fact {fact.text!r} names no answer to trace; give its edit a target_true, or trace the model's own "
            "next token with --answer predicted"
        )
    return token


def _grid(run: CorruptedRun, prompt: Prompt, *, window: int, layers: int, progress: Callable[[int], object]) -> Grid:
    """[tokens][layers]. A token before the subject has its clean state already, so putting it back changes nothing."""
    first = subject_tokens(prompt).start
    places = [[token] for token in range(first, len(prompt.ids))]
    columns: list[Sequence[float]] = []
    for layer in range(layers):
        found: Tensor = run.restored(window_around(layer, size=window, layers=layers), places)
        columns.append([float(run.probability.mean())] * first + found.mean(1).tolist())
        progress(len(places))
    return tuple(zip(*columns, strict=True))
