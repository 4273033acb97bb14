"""The steps that MEMIT, AlphaEdit, EMMET, PMET and EAMET share: many facts are written at once, layer after layer.

`JointMethod` makes the facts of a batch (`make_facts`), finds z of each (`find_values`), and writes all of them
(`write_weights`). A method differs from the others in what it overrides:

    what is overridden    its default                                     who overrides it
    --------------------  ----------------------------------------------  ------------------------------------
    directions            none: the closed form, U of an update R U^T     MEMIT, AlphaEdit, EMMET
    share_of_layer        1 / layers left                                 PMET: 1 / sqrt(layers left)
    site                  z is an output of the block                     EMMET, PMET: of the block's MLP
    forward               the descent changes the output at `site`        PMET: the attention's output, too
    find_states           h is read from `self.model`                     PMET: h of both outputs
    propose               z - h itself is trained                         GLAME-batch: an R-GNN
    penalty               weight_decay |z - h| / |h|^2                    PMET: of both; GLAME-batch: 0
    make_penalty          `penalty`                                       EAMET: also of the other facts
    split_written         all of z - h is written                         PMET: the MLP's part; EAMET keeps it
    find_values           one descent for as many facts as fit            EAMET: first forgets the last batch
    make_each             all edits share a descent                       EAMET: a descent for each edit
    edits_to_write        the edit alone                                  MEMIT-KG: also facts of the graph
    make_facts            the prompts of these, or the chunks of a text   GLAME-batch: checks the subgraph first
    notes                 nothing                                         MEMIT-KG: the rules of the graph
    read_earlier_keys     K_p of the patch that is applied                COMEBA: of the patch's adapters
    adjust_directions     U as it is                                      the restrained methods
    adjust_updates        the updates as they are                         the restrained methods
    write                 a patch of the weights                          COMEBA: a patch of gated adapters
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from kg_edit.covariance.moment import Covariance, OtherKeys
from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import find_engine
from kg_edit.engine.tail_forward import TailForward
from kg_edit.errors import FAILURES, PatchError, RefusedEditsError
from kg_edit.locate_then_edit.descent import Delta, Descent, descend, descent_model
from kg_edit.locate_then_edit.joint import FactStates, norms_of_facts
from kg_edit.locate_then_edit.long_run import remember
from kg_edit.locate_then_edit.objective import Objective, Penalty, Request, norm_penalty
from kg_edit.locate_then_edit.states import OtherTokens, Site, adds_mlp, subject_states
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.memit.chunks import split_into_chunks
from kg_edit.methods.memit.joint_config import JointConfig, choose_one_layer
from kg_edit.methods.memit.records import (
    Fact,
    FactGroup,
    FactValue,
    FoundValues,
    Record,
    Z,
    batches_without,
    check_values,
    drop_edited_again,
    facts_of,
    new_record,
    split_by_edit,
    with_update_norms,
)
from kg_edit.methods.statement import warn_of_unread_edit
from kg_edit.methods.value_method import ValueMethod
from kg_edit.models.devices import exact
from kg_edit.models.first_token import warn_of_unread
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.models.sampling import sample_started_contexts
from kg_edit.patches import KEY
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch


class JointMethod(ValueMethod):
    """Find a state z for every fact, then move the model's states towards z layer by layer, for all facts at once."""

    family = "joint"
    joint = True  # `make` gets all edits of a call at once
    separable = True  # an edit can be removed from a patch by `without`
    site: Site = "block"
    forward: ClassVar[type[TailForward] | None] = None  # of the descent; None: the usual one
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
        """Take the arguments as `ValueMethod` does. Write one layer only, if changes of several do not add up.

        In such a model z is the output of the layer's MLP, as in ROME and EMMET, and not the output of the block.
        """
        super().__init__(model, config, graph=graph, contexts=contexts, covariances=covariances, progress=progress)
        self._found: FoundValues | None = None  # set by `with_found_values` alone
        with keep_untouched(model):
            adds_up = self.site == "value" or all(adds_mlp(model, layer) for layer in self.layers)
        if not adds_up:
            family = model.model.config.model_type
            self.layers = choose_one_layer(config, len(model.blocks), name=model.name, family=family)
            self.site = "value"

    @property
    def value_layer(self) -> int:
        """The layer in which values are found: the last one, as the change is spread over all of them."""
        return self.layers[-1]

    # A batch of edits: facts, values, patch

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Find all values in one descent, then write all facts together.

        A fact that contradicts an edit of the batch is left out; the edit's record counts these (``opposed``).
        """
        with keep_untouched(self.model):
            self.prepare()  # contexts and C, which all edits share
            groups = self.make_batch_facts(edits)
            values = self._find_batch_values(groups, before)
            self.refuse_failed(groups, values, before)
            return self._write_groups(groups, values, before)

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Find the values of all edits in one descent, then write each edit into a patch of its own."""
        applied = self.empty_patch() if before is None else before
        with keep_untouched(self.model):
            self.prepare()

            # The facts of each edit. An edit whose facts can't be encoded has its exception as the result.
            results = dict[int, Patch | Exception]()
            groups = dict[int, FactGroup]()
            for index, edit in enumerate(edits):
                try:
                    with annotate_errors(edit):
                        groups[index] = FactGroup(edit=edit, facts=self.make_facts(edit))
                except FAILURES as error:
                    results[index] = error

            # z of all facts in one descent, then one patch for each edit.
            values = self.find_values(list(chain.from_iterable(group.facts for group in groups.values())))
            values_by_edit = split_by_edit(values, list(groups.values()))
            for index, edit_values in zip(groups, values_by_edit, strict=True):
                try:
                    with annotate_errors(edits[index]):
                        check_values(edit_values)
                        results[index] = self._write_groups([groups[index]], [edit_values], applied)
                except FAILURES as error:
                    results[index] = error
            return tuple(results[index] for index in range(len(edits)))

    def _find_batch_values(self, groups: Sequence[FactGroup], before: Patch) -> list[list[FactValue]]:
        """Find the values of each edit's facts in one descent, except those in ``self._found``."""
        values = dict[Edit, list[FactValue]]()
        if self._found is not None:
            values = self._found.values_for(groups, before)
        missing = [group for group in groups if group.edit not in values]
        found = self.find_values(list(chain.from_iterable(group.facts for group in missing)))
        for group, edit_values in zip(missing, split_by_edit(found, missing), strict=True):
            values[group.edit] = edit_values
        return [values[group.edit] for group in groups]

    def refuse_failed(self, groups: Sequence[FactGroup], values: Sequence[list[FactValue]], before: Patch) -> None:
        """Raise one error for all edits of a batch whose values must not be written; no error if there are none.

        A batch of one edit raises that edit's own error. A larger batch raises a `RefusedEditsError`, with a copy of
        this method that has the values of all its edits: ``error.method.make`` makes the other edits on the same patch
        ``before``, without a second descent (`kg_edit.reports.edit_run`, `kg_edit.evaluation.step`).
        """
        refused = _collect_refusals(groups, values)
        if not refused:
            return
        first = next(iter(refused))
        with annotate_errors(first):
            if len(groups) == 1:
                raise refused[first]
            values_by_edit = {group.edit: edit_values for group, edit_values in zip(groups, values, strict=True)}
            retry = self.with_found_values(FoundValues(before=before, values=values_by_edit))
            raise RefusedEditsError({edit.id: why for edit, why in refused.items()}, method=retry)

    def with_found_values(self, found: FoundValues) -> Self:
        """Return a copy of the method that need not find the values in ``found`` again."""
        method = copy(self)
        method._found = found
        return method

    def _write_groups(self, groups: Sequence[FactGroup], values: Sequence[Sequence[FactValue]], before: Patch) -> Patch:
        """Write the values of a batch, with a record of each edit."""
        records = self.make_records(groups, values)
        facts = list(chain.from_iterable(group.facts for group in groups))
        z = torch.stack([value.target_state for value in chain.from_iterable(values)])  # [facts, d]
        return self.write(facts, z, records, before)

    def make_records(self, groups: Sequence[FactGroup], values: Sequence[Sequence[FactValue]]) -> list[Record]:
        """Return the record of each edit of a batch, with its facts and their ``values``."""
        records = list[Record]()
        for group, edit_values in zip(groups, values, strict=True):
            with annotate_errors(group.edit):
                record = new_record(self.record(group.edit), group.facts, edit_values) | self.notes(group.edit)
            if group.opposed:
                record["opposed"] = group.opposed
            records.append(record)
        return records

    def notes(self, edit: Edit) -> dict[str, Any]:
        """Return further entries of an edit's record; none by default."""
        return {}

    # 1. The facts and their prompts

    def sampled_contexts(self) -> tuple[str, ...]:
        """Return MEMIT's contexts: the bare prompt, and one sampled text for each start word in ``context_starts``."""
        config = self.config
        return sample_started_contexts(
            self.model, starts=config.context_starts, tokens=config.context_tokens, seed=config.seed
        )

    def make_batch_facts(self, edits: Sequence[Edit]) -> list[FactGroup]:
        """Return the facts of each edit of a batch, without those that contradict another edit of it.

        Edits that contradict each other are refused before (`refuse_clash` in `EditingMethod.edit`). So only further
        facts are left out, and the edit itself is always the first of its facts.
        """
        targets = dict[tuple[str, bool], str]()  # by text and form, in which `refuse_clash` allows one target only
        for edit in edits:
            for form in edit.forms:
                targets[edit.text, form] = edit.target_new
        groups = list[FactGroup]()
        for edit in edits:
            with annotate_errors(edit):
                facts = self.make_facts(edit)
            usable = facts
            if not edit.target_text:
                usable = tuple(fact for fact in facts if not _is_contradicted(fact.edit, targets))
            groups.append(FactGroup(edit=edit, facts=usable, opposed=len(facts) - len(usable)))
        return groups

    def make_facts(self, edit: Edit) -> tuple[Fact, ...]:
        """Return the facts that are written for an edit, each with its prompts."""
        if edit.target_text:
            return split_into_chunks(self.model, edit, tokens=self.config.chunk_tokens, method=self.name)
        return tuple(self.make_fact(fact) for fact in self.edits_to_write(edit))

    def edits_to_write(self, edit: Edit) -> tuple[Edit, ...]:
        """Return the edit itself; a subclass may add further facts after it, each in the form of an edit."""
        return (edit,)

    def make_fact(self, edit: Edit) -> Fact:
        """Return a fact with its prompts: its own with the target in every context, and "{subject} is a"."""
        return Fact(edit=edit, prompts=Request.of(self.model, edit, self.contexts))

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every fact's prompts, so that a prompt that can't be encoded raises before any edit is made."""
        for edit in edits:
            with annotate_errors(edit):
                if edit.target_text:
                    self.make_facts(edit)
                    warn_of_unread_edit(self.model, edit, method=self.name)
                    continue
                for fact in self.edits_to_write(edit):
                    self._check_forms(fact)
                without_target = self.model.encode_fact(edit.prompt, subject=edit.subject, chat=edit.asks_in_chat)
                warn_of_unread(self.model, without_target, edit=edit.id)

    def _check_forms(self, fact: Edit) -> None:
        """Encode a fact's prompt in each form, but not in the contexts, which would take ten times as long."""
        for chat in fact.forms:
            self.model.encode_fact(fact.prompt, subject=fact.subject, target=fact.target_new, chat=chat)

    # 2. The values

    def find_values(self, facts: Sequence[Fact]) -> list[FactValue]:
        """Find z of each fact, independent of the other facts.

        A descent has as many facts at once as fit into ``memory``.

        Returns:
            One `FactValue` per fact, in order.
        """
        values = list[FactValue]()
        with keep_untouched(self.model):
            model = descent_model(self.model, self.config.descent_dtype)  # the model, or a copy of it in bfloat16
            for part in self.portions([fact.prompts for fact in facts]):
                values += self._find_values_together(model, facts[part])
        return values

    def _find_values_together(self, model: LanguageModel, facts: Sequence[Fact]) -> list[FactValue]:
        """Find z of facts that share a descent; ``model`` is `self.model` or a copy of it."""
        requests = [fact.prompts for fact in facts]
        loss = self.objective(model, requests)
        h = loss.states  # [facts, d]

        # Eq. 16: gradient descent on z - h of all facts at once; a fact whose loss is small enough ends early.
        delta, notes = self.propose([fact.edit for fact in facts], h)
        descents = descend(loss, delta, self.config.stops)

        h, descents = self.split_written(h, descents)
        if self.config.anchor:
            descents = self.anchor_values(descents, requests)
        values = []
        for index, descent in enumerate(descents):
            values.append(FactValue(present_state=h[index], descent=descent, notes=notes[index]))
        return values

    def objective(self, model: LanguageModel, requests: Sequence[Request]) -> Objective:
        """Return the loss as a function of z - h for facts with the prompts ``requests``; its ``states`` are h.

        The loss runs on ``model``, which is `self.model` or a copy of it in bfloat16. h is read from `self.model` even
        then, because z = h + (z - h) is written into that one.
        """
        layer = self.layers[-1]
        engine = find_engine(model, layer, self.contexts, memory=self.memory, forward=self.forward)
        loss_at_mlp = Objective(model, layer, requests, kl_weight=self.config.kl_weight, engine=engine)
        # This loss has read m, the output of the MLP. The penalty needs h, the state at ``site``.
        h = self.find_states(loss_at_mlp, [request.rewrites[0] for request in requests])
        return loss_at_mlp.with_penalty(self.make_penalty(loss_at_mlp), h)

    def find_states(self, loss: Objective, bare: Sequence[Prompt]) -> Tensor:
        """Return h [facts, d]: the last layer's state at the subject's last token of each ``bare`` prompt.

        ``site`` says which state of `self.model`: the block's output, or m, the output of its MLP. ``loss`` is not used
        here: PMET, which overrides this, takes the attention's output from it.
        """
        last = self.layers[-1]
        _, states = subject_states(self.model, bare, layer=last, last=last, site=self.site)
        return states

    def make_penalty(self, loss: Objective) -> Penalty:
        """Return the further term of ``loss``, as a function of z - h and h; ``loss`` has the facts' keys."""
        return self.penalty

    def penalty(self, change: Tensor, state: Tensor) -> Tensor:
        """Return weight_decay |z - h| / |h|^2, [facts]."""
        return norm_penalty(change, state, weight=self.config.weight_decay)

    def propose(self, edits: Sequence[Edit], states: Tensor) -> tuple[Delta, list[dict[str, Any]]]:
        """Return the parameters of the facts' changes z - h, and notes for each record; ``states``: h, [facts, d]."""
        return self.free_delta(states, self.config.optimiser), [{} for _ in edits]

    def split_written(self, states: Tensor, descents: Sequence[Descent]) -> tuple[Tensor, list[Descent]]:
        """Return the part of the states h and of their changes that is written: all of them."""
        return states, list(descents)

    def anchor_values(self, descents: Sequence[Descent], requests: Sequence[Request]) -> list[Descent]:
        """Return the descents with values of the norm that ``anchor`` sets.

        The norm is that of an MLP's output (`mean_value_norm`). The block's output is a sum that contains m, so a
        change z - h of it is written as the same change of m. Therefore m + (z - h) is rescaled, also where z is an
        output of the block.
        """
        layer = self.layers[-1]
        bare = [request.rewrites[0] for request in requests]
        _, m = subject_states(self.model, bare, layer=layer, last=layer, site="value")  # [facts, d]
        return self.rescale_to_anchor(descents, m)

    # 3. The updates

    def write(self, facts: Sequence[Fact], z: Tensor, records: Sequence[Record], before: Patch) -> Patch:
        """Return the patch that moves the states of the facts towards z, as `write_weights` computes it."""
        return self.write_weights(facts, z, records, before)

    @torch.no_grad()
    def write_weights(self, facts: Sequence[Fact], z: Tensor, records: Sequence[Record], before: Patch) -> WeightPatch:
        """Compute an update W_l += R U^T of each layer, in ascending order; the model itself is unchanged afterwards.

        Args:
            facts: all facts of the batch.
            z: the wanted states, [facts, d].
            records: one record per edit.
            before: the patch that is applied to the model.
        """
        requests = [fact.prompts for fact in facts]
        held: Sequence[Request] = ()  # whose other tokens' keys are read; without ``hold`` none, so that H is 0
        if self.config.hold:
            held = requests
        # Both keep hidden states from layer to layer, and share the memory for these.
        states = FactStates(self.model, requests, self.layers, site=self.site, memory=self.memory / 2)
        other_tokens = OtherTokens(self.model, held, self.layers, memory=self.memory / 2)

        updates = dict[str, Factors]()  # by the weights' names
        new_keys = dict[str, Tensor]()
        for number, layer in enumerate(self.layers):
            # K and h are read with the updates of the earlier layers in the model.
            with WeightPatch(factors=updates).applied_on_top(self.model):
                keys, h = states.at(layer)  # K [d_ff, facts], h [facts, d]
                others = other_tokens.at(layer)  # H [d_ff, d_ff]
                protected = self._find_protected_keys(layer, facts, before)  # K_p [d_ff, earlier facts], or None
                u = self._find_directions(layer, keys, others, protected)  # U [d_ff, facts]

            # R = (z - h) / (layers left), [d, facts]; W_l += R U^T
            r = ((z.to(h.device) - h) * self.share_of_layer(len(self.layers) - number)).T
            update = Factors(left=r.to(u.device), right=u)
            if not update.is_finite:
                raise PatchError("the update has values that are not finite; lower the learning rate or use float32")
            name = self.model.weight_name(layer)
            updates[name] = update
            new_keys[KEY + name] = keys

        state = {Z: z.T}  # which `without` reads
        if self.config.remember:
            state |= new_keys  # which `read_earlier_keys` reads
        # The records have the norms of the updates as they were solved, before `adjust_updates` changes them.
        complete_records = with_update_norms(records, norms_of_facts(updates))
        provenance = {**self.provenance(), "edits": complete_records}
        return WeightPatch(factors=self.adjust_updates(updates, before), provenance=provenance, state=state)

    def _find_directions(self, layer: int, keys: Tensor, others: OtherKeys, protected: Tensor | None) -> Tensor:
        """Return U [d_ff, facts] in float32, as the method computes it (`directions`) and as others adjust it."""
        u = self.directions(layer, exact(keys), others=others, protected=protected)
        return self.adjust_directions(layer, u).float()

    @abstractmethod
    def directions(self, layer: int, keys: Tensor, *, others: OtherKeys, protected: Tensor | None) -> Tensor:
        """Return the right factor U [d_ff, facts] of a layer's update R U^T.

        Args:
            layer: the block that is written.
            keys: K, the facts' keys, [d_ff, facts], in float64.
            others: H, the sum of n n^T over keys n of other tokens; 0 if ``hold``, its weight, is 0.
            protected: K_p, the keys of earlier batches times sqrt(``remember``), [d_ff, earlier facts]; None if there
                are none.
        """

    def share_of_layer(self, remaining: int) -> float:
        """Return which part of what is missing of z - h a layer writes; it is the first of ``remaining`` layers."""
        return 1 / remaining

    def solve(self, layer: int, keys: Tensor, others: OtherKeys) -> Tensor:
        """Return (C + hold H)^-1 K, [d_ff, facts]."""
        return self.covariances[layer].solve(keys, others=others, weight=self.config.hold)

    def _find_protected_keys(self, layer: int, facts: Sequence[Fact], before: Patch) -> Tensor | None:
        """Return sqrt(remember) K_p of the earlier facts that ``facts`` do not edit again, [d_ff, earlier facts]."""
        keys = self.read_earlier_keys(layer, before)
        if keys is None:
            return None
        return drop_edited_again(keys, before, facts)

    def read_earlier_keys(self, layer: int, before: Patch) -> Tensor | None:
        """Return sqrt(remember) K_p, of the keys of the facts of ``before`` in a layer, [d_ff, earlier facts]."""
        return remember(before, self.model.weight_name(layer), weight=self.config.remember)

    # Removing edits

    def without(self, patch: Patch, ids: Collection[str], *, before: Patch | None = None) -> Patch:
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
        remaining: Patch = WeightPatch(factors={}, provenance=self.provenance())
        for batch in batches_without(patch, ids, methods=self.provenance()["methods"]):
            # The keys of a batch are those of the model with the batches before it, as when the patch was made.
            beneath = remaining
            if before is not None:
                beneath = before + remaining
            with beneath.applied(self.model), keep_untouched(self.model):
                facts = list[Fact]()
                for record in batch.records:
                    facts += self._read_facts(record)
                # A method whose edits can be removed writes a patch of weights, so its `write` is `write_weights`.
                written = self.write_weights(facts, batch.z.T, batch.records, beneath)
                remaining = remaining + written.with_weight_norms(self.model)
        return remaining

    def _read_facts(self, record: Record) -> Sequence[Fact]:
        """Return the facts that a patch's record lists, each with its prompts."""
        edits = facts_of(record)
        if edits[0].target_text:
            return self.make_facts(edits[0])  # the chunks of the edit's text
        return [self.make_fact(edit) for edit in edits]

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, with the layers, the contexts and the covariances."""
        covariances = {}
        for layer, covariance in self.covariances.items():
            covariances[str(layer)] = {"id": covariance.id, "tokens": covariance.tokens}
        provenance = super().provenance()
        provenance["methods"][0] |= {
            "layers": list(self.layers),
            "contexts": list(self.contexts),
            "covariances": covariances,
        }
        return provenance


def _is_contradicted(fact: Edit, targets: Mapping[tuple[str, bool], str]) -> bool:
    """Return whether ``targets`` has another target for the fact's text in one of the fact's forms."""
    return any(targets.get((fact.text, form), fact.target_new) != fact.target_new for form in fact.forms)


def _collect_refusals(groups: Sequence[FactGroup], values: Sequence[list[FactValue]]) -> dict[Edit, PatchError]:
    """Return by edit the reason why its values must not be written (`check_values`); {} if all may be."""
    refused = dict[Edit, PatchError]()
    for group, edit_values in zip(groups, values, strict=True):
        try:
            with annotate_errors(group.edit):
                check_values(edit_values)
        except PatchError as error:
            refused[group.edit] = error
    return refused
