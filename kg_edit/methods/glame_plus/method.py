"""GLAME-plus: ROME's edit, and facts that follow from it, which are written into a late block.

It goes beyond GLAME's paper. These facts follow from an edit s -r-> o*:

- the edit itself, as a question;
- for a statement o* -r'-> o' of the graph: "Q: What is the r' of the r of s? A:" o'. If there are several o', the one
  that the model finds likeliest;
- for a relation r' that such things usually have, of which no fact was taken from the graph: the unedited model's
  answer to "What is the r' of o*?", if the model gives the same answer to another form of the question.

They are written at two sites:

- The value at s learns them in its descent, if ``ripple_weight`` is not 0. L = ROME's loss + ripple_weight * the mean
  over these rows of -log p(o'), or of -sum q log p, where q is the unedited model's distribution (`teacher`). The edit
  itself is two of the rows (``own``).
- Then a late block gets them under the key of a question's last token (`answers`), and the edit's own prompt too. With
  ``answers`` null this is left out.

The methods of `GlamePlus` are in the order in which one call of `GlamePlus.make_each` runs them. `Rome` calls `request`
for each edit, then `complete_requests` and `propose` for all of them, and `write` for each. The facts of the graph are
found once for all these steps (`find_targets`). What the teacher answered goes from `complete_requests` to `write` in a
`TaughtRequest`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import networkx as nx
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, UnsupportedModelError
from kg_edit.graphs.facts import relations_without_words
from kg_edit.graphs.source import SubgraphSource, check_graph
from kg_edit.locate_then_edit.descent import Delta
from kg_edit.locate_then_edit.objective import FurtherRow, Request
from kg_edit.locate_then_edit.states import adds_mlp
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.composed_facts import (
    Answer,
    ComposedFact,
    edit_as_fact,
    implied_facts,
    likeliest_first,
    objects_of,
    rows_of,
)
from kg_edit.methods.config import ContextLengths, Workload
from kg_edit.methods.entries import method_entry
from kg_edit.methods.glame_plus.answers import AnswerOptions, KnownQuestions, choose_others, write_answers
from kg_edit.methods.glame_plus.questions import RippleConfig, RippleTargets, excluded_answers
from kg_edit.methods.glame_plus.teacher import TeacherQuestion, answers_of
from kg_edit.methods.graph_reader import GraphReader, GraphSettings
from kg_edit.methods.rome.method import EditValue, Rome, RomeConfig
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.text.fact_words import warn_of_english, warn_of_left_out

log = logging.getLogger(__name__)

# Settings of two presets: ``USUAL`` learns facts of usual relations only, ``LATE_BLOCK`` writes them there only.
USUAL: dict[str, Any] = {"every_relation": False, "stated": 6}
LATE_BLOCK: dict[str, Any] = {**USUAL, "ripple_weight": 0.0, "further_steps": 28}

_TOKENS_BEFORE_SUBJECT = 150  # of the questions for one relation r', all together; measured on 3 edits


class GlamePlusConfig(GraphSettings, RippleConfig):
    """ROME's settings, and settings for the facts that follow from the edit: how many, and where they are written."""

    steps: PositiveInt = Field(16, description="maximum number of evaluations of the objective")
    further_steps: NonNegativeInt = Field(
        0, description="maximum of further evaluations until the target is predicted in each context"
    )
    context_lengths: ContextLengths = Field(
        ((10, 1),), description="(tokens, count) of the contexts that are sampled from the model"
    )
    answer_tokens: PositiveInt = Field(
        5, description="maximum number of tokens in an answer of the teacher (the unedited model)"
    )
    exclude_answers: bool = Field(
        True, description="learn no fact that shares a word with the answer of a test question"
    )
    per_node: PositiveInt = Field(500, description="number of statements of o* to choose from")
    ripple_weight: float = Field(
        2.0,
        ge=0,
        description="weight of the facts that follow, in the loss of the value at s; 0: it learns the edit alone",
    )
    answers: AnswerOptions | None = Field(
        AnswerOptions(),
        description="settings for writing what follows into a late block (answers.*); null: no late block",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": {**LATE_BLOCK, **RomeConfig.presets["fast"]},
        "late-block": LATE_BLOCK,
        "one-value": {
            **USUAL,
            "answers": None,
            "hold": 0.0,
            "remember": 0.0,
        },
    }

    def idle(self) -> dict[str, str]:
        """Return the settings of the rows of the value at s, if it learns the edit alone."""
        idle = super().idle()
        if not self.ripple_weight:
            idle["shown"] = "the value at s learns the edit alone (ripple_weight=0); set answers.shown"
        return idle

    @model_validator(mode="after")
    def _refuse_no_site(self) -> Self:
        if self.answers is None and not self.ripple_weight:
            raise ValueError(
                "answers=null and ripple_weight=0 write nothing that follows; give one of them, or use rome"
            )
        return self

    @property
    def guards_answers(self) -> bool:
        """False: the subgraph may hold answers; `kg_edit.methods.composed_facts.objects_of` filters them."""
        return False

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the edited layer, and the late layer where answers are written."""
        edited = super().written_layers(blocks)
        if self.answers is None:
            return edited
        late = self.answers.layer_in(blocks)
        if late <= edited[0]:
            raise ConfigError(f"answers.layer={late} is not above the edited layer {edited[0]}; give a later block")
        return (*edited, late)

    def workload(self, *, edits: int) -> Workload:
        """Return ROME's workload, plus one row for each recalled relation and each statement."""
        workload = super().workload(edits=edits)
        extra_rows = self.recalled + self.stated
        return replace(workload, rows=workload.rows + extra_rows, kept=_TOKENS_BEFORE_SUBJECT * extra_rows)


@dataclass(frozen=True, kw_only=True)
class TaughtRequest(Request):
    """The prompts of an edit, and the facts that the teacher's answers made, which the late block learns too."""

    taught: tuple[ComposedFact, ...]


class GlamePlus(GraphReader, Rome):
    """ROME's edit, and the facts that follow from it, which are written where questions for them are answered."""

    entry = method_entry("glame-plus")
    takes_recurrent = False
    config_class = GlamePlusConfig
    config: GlamePlusConfig

    def __init__(
        self,
        model: LanguageModel,
        config: GlamePlusConfig,
        *,
        graph: SubgraphSource | nx.DiGraph | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, config, graph=graph, **options)
        self._targets = dict[Edit, RippleTargets]()  # those of one call of `make_each`; the next call begins anew
        # Prefixes and keys of questions that edits share; they depend on the model alone, and are kept for all calls.
        self._known_questions = KnownQuestions()

    def prepare(self) -> None:
        """Check that the architecture allows writing in a late block, then sample contexts and find covariances."""
        with keep_untouched(self.model):
            if self.config.answers is not None and not adds_mlp(self.model, self.layers[-1]):
                raise UnsupportedModelError(
                    f"{self.model.name} ({self.model.model.config.model_type}) normalises after its MLP or scales it, "
                    "so the change for an answer does not add up; give --preset one-value, or use glame"
                )
        super().prepare()

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Make the edits as ROME does, in the steps below."""
        self._targets.clear()  # the model may have changed since the last call
        return super().make_each(edits, before=before)

    def check(self, edits: Sequence[Edit]) -> None:
        """Check the edits, and warn of what can't be said in their languages, and of relations without words."""
        super().check(edits)
        warn_of_english(edits, method=self.name)
        for edit in edits:
            if edit_as_fact(edit) is None:
                log.warning(
                    "edit %r: %s learns the edit, but nothing that follows from it, because it has no words for the "
                    'edited relation; name it in the edit, such as "relation": "capital"',
                    edit.id,
                    self.name,
                )
            with annotate_errors(edit):
                warn_of_left_out(edit, relations_without_words(edit, self.subgraph(edit)), method=self.name)

    def request(self, edit: Edit) -> Request:
        """Return ROME's request. An unusable subgraph raises here.

        With ``ripple_weight``, the request also has the edit as questions and the statements of the graph as rows.
        """
        check_graph(self.subgraph(edit))
        targets = self.find_targets(edit)
        request = super().request(edit)
        if not self.config.ripple_weight:
            return request
        facts = [*targets.own, *targets.from_graph]
        with_answers = [(fact, None) for fact in facts]  # None: the row predicts the fact's target
        rows = rows_of(self.model, edit.subject, with_answers, shown=self.config.shown)
        return replace(request, further=rows)

    def find_targets(self, edit: Edit) -> RippleTargets:
        """Return the questions and facts around the edit; found once in a call, by the model as it is then."""
        if edit not in self._targets:
            excluded = excluded_answers(edit, self.config, self.graph)
            objects = objects_of(edit, self.subgraph(edit), exclude=excluded, every_relation=self.config.every_relation)
            ranked = likeliest_first(
                self.model, edit.target_new, objects, most_nouns=self.config.stated, language=edit.language
            )
            implied = implied_facts(self.subgraph(edit), exclude=excluded, language=edit.language)
            self._targets[edit] = RippleTargets(
                edit=edit, objects=ranked, config=self.config, excluded=excluded, implied=implied
            )
        return self._targets[edit]

    def complete_requests(
        self, model: LanguageModel, edits: Sequence[Edit], requests: Sequence[Request]
    ) -> list[TaughtRequest]:
        """Return the requests with what the teacher answers, which is asked about all edits in one batch.

        The teacher is ``model``: the unedited model, or a copy of it in bfloat16 (``descent_dtype``).
        """
        completed = list[TaughtRequest]()
        taught_by_edit = self._ask_teacher(model, edits)
        for edit, request, taught in zip(edits, requests, taught_by_edit, strict=True):
            further = request.further
            if self.config.ripple_weight:
                further = self._weigh_rows(edit, request, taught)
            complete = TaughtRequest(
                rewrites=request.rewrites,
                essence=request.essence,
                further=further,
                notes=request.notes,
                taught=tuple(fact for fact, _ in taught),
            )
            completed.append(complete)
        return completed

    def _weigh_rows(
        self, edit: Edit, request: Request, taught: Sequence[tuple[ComposedFact, Answer]]
    ) -> tuple[FurtherRow, ...]:
        """Return the further rows of a request and those of what is taught; their weights sum to ``ripple_weight``."""
        rows = (*request.further, *rows_of(self.model, edit.subject, taught, shown=self.config.shown))
        return tuple(replace(row, weight=self.config.ripple_weight / len(rows)) for row in rows)

    def _ask_teacher(self, model: LanguageModel, edits: Sequence[Edit]) -> list[list[tuple[ComposedFact, Answer]]]:
        """Ask the teacher about o* of each edit, and return the facts about s that follow, each with its answer."""
        questions = list[TeacherQuestion]()  # of all edits, which the model is asked in one batch
        for edit in edits:
            questions += self.find_targets(edit).teacher_questions
        answers = answers_of(model, questions, most=self.config.answer_tokens, store=self._known_questions.prefix_store)
        answer_to = dict(zip(questions, answers, strict=True))  # edits with one o* have the same questions

        facts_by_edit = []
        for edit in edits:
            targets = self.find_targets(edit)
            facts = list[tuple[ComposedFact, Answer]]()
            for question in targets.teacher_questions:
                answer = answer_to[question]
                if answer is None:
                    continue
                fact = targets.fact_to_learn(question, answer)
                if fact is not None:
                    facts.append((fact, answer))
            facts_by_edit.append(facts[: self.config.recalled])
        return facts_by_edit

    def propose(self, edits: Sequence[Edit], values: Tensor) -> tuple[Delta, list[dict[str, Any]]]:
        """Return ROME's changes; the notes record the graph, and the facts that were learned from it."""
        delta, notes = super().propose(edits, values)
        for edit, edit_notes in zip(edits, notes, strict=True):
            edit_notes["graph"] = dict(self.subgraph(edit).graph)
            edit_notes["stated"] = {fact.hop: fact.target for fact in self.find_targets(edit).from_graph}
        return delta, notes

    def write(self, edit: Edit, value: EditValue, *, before: Patch | None = None) -> WeightPatch:
        """Return ROME's patch of the edit, and with ``answers`` also what follows, in the late block."""
        patch = super().write(edit, value, before=before)
        if self.config.answers is None:
            return patch
        assert isinstance(value.request, TaughtRequest)  # noqa: S101 - by `complete_requests`
        return self.write_late(edit, patch, value.request.taught, self.config.answers)

    def write_late(
        self, edit: Edit, patch: WeightPatch, taught: Sequence[ComposedFact], options: AnswerOptions
    ) -> WeightPatch:
        """Return ``patch``, extended by the update of the late block with the answers that follow from its edit."""
        late = self.layers[-1]

        def find_rewrites(subject: str) -> tuple[Prompt, ...]:
            with_subject = edit.model_copy(update={"subject": subject})
            return Request.of(self.model, with_subject, self.contexts).rewrites

        with keep_untouched(self.model):
            targets = self.find_targets(edit)
            written = write_answers(
                self.model,
                [*targets.from_graph, *taught, *targets.own[:1]],  # ``own`` repeats the edit: once here
                subject=edit.subject,
                others=choose_others(edit, most=options.others),
                find_rewrites=find_rewrites,
                layer=late,
                covariance=self.covariances[late],
                options=options,
                edit_patch=patch,
                cache=self._known_questions,
            )
        if written is None:  # no question can be asked
            return patch
        (record,) = patch.edits
        record = {**record, "answers": {"layer": late, **written.summary}}
        factors = {**patch.factors, self.model.weight_name(late): written.factors}
        return replace(patch, factors=factors, provenance={**patch.provenance, "edits": [record]})
