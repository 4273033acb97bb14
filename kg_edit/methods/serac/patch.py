"""SERAC's patch: a memory of edits, a classifier of their scope, and a counterfactual model (Mitchell et al. 2022).

For a prompt x, the edits z_i of the memory, and the scope classifier g of `kg_edit.methods.serac.scope`,

    f'(x) = h(z_i, x)  where i = argmax_i g(z_i, x)  if g(z_i, x) >= threshold,  else f(x)

f is the model. h is the counterfactual model: f with trained low-rank changes W + left right, and with the edit's fact
before the prompt. A marker is put before this fact, and the changes act only from the marker on
(`kg_edit.models.marker`). So the output for a text without the marker is unchanged, bit for bit, also in the same batch
or packed row.

- `ScopePatch`: the rule, the trained tensors and the facts.
- `ScopedFact`: one edit of the memory. `ScopeRule`: when and how a fact is put before a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from kg_edit.errors import PatchError
from kg_edit.methods.serac.scope import Scope, Vectors, text_states
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.token_means import AfterMarker
from kg_edit.patches.base import Kind, Patch, joined
from kg_edit.patches.container import PatchFile, write_patch
from kg_edit.patches.weight_patch import module_of

_NAME = "serac"  # name of this patch's token sums in a cache
Pair = tuple[Tensor, Tensor]


class ScopeRule(BaseModel):
    """Settings: when a fact is put before a prompt, and in which form.

    ``network`` identifies the trained network; only patches with the same network can be added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    layer: int = Field(ge=0, description="block (0-based) after which hidden states are compared")
    marker: int = Field(ge=0, description="token from which the counterfactual model answers")
    marker_text: str
    threshold: float = Field(0.5, ge=0, le=1)
    before_fact: str = "New fact: "
    before_prompt: str = "Prompt: "

    def told(self, fact: str, prompt: str) -> str:
        """The prompt of the counterfactual model: the marker, the fact, then ``prompt``."""
        return f"{self.marker_text}{self.before_fact}{fact}\n{self.before_prompt}{prompt}"


@dataclass(frozen=True, eq=False, kw_only=True)
class ScopedFact:
    """One edit: its id, its prompt (``about``), the text of the fact (``told``), and the prompt's scope vectors.

    ``vectors`` [tokens, size] and ``weights`` [tokens, heads] are for the scope classifier. Of two facts with the same
    ``about``, the later one holds.
    """

    id: str
    about: str
    told: str
    vectors: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class ScopePatch(Patch):
    """The trained ``scope`` and ``changes`` (by weight: left [out, rank], right [rank, in]), and the edits' ``facts``.

    ``applied`` yields another `LanguageModel` with the same weights; use that one.
    """

    kind: ClassVar[Kind] = "prompt"

    rule: ScopeRule
    scope: Scope
    changes: Mapping[str, Pair]
    facts: tuple[ScopedFact, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The number of edits in the memory, and the probability from which a prompt is in scope."""
        return f"a memory of {len(self.facts)} edits, told where their scope is ≥ {self.rule.threshold:g}"

    @property
    def is_empty(self) -> bool:
        """Whether the memory has no edit."""
        return not self.facts

    def nearest(self, model: LanguageModel, prompt: str) -> tuple[ScopedFact, float] | None:
        """The edit with the largest probability g for ``prompt``, and g; None without edits or for an empty prompt."""
        states = text_states(model, prompt, self.rule.layer)
        if not self.facts or not len(states):
            return None
        scope, memory = self._on(states.device)
        with torch.no_grad():
            chances = scope.log_chances(memory, scope.several([states]))[:, 0].exp()
        at = int(chances.argmax())
        return self._current[at], float(chances[at])

    def prompt_transform(self, model: LanguageModel, prompt: str) -> str:
        """The counterfactual model's prompt if ``prompt`` is in the scope of an edit, else ``prompt`` itself."""
        found = self.nearest(model, prompt)
        if found is None or found[1] < self.rule.threshold:
            return prompt
        return self.rule.told(found[0].told, prompt)

    def without(self, ids: Collection[str]) -> ScopePatch:
        """The patch without the edits with these ids, as if they had never been made.

        Raises:
            PatchError: the patch has no edit with one of the ids.
        """
        unknown = set(ids) - {fact.id for fact in self.facts}
        if unknown:
            raise PatchError(f"the patch has no edit {', '.join(map(repr, sorted(unknown)))}; check its edits' ids")
        edits = [record for record in self.edits if record.get("edit", {}).get("id") not in ids]
        facts = tuple(fact for fact in self.facts if fact.id not in ids)
        return replace(self, facts=facts, provenance={**self.provenance, "edits": edits})

    def _plus(self, other: ScopePatch) -> ScopePatch:
        """The memories of both patches as one, this one's edits first.

        Raises:
            PatchError: the patches were made with different networks or thresholds.
        """
        if self.rule != other.rule:
            raise PatchError(
                f"can't add memories with different rules ({self.rule!r} and {other.rule!r}); make both with the same "
                "trained network and the same threshold"
            )
        return replace(self, facts=self.facts + other.facts, provenance=joined(self.provenance, other.provenance))

    @contextmanager
    def stacked_on(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Another `LanguageModel` with the same weights; the low-rank changes act only after the marker."""
        self.check_model(model)
        modules = {
            name: module_of(model, name, shape=(left.shape[0], right.shape[1]))
            for name, (left, right) in self.changes.items()
        }
        with ExitStack() as stack:
            after = stack.enter_context(self._marked(model))
            for name, module in modules.items():
                stack.callback(module.register_forward_hook(changed_after(after, *self.changes[name])).remove)
            yield replace(model, prompt_transform=self._router(model))

    @contextmanager
    def _marked(self, model: LanguageModel) -> Iterator[AfterMarker]:
        after = AfterMarker(model, self.rule.marker, name=_NAME)
        with after.attached():
            yield after

    def _router(self, model: LanguageModel) -> Callable[[str], str]:
        """`prompt_transform` with a cache, followed by the ``prompt_transform`` of ``model``, if it has one."""
        then, known = model.prompt_transform, dict[str, str]()

        def transform(text: str) -> str:
            if text not in known:
                known[text] = self.prompt_transform(model, text)
            return then(known[text]) if then else known[text]

        return transform

    @cached_property
    def _current(self) -> tuple[ScopedFact, ...]:
        """The latest fact for each ``about``, in the order of the edits."""
        last = {fact.about.casefold(): place for place, fact in enumerate(self.facts)}
        return tuple(self.facts[place] for place in sorted(last.values()))

    @cached_property
    def _memory(self) -> Vectors:
        return Vectors.joined([(fact.vectors, fact.weights) for fact in self._current])

    def _on(self, device: torch.device) -> tuple[Scope, Vectors]:
        scope = Scope.of({name: tensor.to(device) for name, tensor in self.scope.tensors().items()})
        return scope, Vectors(vectors=self._memory.vectors.to(device), weights=self._memory.weights.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the patch, by their names in a file."""
        found = {f"scope/{name}": tensor for name, tensor in self.scope.tensors().items()}
        for name, (left, right) in self.changes.items():
            found |= {f"left/{name}": left, f"right/{name}": right}
        for place, fact in enumerate(self.facts):
            found |= {f"facts/{place}/vectors": fact.vectors, f"facts/{place}/weights": fact.weights}
        return found

    def check_finite(self) -> None:
        """Check that every number is finite.

        Raises:
            PatchError: a number is not finite.
        """
        for name, tensor in self.tensors().items():
            if not torch.isfinite(tensor).all():
                raise PatchError(f"{name} of the memory is not finite; edit in float32, or train the network again")

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (safetensors; provenance, rule and facts in its metadata) atomically.

        Raises:
            PatchError: a value is not finite.
            OutputError: the file can't be written.
        """
        facts = [{"id": fact.id, "about": fact.about, "told": fact.told} for fact in self.facts]
        content = {"rule": self.rule.model_dump(mode="json"), "weights": list(self.changes), "facts": facts}
        return write_patch(path, kind="serac", provenance=self.provenance, content=content, tensors=self.tensors())

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """The patch in a file.

        Raises:
            PatchError: its parts don't fit together.
        """
        content = file.content
        try:
            return cls(
                rule=ScopeRule.model_validate(content["rule"]),
                scope=Scope.of(_under("scope/", file.tensors)),
                changes={name: _pair(name, file.tensors) for name in content["weights"]},
                facts=tuple(_fact(place, one, file.tensors) for place, one in enumerate(content["facts"])),
                provenance=file.provenance,
            )
        except (TypeError, KeyError, ValueError, ValidationError) as error:
            raise PatchError(f"can't read the memory of the patch {file.path}: {error!r}; make the patch again") from (
                error
            )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _pair(name: str, tensors: Mapping[str, Tensor]) -> Pair:
    left, right = tensors[f"left/{name}"], tensors[f"right/{name}"]
    if left.dim() != 2 or right.dim() != 2 or left.shape[1] != right.shape[0]:
        raise ValueError(f"the factors of {name} don't fit together")
    return left, right


def _fact(place: int, said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ScopedFact:
    vectors, weights = tensors[f"facts/{place}/vectors"], tensors[f"facts/{place}/weights"]
    if vectors.dim() != 2 or weights.shape[:-1] != vectors.shape[:1]:
        raise ValueError(f"the vectors of the fact {place} don't fit together")
    return ScopedFact(id=said["id"], about=said["about"], told=said["told"], vectors=vectors, weights=weights)


def changed_after(
    after: AfterMarker, left: Tensor, right: Tensor
) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Any]:
    """A forward hook that adds ``left right x`` to the module's output at the tokens after the marker."""

    def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        inputs = args[0].reshape(-1, args[0].shape[-1])  # some model families flatten the input of their MLP
        on = after.at(len(inputs))
        if on is None:
            return None
        change = inputs.float() @ right.to(inputs.device).T @ left.to(inputs.device).T
        moved: Tensor = output + (on.to(change.device) * change).to(output).reshape(output.shape)
        return moved

    return add
