"""MEMIT (Meng et al., ICLR 2023, arXiv 2210.07229): many facts at once, with a share of the change in each layer.

1. For every fact, gradient descent finds z = h + (z - h) [d]: the state of the last edited layer, at the subject's last
   token, with which the model predicts the fact (`find_values`; their Eq. 16).
2. Layer by layer, in ascending order, one update moves the states of all facts towards z (`write`; section 4.3):

    W_l += R K^T (lambda C_l + K K^T)^-1                                                  (Eq. 14)

    K [d_ff, facts]   the keys of the facts in layer l
    R [d, facts]      what is missing of z - h, divided by the number of layers that are left
    C_l [d_ff, d_ff]  the second moment of the layer's keys over ordinary text

An unstructured edit, whose target is a paragraph, is written as in AnyEdit (Jiang et al., ICML 2025, arXiv 2502.05628):
each chunk of the paragraph is a fact of its own, at the last token before it (`JointMethod.chunks`).

`JointMethod` computes this for MEMIT, EMMET and AlphaEdit, which differ in the closed form (`directions`), for PMET,
whose values and shares differ (`states`, `split_written`, `share`), and for EAMET, which has a further term in the loss
(`regulariser`). A patch stores the values z, so that an edit can be removed and the others written again
(`JointMethod.without`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.covariance.moment import Covariance, OtherKeys
from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import find_engine
from kg_edit.engine.tail_forward import TailForward
from kg_edit.errors import FAILURES, PatchError, RefusedEditsError, UnsupportedModelError
from kg_edit.locate_then_edit.descent import (
    OPTIMISER,
    Delta,
    Descent,
    FreeDelta,
    Optimiser,
    descend,
    descent_model,
)
from kg_edit.locate_then_edit.joint import joint_directions, write_jointly
from kg_edit.locate_then_edit.long_run import anchor, remember
from kg_edit.locate_then_edit.objective import Objective, Penalty, Request, norm_penalty
from kg_edit.locate_then_edit.states import OtherTokens, Site, adds_mlp, subject_states
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import Layers, MethodConfig, Workload, default_layer
from kg_edit.methods.entries import method_entry
from kg_edit.methods.memit.records import (
    VALUE,
    Fact,
    FactValue,
    Record,
    batches_without,
    facts_of,
    new_record,
    texts_of,
    with_updates,
)
from kg_edit.methods.statement import encode_statement, warn_of_lead
from kg_edit.methods.value_method import ValueConfig, ValueMethod
from kg_edit.models.first_token import warn_of_unread
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.models.sampling import STARTS, started_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import KEY
from kg_edit.patches.weight_patch import WeightPatch

PUBLISHED: dict[str, Any] = {"further_steps": 0, "hold": 0.0, "remember": 0.0}
FAST: dict[str, Any] = {"descent_dtype": "bfloat16", "steps": 12, "learning_rate": 1.0}


class JointConfig(ValueConfig):
    """Settings of methods that write the values of a batch of facts at once."""

    optimiser: Optimiser = Field("adam", description=OPTIMISER)
    weight_decay: float = Field(0.5, ge=0, description="weight of |z - h| / |h|^2 in the loss")
    clamp_norm_factor: float = Field(0.75, gt=0, description="maximum of |z - h|, as a multiple of |h|")
    context_starts: tuple[str, ...] = Field(STARTS, description="first words of the contexts; one context for each")
    context_tokens: PositiveInt = Field(10, description="length of a context, in tokens")
    chunk_tokens: PositiveInt = Field(40, description="length of the chunks of a target_text, in tokens")

    def workload(self, *, edits: int) -> Workload:
        """Return the cost of one descent on the fact's prompt in every context, and one covariance C for each layer."""
        return Workload(
            rows=1 + len(self.context_starts),
            context_tokens=len(self.context_starts) * self.context_tokens,
            covariance=self.covariance,
            keys=self.remember > 0,
        )


class SpreadConfig(JointConfig):
    """Settings of joint methods that spread the change over several layers."""

    layers: Layers | None = Field(
        None,
        min_length=1,
        description="edited blocks, 0-based; default five around 0.2 of the depth, fewer in a small model; one (Gemma, "
        "Granite, OLMo) where a block normalises after its MLP or scales it",
    )

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers of the settings, or by default up to five around 0.2 of the depth."""
        return self.layers or default_layers(blocks)


def default_layers(blocks: int) -> tuple[int, ...]:
    """Return the layer at 0.2 of the depth and up to two on each side: 4 to 8 of 30 blocks, 1 to 3 of 12."""
    centre = default_layer(blocks)
    around = min(2, round(blocks / 15))
    return tuple(range(max(0, centre - around), min(blocks, centre + around + 1)))


def single_layer(config: MethodConfig, blocks: int, *, name: str, family: str) -> tuple[int, ...]:
    """Return the one layer to write in a model whose changes of several blocks do not add up.

    Args:
        config: the settings; by default the layer is at 0.2 of the depth.
        blocks: the number of blocks.
        name: the model's name.
        family: the model's family.
    """
    default = default_layer(blocks)
    if isinstance(config, SpreadConfig) and config.layers is None:
        return (default,)
    layers = config.written_layers(blocks)
    if len(layers) > 1:
        raise UnsupportedModelError(
            f"{name} ({family}) normalises after its MLP or scales it, so changes in several layers do not add up; "
            f"give one layer, as in --set layers=[{default}]"
        )
    return layers


class JointMethod(ValueMethod):
    """Find a state z for every fact, then move the model's states towards z layer by layer, for all facts at once.

    The settings name the layers, a subclass defines the closed form (`directions`).
    """

    family = "joint"
    joint = True
    separable = True
    site: Site = "block"
    forward: ClassVar[type[TailForward] | None] = None
    config: JointConfig

    def __init__(
        self,
        model: LanguageModel,
        config: JointConfig,
        *,
        graph: Any = None,
        contexts: tuple[str, ...] | None = None,
        covariances: Mapping[int, Covariance] | None = None,
        progress: bool = True,
    ) -> None:
        """Choose the layers: one, if the changes of several do not add up in this model.

        The value of that layer is then the output of its MLP, as in ROME and EMMET, in place of the block's.
        """
        super().__init__(model, config, graph=graph, contexts=contexts, covariances=covariances, progress=progress)
        self._refused_batch: tuple[Patch, dict[Edit, list[FactValue]]] | None = None
        with untouched(model):
            if self.site == "value" or all(adds_mlp(model, layer) for layer in self.layers):
                return
        self.site = "value"
        self.layers = single_layer(config, len(model.blocks), name=model.name, family=model.model.config.model_type)

    def sampled_contexts(self) -> tuple[str, ...]:
        """Return MEMIT's contexts: the bare prompt, and one sampled text for each start word in ``context_starts``."""
        config = self.config
        return started_contexts(
            self.model, starts=config.context_starts, tokens=config.context_tokens, seed=config.seed
        )

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every fact's prompts, so that a prompt that can't be encoded raises before any edit is made."""
        for edit in edits:
            with annotate_errors(edit):
                if edit.target_text:
                    self.facts(edit)
                    warn_of_lead(self.model, edit, method=self.name)
                    continue
                for fact in self.edits_to_write(edit):
                    self._check_forms(fact)
                without_target = self.model.encode_fact(edit.prompt, subject=edit.subject, chat=edit.forms[0])
                warn_of_unread(self.model, without_target, edit=edit.id)

    def _check_forms(self, fact: Edit) -> None:
        """Encode a fact's prompt in each form, but not in the contexts, which would take ten times as long."""
        for chat in fact.forms:
            self.model.encode_fact(fact.prompt, subject=fact.subject, target=fact.target_new, chat=chat)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Find all values in one descent, then write all facts together.

        A fact that contradicts an edit of the batch is left out; the edit's record counts these (``opposed``).
        """
        with untouched(self.model):
            self.prepare()
            groups, opposed = self.batch_facts(edits)

            # z of all facts (Eq. 16).
            values = self._find_batch_values(edits, groups, before)

            # W + R K^T (lambda C + K K^T)^-1 (Eq. 14), in each layer for all facts.
            try:
                records = self.batch_records(edits, groups, values, opposed)
            except PatchError:  # the caller may make the batch again without the refused edits: `_take_known_values`
                self._refused_batch = before, dict(zip(edits, values, strict=True))
                raise
            states = [value.target_state for value in chain.from_iterable(values)]
            target_states = torch.stack(states)  # z, [facts, d]
            return self.write(list(chain(*groups)), target_states, records, before)

    def batch_facts(self, edits: Sequence[Edit]) -> tuple[list[tuple[Fact, ...]], list[int]]:
        """Return the facts of each edit of a batch, and how many were left out, as they contradict an edit of it."""
        targets = {edit.text: edit.target_new for edit in edits}
        groups = list[tuple[Fact, ...]]()
        opposed = list[int]()
        for edit in edits:
            with annotate_errors(edit):
                facts = self.facts(edit)
            usable = facts
            if not edit.target_text:
                usable = tuple(fact for fact in facts if targets.get(fact.edit.text, fact.target) == fact.target)
            groups.append(usable)
            opposed.append(len(facts) - len(usable))
        return groups, opposed

    def _find_batch_values(
        self, edits: Sequence[Edit], groups: Sequence[Sequence[Fact]], before: Patch
    ) -> list[list[FactValue]]:
        """Find the values of each edit's facts in one descent, but for those that a refused batch left behind."""
        known = self._take_known_values(before, dict(zip(edits, groups, strict=True)))
        new = list[Fact]()
        for edit, group in zip(edits, groups, strict=True):
            if edit not in known:
                new += group
        found = self.find_values(new)
        values = list[list[FactValue]]()
        for edit, group in zip(edits, groups, strict=True):
            if edit in known:
                values.append(known[edit])
            else:
                values.append(found[: len(group)])
                found = found[len(group) :]
        return values

    def _take_known_values(self, before: Patch, facts: Mapping[Edit, Sequence[Fact]]) -> dict[Edit, list[FactValue]]:
        """Return the values that were found for a batch just before some of its edits were refused, and forget them.

        They hold if the batch is made again on the same patch ``before``, and for edits that have as many facts as
        then. So a batch without its refused edits takes no second descent.
        """
        if self._refused_batch is None:
            return {}
        beneath, values = self._refused_batch
        self._refused_batch = None
        if beneath is not before and not (beneath.is_empty and before.is_empty):
            return {}
        known = {}
        for edit, edit_values in values.items():
            if len(edit_values) == len(facts.get(edit, ())):
                known[edit] = edit_values
        return known

    def batch_records(
        self,
        edits: Sequence[Edit],
        groups: Sequence[Sequence[Fact]],
        values: Sequence[Sequence[FactValue]],
        opposed: Sequence[int],
    ) -> list[Record]:
        """Return the record of each edit of a batch.

        Args:
            edits: the batch.
            groups: the facts of each edit.
            values: their values.
            opposed: how many facts of each edit were left out.
        """
        records = list[Record]()
        refused = dict[Edit, PatchError]()
        for index, edit in enumerate(edits):
            try:
                with annotate_errors(edit):
                    record = new_record(self.record(edit), groups[index], values[index]) | self.notes(edit)
            except PatchError as error:
                refused[edit] = error
                continue
            if opposed[index]:
                record["opposed"] = opposed[index]
            records.append(record)
        if refused:
            first = next(iter(refused))
            with annotate_errors(first):
                if len(edits) == 1:
                    raise refused[first]
                raise RefusedEditsError({edit.id: why for edit, why in refused.items()})
        return records

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Find the values of all edits in one descent, then write each edit into a patch of its own."""
        applied = self.empty_patch() if before is None else before
        with untouched(self.model):
            self.prepare()

            # The facts of each edit. An edit whose facts can't be encoded has its exception as the result.
            results = dict[int, Patch | Exception]()
            facts = dict[int, tuple[Fact, ...]]()
            for index, edit in enumerate(edits):
                try:
                    with annotate_errors(edit):
                        facts[index] = self.facts(edit)
                except FAILURES as error:
                    results[index] = error

            # z of all facts in one descent, then one patch for each edit.
            values = self.find_values(list(chain(*facts.values())))
            first = 0  # of the values that belong to the edit
            for index, group in facts.items():
                own_values = values[first : first + len(group)]
                first += len(group)
                try:
                    with annotate_errors(edits[index]):
                        results[index] = self.write_alone(edits[index], group, own_values, applied)
                except FAILURES as error:
                    results[index] = error
            return tuple(results[index] for index in range(len(edits)))

    def write_alone(self, edit: Edit, facts: Sequence[Fact], values: Sequence[FactValue], before: Patch) -> Patch:
        """Return the patch of one edit's facts with their values, on the model with the patch ``before``."""
        record = new_record(self.record(edit), facts, values) | self.notes(edit)
        target_states = torch.stack([value.target_state for value in values])  # z, [facts, d]
        return self.write(facts, target_states, [record], before)

    def facts(self, edit: Edit) -> tuple[Fact, ...]:
        """Return the facts that are written for an edit, each with its prompts."""
        if edit.target_text:
            return self.chunks(edit)
        return tuple(self.fact(fact) for fact in self.edits_to_write(edit))

    def chunks(self, edit: Edit) -> tuple[Fact, ...]:
        """Return a fact for each chunk of an edit's text. Its prompt is all the text before it, up to the last token.

        The published code changes the states of earlier chunks while it looks for the next one's. Here each value is
        found on the unchanged model, so that all are found in one descent.
        """
        statement = encode_statement(self.model, edit, method=self.name)
        starts = range(statement.target_start, len(statement.ids), self.config.chunk_tokens)
        facts = []
        for number, start in enumerate(starts):
            end = min(start + self.config.chunk_tokens, len(statement.ids))
            # Earlier chunks are written too, each at the token before it.
            other_ends = tuple(other - 1 for other in starts if other < end and other != start)
            row = replace(
                statement,
                ids=statement.ids[:end],
                target_start=start,
                subject_first=None,
                subject_last=start - 1,
                also_edited=other_ends,
            )
            text = str(self.model.tokenizer.decode(list(statement.ids[start:end])))
            chunk = edit.model_copy(update={"id": f"{edit.id}.{number}", "target_text": text, "target_new": text})
            facts.append(Fact(edit=chunk, prompts=Request(rewrites=(row,))))
        return tuple(facts)

    def edits_to_write(self, edit: Edit) -> tuple[Edit, ...]:
        """Return the edit itself; a subclass may add further facts after it, each in the form of an edit."""
        return (edit,)

    def fact(self, edit: Edit) -> Fact:
        """Return a fact with its prompts: its own with the target in every context, and "{subject} is a"."""
        return Fact(edit=edit, prompts=Request.of(self.model, edit, self.contexts))

    def notes(self, edit: Edit) -> dict[str, Any]:
        """Return further entries of an edit's record; none by default."""
        return {}

    def find_values(self, facts: Sequence[Fact]) -> list[FactValue]:
        """Find z of each fact, independent of the other facts.

        A descent has as many facts at once as fit into ``memory``.

        Returns:
            One `FactValue` per fact, in order.
        """
        prompts = [fact.prompts for fact in facts]
        values = list[FactValue]()
        with untouched(self.model):
            model = descent_model(self.model, self.config.descent_dtype)  # the model, or a copy of it in bfloat16
            for part in self.portions(prompts):
                # Eq. 16: gradient descent on z - h of all facts at once; a fact whose loss is small enough ends early.
                loss = self.objective(model, prompts[part])
                h = loss.value  # [facts, d]
                delta, notes = self.propose([fact.edit for fact in facts[part]], h)
                descents = descend(loss, delta, self.config.stops)

                states, descents = self.split_written(h, descents)
                if self.config.anchor:
                    descents = self.anchor_values(descents, prompts[part])
                for index, descent in enumerate(descents):
                    values.append(FactValue(state=states[index], descent=descent, notes=notes[index]))
        return values

    def objective(self, model: LanguageModel, requests: Sequence[Request]) -> Objective:
        """Return the loss as a function of z - h for facts with the prompts ``requests``; its ``value`` is h.

        ``model`` is `self.model` or a copy of it.
        """
        layer = self.layers[-1]
        engine = find_engine(model, layer, self.contexts, memory=self.memory, forward=self.forward)
        loss = Objective(model, layer, requests, kl_weight=self.config.kl_weight, engine=engine)
        # The penalty is relative to h, which is the block's output, and not the MLP's.
        loss.value = self.states(loss, [request.rewrites[0] for request in requests])
        loss.penalty = self.regulariser(loss)
        return loss

    def anchor_values(self, descents: Sequence[Descent], requests: Sequence[Request]) -> list[Descent]:
        """Return the descents with values of the norm that ``anchor`` sets."""
        layer = self.layers[-1]
        bare = [request.rewrites[0] for request in requests]
        _, values = subject_states(self.model, bare, layer=layer, last=layer, site="value")  # m
        return [
            anchor(descent, value, norm=self.value_norm, most=self.config.anchor)
            for descent, value in zip(descents, values, strict=True)
        ]

    def states(self, loss: Objective, bare: Sequence[Prompt]) -> Tensor:
        """Return h [facts, d]: the last layer's state at the subject's last token of each ``bare`` prompt."""
        last = self.layers[-1]
        return subject_states(self.model, bare, layer=last, last=last, site=self.site)[1]

    def split_written(self, states: Tensor, descents: Sequence[Descent]) -> tuple[Tensor, list[Descent]]:
        """Return the part of the states and of their changes that is written: all of them."""
        return states, list(descents)

    def propose(self, edits: Sequence[Edit], states: Tensor) -> tuple[Delta, list[dict[str, Any]]]:
        """Return the parameters of the facts' changes z - h, and notes for each record; ``states``: h, [facts, d]."""
        config = self.config
        delta = FreeDelta(
            states,
            optimiser=config.optimiser,
            learning_rate=config.learning_rate,
            clamp_norm_factor=config.clamp_norm_factor,
        )
        return delta, [{} for _ in edits]

    def regulariser(self, loss: Objective) -> Penalty:
        """Return the further term of ``loss``, which a subclass may compute from all its facts: here `penalty`."""
        return self.penalty

    def penalty(self, change: Tensor, state: Tensor) -> Tensor:
        """Return weight_decay |z - h| / |h|^2, [facts]."""
        return norm_penalty(change, state, weight=self.config.weight_decay)

    def write(self, facts: Sequence[Fact], target_states: Tensor, records: Sequence[Record], before: Patch) -> Patch:
        """Return the patch that moves the states of the facts towards z.

        Args:
            facts: all facts of the batch.
            target_states: z, [facts, d].
            records: one record per edit.
            before: the patch that is applied to the model.
        """
        requests = [fact.prompts for fact in facts]
        held = requests if self.config.hold else ()
        others = OtherTokens(self.model, held, self.layers, memory=self.memory / 2)
        is_protected = find_facts_to_protect(before, facts)  # [earlier facts]

        def find_directions(layer: int, keys: Tensor) -> Tensor:
            protected = self.protected(layer, before)  # [d_ff, earlier facts]
            if protected is not None and protected.shape[1] == len(is_protected):
                protected = protected[:, is_protected.to(protected.device)]
            right = self.directions(layer, keys, others=others.at(layer), protected=protected)
            return self.adjust_directions(layer, right)

        written = write_jointly(
            self.model,
            requests,
            target_states,
            layers=self.layers,
            site=self.site,
            directions=find_directions,
            share=self.share,
            memory=self.memory / 2,
        )
        keys = {}
        if self.config.remember:
            keys = {KEY + name: layer_keys for name, layer_keys in written.keys.items()}
        provenance = {**self.provenance(), "edits": with_updates(records, written.norms())}
        factors = self.adjust_updates(written.factors, before)
        return WeightPatch(factors=factors, provenance=provenance, state={VALUE: target_states.T, **keys})

    @abstractmethod
    def directions(self, layer: int, keys: Tensor, *, others: OtherKeys, protected: Tensor | None) -> Tensor:
        """Return the right factor U [d_ff, facts] of a layer's update R U^T.

        Args:
            layer: the block that is written.
            keys: K, the facts' keys, [d_ff, facts], in float64.
            others: H, of the keys of other tokens; 0 if ``hold`` is 0.
            protected: K_p, the keys of earlier batches times sqrt(``remember``), [d_ff, earlier facts]; None if there
                are none.
        """

    def share(self, remaining: int) -> float:
        """Return which part of what is missing of z - h a layer writes; it is one of ``remaining`` layers."""
        return 1 / remaining

    def solve(self, layer: int, keys: Tensor, others: OtherKeys) -> Tensor:
        """Return (C + hold H)^-1 K, [d_ff, facts]."""
        return self.covariances[layer].solve(keys, others=others, weight=self.config.hold)

    def protected(self, layer: int, before: Patch) -> Tensor | None:
        """Return sqrt(remember) K_p, of the keys of the facts of ``before`` in a layer, [d_ff, earlier facts]."""
        return remember(before, self.model.weight_name(layer), weight=self.config.remember)

    def without(self, patch: Patch, ids: Collection[str], *, before: Patch | None = None) -> WeightPatch:
        """Remove the edits with these ``ids`` from ``patch``: the other edits are written again from their values z.

        For a patch of one batch the result is exact, because no value depends on another edit of the batch. Later
        batches keep their values, although they were found on a model with the removed edits.

        Args:
            patch: a patch of this method.
            ids: the edits to remove.
            before: the patch that was applied to the model when ``patch`` was made.
        """
        opposed = [record["edit"]["id"] for record in patch.edits if record.get("opposed")]
        if opposed:
            names = ", ".join(repr(id_) for id_ in opposed)
            raise PatchError(
                f"facts of {names} were left out, because an edit of the batch contradicts them; make the edits that "
                "stay again, as kg-edit patch remove does"
            )
        self.prepare()
        remaining = WeightPatch(factors={}, provenance=self.provenance())
        for batch in batches_without(patch, ids, methods=self.provenance()["methods"]):
            # The keys of a batch are those of the model with the batches before it, as when the patch was made.
            beneath: Patch = remaining
            if before is not None:
                beneath = before + remaining
            with beneath.applied(self.model), untouched(self.model):
                facts = list[Fact]()
                for record in batch.records:
                    facts += self._read_facts(record)
                written = self.write(facts, batch.values.T, batch.records, beneath)
                assert isinstance(written, WeightPatch)  # noqa: S101 - of a separable method
                with_norms = written.with_weight_norms(self.model)
                remaining = remaining._plus(replace(written, provenance=with_norms.provenance))
        return remaining

    def _read_facts(self, record: Record) -> list[Fact]:
        """Return the facts that a patch's record lists, each with its prompts."""
        edit, *further = facts_of(record)
        if edit.target_text:
            return list(self.chunks(edit))
        return [self.fact(fact) for fact in (edit, *further)]

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, with the layers, the contexts and the covariances."""
        provenance = super().provenance()
        provenance["methods"][0] |= {
            "layers": list(self.layers),
            "contexts": list(self.contexts),
            "covariances": {
                str(layer): {"id": covariance.id, "tokens": covariance.tokens}
                for layer, covariance in self.covariances.items()
            },
        }
        return provenance


def find_facts_to_protect(before: Patch, facts: Sequence[Fact]) -> Tensor:
    """Return which facts of ``before`` are not edited again by ``facts``, [earlier facts].

    The key of a fact that is edited again is not protected: that would halve the fact's own new change.
    """
    again = {fact.edit.text for fact in facts}
    texts = list[str]()
    for record in before.edits:
        texts += texts_of(record)
    return torch.tensor([text not in again for text in texts], dtype=torch.bool)


class MemitConfig(SpreadConfig):
    """MEMIT's settings. The preset ``paper`` has those of the published code for GPT-2 XL, except the layers.

    For keys like those that C was measured from, k C^-1 k is d_ff on average. The default lambda = d_ff / 10 therefore
    lets a layer write most of its share under such a key, in a model of any size. The published number would be too
    strong for a small model.
    """

    mom2_weight: float | None = Field(
        None,
        gt=0,
        description="lambda, the weight of C; a new key has 1; default d_ff / 10 (published: 15000, 20000)",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": FAST,
        "paper": {**PUBLISHED, "mom2_weight": 20_000.0},
    }


class Memit(JointMethod):
    """Least squares over new and old keys in every layer."""

    entry = method_entry("memit")
    config_class = MemitConfig
    config: MemitConfig

    def directions(self, layer: int, keys: Tensor, *, others: OtherKeys, protected: Tensor | None) -> Tensor:
        """Return (lambda C + K_p K_p^T + K K^T)^-1 K, [d_ff, facts] (Eq. 14; K_p: OTE = SE, arXiv 2605.26670)."""
        weight = self.config.mom2_weight or len(keys) / 10
        all_keys = keys
        if protected is not None:
            all_keys = torch.cat([keys, protected.to(keys)], 1)
        return joint_directions(all_keys, self.solve(layer, all_keys, others), weight=weight, first=keys.shape[1])
