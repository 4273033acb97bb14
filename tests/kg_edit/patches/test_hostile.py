"""Patch files from somebody else: each is refused with a message, or read and added as finite numbers."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from kg_edit.errors import KgEditError, PatchError
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import columns_by_edit, edit_norms, read_changes
from kg_edit.patches.container import METADATA
from kg_edit.patches.entries import list_patch_entries
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.ledger import Ledger
from tests.kg_edit.json_places import places, replaced
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.patches.test_base import patch_of
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up
from tests.kg_edit.tiny import same_weights, tiny, weights_of

ONE = made_up(edits_of(2))


def written(patch: Patch, path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What the file of a patch holds: its JSON and its tensors."""
    patch.save(path)
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[METADATA]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def forged(path: Path, metadata: Any, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path, metadata={METADATA: metadata if isinstance(metadata, str) else json.dumps(metadata)})
    return path


@cache
def examples() -> tuple[tuple[dict[str, Any], dict[str, torch.Tensor]], ...]:
    """A file of each kind of patch."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        patches = [ONE, *(on_tiny(name, tiny("llama")).edit(edits_of(2)) for name in ("grace", "ike", "memory"))]
        return tuple(written(patch, Path(folder) / "patch.safetensors") for patch in patches)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(st.data())
def test_any_change_of_the_metadata_is_refused_or_harmless(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    metadata, tensors = data.draw(st.sampled_from(examples()))
    at = data.draw(st.sampled_from([*places(metadata)]))
    path = forged(folder / "patch.safetensors", replaced(metadata, at, data.draw(JSON)), tensors)
    try:
        patch = Patch.load(path)
        patch.check_finite()
        assert patch.summary is not None
        list_patch_entries(patch)
        columns_by_edit(read_changes(path))
        edit_norms(patch)
        Ledger.open(folder / "ledger").add(path)
    except KgEditError as error:
        assert str(error)
        assert not (folder / "ledger" / "ledger.jsonl").exists(), "refused, and yet committed"
    else:
        opened = Ledger.open(folder / "ledger")
        assert len(opened.edits) == len(patch.edits) and opened.conflicts() is not None


def test_product_is_finite_where_it_does_not_overflow() -> None:
    assert not Factors(left=torch.full((2, 1), 1e30), right=torch.full((2, 1), 1e30)).is_finite
    assert Factors(left=torch.full((2, 1), 1e30), right=torch.full((2, 1), 1e-30)).is_finite
    assert Factors(left=torch.zeros(0, 3), right=torch.zeros(2, 3)).is_finite


def test_keys_that_fit_the_weight_are_read(tmp_path: Path) -> None:
    metadata, tensors = written(ONE, tmp_path / "patch.safetensors")
    state = {"state/key/w.weight": torch.ones(6, 2)}
    assert isinstance(Patch.load(forged(tmp_path / "whole.safetensors", metadata, tensors | state)), WeightPatch)


@pytest.mark.parametrize("size", [1e5, 1e38, float("nan")])
def test_weight_that_would_overflow_is_unchanged(size: float) -> None:
    """Each of two changes is finite, their sum, or either in half precision, is not; or it was NaN before."""
    model = deepcopy(tiny("llama"))
    if size == 1e5:
        model.model.half()
    before, single = weights_of(model), patch_of(model)
    assert isinstance(single, WeightPatch)
    (name, pair), *_ = single.factors.items()
    ones = Factors(left=torch.full_like(pair.left, size), right=torch.full_like(pair.right, 3.0))
    patch = WeightPatch(factors={name: ones}, provenance={}) + WeightPatch(factors={name: ones}, provenance={})
    with pytest.raises(PatchError, match="infinite or NaN in"):
        patch.merge_into(model)
    with pytest.raises(PatchError, match="infinite or NaN in"), patch.applied(model):
        pass
    assert same_weights(model, before)
