"""GRACE (Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031): a codebook replaces the output of one layer.

Each edit gets one entry: the key k [d_ff] is the down-projection's input at the prompt's last token, and the value v
[d] is trained by Adam until the loss of the target is below ``stop_below``, or for ``steps`` evaluations. At the last
token of a prompt, let x be the module's input and k_i the nearest key. The module's output is v_i if ||x - k_i|| <=
eps_i, else W x. `grace.codebook` has the rule that computes the radii eps from the edits (Algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import find_engine
from kg_edit.errors import FAILURES, ModelError
from kg_edit.locate_then_edit.descent import Descent, FreeDelta, Stops, descend
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import LayerConfig, Workload
from kg_edit.methods.statement import StatementMethod
from kg_edit.models.hooks import keep_untouched
from kg_edit.patches.base import Patch
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.grace.codebook import Codebook, Deferral
from kg_edit.zoo.grace.patch import CodebookPatch, without_codebooks

Made = TypeVar("Made")
_BATCH = 32  # edits in one descent; each is trained as if it were alone, so this only affects the speed


class GraceConfig(LayerConfig):
    """GRACE's settings.

    The preset ``paper`` has those of the published code, except for the layer, the replaced output and the growth of
    balls. The published code takes a step after each evaluation of the loss. Here no step follows the last evaluation,
    so ``paper`` has one more.
    """

    depth: ClassVar[float] = 0.75
    writes_weight: ClassVar[bool] = False

    layer: int | None = Field(None, ge=0, description="block with the codebook, 0-based; default 0.75 of the depth")
    steps: PositiveInt = Field(50, description="maximum number of loss evaluations")
    learning_rate: float = Field(1.0, gt=0, description="learning rate of Adam, for the value")
    stop_below: float = Field(0.01, description="training stops when the loss is below this value")
    start: Literal["warm", "cold"] = Field(
        "warm", description="initial value: the module's own output (warm), or uniform in [0, 1) (cold)"
    )
    seed: Seed = Field(0, description="random seed of a cold start")
    deferral: Deferral = Field(Deferral(), description="which inputs belong to a key: radius, expand, metric, lookup")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"steps": 101, "stop_below": 0.0, "start": "cold"}}

    def idle(self) -> dict[str, str]:
        """Return the seed, for a warm start."""
        if self.start == "cold":
            return {}
        return {"seed": "a warm start draws nothing"}

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: values of ``_BATCH`` edits in the same passes."""
        return Workload(together=_BATCH)


class CodebookMethod(StatementMethod):
    """A method whose edits are entries of a codebook, each trained without the others, so that it can be removed."""

    takes_text = True
    changed_part = "adapter"
    separable = True
    patch_class: ClassVar[type[CodebookPatch]] = CodebookPatch

    def empty_patch(self) -> Patch:
        """Return a patch without entries; it changes nothing."""
        return self.patch_class(codebooks={}, provenance=self.provenance())

    def _make_batch(self, edits: Sequence[Edit], before: Patch) -> Patch:
        # Earlier entries are not active in the training, so that each edit can be removed exactly.
        return super()._make_batch(edits, without_codebooks(before) or self.empty_patch())


class Grace(CodebookMethod):
    """One entry per edit: a key, the down-projection's input at the prompt's last token, and a value, its output there.

    Other codebook entries are not active while the value is trained, so each edit can be removed; earlier patches of
    weights are active. The value is used if the last token of a prompt lies within the key's radius: for the prompt
    itself and very similar ones. On SmolLM2-135M a larger radius covers neighbours as well as paraphrases
    (docs/adapters.md).
    """

    entry = method_entry("grace")
    trains = "value"
    config_class = GraceConfig
    config: GraceConfig

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make an entry for each of the edits; ``before`` is applied to the model already."""
        total = self.empty_patch()
        for patch in self.make_each(edits, before=before):
            if isinstance(patch, Exception):
                raise patch
            total = total + patch
        return total

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Train the values of the edits, `_BATCH` in one descent; each edit gets its own patch.

        ``before`` is applied to the model already, and nothing else is read of it.
        """
        results = dict[int, Patch | Exception]()  # by the index of the edit
        requests = dict[int, Request]()  # of the edits that can be encoded, by the index of the edit
        with keep_untouched(self.model):
            for index, edit in enumerate(edits):
                request = self._try_to_encode(edit)
                if isinstance(request, Exception):
                    results[index] = request
                else:
                    requests[index] = request
            indices = list(requests)
            for first in range(0, len(indices), _BATCH):
                batch = indices[first : first + _BATCH]
                patches = self._train([edits[index] for index in batch], [requests[index] for index in batch])
                results.update(zip(batch, patches, strict=True))
        return tuple(results[index] for index in range(len(edits)))

    def encode_edit(self, edit: Edit) -> Request:
        """Return the edit's prompt with its target; the change is made at the prompt's last token."""
        prompt = super().encode_edit(edit)
        # An objective changes the output at a row's site.
        prompt_last = prompt.target_start - 1
        return Request(rewrites=(replace(prompt, site=prompt_last),))

    def _try_to_encode(self, edit: Edit) -> Request | Exception:
        """Return the edit's prompt with its target, or the exception if it can't be encoded."""
        return _attempt(edit, lambda: self.encode_edit(edit))

    def _train(self, edits: Sequence[Edit], requests: Sequence[Request]) -> list[Patch | Exception]:
        """Train a value for each edit, all in one descent; return a patch or an exception for each."""
        engine = find_engine(self.model, self.layer, memory=self.memory)
        objective = Objective(self.model, self.layer, requests, kl_weight=0.0, engine=engine)
        outputs = objective.value  # of the module itself, at the prompts' last tokens, [edits, d]
        keys = objective.bare_key  # its inputs there, [edits, d_ff]

        # delta = v - output starts at 0 (warm), or where v is one random vector [d], the same for all edits (cold).
        first_delta: Tensor | None = None
        if self.config.start == "cold":
            draw = torch.Generator().manual_seed(self.config.seed)
            random_value = torch.rand(outputs.shape[1:], generator=draw).to(outputs)
            first_delta = random_value - outputs
        delta = FreeDelta(outputs, learning_rate=self.config.learning_rate, start=first_delta)
        stops = Stops(steps=self.config.steps, stop_below=self.config.stop_below)
        descents = descend(objective, delta, stops)
        patches = list[Patch | Exception]()
        for index, edit in enumerate(edits):
            patches.append(self._try_entry(edit, keys[index], outputs[index], descents[index]))
        return patches

    def _try_entry(self, edit: Edit, key: Tensor, output: Tensor, descent: Descent) -> Patch | Exception:
        """Return the patch of one edit, or the exception if its loss or its entry is not finite."""
        return _attempt(edit, lambda: self._make_entry(edit, key, output, descent))

    def _make_entry(self, edit: Edit, key: Tensor, output: Tensor, descent: Descent) -> Patch:
        """Return the patch of one edit.

        Args:
            edit: the edit.
            key: k, [d_ff].
            output: the module's own output at the prompt's last token, [d].
            descent: the training of v - output.
        """
        value = output + descent.change  # v, [d]
        norms = {"key": key.norm(), "value": value.norm(), "change": descent.change.norm()}
        last_losses = descent.losses[-1]  # a tuple: the whole loss and its parts
        computed = (*last_losses, norms["key"], norms["value"])
        if not all(math.isfinite(number) for number in computed):
            raise ModelError(
                "the loss of the value is not finite; give a lower learning_rate, or load the model in float32"
            )
        record = self.record(edit)
        record["norms"] = {name: round(float(norm), 6) for name, norm in norms.items()}
        for name in ("steps", "loss_before", "loss_after"):
            record[name] = descent.summary[name]
        book = Codebook(
            keys=key[None].to(self.model.model.dtype).cpu(),  # on the CPU, like a codebook that is read from a file
            values=value[None].cpu(),
            labels=(edit.target_new,),
            ids=(edit.id,),
            deferral=self.config.deferral,
        )
        provenance = {**self.provenance(), "edits": [record]}
        return CodebookPatch(codebooks={self.model.weight_name(self.layer): book}, provenance=provenance)


def _attempt(edit: Edit, make: Callable[[], Made]) -> Made | Exception:
    """Call ``make`` and return its result, or the exception of `FAILURES` that it raised, with a note of the edit."""
    try:
        with annotate_errors(edit):
            return make()
    except FAILURES as error:
        return error
