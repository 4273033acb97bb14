"""IKE (Zheng et al., EMNLP 2023, arXiv 2305.12740): the new fact in the prompt, after demonstrations of its use.

A demonstration is a fact of a training file with a prompt and its answer: the fact's own prompt (copy), a paraphrase
(update), or a prompt about a neighbour whose answer does not change (retain), by default 1 : 3 : 4 (`ratio`). The facts
most similar to the edit are used, as many as fit into the model's context. Without a training file, the other facts of
the patch are the demonstrations, each as a copy. With a single edit there are none, and the prompt only has the fact.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, field_validator

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError
from kg_edit.evaluation.datasets import readable_records
from kg_edit.evaluation.datasets.locality import locality_queries
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.config import MethodConfig
from kg_edit.patches.prompt_patch import PromptFact, PromptRule, count_reserved
from kg_edit.scoring.questions import new_fact
from kg_edit.storage.setting_fields import NAMES_A_FILE, Seed
from kg_edit.text.fact_words import fact_words
from kg_edit.text.similarity import Scorer, best, index_of
from kg_edit.writing_systems import join
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.in_context.base import PromptConfig, PromptMethod

log = logging.getLogger(__name__)

Kind = Literal["copy", "update", "retain"]
_KINDS: tuple[Kind, ...] = ("copy", "update", "retain")


class IkeConfig(PromptConfig):
    """IKE's settings.

    The preset ``paper`` has 32 demonstrations from a file, then a copy of the edit itself, and the fact before every
    prompt, as published. The published program searches with all-MiniLM-L6-v2: set ``encoder`` for this.
    """

    demonstrations: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="training file (a benchmark or edits); unset: the patch's other facts, as copies",
    )
    source: Literal["file", "patch"] | None = Field(
        None,
        description="file: the demonstrations must come from a file; patch: from the patch; unset: from a file if set",
    )
    count: NonNegativeInt = Field(
        16, description="maximum number of demonstrations before a fact; fewer if the model's context is too short"
    )
    ratio: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt] = Field(
        (1, 3, 4), description="copies : updates : retained answers among the demonstrations of a training file"
    )
    own_copy: bool = Field(False, description="the edit itself is one more demonstration, the last one, as a copy")
    seed: Seed = Field(0, description="random seed: which demonstrations copy, update or retain")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"source": "file", "count": 32, "own_copy": True, "threshold": 0.0, "most": 1},
    }

    def kinds(self, count: int) -> list[Kind]:
        """Return the kinds of ``count`` demonstrations, in the ``ratio`` or as near to it as so few can be."""
        divisor = gcd(*self.ratio)
        shares = [share // divisor for share in self.ratio]
        rounds, rest = divmod(count, sum(shares))
        kinds = rounds * _repeat_kinds(shares)

        # The rest is given out by the largest remainders: the next one is the kind that lacks most of its part. If two
        # are left in the ratio 1 : 3 : 4, the parts are .25, .75 and 1: first one to retain, then one to update.
        extras = [0] * len(shares)
        for _ in range(rest):
            lacking = [share * rest / sum(shares) - extra for share, extra in zip(shares, extras, strict=True)]
            extras[lacking.index(max(lacking))] += 1
        return kinds + _repeat_kinds(extras)

    @field_validator("ratio")
    @classmethod
    def _not_all_zero(cls, ratio: tuple[int, int, int]) -> tuple[int, int, int]:
        if not any(ratio):
            raise ValueError("0 copies, 0 updates and 0 retained answers; set one above 0, or count=0 for none")
        return ratio

    def idle(self) -> dict[str, str]:
        """Return what only drawn demonstrations use, if none is drawn: there is no training file, or ``count`` is 0."""
        if self.demonstrations and self.count:
            return {}
        why = "no demonstration is drawn from a training file"
        return {**super().idle(), "ratio": why, "seed": why}

    def check_source(self) -> None:
        """Check that a training file is set if ``source`` needs one, and not set if ``source`` is ``patch``."""
        if self.source == "file" and not self.demonstrations:
            raise ConfigError(
                "source=file, as in the preset paper, needs a training file; set demonstrations to a file "
                "(CLI: --set demonstrations=counterfact-train.json), or use source=patch"
            )
        if self.source == "patch" and self.demonstrations:
            raise ConfigError("source=patch uses no training file, but demonstrations is set; unset one of the two")


def _repeat_kinds(counts: Sequence[int]) -> list[Kind]:
    """Return each kind as often as ``counts`` says."""
    kinds = list[Kind]()
    for kind, count in zip(_KINDS, counts, strict=True):
        kinds += [kind] * count
    return kinds


class Ike(PromptMethod):
    """``New Fact: …`` and ``Prompt: …``, after demonstrations that copy a fact, reword it, or leave a neighbour alone.

    Demonstrations are selected by the similarity of their facts to the edit; the most similar one comes last. Those of
    a training file become part of the patch.
    """

    entry = method_entry("ike")
    config_class = IkeConfig
    config: IkeConfig

    puts_words = True

    def rule_in(self, language: str) -> PromptRule:
        """Return the rule of every in-context method, with the published template in a language."""
        own_examples = 0 if self.config.demonstrations else self.config.count
        words = fact_words(language)
        lead = {"before_fact": words.new_fact, "before_prompt": words.prompt, "own_examples": own_examples}
        return self.rule.model_copy(update=lead)

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and read the demonstrations."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, IkeConfig)  # noqa: S101 - config_class
        config.check_source()
        if config.demonstrations:
            read_demonstrations(config.demonstrations, config.encoder)

    def prepare(self) -> None:
        """Read the demonstrations, or log where examples come from without them."""
        self.config.check_source()
        _ = self._training_facts

    @cached_property
    def _training_facts(self) -> Demonstrations | None:
        config = self.config
        if config.demonstrations:
            return read_demonstrations(config.demonstrations, config.encoder)
        if config.count and config.source is None:
            log.info(
                "ike takes its examples from the other edits of the patch, and does without them for a single edit; "
                "--set demonstrations=FILE takes them from a file of facts"
            )
        return None

    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """Return the fact without a full stop, with its demonstrations; the first one is next to the fact."""
        text = new_fact(edit)
        examples = list[str]()
        if self.config.own_copy:
            examples.append(show(edit, edit.text, edit.target_new))
        if self._training_facts is not None:
            examples += self._training_facts.examples(edit, self.config)
        words = fact_words(edit.language)
        lead = f"{words.new_fact}{text}\n{words.prompt}"
        examples = examples[: self._count_fitting(lead, examples)]
        fact = PromptFact(id=edit.id, subject=edit.subject, prompt=edit.text, text=text, examples=tuple(examples))
        return fact, {"demonstrations": len(examples)}

    def _count_fitting(self, lead: str, examples: Sequence[str]) -> int:
        """Return how many examples fit into the model's context, with the fact and room for a prompt and its answer.

        ``lead`` is the fact with the words around it.
        """
        if not self.context:
            return len(examples)
        room = self.context - count_reserved(self.context) - self._tokens(lead)
        for count, example in enumerate(examples):
            room -= self._tokens(f"{example}\n\n")
            if room < 0:
                return count
        return len(examples)

    def _tokens(self, text: str) -> int:
        return len(self.model.tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True, eq=False, kw_only=True)
class Demonstrations:
    """The records of a training file, searched by their facts (`index_of`)."""

    records: tuple[BenchmarkRecord, ...]
    encoder: str | None = None

    @cached_property
    def _facts(self) -> list[tuple[Edit, BenchmarkRecord]]:
        facts = list[tuple[Edit, BenchmarkRecord]]()
        for record in self.records:
            facts += [(edit, record) for edit in record.edits]
        return facts

    @cached_property
    def _index(self) -> Scorer:
        return index_of([new_fact(edit) for edit, _ in self._facts], self.encoder)

    def examples(self, edit: Edit, config: IkeConfig) -> tuple[str, ...]:
        """Return ``config.count`` demonstrations for ``edit``, the most similar one first.

        Their kinds are in the ``ratio`` (`IkeConfig.kinds`), shuffled. Records about the edit's subject are left out,
        and those whose prompt is a neighbour or a locality prompt of the edit. So are other prompts of a record that
        name this subject or are one of these, because they test the edit.
        """
        subject = edit.subject.casefold()
        unchanged = {pair.prompt for pair in edit.locality}
        unchanged.update(edit.neighborhood)

        def tests_the_edit(prompt: str) -> bool:
            return subject in prompt.casefold() or prompt in unchanged

        near = self._most_similar(edit, unchanged, count=config.count)
        # The kinds are shuffled for each edit, so that the most similar facts are not all of one kind.
        draw = random.Random(f"{config.seed}/{edit.id}")  # noqa: S311 - nothing secret
        drawn = config.kinds(len(near))
        draw.shuffle(drawn)
        examples = list[str]()
        for (other, record), kind in zip(near, drawn, strict=True):
            paraphrases = [prompt for prompt in other.paraphrases if not tests_the_edit(prompt)]
            kept = [(prompt, answer) for prompt, answer in retained(other, record) if not tests_the_edit(prompt)]
            examples.append(demonstration(other, kind, draw, paraphrases=paraphrases, retained=kept))
        return tuple(examples)

    def _most_similar(
        self, edit: Edit, unchanged: Collection[str], *, count: int
    ) -> list[tuple[Edit, BenchmarkRecord]]:
        """Return the facts most similar to an edit, without those about its subject or of an ``unchanged`` prompt."""
        scores = self._index(new_fact(edit))
        allowed = list[tuple[Edit, BenchmarkRecord]]()
        allowed_scores = list[float]()
        for (other, record), score in zip(self._facts, scores, strict=True):
            if other.subject.casefold() != edit.subject.casefold() and other.text not in unchanged:
                allowed.append((other, record))
                allowed_scores.append(score)
        return [allowed[index] for index in best(allowed_scores, count)]


def read_demonstrations(path: str | Path, encoder: str | None = None) -> Demonstrations:
    """Read all records of a benchmark's file, or of a file of edits."""
    return Demonstrations(records=readable_records(path), encoder=encoder)


def retained(edit: Edit, record: BenchmarkRecord) -> list[tuple[str, str]]:
    """Return the prompts whose answers an edit must not change, as they are written, with their answers."""
    pairs = list[tuple[str, str]]()
    for query in locality_queries(edit, record):
        if query.answers:
            answer, *_ = query.answers[0]  # the first name of the first answer
            pairs.append((query.prompt, answer))
    return pairs


def demonstration(
    edit: Edit,
    kind: Kind,
    draw: random.Random,
    *,
    paraphrases: Sequence[str] = (),
    retained: Sequence[tuple[str, str]] = (),
) -> str:
    """Return one demonstration: a new fact, and a prompt with its answer.

    Args:
        edit: the fact.
        kind: copy: the fact's own prompt; update: one of ``paraphrases``; retain: one of ``retained``. The fact's own
            prompt also where there is none of the wanted kind.
        draw: chooses among several.
        paraphrases: prompts that mean the same.
        retained: prompts whose answer does not change, with this answer.
    """
    prompt = edit.text
    answer = edit.target_new
    if kind == "update" and paraphrases:
        prompt = draw.choice(paraphrases)
    if kind == "retain" and retained:
        prompt, answer = draw.choice(retained)
    return show(edit, prompt, answer)


def show(edit: Edit, prompt: str, answer: str) -> str:
    """Return a fact and a prompt with its answer in the published template, in the language of the edit."""
    words = fact_words(edit.language)
    return f"{words.new_fact}{new_fact(edit)}\n{words.prompt}{join(prompt.rstrip(), answer)}"
