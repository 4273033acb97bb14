"""COMEBA (Li et al., EMNLP 2024, arXiv 2403.05330): batches of MEMIT one after the other, applied by gated hooks.

With C the covariance of the keys, K_p the keys of earlier batches and K those of the batch, a layer's update is

    D = R K^T (lambda C + K_p K_p^T + K K^T)^-1                      [d, d_ff]

R [d, facts] and K [d_ff, facts] are taken on the model with the full updates of the earlier batches, as if every gate
were open, because the gates are open at the edited keys. The weights themselves do not change: the sum of all D is
added only at tokens whose keys are near to edited keys. The gate is defined in `kg_edit.zoo.comeba.adapter`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.methods.memit.records import Fact, Record
from kg_edit.models.hooks import keep_untouched
from kg_edit.patches import KEY
from kg_edit.patches.adapter_patch import Adapter, AdapterPatch, adapter_at, without_adapter
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.adapters.base import own_text_inputs
from kg_edit.zoo.comeba.adapter import GatedUpdate, GateSettings
from kg_edit.zoo.entries import method_entry


class ComebaConfig(GateSettings, MemitConfig):
    """MEMIT's settings, and those of the gate. The preset ``paper`` has the public code's lambda, not MEMIT's."""

    remember: float = Field(
        1.0, gt=0, description="weight of the keys of earlier edits in one model; a new key has 1; published: 1"
    )
    texts: PositiveInt = Field(16, description="texts sampled from the model; z-scores are relative to their keys")
    text_tokens: PositiveInt = Field(16, description="length of these texts, in tokens")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        **MemitConfig.presets,
        "paper": {**MemitConfig.presets["paper"], "remember": 1.0, "mom2_weight": 15_000.0, "share": 1.0},
    }


class Comeba(Memit):
    """MEMIT whose updates act only at tokens near the edited keys; each batch is made on top of the earlier ones."""

    entry = method_entry("comeba")
    adapter_class = GatedUpdate
    config_class = ComebaConfig
    config: ComebaConfig

    def empty_patch(self) -> Patch:
        """Return an `AdapterPatch` without adapters; it changes nothing."""
        return AdapterPatch(adapters={}, provenance=self.provenance())

    def prepare(self) -> None:
        """Prepare as MEMIT does, and collect the keys of other text once."""
        super().prepare()
        with keep_untouched(self.model):
            _ = self.others

    @cached_property
    def others(self) -> Mapping[str, Tensor]:
        """By the weight's name, keys [tokens, d_ff] of texts that the model wrote itself."""
        config = self.config
        others = dict[str, Tensor]()
        for layer in self.layers:
            inputs = own_text_inputs(
                self.model, layer, reads="key", texts=config.texts, tokens=config.text_tokens, seed=config.seed
            )
            others[self.model.weight_name(layer)] = inputs.cpu()
        return others

    def _make_batch(self, edits: Sequence[Edit], before: Patch) -> Patch:
        """Call `make` on the model with the full updates of earlier batches in the weights, without their gates."""
        ungated: Patch = before
        for place in self._places:
            ungated = without_adapter(ungated, place) or WeightPatch(factors={})  # None: nothing else is in it
        updates = WeightPatch(factors=self._find_earlier_updates(before))
        if not updates.is_empty:
            ungated = ungated + updates
        with ungated.applied(self.model):
            return self.make(edits, before=before)

    def write(self, facts: Sequence[Fact], z: Tensor, records: Sequence[Record], before: Patch) -> Patch:
        """Return MEMIT's update as gated adapters of an `AdapterPatch`."""
        # The weights have the earlier updates (`_make_batch`), so MEMIT has to know them as a patch of weights.
        earlier = WeightPatch(factors=self._find_earlier_updates(before))
        update = self.write_weights(facts, z, records, before + earlier)
        settings = GateSettings.of(self.config)
        adapters = dict[tuple[str, str], Adapter]()
        for name, pair in update.factors.items():
            adapters[GatedUpdate.method, name] = GatedUpdate(
                update=Factors(left=pair.left.cpu(), right=pair.right.cpu()),
                keys=update.state[KEY + name].T.float().contiguous().cpu(),
                others=self.others[name],
                settings=settings,
            )
        return AdapterPatch(adapters=adapters, provenance=update.provenance)

    def read_earlier_keys(self, layer: int, before: Patch) -> Tensor | None:
        """Return sqrt(remember) K_p, with the keys in the adapters of ``before``, [d_ff, earlier facts]."""
        adapter = adapter_at(before, (GatedUpdate.method, self.model.weight_name(layer)))
        if not isinstance(adapter, GatedUpdate):
            return None
        keys: Tensor = self.config.remember**0.5 * adapter.keys.T
        return keys

    @property
    def _places(self) -> list[tuple[str, str]]:
        return [(GatedUpdate.method, self.model.weight_name(layer)) for layer in self.layers]

    def _find_earlier_updates(self, before: Patch) -> dict[str, Factors]:
        """Return the full updates of earlier batches, by the weights' names."""
        updates = dict[str, Factors]()
        for method, name in self._places:
            adapter = adapter_at(before, (method, name))
            if isinstance(adapter, GatedUpdate):
                updates[name] = adapter.update
        return updates
