"""IKE's demonstrations (Zheng et al., EMNLP 2023): facts of a training file, each with a prompt and its answer."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from kg_edit.datasets.guess import guess_dataset
from kg_edit.edits.edit import Edit
from kg_edit.models.prompts import join
from kg_edit.text.similarity import Index, Similarity, best

NEW_FACT, PROMPT = "New Fact: ", "Prompt: "

Kind = Literal["copy", "update", "retain"]
# Published: copy, update and retain as 1 : 3 : 4, shuffled.
_KINDS: tuple[Kind, ...] = ("copy", "update", "update", "update", "retain", "retain", "retain", "retain")


def new_fact(edit: Edit) -> str:
    """The edited fact as the template has it, without a full stop."""
    return join(edit.text, edit.target_new)


@dataclass(frozen=True, eq=False, kw_only=True)
class Demonstrations:
    """The edits of a training file, searched by their facts."""

    edits: tuple[Edit, ...]
    alike: Similarity = field(repr=False)

    def examples(self, edit: Edit, *, count: int, seed: int) -> tuple[str, ...]:
        """``count`` demonstrations for ``edit``, the one most like its fact first.

        Its own record, and whatever else is about its subject, is left out: it may hold the very prompts that the edit
        is tested with.
        """
        subject = edit.subject.casefold()
        allowed = [n for n, other in enumerate(self.edits) if other.subject.casefold() != subject]
        scores = self._index.scores(new_fact(edit))
        near = [self.edits[allowed[n]] for n in best([scores[n] for n in allowed], count)]
        draw = random.Random(f"{seed}/{edit.id}")  # noqa: S311 - nothing secret
        kinds = [_KINDS[n % len(_KINDS)] for n in range(len(near))]
        draw.shuffle(kinds)
        return tuple(demonstration(other, kind, draw) for other, kind in zip(near, kinds, strict=True))

    @cached_property
    def _index(self) -> Index:
        return self.alike.index([new_fact(edit) for edit in self.edits])


def read_demonstrations(path: str | Path, alike: Similarity) -> Demonstrations:
    """All edits of a benchmark's file, or of a file of edits.

    Raises:
        EditFileError: it can't be read, or holds records of no benchmark that is known.
    """
    path = Path(path)
    reading = guess_dataset(path).read(path)
    return Demonstrations(edits=tuple(edit for record in reading.records for edit in record.edits), alike=alike)


def demonstration(edit: Edit, kind: Kind, draw: random.Random) -> str:
    """A new fact, and a prompt with what to say: its own (copy), a paraphrase (update), a neighbour's (retain).

    An edit without paraphrases, or without neighbours and old target, is copied.
    """
    prompt, answer = edit.text, edit.target_new
    if kind == "update" and edit.paraphrases:
        prompt = draw.choice(edit.paraphrases)
    if kind == "retain" and edit.neighborhood and edit.target_true:
        prompt, answer = draw.choice(edit.neighborhood), edit.target_true
    return f"{NEW_FACT}{new_fact(edit)}\n{PROMPT}{join(prompt.rstrip(), answer)}"
