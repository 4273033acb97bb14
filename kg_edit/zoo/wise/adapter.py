"""WISE's adapter: side memories of one down-projection W [d, d_ff] (Wang et al., NeurIPS 2024, arXiv 2405.14768).

With x [d_ff] the module's input at a token, and D_k [d, d_ff] the difference between memory k and W:

    a_k   = mean of |D_k x| over the tokens so far            how much memory k would change the text (Eq. 2)
    eps_k = ratio * the least a_k of the edits in memory k
    y     = W x + [a_k > eps_k] D_k x                         for the k with the largest a_k (Eq. 3)

A memory is made of shards. The words of the settings, in the order in which edits come:

    shard   the edits 0 ... shard - 1 train the change D of shard 0, the next ``shard`` edits that of shard 1, ...
    share   the edits of a shard train only this share of the entries of D, drawn at random for each shard (`subspace`)
    merge   the shards 0 ... merge - 1 are group 0, the next ``merge`` shards group 1, ... When all shards of a group
            are complete, TIES merges their changes to the one D_k of a memory (section 2.3.2; `merge_by_ties`)

The shards themselves are stored, not what they are merged to, so that patches can be added.

The published program takes the mean over the whole text. Here each token has the mean up to itself
(`kg_edit.zoo.token_means`), so that the answer is the same whether a text is read as a whole or token by token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_common.terminal import number_of
from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_hooks import replace_output
from kg_edit.patches.adapter_patch import Adapter
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.adapters.summed import AdapterSettings
from kg_edit.zoo.token_means import TokenMeans
from kg_edit.zoo.wise.ties import merge_by_ties

_SHARD = "shard/"  # prefix of a shard's tensor; its number follows
_NEW_SHARDS = 0.4  # WISE-Merge: weight of a group's shards together, when they join what is merged already


class MemorySettings(AdapterSettings):
    """How edits are put into shards, how shards are merged, and when a memory is used."""

    share: float = Field(0.2, gt=0, le=1, description="rho: share of the memory's entries that a shard's edits train")
    shard: PositiveInt = Field(500, description="edits in a shard")
    merge: PositiveInt = Field(2, description="k: complete shards that are merged into one memory; 1: none are")
    density: float = Field(0.53, gt=0, le=1, description="share of a shard's entries, the largest, that a merge keeps")
    retrieve: bool = Field(
        True,
        description="several memories, of which a text uses the one with the largest activation; false: all shards "
        "are merged into one (WISE-Merge)",
    )
    ratio: float = Field(
        0.88, gt=0, le=1, description="a memory is used above this share of the least activation of its edits"
    )
    seed: Seed = Field(0, description="random seed of the subspaces, and of the sampled contexts and texts")


class Memory(NamedTuple):
    """A memory that is looked up: D_k [d, d_ff] and eps_k."""

    change: Tensor
    threshold: float


@dataclass(frozen=True, eq=False, kw_only=True)
class SideMemory(Adapter):
    """The shards of the memory, and what is known of the edits in them.

    Attributes:
        size: the shape (d, d_ff) of the adapted weight.
        shards: the change of each shard [d, d_ff], by its number.
        owners: for each edit the number of its shard, [edits]; in float32, like every tensor of an adapter.
        activations: for each edit the least activation of its tokens, [edits].
        settings: how edits are put into shards, and shards into memories.
    """

    method: ClassVar[str] = "wise"

    size: tuple[int, int]
    shards: Mapping[int, Tensor]
    owners: Tensor
    activations: Tensor
    settings: MemorySettings

    @classmethod
    def empty(cls, size: tuple[int, int], settings: MemorySettings) -> Self:
        """Return a memory without edits, for a weight of the shape (d, d_ff)."""
        return cls(size=size, shards={}, owners=torch.zeros(0), activations=torch.zeros(0), settings=settings)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (d, d_ff) of the adapted weight."""
        return self.size

    @property
    def summary(self) -> str:
        """The number of memories that are looked up, of shards and of edits."""
        shards = number_of(len(self.shards), "shard")
        edits = number_of(len(self.owners), "edit")
        return f"memories: {len(self.memories())}, of {shards} with {edits}"

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors by name."""
        shards = {f"{_SHARD}{number}": change for number, change in self.shards.items()}
        return {**shards, "owners": self.owners, "activations": self.activations}

    def metadata(self) -> dict[str, Any]:
        """Return the shape and the settings, as JSON."""
        return {"shape": list(self.size), "settings": self.settings.model_dump(mode="json")}

    @classmethod
    def read(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the adapter from the results of `metadata` and `tensors`."""
        rows, columns = metadata["shape"]
        shards = dict[int, Tensor]()
        for name, tensor in tensors.items():
            if name.startswith(_SHARD):
                shards[int(name.removeprefix(_SHARD))] = tensor
        owners = tensors["owners"]
        activations = tensors["activations"]
        has_one_of_each = owners.dim() == 1 and owners.shape == activations.shape
        if not shards or not has_one_of_each or set(owners.tolist()) != set(shards):
            raise ValueError(f"owners {owners.tolist()} and activations of {len(activations)} edits don't fit together")
        if any(tuple(shard.shape) != (rows, columns) for shard in shards.values()):
            raise ValueError(f"a shard is not a change of a weight [{rows}, {columns}]")
        settings = MemorySettings.model_validate(metadata["settings"])
        return cls(size=(rows, columns), shards=shards, owners=owners, activations=activations, settings=settings)

    def check_settings(self, later: SideMemory) -> None:
        """Refuse a memory that can't be added to this one."""
        if self.settings != later.settings or self.size != later.size:
            raise PatchError(
                f"can't add side memories with different settings ({self.settings!r} and {later.settings!r}); make "
                "both with the same settings"
            )

    def plus(self, later: Self) -> Self:
        """Return the sum of the changes of each shard, with the edits of both."""
        self.check_settings(later)
        shards = dict(self.shards)
        for number, change in later.shards.items():
            if number in shards:
                change = shards[number] + change
            shards[number] = change
        return type(self)(
            size=self.size,
            shards=dict(sorted(shards.items())),
            owners=torch.cat([self.owners, later.owners]),
            activations=torch.cat([self.activations, later.activations]),
            settings=self.settings,
        )

    def subspace(self, number: int) -> Tensor:
        """Return the mask [d, d_ff] of the entries that the edits of shard ``number`` train."""
        draw = torch.Generator().manual_seed(self.settings.seed + number)
        return torch.rand(self.size, generator=draw) < self.settings.share

    def memories(self) -> list[Memory]:
        """Return the memories that are looked up: several, of which a text uses one, or with ``retrieve=false`` one."""
        if not self.shards:
            return []
        if not self.settings.retrieve:
            return [self._make_memory(self._merge_all(), list(self.shards))]
        memories = list[Memory]()
        for group in self._group_shards():
            if self._is_complete(group) and len(group) > 1:
                memories.append(self._make_memory(self._merge_group(group), group))
                continue
            for number in group:  # the shards of a group that is not complete yet are memories of their own
                memories.append(self._make_memory(self.shards[number], [number]))
        return memories

    def _group_shards(self) -> list[list[int]]:
        """Return the numbers of the shards that are merged into one memory, once all of them are there."""
        groups = dict[int, list[int]]()
        for number in sorted(self.shards):
            groups.setdefault(number // self.settings.merge, []).append(number)
        return list(groups.values())

    def _is_complete(self, group: Sequence[int]) -> bool:
        """Return whether a group has all of its shards, each with all of its edits.

        In a sum of patches that were made apart, a shard may have more edits than `shard`, and the next one none.
        """
        edits = [int((self.owners == number).sum()) for number in group]
        return len(group) == self.settings.merge and min(edits) >= self.settings.shard

    def _merge_all(self) -> Tensor:
        """Merge all shards: one group after the other joins the one change, as in the published program (WISE-Merge).

        The shards of the new group together have the weight 0.4, and what is merged already has 0.6.
        """
        first, *later = self._group_shards()
        merged = self._merge_group(first)
        for group in later:
            changes = [self.shards[number] for number in group]
            weights = [_NEW_SHARDS * (1 / len(group))] * len(group)
            changes.append(merged)
            weights.append(1 - _NEW_SHARDS)
            merged = merge_by_ties(changes, weights, density=self.settings.density)
        return merged

    def _merge_group(self, group: Sequence[int]) -> Tensor:
        """Merge the shards of a group, all with the same weight."""
        changes = [self.shards[number] for number in group]
        weights = [1 / len(group)] * len(group)
        return merge_by_ties(changes, weights, density=self.settings.density)

    def _make_memory(self, change: Tensor, shards: Sequence[int]) -> Memory:
        """Return the memory with this change; its threshold is a share of the least activation of the shards' edits."""
        of_shards = torch.isin(self.owners, torch.tensor(shards).float())  # [edits]
        return Memory(change, self.settings.ratio * float(self.activations[of_shards].min()))

    @contextmanager
    def attached(self, model: LanguageModel, layer: int, device: torch.device) -> Iterator[None]:
        """Within the ``with`` block, the memory with the largest activation acts, where that is above its threshold."""
        memories = self.memories()
        changes = torch.stack([memory.change for memory in memories]).to(device)  # D, [memories, d, d_ff]
        thresholds = torch.tensor([memory.threshold for memory in memories], device=device)
        with TokenMeans(model, layer, name=self.method).attached() as means:

            def forward(inputs: Tensor, output: Tensor) -> Tensor:
                moved = torch.einsum("kdf,tf->tkd", changes, inputs)  # D_k x, [tokens, memories, d]
                activations = means.of(moved.norm(dim=-1))  # a_k, [tokens, memories]
                largest, chosen = activations.max(-1)  # the largest a_k and its k, [tokens] each
                added = moved[torch.arange(len(inputs), device=device), chosen]  # D_k x for this k, [tokens, d]
                used = (largest > thresholds[chosen])[:, None]  # [tokens, 1]
                return torch.where(used, output + added, output)

            with replace_output(model, layer, forward):
                yield
