"""Write the answers to questions that follow from an edit into a late block, at the question's last token.

The model produces the answer to "Q: What is the currency of the country of X?\\nA:" at the question's last token. In a
late block, the input of the down-projection at this token differs between the questions about X, in any wording. At X's
last token in an early block, where the edit is written, it does not differ (table ripples-layer of results/). For a
composed fact f with answer o', the wordings w of its question q, and the block l:

    v_f = argmin over v of the mean over w of -log p(o' | q_w), v [d] added to the down-projection's output at the
          last token of q_w, |v| <= bound |m|
    k_f = the mean over w of the down-projection's input there, [d_ff]
    A   = C + others_weight E[n n^T] + ridge mean(diag C) I, n [d_ff] the same input in a question about another thing
    W  += V (K^T A^-1 K + lambda I)^-1 K^T A^-1,  V [d, values], K [d_ff, values]

V and K have a column for each v_f and k_f. C is the second moment of the down-projection's inputs. The term with n
protects the answers to questions about other things. lambda is ``softness`` times the mean diagonal element of
K^T A^-1 K. An answer of several tokens has one value and one key for each
token, at the position that predicts it; the line break after the answer counts as a token. The edit's own prompt, in
its contexts, has a value too, because otherwise the update would treat the end of the prompt as the end of a question.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import Tensor

from kg_edit.covariance.moment import Covariance, OtherKeys
from kg_edit.edits.edit import Edit
from kg_edit.engine.prefix_cache import SharedContexts, quick_backward
from kg_edit.engine.prefix_store import PrefixStore, model_state
from kg_edit.engine.replay import RecordedBlocks, block_output
from kg_edit.engine.tail_forward import read_index, right_pad, tail, tail_ends
from kg_edit.errors import ModelError, PromptError
from kg_edit.languages import ENGLISH, fit_template
from kg_edit.methods.composed_facts import ComposedFact, edited_noun
from kg_edit.models.devices import exact
from kg_edit.models.hooks import index_for, record_last_call
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt, encode, left_pad
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.text.fact_words import fact_words
from kg_edit.text.relation_nouns import relation_examples

DEPTH = 0.87  # of the late block, as a fraction of the number of blocks (table ripples-layer of results/)
_ROWS = 32  # questions about other things in one pass
_CACHED = 4096  # questions whose keys are cached
_STOP_BELOW = 0.005  # far lower than the answer itself needs, because lambda shrinks each written value

FindRewrites = Callable[[str], Sequence[Prompt]]
"""A function that returns the rows of an edit's prompt, in its contexts, with another subject."""


class AnswerOptions(BaseModel):
    """Settings for writing the answers that follow from an edit into a late block."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layer: NonNegativeInt | None = Field(None, description="block that is written, 0-based; default 0.87 of the depth")
    shown: NonNegativeInt = Field(1, description="number of facts about other things before a question")
    steps: PositiveInt = Field(8, description="maximum number of loss evaluations")
    learning_rate: float = Field(1.0, gt=0, description="learning rate of Adam")
    bound: float = Field(1.0, gt=0, description="maximum of |v|, as a multiple of |m|")
    others: NonNegativeInt = Field(
        6, description="number of other things whose answers are protected; those of s's kind first"
    )
    others_weight: float = Field(3.0, ge=0, description="weight of their questions in A; C has the weight 1")
    ridge: float = Field(0.05, ge=0, description="added to the diagonal of A, as a multiple of the mean diagonal of C")
    softness: float = Field(
        0.02,
        ge=0,
        description="lambda, as a multiple of the mean diagonal of K^T A^-1 K; 0: each question gets its value exactly",
    )

    def layer_in(self, blocks: int) -> int:
        """Return the block that is written in a model of ``blocks`` blocks."""
        if self.layer is None:
            return min(round(DEPTH * blocks), blocks - 1)
        return self.layer


def choose_others(edit: Edit, *, most: int) -> tuple[str, ...]:
    """Return at most ``most`` other things, whose answers should not change: those with the edited relation first.

    Well-known things of many kinds follow, if the edited relation has too few examples.
    """
    examples = relation_examples(edit.language)  # {noun of a relation: pairs of a thing and its object}
    noun = edited_noun(edit)
    kin = []
    if noun is not None and noun in examples:
        kin = [thing for thing, _ in examples[noun]]
    things = dict.fromkeys((*kin, *fact_words(edit.language).known))  # each once
    others = [thing for thing in things if thing not in (edit.subject, edit.target_new)]
    return tuple(others[:most])


@dataclass(frozen=True, eq=False, kw_only=True)
class WrittenAnswers:
    """The update of the block's down-projection, the facts it writes, and their losses.

    ``nll`` has for each fact the mean -log p of its answer's tokens on the edited model: without a value (before), and
    with the v_f that was found (after). The update writes somewhat less than v_f, because of lambda.
    """

    factors: Factors
    facts: tuple[ComposedFact, ...]
    nll: tuple[tuple[float, float], ...]

    @property
    def summary(self) -> dict[str, Any]:
        """The facts and their mean losses, for the patch's record."""
        return {
            "facts": {fact.hop: fact.target for fact in self.facts},
            "nll_before": round(sum(before for before, _ in self.nll) / len(self.nll), 6),
            "nll_after": round(sum(after for _, after in self.nll) / len(self.nll), 6),
        }


def write_answers(
    model: LanguageModel,
    facts: Sequence[ComposedFact],
    *,
    subject: str,
    others: Sequence[str],
    find_rewrites: FindRewrites,
    layer: int,
    covariance: Covariance,
    options: AnswerOptions,
    edit_patch: WeightPatch,
    cache: KnownQuestions,
) -> WrittenAnswers | None:
    """Compute the update of ``layer`` with which the model answers questions for ``facts`` with their targets.

    Args:
        model: the model without the edit.
        facts: the facts whose questions are to be answered.
        subject: the edit's subject.
        others: other things, for which the answers to the same questions should not change.
        find_rewrites: returns the edit's own prompt in its contexts, with another subject.
        layer: the block that is written.
        covariance: C of the block's down-projection.
        options: the settings.
        edit_patch: the edit itself, with which the values are found.
        cache: the keys and prefixes that edits share.

    Returns:
        The update, or None if no question can be encoded with its target.
    """
    # A group of rows for each question about the subject, with its answer, and a last one for the edit's own prompt
    questions = _encode_questions(model, facts, subject, shown=options.shown)
    if not questions:
        return None
    groups = [question.rows for question in questions]
    groups.append(tuple(_with_site_at_end(row) for row in find_rewrites(subject)))
    rows_about_subject = chain.from_iterable(groups)
    # The tokens before the subject, computed without the edit: it hardly changes other tokens than the subject's last.
    starts = cache.prefix_store.find_contexts(model, [row.ids[: row.subject_first] for row in rows_about_subject])

    # The same questions about other things: only their keys are needed.
    about_others = _ask_about(model, others, [question.question for question in questions], find_rewrites)
    keys_of_others = cache.find_keys(model, about_others, layer, starts)  # [d_ff, others]

    # V and K: the values of the groups by gradient descent, on the edited model, and their keys
    with edit_patch.applied_on_top(model):
        rows = AnswerRows(model, layer, groups, starts)
        values, losses = find_answer_values(rows, options)  # [groups, positions, d]
    left = values[rows.predicts].T.contiguous()  # V [d, values]
    right = solve_directions(rows.keys[rows.predicts].T, keys_of_others, covariance, options)  # [d_ff, values]
    nll = [(losses[index][0], losses[index][-1]) for index in range(len(questions))]  # without the edit's own prompt
    return WrittenAnswers(
        factors=Factors(left=left, right=right),
        facts=tuple(question.fact for question in questions),
        nll=tuple(nll),
    )


class _EncodedQuestion(NamedTuple):
    """A fact, its question, and the question's rows about the edit's subject, one for each wording."""

    fact: ComposedFact
    question: Question
    rows: tuple[Prompt, ...]


def _encode_questions(
    model: LanguageModel, facts: Sequence[ComposedFact], subject: str, *, shown: int
) -> list[_EncodedQuestion]:
    """Return the questions of the facts, each once; a fact whose question can't be encoded is left out."""
    questions = []
    for fact in dict.fromkeys(facts):
        question = question_of(fact, shown=shown)
        rows = question.about(model, subject)
        if rows:
            questions.append(_EncodedQuestion(fact, question, rows))
    return questions


def _ask_about(
    model: LanguageModel, others: Sequence[str], questions: Sequence[Question], find_rewrites: FindRewrites
) -> list[Prompt]:
    """Return rows about other things: for each thing each question, and the edit's prompt.

    Each row has only one wording or context; these take turns. A row that can't be encoded is left out.
    """
    about_others = list[Prompt]()
    for question in questions:
        for number, other in enumerate(others):
            row = question.row_in(model, other, number)
            if row is not None:
                about_others.append(row)
    for number, other in enumerate(others):
        try:
            rewrites = find_rewrites(other)
        except (PromptError, ModelError):
            continue
        about_others.append(_with_site_at_end(rewrites[number % len(rewrites)]))
    return about_others


class AnswerRows:
    """Groups of rows, each row with its answer; a step runs the model on the answers' tokens only.

    The rows of a group share one value for each position. They are the wordings of one fact's question; those of the
    last group are the edit's own prompt in its contexts.

    Each token of an answer is predicted at the position before it. So a row runs from the question's last token
    (position 0) on. A read is a position at which a row predicts a token of its answer. For a fact in two wordings,
    whose answer has two tokens, and a last group of one row, whose answer has three:

        row    its group   positions    its reads (row, position)
        0      0           x x -        (0, 0) (0, 1)
        1      0           x x -        (1, 0) (1, 1)
        2      1           x x x        (2, 0) (2, 1) (2, 2)

    Attributes:
        predicts: whether a group predicts a token at the position, [groups, positions].
        keys: the inputs of the down-projection there, the mean over the group's rows, [groups, positions, d_ff].
        norms: the norms of its output there, the mean over the group's rows, [groups, positions].
    """

    def __init__(
        self, model: LanguageModel, layer: int, groups: Sequence[Sequence[Prompt]], starts: SharedContexts
    ) -> None:
        """Run all rows once, and record the calls of the blocks above ``layer``.

        Args:
            model: the model with the edit.
            layer: the block that is written.
            groups: the rows of each group.
            starts: cached tokens before the subject, which questions about other things share.
        """
        self._model = model
        self.width = model.width
        rows = list(chain.from_iterable(groups))
        keys, outputs, self._above = _run_rows(model, rows, layer, starts)

        device = keys.device  # of the late block; the input embedding may be on another one
        group_of_row, shares = _share_losses(groups)
        self._group = torch.tensor(group_of_row, device=device)  # of each row, [rows]
        self._share = torch.tensor(shares)  # of each of the row's reads, in the loss of its group, [rows]
        # Rows and positions, [reads] each. A row begins at its site: its token i is at position i - edited_at.
        self._reads = read_index(rows, [-row.edited_at for row in rows], device)
        self._targets = torch.tensor(list(chain.from_iterable(row.target_ids for row in rows)))  # [reads]
        self.keys = self._mean_over_group(keys)
        self.norms = self._mean_over_group(outputs.norm(dim=-1, keepdim=True))[..., 0]
        self.predicts = self.norms > 0  # the mean is 0 where no row of the group predicts a token

    def _mean_over_group(self, states: Tensor) -> Tensor:
        """Return the mean of ``states`` [rows, positions, ...] over each group's rows, [groups, positions, ...].

        It is 0 where no row of the group has a read.
        """
        is_read = torch.zeros(states.shape[:2], device=states.device)  # [rows, positions]
        is_read[self._reads] = 1
        groups = int(self._group.max()) + 1
        # Sums over the rows of each group, [groups, positions, ...] and [groups, positions]
        total = states.new_zeros(groups, *states.shape[1:]).index_add(0, self._group, states * is_read[..., None])
        count = states.new_zeros(groups, states.shape[1]).index_add(0, self._group, is_read)
        return total / count.clamp(min=1)[..., None]

    def select(self, groups: Sequence[int]) -> GroupReads:
        """Return the reads of ``groups`` (indices), for `nll`; this waits for the device."""
        all_rows, all_positions = [index.cpu() for index in self._reads]  # [all reads] each
        # The place of each group in ``groups``, [all groups]: for (0, 2) of three groups it is 0, -1, 1.
        places = torch.full((len(self.predicts),), -1)
        places[list(groups)] = torch.arange(len(groups))
        place_of_read = places[self._group.cpu()[all_rows]]  # [all reads]
        is_selected = place_of_read >= 0
        rows = all_rows[is_selected]  # [selected reads]
        device = self._group.device
        return GroupReads(
            rows=rows.to(device),
            positions=all_positions[is_selected].to(device),
            group=place_of_read[is_selected].to(device),
            targets=self._targets[is_selected].to(device),
            share=self._share[rows].to(device),
            group_count=len(groups),
        )

    def nll(self, change: Tensor, selected: GroupReads) -> Tensor:
        """Return the mean -log p per answer token of the ``selected`` groups, [selected groups].

        ``change`` [all groups, positions, d] is added to the output of the down-projection.
        """
        # The block adds its MLP's output (`adds_mlp`), so v after the down-projection is v in the next block's input.
        hidden = self._above.first_input + change[self._group].to(self._above.first_input)  # [rows, positions, d]
        with quick_backward(hidden):
            states = self._above.run(hidden)[index_for((selected.rows, selected.positions), hidden)]  # [reads, d]
            logits = self._model.logits(states).float()
        targets, group, share = index_for((selected.targets, selected.group, selected.share), logits)
        nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")  # [reads]
        return nll.new_zeros(selected.group_count).index_add(0, group, nll * share)  # the sum over each group's reads


def _run_rows(
    model: LanguageModel, rows: Sequence[Prompt], layer: int, starts: SharedContexts
) -> tuple[Tensor, Tensor, RecordedBlocks]:
    """Run rows from their sites on, and return what the down-projection of ``layer`` reads and writes.

    Returns:
        Its inputs [rows, positions, d_ff], its outputs [rows, positions, d], and the recorded blocks above ``layer``.
    """
    batch = right_pad([tail(row) for row in rows], model.device, ends=tail_ends(rows))
    prefix = starts.prefix(model, [row.ids[: row.edited_at] for row in rows], beyond=batch.ids.shape[1])
    with torch.no_grad(), record_last_call(model.down_projection(layer)) as call:
        above, _ = RecordedBlocks.record(model, batch, range(layer + 1, len(model.blocks)), prefix=prefix)
    keys = call.input.reshape(*batch.ids.shape, -1).float()
    outputs = call.output.reshape(*batch.ids.shape, -1).float()
    return keys, outputs, above


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupReads:
    """The reads of some groups (`AnswerRows`), [reads] each.

    Attributes:
        rows: the row of each read.
        positions: its position in the row.
        group: the index of its group among the selected groups.
        targets: the token that is predicted there.
        share: its share in the loss of its group.
        group_count: the number of selected groups.
    """

    rows: Tensor
    positions: Tensor
    group: Tensor
    targets: Tensor
    share: Tensor
    group_count: int


def _share_losses(groups: Sequence[Sequence[Prompt]]) -> tuple[list[int], list[float]]:
    """Return for each row the index of its group, and the share that each of its reads has in the group's loss.

    A group's loss is the mean over its rows of the mean over the answer's tokens.
    """
    group_of_row = list[int]()
    shares = list[float]()
    for index, group in enumerate(groups):
        for row in group:
            group_of_row.append(index)
            shares.append(1 / (len(group) * len(row.target_ids)))
    return group_of_row, shares


def find_answer_values(rows: AnswerRows, options: AnswerOptions) -> tuple[Tensor, list[list[float]]]:
    """Find the values v of groups, [groups, positions, d], by gradient descent; the norm of each is at most its bound.

    A group ends as soon as its loss is small enough, because Adam would keep changing its value with steps of the same
    length. The second result has the loss of each group at every step in which it was computed.
    """
    # bound |m|, [groups, positions, 1]. It is 0 at a position that predicts nothing, so v stays 0 there.
    limits = options.bound * rows.norms[..., None]
    values = torch.zeros(*rows.norms.shape, rows.width, device=rows.norms.device, requires_grad=True)
    optimiser = torch.optim.Adam([values], lr=options.learning_rate)
    losses: list[list[float]] = [[] for _ in values]
    active = list(range(len(values)))  # the groups that have not ended
    selected = rows.select(active)
    final = dict[int, Tensor]()  # the values of the groups that have ended
    for step in range(options.steps):
        nll = rows.nll(values, selected)
        for group, loss in zip(active, nll.tolist(), strict=True):  # one wait for the device
            losses[group].append(loss)
        # The value of a group that ends here is kept; what the optimiser does with it from now on does not matter.
        is_last_step = step == options.steps - 1
        for group in active:
            if is_last_step or _is_done(losses[group][-1]):
                final[group] = values[group].detach().clone()
        remaining = [group for group in active if group not in final]
        if not remaining:
            break

        optimiser.zero_grad()
        nll.sum().backward()
        optimiser.step()
        _clamp_norms(values, limits)
        if remaining != active:
            active = remaining
            selected = rows.select(active)
    return torch.stack([final[group] for group in sorted(final)]), losses


def _is_done(loss: float) -> bool:
    """Return whether a group ends with this loss: it is small enough, or not a number."""
    return math.isnan(loss) or loss < _STOP_BELOW


@torch.no_grad()
def _clamp_norms(values: Tensor, limits: Tensor) -> None:
    """Shorten in place the values v that exceed their ``limits``: [groups, positions, d] and [groups, positions, 1]."""
    norms = values.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    values.mul_((limits / norms).clamp(max=1.0))


@torch.no_grad()
def solve_directions(keys: Tensor, others: Tensor, covariance: Covariance, options: AnswerOptions) -> Tensor:
    """Return A^-1 K (K^T A^-1 K + lambda I)^-1, [d_ff, values]. C with its ridge is factored once for all edits.

    Args:
        keys: K [d_ff, values], a column for each value.
        others: the keys n of questions about other things, [d_ff, others].
        covariance: C [d_ff, d_ff].
        options: ``others_weight``, ``ridge``, and ``softness``, which sets lambda.
    """
    held = None
    if others.shape[1]:
        held = OtherKeys.none(len(keys), keys.device).plus(others.T)
    solved = covariance.with_ridge(options.ridge).solve(keys, others=held, weight=options.others_weight)  # A^-1 K
    gram = exact(keys).T @ solved  # K^T A^-1 K, [values, values]
    lambda_ = options.softness * gram.diagonal().mean()
    gram.diagonal().add_(lambda_)  # + lambda I
    # The gram matrix is symmetric, so X gram^-1 is the transpose of gram^-1 X^T.
    solution: Tensor = torch.linalg.solve(gram, solved.T).T.float().contiguous()
    return solution


@dataclass(frozen=True, kw_only=True)
class Question:
    """The question of a fact with its answer ``target``; ``wordings`` has a (template, context before it) for each."""

    wordings: tuple[tuple[str, str], ...]
    target: str
    language: str = ENGLISH

    def about(self, model: LanguageModel, subject: str) -> tuple[Prompt, ...]:
        """Return the rows about ``subject``, one for each wording that can be encoded with the target."""
        rows = [self.row_in(model, subject, number) for number in range(len(self.wordings))]
        return tuple(row for row in rows if row is not None)

    def row_in(self, model: LanguageModel, subject: str, number: int) -> Prompt | None:
        """Return the row in the wording ``number``, whose site is the question's last token; None if it can't be used.

        After the last wording the first one follows again: of three wordings, 3 is the same as 0.
        """
        template, context = self.wordings[number % len(self.wordings)]
        template = fit_template(template, subject, self.language)
        try:
            row = encode(model.tokenizer, template, subject=subject, target=self.target, context=context)
            # An answer ends with the line break that also ends the example facts before a question. Some tokenizers,
            # such as Llama-2's, put a token for a space before it.
            end: int = model.tokenizer("\n\n", add_special_tokens=False)["input_ids"][-1]
            row = replace(row, ids=(*row.ids, end))
            model.check_length(row)
        except (PromptError, ModelError):
            return None
        return _with_site_at_end(row)


def question_of(fact: ComposedFact, *, shown: int) -> Question:
    """Return the question for a fact, after ``shown`` example facts about other things."""
    wordings = []
    for wording in fact_words(fact.language).questions:
        wordings.append((fact.prompt(wording), fact.context(wording, shown=shown)))
    return Question(wordings=tuple(wordings), target=fact.target, language=fact.language)


def _with_site_at_end(row: Prompt) -> Prompt:
    """Return the row with the last token before the target as its site, instead of the subject's last token."""
    return replace(row, site=row.target_start - 1)


class KnownQuestions:
    """A cache for questions that several edits share: the prefixes before a subject (``prefix_store``), and the keys.

    Edits of one relation ask the same questions about the same other things. Prefixes and keys are computed on the
    model without the edit, so they are the same for all edits: the update should change the answers about other things
    as little as possible. Each key is cached with the state of the model that it was computed on.
    """

    def __init__(self) -> None:
        self.prefix_store = PrefixStore()
        self._cached: OrderedDict[tuple[str, int, tuple[int, ...]], Tensor] = OrderedDict()

    def find_keys(self, model: LanguageModel, rows: Sequence[Prompt], layer: int, starts: SharedContexts) -> Tensor:
        """Return the inputs of the down-projection of ``layer`` at the edited token of each row, [d_ff, rows].

        Of rows that are equal up to this token, only one has a column; without ``rows`` there is no column.
        """
        state = model_state(model)
        unique = {(state, layer, row.ids[: row.edited_at + 1]): row for row in rows}  # {entry of the cache: row}
        if not unique:
            return torch.empty(weight_matrix(model.down_projection(layer)).shape[1], 0)
        new = [entry for entry in unique if entry not in self._cached]
        for first in range(0, len(new), _ROWS):
            chunk = new[first : first + _ROWS]
            chunk_keys = read_last_keys(model, [unique[entry] for entry in chunk], layer, starts)
            self._cached.update(zip(chunk, chunk_keys.unbind(), strict=True))
        keys = torch.stack([self._cached[entry] for entry in unique]).T
        for entry in unique:  # the least recently used ones go first
            self._cached.move_to_end(entry)
        while len(self._cached) > _CACHED:
            self._cached.popitem(last=False)
        return keys


@torch.no_grad()
def read_last_keys(model: LanguageModel, rows: Sequence[Prompt], layer: int, starts: SharedContexts) -> Tensor:
    """Return the inputs of the down-projection of ``layer`` at the edited token of each row, [rows, d_ff]."""
    prefix = starts.prefix(model, [row.ids[: row.edited_at] for row in rows], beyond=1)
    last = left_pad([[row.ids[row.edited_at]] for row in rows], device=model.device)
    with record_last_call(model.down_projection(layer)) as call:
        block_output(model, last, layer, prefix=prefix)
    return call.input.reshape(len(rows), -1).float()
