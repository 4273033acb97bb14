"""ROME (Meng et al., NeurIPS 2022, arXiv 2202.05262) and R-ROME (Gupta et al., EMNLP Findings 2024, arXiv 2403.07175).

An edit (s, r, o -> o*) becomes one rank-one update of the down-projection W [d, d_ff] of one block:

    W' = W + (m* - m) u^T / (k^T u),   u = C^-1 k*                                       (Eq. 2; GLAME's Eq. 8)

    k, k* [d_ff]    the input of W at the subject's last token: k in the bare prompt, k* the mean over contexts  (Eq. 3)
    m [d]           the output of W there; m* is the value with which the model predicts o*                      (Eq. 4)
    C [d_ff, d_ff]  the second moment of W's inputs over ordinary text

`RankOneMethod` computes this. What is trained is up to a subclass (`propose`): `Rome` trains m* - m itself, GLAME a
relational GNN whose output it is. R-ROME has k* in place of k, also in the residual (`rank_one_update`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.covariance.moment import Covariance, OtherKeys
from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import find_engine
from kg_edit.errors import FAILURES, PatchError
from kg_edit.locate_then_edit.descent import (
    MOMENTUM_PRESET,
    OPTIMISER_DESCRIPTION,
    Delta,
    Descent,
    Optimiser,
    descend,
    descent_model,
)
from kg_edit.locate_then_edit.objective import Objective, Request, norm_penalty
from kg_edit.locate_then_edit.states import other_keys, subject_states
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import ContextLengths, LayerConfig, Workload
from kg_edit.methods.entries import method_entry
from kg_edit.methods.value_method import ValueConfig, ValueMethod
from kg_edit.models.devices import exact
from kg_edit.models.first_token import warn_of_unread
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.sampling import sample_contexts
from kg_edit.patches import KEY
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch

KeyVariant = Literal["rome", "r-rome"]
# The smallest cosine between the key k and u, the direction of the update. The update has the norm
# |m* - m| / (|k| cosine), which is 10,000 |m* - m| / |k| at this cosine.
_SMALLEST_COSINE = 1e-4

# The published code has more contexts and a larger clamp, and neither further steps, nor the keys of other tokens or of
# earlier edits.
PUBLISHED: dict[str, Any] = {
    "context_lengths": ((5, 10), (10, 10)),
    "steps": 20,
    "further_steps": 0,
    "learning_rate": 0.5,
    "clamp_norm_factor": 4.0,
    "hold": 0.0,
    "remember": 0.0,
}
FAST: dict[str, Any] = {"descent_dtype": "bfloat16"}
LONG: dict[str, Any] = {"further_steps": 100, "clamp_norm_factor": 4.0}  # for long targets (docs/limits.md)


class RankOneConfig(ValueConfig, LayerConfig):
    """Settings of methods that write one value under one key in one layer.

    The default of ``clamp_norm_factor`` is 2, because at the published 4 an edit damages its neighbours twice as much.
    There are fewer contexts than published, which takes a fraction of the time (docs/speed.md compares the scores).
    """

    key: KeyVariant = Field(
        "rome", description="key in the residual: of the bare prompt (rome), or the mean over the contexts (r-rome)"
    )
    context_lengths: ContextLengths = Field(
        ((5, 2), (10, 3)), description="(tokens, count) of the contexts that are sampled from the model"
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {"fast": FAST, "paper": PUBLISHED}

    def workload(self, *, edits: int) -> Workload:
        """Return the cost of one descent on the edit's prompt in every context, and one covariance C.

        It is the same for any number of ``edits`` in a call.
        """
        return Workload(
            rows=1 + sum(count for _, count in self.context_lengths),
            context_tokens=sum(length * count for length, count in self.context_lengths),
            covariance=self.covariance,
            keys=self.remember > 0,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class EditValue:
    """The value of one edit.

    Attributes:
        request: the edit's prompts.
        clean: m, the value in the bare prompt, of the model with the earlier edits and without this one, [d].
        bare_key: k, the key of the bare prompt, [d_ff].
        mean_key: k*, the mean key over the contexts, [d_ff].
        descent: m* - m [d], and the losses of every step.
        notes: what the patch records about the change.
    """

    request: Request
    clean: Tensor
    bare_key: Tensor
    mean_key: Tensor
    descent: Descent
    notes: dict[str, Any]


class RankOneMethod(ValueMethod):
    """One rank-one update for each edit. Many share a descent; each edit gets a patch of its own."""

    family = "rank-one"
    config: RankOneConfig

    def __init__(
        self,
        model: LanguageModel,
        config: RankOneConfig,
        *,
        graph: Any = None,
        contexts: tuple[str, ...] | None = None,
        covariance: Covariance | None = None,
        progress: bool = True,
    ) -> None:
        covariances = None if covariance is None else {config.layer_in(len(model.blocks)): covariance}
        super().__init__(model, config, graph=graph, contexts=contexts, covariances=covariances, progress=progress)

    @property
    def covariance(self) -> Covariance:
        """C of the edited down-projection's inputs, [d_ff, d_ff]."""
        return self.covariances[self.layer]

    def sampled_contexts(self) -> tuple[str, ...]:
        """Return ROME's contexts: the bare prompt, and sampled texts with the lengths of ``context_lengths``."""
        return sample_contexts(self.model, lengths=self.config.context_lengths, seed=self.config.seed)

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every edit's prompt, so that a prompt that can't be encoded raises before any edit is made."""
        for edit in edits:
            with annotate_errors(edit):
                for chat in edit.forms:
                    self.model.encode_fact(edit.prompt, subject=edit.subject, target=edit.target_new, chat=chat)
                    without_target = self.model.encode_fact(edit.prompt, subject=edit.subject, chat=chat)
                    warn_of_unread(self.model, without_target, edit=edit.id)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Return the patch of the one edit: a batch of one."""
        (patch,) = self.make_each(edits, before=before)
        if isinstance(patch, Exception):
            raise patch
        return patch

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Return the rank-one update of each edit on the model in its present state, or the exception that it raised.

        ``before`` is the patch that is applied to the model, for ``remember``.
        """
        with keep_untouched(self.model):
            self.prepare()  # contexts and C, which all edits share

            # The prompts. An edit that can't be encoded has its exception as the result; the others are still made.
            results = dict[int, Patch | Exception]()
            requests = dict[int, Request]()
            for index, edit in enumerate(edits):
                try:
                    with annotate_errors(edit):
                        requests[index] = self.request(edit)
                except FAILURES as error:
                    results[index] = error

            # m*, k and k* of all edits together (Eq. 3, 4), then W' of each edit alone (Eq. 2).
            values = self.find_values([edits[index] for index in requests], list(requests.values()))
            for index, value in zip(requests, values, strict=True):
                try:
                    with annotate_errors(edits[index]):
                        results[index] = self.write(edits[index], value, before=before)
                except FAILURES as error:
                    results[index] = error
            return tuple(results[index] for index in range(len(edits)))

    def request(self, edit: Edit) -> Request:
        """Return the prompts of one edit: its prompt with the target in every context, and "{subject} is a"."""
        return Request.of(self.model, edit, self.contexts)

    def find_values(self, edits: Sequence[Edit], requests: Sequence[Request]) -> list[EditValue]:
        """Find m* of each edit (Eq. 4), and read the keys k and k* (Eq. 3).

        A descent has as many edits at once as fit into ``memory``.
        """
        if not edits:
            return []
        values = list[EditValue]()
        with keep_untouched(self.model):
            model = descent_model(self.model, self.config.descent_dtype)  # the model, or a copy of it in bfloat16
            for part in self.portions(requests):
                values += self._find_values_together(model, edits[part], requests[part])
        return values

    def _find_values_together(
        self, model: LanguageModel, edits: Sequence[Edit], requests: Sequence[Request]
    ) -> list[EditValue]:
        """Find the values of edits that share a descent; ``model`` is `self.model` or a copy of it."""
        requests = self.complete_requests(model, edits, requests)

        # One pass over all prompts of the model without the change gives m [edits, d], k and k* [edits, d_ff].
        loss = self.objective(model, edits, requests)

        # Eq. 4: gradient descent on m* - m of all edits at once; an edit whose loss is small enough ends early.
        delta, notes = self.propose(edits, loss.value)
        descents = descend(loss, delta, self.config.stops)
        if self.config.anchor:
            descents = self.rescale_to_anchor(descents, loss.value)
        values = list[EditValue]()
        for index, descent in enumerate(descents):
            value = EditValue(
                request=requests[index],
                clean=loss.value[index],
                bare_key=loss.bare_key[index],
                mean_key=loss.mean_key[index],
                descent=descent,
                notes=notes[index],
            )
            values.append(value)
        return values

    def complete_requests(
        self, model: LanguageModel, edits: Sequence[Edit], requests: Sequence[Request]
    ) -> Sequence[Request]:
        """Return the requests with what ``model`` has to be asked for first, for all edits in one batch; here nothing.

        What is returned is in the edits' loss, and comes to `write` with the values (`EditValue.request`).
        """
        return requests

    def objective(self, model: LanguageModel, edits: Sequence[Edit], requests: Sequence[Request]) -> Objective:
        """Return the loss of ``edits`` with their prompts ``requests``; ``model`` is `self.model` or a copy of it."""
        loss = Objective(
            model,
            self.layer,
            requests,
            kl_weight=self.config.kl_weight,
            penalty=self.penalty,
            engine=find_engine(model, self.layer, self.contexts, memory=self.memory),
        )
        if model is not self.model:
            # The descent runs on a copy in bfloat16, from which the loss has read m, k and k*. The penalty and the
            # update get those of the model itself.
            value, bare_key, mean_key = self.read_states(requests)
            loss.value = value
            loss.bare_key = bare_key
            loss.mean_key = mean_key
        return loss

    def penalty(self, change: Tensor, value: Tensor) -> Tensor:
        """Return a further term of the loss, [edits], of m* - m and m [edits, d] each; none by default."""
        return change.new_zeros(len(change))

    @abstractmethod
    def propose(self, edits: Sequence[Edit], values: Tensor) -> tuple[Delta, list[dict[str, Any]]]:
        """Return the parameters of the edits' changes m* - m, and notes for each record; ``values``: m, [edits, d]."""

    @torch.no_grad()
    def read_states(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor, Tensor]:
        """Return m [edits, d], k and k* [edits, d_ff] without the loss: no block above the edited one runs."""
        rows = list(chain.from_iterable(request.rewrites for request in requests))
        keys, values = subject_states(self.model, rows, layer=self.layer, last=self.layer, site="value")
        counts = [len(request.rewrites) for request in requests]
        mean_keys = torch.stack([edit_keys.mean(0) for edit_keys in keys.split(counts)])  # over an edit's rows
        bare_rows = torch.tensor([0, *counts[:-1]]).cumsum(0)  # [edits]: the first row of each is its bare prompt
        return values[bare_rows], keys[bare_rows], mean_keys

    @torch.no_grad()
    def write(self, edit: Edit, value: EditValue, *, before: Patch | None = None) -> WeightPatch:
        """Return the patch that writes an edit's value: the closed form (Eq. 2).

        Args:
            edit: the fact.
            value: its value, from `find_values`.
            before: the patch that is applied to the model, for ``remember``; None: there is none.
        """
        value.descent.check()
        name = self.model.weight_name(self.layer)
        token_keys = None
        if self.config.hold:  # the keys of the prompts' other tokens, at which the descent did not make the change
            token_keys = other_keys(self.model, value.request.rewrites, self.layer)
        earlier_keys = None
        if before is not None and not before.is_empty:
            from kg_edit.locate_then_edit.long_run import remember  # only an edit after others needs it

            earlier_keys = remember(before, name, weight=self.config.remember)
        factors = rank_one_update(
            change=value.descent.change,  # m* - m, [d]
            mean_key=value.mean_key,
            bare_key=value.bare_key,
            covariance=self.covariance,
            matrix=weight_matrix(self.model.down_projection(self.layer)),  # W, [d, d_ff]
            variant=self.config.key,
            token_keys=token_keys,
            hold=self.config.hold,
            earlier_keys=earlier_keys,
        )
        # Where a restrained method changes the direction here, W' k is not exactly m* any more: the left factor was
        # divided by k . u of the unchanged one.
        factors = replace(factors, right=self.adjust_directions(self.layer, factors.right))
        updates = self.adjust_updates({name: factors}, before)
        return self._make_patch(edit, value, name, updates)

    def _make_patch(self, edit: Edit, value: EditValue, name: str, updates: dict[str, Factors]) -> WeightPatch:
        """Return the patch of the ``updates``, with the edit's record and its key, which ``remember`` reads later.

        ``name`` is that of the edited weight, by which ``updates`` has its factors.
        """
        norms = {
            "value": round(float(value.clean.norm()), 6),
            "change": round(float(value.descent.change.norm()), 6),
            "update": round(updates[name].norm, 6),
        }
        notes = {**value.notes, **value.request.notes}
        record = {**self.record(edit), "norms": norms, **value.descent.summary, **notes}
        provenance = {**self.provenance(), "edits": [record]}
        state = {}
        if self.config.remember:
            state = {KEY + name: value.mean_key[:, None]}  # [d_ff, 1 edit]
        return WeightPatch(factors=updates, provenance=provenance, state=state)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, with the layer, the contexts and the covariance."""
        provenance = super().provenance()
        provenance["methods"][0] |= {
            "layer": self.layer,
            "contexts": list(self.contexts),
            "covariance": {"id": self.covariance.id, "tokens": self.covariance.tokens},
        }
        return provenance


def rank_one_update(
    *,
    change: Tensor,
    mean_key: Tensor,
    bare_key: Tensor,
    covariance: Covariance,
    matrix: Tensor,
    variant: KeyVariant = "rome",
    token_keys: Tensor | None = None,
    hold: float = 0.0,
    earlier_keys: Tensor | None = None,
) -> Factors:
    """Return the update with which W's output is m* for the bare key (``rome``), or for the mean key (``r-rome``).

    Args:
        change: m* - m in the bare prompt, [d].
        mean_key: k*, the mean over the contexts, [d_ff].
        bare_key: k, the key of the bare prompt, [d_ff].
        covariance: C = E[k k^T] of W's inputs, [d_ff, d_ff].
        matrix: W, [d, d_ff].
        variant: which key is in the residual and in the denominator.
        token_keys: N, the keys of the prompts' other tokens, whose outputs should change little, [n, d_ff]
            (`kg_edit.locate_then_edit.states`); None: there are none.
        hold: w, the weight of H = N^T N / n, where C has weight 1.
        earlier_keys: K_p, the keys of earlier edits times sqrt(``remember``), [d_ff, earlier edits]; None: there are
            none.
    """
    # u = (C + w H + K_p K_p^T / lambda)^-1 k*: the direction that least changes the outputs of ordinary keys and of
    # earlier edits' keys. lambda = d_ff / 10 weighs C against an edit's key, as in MEMIT. The length of u cancels.
    held = OtherKeys.none(len(mean_key), mean_key.device)  # the sum w H + K_p K_p^T / lambda, [d_ff, d_ff]
    if token_keys is not None:
        held = held.plus(token_keys, weight=hold / max(1, len(token_keys)))  # w H
    if earlier_keys is not None:
        held = held.plus(earlier_keys.T, weight=10 / len(mean_key))  # K_p K_p^T / lambda
    u = covariance.solve(mean_key, others=held, weight=1.0)  # 1: the weights are in it already; [d_ff], float64
    right = u / u.norm()

    # r = (m* - W k) / (k . u). For the bare key, m* - W k = m* - m, because the bias cancels. R-ROME has k* for k.
    key = exact(bare_key)
    residual = exact(change)
    if variant == "r-rome":
        key = exact(mean_key)
        residual = residual - exact(matrix) @ (key - exact(bare_key))
    factor = key @ right
    if abs(factor) < _SMALLEST_COSINE * key.norm():
        raise PatchError(
            f"the edit's key is orthogonal to its update direction (cosine {factor / key.norm():.1e}), so the update "
            "would be far too large; use key='r-rome', other contexts, or a covariance from more text"
        )
    left = residual / factor  # [d]

    factors = Factors(left=left.float()[:, None], right=right.float()[:, None])  # W' = W + left right^T
    if not factors.is_finite:
        raise PatchError("the update has values that are not finite; lower the learning rate or use float32")
    return factors


class RomeConfig(RankOneConfig):
    """ROME's settings. The preset ``paper`` has the settings of the published code, except the layer.

    The preset ``long`` continues until a long target is predicted, with the published clamp, which such a target needs.
    """

    steps: PositiveInt = Field(12, description="maximum number of evaluations of the objective")
    learning_rate: float = Field(1.0, gt=0, description="learning rate of the optimiser")
    optimiser: Optimiser = Field("adam", description=OPTIMISER_DESCRIPTION)
    weight_decay: float = Field(0.5, ge=0, description="weight of |m* - m| / |m|^2 in the loss")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": {**FAST, **MOMENTUM_PRESET},
        "long": LONG,
        "paper": PUBLISHED,
    }


class Rome(RankOneMethod):
    """One rank-one update per edit; GLAME without its graph module."""

    entry = method_entry("rome")
    config_class = RomeConfig
    config: RomeConfig

    def propose(self, edits: Sequence[Edit], values: Tensor) -> tuple[Delta, list[dict[str, Any]]]:
        """Return the changes m* - m themselves as the parameters, starting at 0; no notes."""
        return self.free_delta(values, self.config.optimiser), [{} for _ in edits]

    def penalty(self, change: Tensor, value: Tensor) -> Tensor:
        """Return ROME's regulariser, weight_decay |m* - m| / |m|^2, [edits]."""
        return norm_penalty(change, value, weight=self.config.weight_decay)


class RRomeConfig(RomeConfig):
    """ROME's settings with the key of R-ROME and the published clamp of 4.

    With this key a single edit damages less and succeeds less often, so the larger clamp is affordable. In a sequence
    of hundreds of edits it is not (docs/results.md).
    """

    key: KeyVariant = Field(
        "r-rome", description="key in the residual: of the bare prompt (rome), or the mean over the contexts (r-rome)"
    )
    clamp_norm_factor: float = Field(4.0, gt=0, description="maximum of |m* - m|, as a multiple of |m|")


class RRome(Rome):
    """ROME with the mean key throughout the update, whose denominator is then always positive."""

    entry = method_entry("r-rome")
    config_class = RRomeConfig
