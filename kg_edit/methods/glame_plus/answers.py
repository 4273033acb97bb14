"""Writes the answers to questions that follow from an edit into a late block, at the question's last token.

The model produces the answer to "Q: What is the currency of the country of X?\\nA:" at the question's last token. In a
late block, the input of the down-projection at this token differs between the questions about X, in any wording. At X's
last token in an early block, where the edit is written, it does not differ (table ripples-layer of results/). For a
composed fact f with answer o', the wordings w of its question q, and the block l:

    v_f = argmin over v of the mean over w of -log p(o' | q_w), v [d] added to the down-projection's output at the
          last token of q_w, |v| <= bound |m|
    k_f = the mean over w of the down-projection's input there, [d_ff]
    A   = C + others_weight E[n n^T] + ridge mean(diag C) I, n [d_ff] the same input for questions about other things
    W  += V (K^T A^-1 K + lambda I)^-1 K^T A^-1,  V [d, facts], K [d_ff, facts], lambda relative to the diagonal before

C is the second moment of the down-projection's inputs. The term with n keeps the answers to questions about other
things. An answer of several tokens has one value and one key for each token, at the position that predicts it; the line
break after the answer counts as a token. The edit's own prompt, in its contexts, has a value too, because otherwise the
update would treat the end of the prompt as the end of a question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from itertools import product

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit
from kg_edit.errors import PromptError
from kg_edit.locate_then_edit.tail_forward import read_index, right_pad, tail, tail_ends
from kg_edit.methods.glame_plus.known_questions import KnownQuestions
from kg_edit.methods.glame_plus.questions import QUESTIONS, ComposedFact, first_hop
from kg_edit.models.hooks import beside, watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import SharedContexts, quick_backward
from kg_edit.models.prompts import Prompt, encode
from kg_edit.models.replay import RecordedBlocks
from kg_edit.patches.weight_patch import Factors
from kg_edit.text.relation_nouns import relation_examples

DEPTH = 0.87
# Well-known things of many kinds, used if the edited relation has too few examples.
_KNOWN = ("Google", "Mount Everest", "Paris", "Toyota", "Albert Einstein", "Uppsala University", "Sony", "Marie Curie")
_STOP_BELOW = 0.005  # far lower than the answer itself needs, because lambda shrinks each written value
Asking = Callable[[str], Sequence[Prompt]]
"""A function that gives the rows of an edit's prompt, in its contexts, with another subject."""


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
    softness: float = Field(0.02, ge=0, description="lambda; with 0 each question gets its value exactly")

    def layer_in(self, blocks: int) -> int:
        """The block that is written in a model of ``blocks`` blocks."""
        return round(DEPTH * blocks) if self.layer is None else self.layer


def others_than(edit: Edit, *, most: int) -> tuple[str, ...]:
    """At most ``most`` other things whose answers should not change: first those with the edited relation, then any."""
    kin = (thing for thing, _ in relation_examples().get(first_hop(edit), ()))
    found = dict.fromkeys(thing for thing in (*kin, *_KNOWN) if thing not in (edit.subject, edit.target_new))
    return tuple(found)[:most]


@dataclass(frozen=True, eq=False, kw_only=True)
class WrittenAnswers:
    """The update of the block's down-projection, the facts it writes, and their losses.

    ``nll`` has for each fact the mean -log p of its answer's tokens (before, after).
    """

    factors: Factors
    facts: tuple[ComposedFact, ...]
    nll: tuple[tuple[float, float], ...]


def write_answers(
    model: LanguageModel,
    facts: Sequence[ComposedFact],
    *,
    subject: str,
    others: Sequence[str],
    rewrites: Asking,
    layer: int,
    covariance: Covariance,
    options: AnswerOptions,
    edited: AbstractContextManager[object],
    known: KnownQuestions,
) -> WrittenAnswers | None:
    """Compute the update of ``layer`` with which the model answers questions for ``facts`` with their targets.

    Args:
        model: the model without the edit.
        facts: the facts whose questions are to be answered.
        subject: the edit's subject.
        others: other things, for which the answers to the same questions should not change.
        rewrites: gives the edit's own prompt in its contexts, with another subject.
        layer: the block that is written.
        covariance: C of the block's down-projection.
        options: the settings.
        edited: a context manager in which the edit itself is applied to ``model``.
        known: the cache of keys and prefixes shared by edits.

    Returns:
        The update, or None if no question can be encoded with its target.
    """
    asking = {fact: question_of(fact, shown=options.shown) for fact in facts}
    asked = {fact: own for fact, question in asking.items() if (own := question.about(model, subject))}
    if not asked:
        return None
    groups = (*asked.values(), tuple(map(_end, rewrites(subject))))
    starts = known.starts.contexts(model, (row.ids[: row.subject_first] for group in groups for row in group))
    theirs = known.keys(model, _of_others(model, [asking[fact] for fact in asked], rewrites, others), layer, starts)
    with edited:
        rows = AnswerRows(model, layer, groups, starts)
        found = AnswerValues(rows, options)
        values = found.descend(options.steps)
    right = directions(rows.keys[rows.predicts].T, theirs, covariance, options)
    left = values[rows.predicts].T.contiguous()
    nll = tuple((losses[0], losses[-1]) for losses in found.seen)[: len(asked)]
    return WrittenAnswers(factors=Factors(left=left, right=right), facts=tuple(asked), nll=nll)


class AnswerRows:
    """The questions of facts in all wordings, each with its answer; a step runs the model on the answers' tokens only.

    An answer has the tokens a_1 ... a_n; a_j is predicted at the position before it. ``predicts`` [facts, n] is true
    where a fact has such a position. ``keys`` [facts, n, d_ff] are the inputs of the down-projection there, ``norms``
    [facts, n] the norms of its output, both as the mean over the wordings. ``starts`` caches the tokens before the
    subject, which questions about other things share.
    """

    def __init__(
        self, model: LanguageModel, layer: int, asked: Sequence[Sequence[Prompt]], starts: SharedContexts
    ) -> None:
        self._model, self.width, rows = model, model.width, [row for own in asked for row in own]
        keys, values = self._record(layer, rows, starts)
        there = keys.device  # of the late block; the input embedding may be on another one
        self._fact = torch.tensor([fact for fact, own in enumerate(asked) for _ in own], device=there)
        self._share = torch.tensor([1 / (len(own) * len(row.target_ids)) for own in asked for row in own])
        self._reads = read_index(rows, [-row.edited_at for row in rows], there)
        self._targets = torch.tensor([token for row in rows for token in row.target_ids])
        self.keys, norms = self._mean(keys), self._mean(values.norm(dim=-1, keepdim=True))
        self.norms, self.predicts = norms[..., 0], norms[..., 0] > 0

    @torch.no_grad()
    def _record(self, layer: int, rows: Sequence[Prompt], starts: SharedContexts) -> tuple[Tensor, Tensor]:
        """Record the calls of the blocks above ``layer``; return the keys and values in ``layer``, [rows, n, .]."""
        model, seen = self._model, list[Tensor]()
        batch = right_pad([tail(row) for row in rows], model.device, ends=tail_ends(rows))
        prefix = starts.prefix(model, [row.ids[: row.edited_at] for row in rows], beyond=batch.ids.shape[1])
        with watched(model.down_projection(layer), lambda key, value: seen.extend((key, value))):
            self._above, _ = RecordedBlocks.record(model, batch, range(layer + 1, len(model.blocks)), prefix=prefix)
        keys, values = (state.reshape(*batch.ids.shape, -1).float() for state in seen)
        return keys, values

    def _mean(self, states: Tensor) -> Tensor:
        """The mean of ``states`` [rows, n, ...] over each fact's rows, [facts, n, ...]; 0 at unread positions."""
        read = torch.zeros(states.shape[:2], device=states.device)
        read[self._reads] = 1
        facts = int(self._fact.max()) + 1
        total = states.new_zeros(facts, *states.shape[1:]).index_add(0, self._fact, states * read[..., None])
        count = states.new_zeros(facts, states.shape[1]).index_add(0, self._fact, read)
        return total / count.clamp(min=1)[..., None]

    def nll(self, change: Tensor, facts: Sequence[int]) -> Tensor:
        """The mean -log p per answer token of ``facts`` (indices), [len(facts)].

        ``change`` [all facts, n, d] is added to the output of the down-projection.
        """
        place = torch.full((len(change),), -1)
        place[list(facts)] = torch.arange(len(facts))
        of_read = place.to(self._fact.device)[self._fact[self._reads[0]]]
        wanted = of_read >= 0
        reads = (self._reads[0][wanted], self._reads[1][wanted])
        hidden = self._above.start + change[self._fact].to(self._above.start)
        with quick_backward(hidden):
            logits = self._model.logits(self._above.run(hidden)[beside(reads, hidden)]).float()
        targets = self._targets[wanted.to(self._targets.device)].to(logits.device)
        each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        share = self._share.to(each.device)[reads[0].to(each.device)]
        return each.new_zeros(len(facts)).index_add(0, of_read[wanted].to(each.device), each * share)


class AnswerValues:
    """The descent for the values of facts, [n, d] each; the norm of each value stays within its bound.

    A fact stops as soon as its loss is small enough, because Adam would keep changing its value with steps of the same
    length. ``seen`` has the loss of each fact at every step in which it was computed.
    """

    def __init__(self, rows: AnswerRows, options: AnswerOptions) -> None:
        self._rows, self._limits = rows, options.bound * rows.norms[..., None]
        self._values = [torch.zeros(len(norms), rows.width, device=norms.device) for norms in rows.norms]
        self._optimiser = torch.optim.Adam([value.requires_grad_() for value in self._values], lr=options.learning_rate)
        self.seen: list[list[float]] = [[] for _ in self._values]

    def descend(self, steps: int) -> Tensor:
        """Run at most ``steps`` evaluations, with an update between two; return the values [facts, n, d]."""
        active = list(range(len(self._values)))
        for step in range(steps):
            nll = self._look(active)
            active = [fact for fact in active if self.seen[fact][-1] >= _STOP_BELOW]
            if not active or step == steps - 1:
                break
            self._learn(nll[nll >= _STOP_BELOW], active)
        return torch.stack([value.detach() for value in self._values])

    def _look(self, active: Sequence[int]) -> Tensor:
        """Compute and note the losses of the ``active`` facts; gradients flow to their values only."""
        held = [value if fact in set(active) else value.detach() for fact, value in enumerate(self._values)]
        nll = self._rows.nll(torch.stack(held), active)
        for fact, now in zip(active, nll.tolist(), strict=True):
            self.seen[fact].append(now)
        return nll

    def _learn(self, nll: Tensor, active: Sequence[int]) -> None:
        """Take a step of Adam for the ``active`` facts, then rescale their values that exceed their bound."""
        self._optimiser.zero_grad()
        nll.sum().backward()
        for fact in set(range(len(self._values))) - set(active):
            self._values[fact].grad = None  # Adam leaves out a value without a gradient; with zeros it would move on
        self._optimiser.step()
        with torch.no_grad():
            for fact in active:
                size = self._values[fact].norm(dim=-1, keepdim=True).clamp(min=1e-12)
                self._values[fact].mul_((self._limits[fact] / size).clamp(max=1.0))


@dataclass(frozen=True, kw_only=True)
class Question:
    """The question of a fact with its answer ``target``; ``forms`` has (template, context before it) by wording."""

    forms: tuple[tuple[str, str], ...]
    target: str

    def about(self, model: LanguageModel, subject: str) -> tuple[Prompt, ...]:
        """The rows about ``subject``, one for each wording that can be encoded with the target."""
        found = (self.worded(model, subject, number) for number in range(len(self.forms)))
        return tuple(row for row in found if row)

    def worded(self, model: LanguageModel, subject: str, number: int) -> Prompt | None:
        """The row in one wording, edited at the question's last token; None if it can't be encoded with the target."""
        template, context = self.forms[number % len(self.forms)]
        with suppress(PromptError):
            row = encode(model.tokenizer, template, subject=subject, target=self.target, context=context)
            return _end(replace(row, ids=(*row.ids, _break(model))))
        return None


def question_of(fact: ComposedFact, *, shown: int) -> Question:
    """The question for a fact, after ``shown`` example facts about other things."""
    forms = tuple((fact.prompt(wording), fact.context(wording, shown=shown)) for wording in QUESTIONS)
    return Question(forms=forms, target=fact.target)


def _end(row: Prompt) -> Prompt:
    """The row with its edited position moved to the last token before the target."""
    return replace(row, subject_last=row.target_start - 1)


def _break(model: LanguageModel) -> int:
    """The token that ends an answer: the line break that also ends the example facts before a question.

    Some tokenizers, such as Llama-2's, put a token for a space before it.
    """
    last: int = model.tokenizer("\n\n", add_special_tokens=False)["input_ids"][-1]
    return last


def _of_others(
    model: LanguageModel, questions: Sequence[Question], rewrites: Asking, others: Sequence[str]
) -> list[Prompt]:
    """The same questions and the edit's prompt about other things; each in one of its wordings or contexts."""
    each = product(questions, enumerate(others))
    rows = [row for question, (number, other) in each if (row := question.worded(model, other, number))]
    for number, other in enumerate(others):
        with suppress(PromptError):
            asked = rewrites(other)
            rows.append(_end(asked[number % len(asked)]))
    return rows


@torch.no_grad()
def directions(keys: Tensor, others: Tensor, covariance: Covariance, options: AnswerOptions) -> Tensor:
    """A^-1 K (K^T A^-1 K + lambda I)^-1, [d_ff, facts], for ``keys`` K [d_ff, facts] and ``others`` [d_ff, n]."""
    metric = covariance.moment.double().clone()
    keys, others = keys.to(metric), others.to(metric)
    metric.diagonal().add_(options.ridge * metric.diagonal().mean())
    if others.shape[1]:
        metric += options.others_weight / others.shape[1] * others @ others.T
    solved = torch.linalg.solve(metric, keys)
    gram = keys.T @ solved
    gram.diagonal().add_(options.softness * gram.diagonal().mean())
    found: Tensor = torch.linalg.solve(gram, solved.T).T.float().contiguous()
    return found
