"""IKE (Zheng et al., EMNLP 2023, arXiv 2305.12740): the new fact in the prompt, after demonstrations of its use.

Demonstrations are facts of a training file, each with a prompt and its answer: the fact's own prompt (copy), a
paraphrase (update), or a prompt about a neighbour, whose answer stays (retain), as 1 : 3 : 4. Those whose facts are
most like the edit's are taken.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt

from kg_edit.datasets import guess_dataset
from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.in_context.base import PromptConfig, PromptMethod
from kg_edit.models.prompts import join
from kg_edit.patches.prompt_patch import PromptFact, TellingRule
from kg_edit.storage.run_folder import NAMES_A_FILE
from kg_edit.storage.seeds import Seed
from kg_edit.text.similarity import Index, Similarity, best, similarity

NEW_FACT, PROMPT = "New Fact: ", "Prompt: "
Kind = Literal["copy", "update", "retain"]

# Published: copy, update and retain as 1 : 3 : 4, shuffled.
_KINDS: tuple[Kind, ...] = ("copy", "update", "update", "update", "retain", "retain", "retain", "retain")


class IkeConfig(PromptConfig):
    """IKE's settings; ``paper`` has 32 demonstrations and tells the fact before every prompt, as published."""

    demonstrations: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="training file: a benchmark's or one of edits; unset: other facts of the patch, copied",
    )
    count: NonNegativeInt = Field(16, description="demonstrations before a fact")
    seed: Seed = Field(0, description="of which demonstration is a copy, an update, or one to retain")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {"count": 32, "threshold": 0.0, "most": 1},
    }


class Ike(PromptMethod):
    """``New Fact: …`` and ``Prompt: …``, after demonstrations that copy a fact, reword it, or leave a neighbour alone.

    Demonstrations are chosen by how like their facts are to the edit's, the one most like it last. Those of a training
    file become part of the patch.
    """

    name = "ike"
    paper = "Zheng et al., EMNLP 2023, arXiv 2305.12740"
    about = "the new fact in the prompt, after demonstrations of how to use one"
    config_class = IkeConfig
    config: IkeConfig

    @property
    def rule(self) -> TellingRule:
        """The rule of every in-context method, in the published template."""
        own = 0 if self.config.demonstrations else self.config.count
        lead = {"before_fact": NEW_FACT, "before_prompt": PROMPT, "own_examples": own}
        return super().rule.model_copy(update=lead)

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Also read the demonstrations.

        Raises:
            EditFileError: their file can't be read.
        """
        super().check_inputs(config, graph, edits)
        assert isinstance(config, IkeConfig)  # noqa: S101 - config_class
        if config.demonstrations:
            read_demonstrations(config.demonstrations, similarity(config.encoder))

    def prepare(self) -> None:
        """Read the demonstrations.

        Raises:
            EditFileError: their file can't be read.
        """
        _ = self._pool

    @cached_property
    def _pool(self) -> Demonstrations | None:
        return read_demonstrations(self.config.demonstrations, self.alike) if self.config.demonstrations else None

    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """The fact without a full stop, and its demonstrations."""
        count, seed = self.config.count, self.config.seed
        examples = self._pool.examples(edit, count=count, seed=seed) if self._pool else ()
        told = new_fact(edit)
        fact = PromptFact(id=edit.id, subject=edit.subject, about=edit.text, told=told, examples=examples)
        return fact, {"demonstrations": len(examples)}


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
