"""GLAME-plus: the edit, and what the graph and the unedited model say of o*, written where it is answered.

It goes beyond GLAME's paper. The value at s is ROME's. Then a late block is written as well, under the key of the last
token of a question (`answers`):

- the edit itself, as a question and as its prompt;
- for a statement o* -r'-> o' of the graph "Q: What is the r' of the r of s? A:" o'; of several o' the one that the
  model finds likeliest;
- for an r' that the graph does not have, and such things do, what the unedited model answers to "What is the r' of
  o*?", if it says the same in another form.

Without ``answers`` (null) the one value at s learns all of it in its own descent, the edit as two questions:
L = ROME's loss + ripple_weight * the mean over these rows of -log p(o'), or of -sum q log p, q being the unedited
model's answer. `questions` words the rows, `teacher` gives q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.closed_form.spread import refuse_norm_after_mlp
from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, PromptError
from kg_edit.graphs.source import check_graph
from kg_edit.methods.base import GraphReader, attempt
from kg_edit.methods.config import ContextLengths, GraphSettings
from kg_edit.methods.glame_plus.answers import AnswerOptions, others_than, write_answers
from kg_edit.methods.glame_plus.known_questions import KnownQuestions
from kg_edit.methods.glame_plus.questions import (
    WORDINGS,
    ComposedFact,
    RippleConfig,
    RippleTargets,
    excluded_answers,
    objects_of,
)
from kg_edit.methods.glame_plus.teacher import Answer, answers_of, likeliest_first
from kg_edit.methods.rank_one.base import request_of
from kg_edit.methods.rank_one.rome import Rome, RomeConfig
from kg_edit.methods.workload import Workload
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.value.objective import ExtraTarget, Objective, Request
from kg_edit.value.optimise import DeltaParameters, descent_model, untouched


class GlamePlusConfig(GraphSettings, RippleConfig):
    """ROME's settings, and how much of what follows from the edit is written, and where."""

    steps: PositiveInt = Field(16, description="evaluations of the objective at most")
    context_lengths: ContextLengths = Field(
        ((10, 1),), description="(tokens, count) of the contexts that the model writes"
    )
    answer_tokens: PositiveInt = Field(5, description="of the teacher's answers")
    exclude_answers: bool = Field(True, description="learn nothing that shares a word with a test question's answer")
    per_node: PositiveInt = Field(500, description="statements of o* to choose from")
    ripple_weight: float = Field(2.0, ge=0, description="weight of all that follows from the edit")
    answers: AnswerOptions | None = Field(
        None,
        exclude_if=lambda found: found is None,
        description="what follows is written where it is answered: answers.layer, answers.steps; null: s learns it",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {**RomeConfig.default, "answers": {}},
        "fast": {**RomeConfig.fast, "answers": {}},
        "one-value": {},
    }

    @property
    def guards_answers(self) -> bool:
        """Never: what may be learned is decided word by word (`kg_edit.methods.glame_plus.questions.objects_of`)."""
        return False

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """The edited layer, and the one where answers are written.

        Raises:
            ConfigError: the second is not above the first.
        """
        edited = super().written_layers(blocks)
        if self.answers is None:
            return edited
        late = self.answers.layer_in(blocks)
        if late <= edited[0]:
            raise ConfigError(f"answers are written in layer {late}, which is not above {edited[0]}, the edited one")
        return (*edited, late)

    def workload(self, *, edits: int) -> Workload:
        """ROME's, with a row for each further relation and each statement that is learned."""
        found = super().workload(edits=edits)
        return replace(found, rows=found.rows + self.recalled + self.stated)


class GlamePlus(GraphReader, Rome):
    """ROME's edit, and what follows from it written where it is answered."""

    name = "glame-plus"
    paper = "this project (docs/glame_plus.md), after Zhang et al., EMNLP 2024, arXiv 2402.13593"
    about = "GLAME beyond the paper: what the graph and the model itself say of o* is written where it is answered"
    config_class = GlamePlusConfig
    config: GlamePlusConfig

    @cached_property
    def _ripples(self) -> dict[Edit, RippleTargets]:
        return {}

    def ripples(self, edit: Edit) -> RippleTargets:
        """What is asked about the edit; found once, on the model as it stands when edits are made."""
        if edit not in self._ripples:
            objects = objects_of(edit, self.subgraph(edit), exclude=excluded_answers(edit, self.config))
            ranked = likeliest_first(self.model, edit.target_new, objects, nouns=self.config.stated)
            self._ripples[edit] = RippleTargets(edit=edit, objects=ranked, config=self.config)
        return self._ripples[edit]

    @cached_property
    def _late(self) -> int:
        """The block where answers are written, once it was seen that it can be."""
        refuse_norm_after_mlp(self.model, self.layers[-1])
        return self.layers[-1]

    @cached_property
    def _known(self) -> KnownQuestions:
        return KnownQuestions()

    @cached_property
    def _taught(self) -> dict[Edit, list[ComposedFact]]:
        return {}

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """As `RankOneMethod.edit_each`; asks anew about edits that were made before, on another model perhaps."""
        self._ripples.clear()
        made = super().edit_each(edits)
        if self.config.answers is None:
            return made
        return tuple(
            attempt(edit, partial(self._answered, edit, patch)) if isinstance(patch, WeightPatch) else patch
            for edit, patch in zip(edits, made, strict=True)
        )

    def _answered(self, edit: Edit, patch: WeightPatch) -> Patch:
        """``patch`` with what follows from its edit written where it is answered."""
        assert self.config.answers is not None  # noqa: S101 - as edit_each asked
        found, late = self.ripples(edit), self._late
        facts = [*found.stated, *self._taught.get(edit, ()), *found.own[:1]]
        with untouched(self.model):
            written = write_answers(
                self.model,
                facts,
                subject=edit.subject,
                others=others_than(edit, most=self.config.answers.others),
                rewrites=partial(self._rewrites, edit),
                layer=late,
                covariance=self.covariances[late],
                options=self.config.answers,
                edited=patch.stacked_on(self.model),
                known=self._known,
            )
        if written is None:
            return patch
        (record,) = patch.edits
        said = {fact.hop: fact.target for fact in written.facts}
        nll = [round(sum(values) / len(values), 6) for values in zip(*written.nll, strict=True)]
        record = {**record, "answers": {"layer": late, "said": said, "nll_before": nll[0], "nll_after": nll[1]}}
        factors = {**patch.factors, self.model.weight_name(late): written.factors}
        return replace(patch, factors=factors, provenance={**patch.provenance, "edits": [record]})

    def _rewrites(self, edit: Edit, subject: str) -> tuple[Prompt, ...]:
        """The edit's prompt in its contexts, about ``subject``."""
        return request_of(self.model, edit.model_copy(update={"subject": subject}), self.contexts).rewrites

    def proposal(self, edit: Edit, value: Tensor) -> tuple[DeltaParameters, dict[str, Any]]:
        """ROME's; the notes say which graph was read, and what of it was learned."""
        free, notes = super().proposal(edit, value)
        learned = {fact.hop: fact.target for fact in self.ripples(edit).stated}
        return free, {**notes, "graph": dict(self.subgraph(edit).graph), "stated": learned}

    def request(self, edit: Edit) -> Request:
        """As ROME's; an edit whose subgraph can't be used fails here.

        What is not written where it is answered is learned as well: o* as an answer, and the statements of the graph.
        """
        check_graph(self.subgraph(edit))
        found, request = self.ripples(edit), super().request(edit)
        if self.config.answers is not None:
            return request
        return replace(request, further=self._rows(edit, [(fact, None) for fact in (*found.own, *found.stated)]))

    def objective(self, edits: Sequence[Edit], requests: Sequence[Request]) -> Objective:
        """ROME's loss and that of the further rows; the teacher is asked for all edits together."""
        student = descent_model(self.model, self.config.descent_dtype)
        taught = self._teacher_rows(edits, student)
        if self.config.answers is not None:  # learned where it is answered, not by the value at s
            self._taught.update({edit: [fact for fact, _ in rows] for edit, rows in zip(edits, taught, strict=True)})
            return self.loss_on(student, requests)
        whole = [
            replace(request, further=self._shared((*request.further, *self._rows(edit, rows))))
            for edit, request, rows in zip(edits, requests, taught, strict=True)
        ]
        return self.loss_on(student, whole)

    def _teacher_rows(
        self, edits: Sequence[Edit], model: LanguageModel
    ) -> list[list[tuple[ComposedFact, Answer | None]]]:
        """What the unedited model answers about each edit's o*."""
        found = [self.ripples(edit) for edit in edits]
        asked = [(place, one) for place, of_edit in enumerate(found) for one in of_edit.asks]
        rows: list[list[tuple[ComposedFact, Answer | None]]] = [[] for _ in edits]
        said = answers_of(model, [one for _, one in asked], most=self.config.answer_tokens, store=self._known.starts)
        for (place, one), answer in zip(asked, said, strict=True):
            fact = found[place].learned(one, answer)
            if fact and len(rows[place]) < self.config.recalled:
                rows[place].append((fact, answer))
        return rows

    def _rows(self, edit: Edit, rows: Sequence[tuple[ComposedFact, Answer | None]]) -> tuple[ExtraTarget, ...]:
        prompts = [
            self._encoded(edit, WORDINGS[place % len(WORDINGS)], fact, answer)
            for place, (fact, answer) in enumerate(rows)
        ]
        return tuple(
            ExtraTarget(prompt=prompt, weight=1.0, taught=answer.lesson if answer else None)
            for prompt, (_, answer) in zip(prompts, rows, strict=True)
            if prompt
        )

    def _encoded(self, edit: Edit, wording: str, fact: ComposedFact, answer: Answer | None) -> Prompt | None:
        """The question up to its target, and the target, after as many facts of other things as fit."""
        limit = self.model.positions
        for shown in (self.config.shown, 0):
            found = self._after(fact.context(wording, shown=shown), edit, fact.prompt(wording), fact, answer)
            if found and (limit is None or len(found.ids) <= limit):
                return found
        return None

    def _after(
        self, context: str, edit: Edit, template: str, fact: ComposedFact, answer: Answer | None
    ) -> Prompt | None:
        """A teacher's answer keeps the tokens in which it was given."""
        tokenizer = self.model.tokenizer
        if answer:
            asked = encode(tokenizer, template, subject=edit.subject, context=context)
            return replace(asked, text=f"{asked.text} {answer.text}", ids=(*asked.ids, *answer.ids))
        try:
            return encode(tokenizer, template, subject=edit.subject, target=fact.target, context=context)
        except PromptError:  # this wording does not fit the target
            return None

    def _shared(self, rows: tuple[ExtraTarget, ...]) -> tuple[ExtraTarget, ...]:
        """The rows, each weighted by ``ripple_weight`` / the number of rows."""
        return tuple(replace(row, weight=self.config.ripple_weight / len(rows)) for row in rows)
