"""SERAC's patch: a memory of edits, a classifier of their scope, and a counterfactual model (Mitchell et al. 2022).

For a prompt x, the edits z_i of the memory, and the scope classifier g of `serac.scope`,

    f'(x) = h(z_i, x)  where i = argmax_i g(z_i, x)  if g(z_i, x) >= threshold,  else f(x)

f is the model. h is the counterfactual model (`serac.counterfactual`): f with trained low-rank changes, which reads

    MARKER New fact: FACT
    Prompt: x

The marker is a token that no other text contains (`serac.special_token`), and the changes act only from it on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from kg_common.terminal import number_of
from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches import join_provenances
from kg_edit.patches.base import ChangedPart, Patch, without_edits
from kg_edit.patches.container import PatchFile
from kg_edit.zoo.serac.counterfactual import Pair, change_after_marker
from kg_edit.zoo.serac.scope import Scope, Vectors, text_states


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

    def prompt(self, fact: str, prompt: str) -> str:
        """Return the prompt of the counterfactual model: the marker, the fact, then ``prompt``."""
        return f"{self.marker_text}{self.before_fact}{fact}\n{self.before_prompt}{prompt}"


@dataclass(frozen=True, eq=False, kw_only=True)
class ScopedFact:
    """One edit of the memory. Of two facts with the same prompt, the later one is used.

    Attributes:
        id: of the edit.
        prompt: the edit's own prompt without its target.
        text: the fact, as the counterfactual model reads it.
        vectors: of the prompt's tokens, [tokens, size] (`Scope.vectors`).
        weights: of the prompt's tokens, [tokens, heads].
    """

    id: str
    prompt: str
    text: str
    vectors: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ScopePatch(Patch):
    """The trained ``scope`` and ``changes`` (by weight: left [out, rank], right [rank, in]), and the edits' ``facts``.

    ``applied`` yields another `LanguageModel` with the same weights; use that one.
    """

    changed_part: ClassVar[ChangedPart] = "prompt"
    file_kind: ClassVar[str] = "serac"

    rule: ScopeRule
    scope: Scope
    changes: Mapping[str, Pair]
    facts: tuple[ScopedFact, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The number of edits in the memory, and the probability from which a prompt is in scope."""
        edits = number_of(len(self.facts), "edit")
        return f"a memory of {edits}, inserted where their scope is ≥ {self.rule.threshold:g}"

    @property
    def nbytes(self) -> int:
        """The bytes of the network and of the facts' vectors."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def is_empty(self) -> bool:
        """Whether the memory has no edit."""
        return not self.facts

    def nearest(self, model: LanguageModel, prompt: str) -> tuple[ScopedFact, float] | None:
        """Return the edit with the largest g for ``prompt``, and g; None without edits or for an empty prompt."""
        states = text_states(model, prompt, self.rule.layer)
        if not self.facts or not len(states):
            return None
        facts, vectors = self._memory
        scope = self.scope.to(states.device)
        with torch.no_grad():
            text = scope.padded_vectors([states])
            log_chances = scope.log_chances(vectors.to(states.device), text)[:, 0]  # log g, [edits]
        chances = log_chances.exp()
        index = int(chances.argmax())
        return facts[index], float(chances[index])

    @cached_property
    def _memory(self) -> tuple[list[ScopedFact], Vectors]:
        """The latest fact for each prompt, in the order of the edits, and their vectors as one batch."""
        latest = {fact.prompt.casefold(): index for index, fact in enumerate(self.facts)}  # a later fact replaces one
        facts = [self.facts[index] for index in sorted(latest.values())]
        return facts, Vectors.joined([(fact.vectors, fact.weights) for fact in facts])

    def prompt_transform(self, model: LanguageModel, prompt: str) -> str:
        """Return the counterfactual model's prompt if ``prompt`` is in the scope of an edit, else ``prompt`` itself."""
        nearest = self.nearest(model, prompt)
        if nearest is None:
            return prompt
        fact, chance = nearest
        if chance < self.rule.threshold:
            return prompt
        return self.rule.prompt(fact.text, prompt)

    def without(self, ids: Collection[str]) -> ScopePatch:
        """Return the patch without the edits with these ids, as if they had never been made."""
        provenance = without_edits(self.provenance, ids, known={fact.id for fact in self.facts})
        remaining = tuple(fact for fact in self.facts if fact.id not in ids)
        return replace(self, facts=remaining, provenance=provenance)

    def depends_on(self, earlier: Patch) -> bool:
        """Return whether ``earlier`` changes the vectors in the memory, which are made of the model's hidden states.

        A patch of the weights does. A patch of the prompt changes no hidden state of the edits' own prompts.
        """
        return earlier.changed_part != "prompt"

    def tensors_of_edit(self, index: int) -> Mapping[str, Pair]:
        """Return the vectors and weights by which the scope recognises the edit's prompt."""
        return {"scope": (self.facts[index].vectors, self.facts[index].weights)}

    def _plus(self, other: ScopePatch) -> ScopePatch:
        if self.rule != other.rule:
            raise PatchError(
                f"can't add memories with different rules ({self.rule!r} and {other.rule!r}); make both with the same "
                "trained network and the same threshold"
            )
        return replace(
            self, facts=self.facts + other.facts, provenance=join_provenances(self.provenance, other.provenance)
        )

    @contextmanager
    def applied_on_top(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Yield another `LanguageModel` with the same weights; the low-rank changes act only after the marker."""
        self.check_model(model)
        transformed = dict[str, str]()  # by prompt, because a prompt is scored with many targets
        outer = model.prompt_transform

        def transform(prompt: str) -> str:
            if prompt not in transformed:
                transformed[prompt] = self.prompt_transform(model, prompt)
            text = transformed[prompt]
            return outer(text) if outer else text

        with change_after_marker(model, self.rule.marker, self.changes):
            yield replace(model, prompt_transform=transform)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the patch, by their names in a file."""
        tensors = {f"scope/{name}": tensor for name, tensor in self.scope.tensors().items()}
        for name, (left, right) in self.changes.items():
            tensors[f"left/{name}"] = left
            tensors[f"right/{name}"] = right
        for index, fact in enumerate(self.facts):
            tensors[f"facts/{index}/vectors"] = fact.vectors
            tensors[f"facts/{index}/weights"] = fact.weights
        return tensors

    def check_finite(self) -> None:
        """Check that every number is finite."""
        for name, tensor in self.tensors().items():
            if not torch.isfinite(tensor).all():
                raise PatchError(f"{name} of the memory is not finite; edit in float32, or train the network again")

    def _stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        facts = [{"id": fact.id, "prompt": fact.prompt, "text": fact.text} for fact in self.facts]
        content = {"rule": self.rule.model_dump(mode="json"), "weights": list(self.changes), "facts": facts}
        return content, self.tensors()

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """Build the patch of a file."""
        try:
            # `Scope.of` takes its own tensors from these, and ignores those of the changes and of the facts.
            tensors = {name.removeprefix("scope/"): tensor for name, tensor in file.tensors.items()}
            return cls(
                rule=ScopeRule.model_validate(file.content["rule"]),
                scope=Scope.of(tensors),
                changes=_read_changes(file),
                facts=_read_facts(file),
                provenance=file.provenance,
            )
        except (TypeError, KeyError, ValueError) as error:
            raise PatchError(f"the patch {file.path} is damaged: {error!r}; make the patch again") from error


def _read_changes(file: PatchFile) -> dict[str, Pair]:
    """Read the factors of each weight's change; KeyError or ValueError: they are missing, or don't fit together."""
    changes = dict[str, Pair]()
    for name in file.content["weights"]:
        left = file.tensors[f"left/{name}"]
        right = file.tensors[f"right/{name}"]
        if left.dim() != 2 or right.dim() != 2 or left.shape[1] != len(right):
            raise ValueError(f"the factors of the change of {name} don't fit together")
        changes[name] = left, right
    return changes


def _read_facts(file: PatchFile) -> tuple[ScopedFact, ...]:
    """Read the memory; KeyError or ValueError: something is missing, or the vectors don't fit together."""
    facts = list[ScopedFact]()
    for index, fact in enumerate(file.content["facts"]):
        vectors = file.tensors[f"facts/{index}/vectors"]
        weights = file.tensors[f"facts/{index}/weights"]
        if vectors.dim() != 2 or weights.shape[:-1] != vectors.shape[:1]:
            raise ValueError(f"the vectors of the fact {index} don't fit together")
        facts.append(
            ScopedFact(id=fact["id"], prompt=fact["prompt"], text=fact["text"], vectors=vectors, weights=weights)
        )
    return tuple(facts)
