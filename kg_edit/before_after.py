"""What a patch changed, prompt by prompt: the rewrite, its paraphrases, what follows, and the neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from kg_edit.edits import Edit
from kg_edit.errors import PromptError
from kg_edit.evaluate.generation import continuations
from kg_edit.evaluate.matching import mentions
from kg_edit.evaluate.questions import asked, asked_with_shots, right_answers
from kg_edit.evaluate.scoring import Pair, score
from kg_edit.language_model import LanguageModel
from kg_edit.patch import Patch
from kg_edit.prompts import encode

Kind = Literal["rewrite", "paraphrase", "follows", "neighbour"]
_TOKENS, _ROWS = 10, 32


class Probe(BaseModel):
    """A prompt to look at: what should be said after it, and what is compared with that.

    ``ask`` is what the model continues (a question in its few-shot form); ``score`` what the answer is scored after.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    prompt: str
    ask: str
    score: str
    wanted: str
    unwanted: str | None = None
    aliases: tuple[str, ...] = ()


class Reading(BaseModel):
    """What a model does with a probe: its greedy continuation, the wanted answer's nats a token, and if it is right.

    Right is: the wanted target more likely than the other one; for what follows, the answer said in the continuation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    nats: float
    right: bool


class Row(BaseModel):
    """A probe before and after the patch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edit: str
    probe: Probe
    before: Reading
    after: Reading


def probes(edit: Edit) -> tuple[Probe, ...]:
    """All that an edit's row asks to check."""
    new, old = edit.target_new, edit.target_true
    return (
        _statement("rewrite", edit.text, new, old),
        *(_statement("paraphrase", prompt, new, old) for prompt in edit.paraphrases),
        *(
            Probe(
                kind="follows",
                prompt=question.question,
                ask=asked_with_shots(question.question),
                score=asked(question.question),
                wanted=question.answer,
                aliases=right_answers(question),
            )
            for question in edit.portability
        ),
        *(_statement("neighbour", prompt, old, new) for prompt in edit.neighborhood if old),
    )


def check_probes(model: LanguageModel, edits: Sequence[Edit]) -> None:
    """Encode every probe once, so that a prompt that can't be scored is known before an edit is computed.

    Raises:
        PromptError: a prompt's end and what should follow it can't be told apart; a note names the edit.
    """
    for edit in edits:
        try:
            for pair in _pairs(probes(edit)):
                encode(model.tokenizer, pair.prompt, target=pair.candidate)
        except PromptError as error:
            error.add_note(f"in a prompt of the edit {edit.id!r}")
            raise


def before_and_after(
    model: LanguageModel, patch: Patch, edits: Sequence[Edit], *, progress: bool = False
) -> tuple[Row, ...]:
    """Every probe of every edit, on the model without and with the one patch."""
    asked_of = [(edit, probe) for edit in edits for probe in probes(edit)]
    before = read(model, [probe for _, probe in asked_of], progress="before" if progress else None)
    with patch.applied(model):
        after = read(model, [probe for _, probe in asked_of], progress="after" if progress else None)
    return tuple(
        Row(edit=edit.id, probe=probe, before=old, after=new)
        for (edit, probe), old, new in zip(asked_of, before, after, strict=True)
    )


def read(model: LanguageModel, wanted: Sequence[Probe], *, progress: str | None = None) -> tuple[Reading, ...]:
    """What the model as it stands does with each probe; ``progress`` is the title of a progress bar."""
    readings: list[Reading] = []
    shown = None if progress else True  # None: on a terminal
    with tqdm(total=len(wanted), desc=progress, unit="prompt", disable=shown, leave=False) as bar:
        for start in range(0, len(wanted), _ROWS):  # a batch of all prompts of a long file would fill the memory
            readings += _read_batch(model, wanted[start : start + _ROWS])
            bar.update(len(readings) - start)
    return tuple(readings)


def _read_batch(model: LanguageModel, wanted: Sequence[Probe]) -> Iterator[Reading]:
    texts = continuations(model, [probe.ask for probe in wanted], limits=[_TOKENS] * len(wanted))
    nats = {pair: scores.nll for pair, scores in score(model, _pairs(wanted)).items()}
    return (_reading(probe, text, nats) for probe, text in zip(wanted, texts, strict=True))


def _pairs(wanted: Sequence[Probe]) -> list[Pair]:
    return [Pair(probe.score, name) for probe in wanted for name in (probe.wanted, probe.unwanted) if name]


def _statement(kind: Kind, prompt: str, wanted: str | None, unwanted: str | None) -> Probe:
    text = prompt.rstrip()
    return Probe(kind=kind, prompt=text, ask=text, score=text, wanted=wanted or "", unwanted=unwanted)


def _reading(probe: Probe, text: str, nats: dict[Pair, float]) -> Reading:
    own = nats[Pair(probe.score, probe.wanted)]
    if probe.unwanted is not None:
        right = own < nats[Pair(probe.score, probe.unwanted)]
    else:
        right = any(mentions(text, name) for name in probe.aliases or (probe.wanted,))
    return Reading(text=text.strip(), nats=round(own, 4), right=right)
