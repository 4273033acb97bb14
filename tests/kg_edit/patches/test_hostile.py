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
from kg_edit.patches.changes import columns, edit_norms, read_changes
from kg_edit.patches.container import METADATA
from kg_edit.patches.entries import entries_of
from kg_edit.patches.weight_patch import Factors, WeightPatch
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
        entries_of(patch)
        columns(read_changes(path))
        edit_norms(patch)
        Ledger.open(folder / "ledger").add(path)
    except KgEditError as error:
        assert str(error)
        assert not (folder / "ledger" / "ledger.jsonl").exists(), "refused, and yet committed"
    else:
        opened = Ledger.open(folder / "ledger")
        assert len(opened.edits) == len(patch.edits) and opened.conflicts() is not None


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("provenance", "edits", 0, "method"), 5, r"edits\.0\.method is 5"),
        (("provenance", "edits", 0, "edit"), ["x"], r"edits\.0\.edit"),
        (("provenance", "edits", 0, "scale"), "2", r"edits\.0\.scale"),
        (("provenance", "edits", 0, "batch"), 0, r"edits\.0\.batch is 0"),
        (("provenance", "edits"), {"a": 1}, "edits is"),
        (("provenance", "model"), "toy", "model is 'toy'"),
        (("provenance", "model", "fingerprint"), 7, r"model\.fingerprint is 7"),
        (("provenance", "weight_norms"), {"w": None}, r"weight_norms\.w"),
        (("provenance",), [], "has no valid provenance"),
        (("format",), ["kg-edit-patch"], "is not a patch"),
        (("version",), 2, "install a later kg-edit"),
        ((), "[" * 10_000, "nested too deeply"),
        ((), "{", "give a complete patch.safetensors"),
    ],
)
def test_malformed_metadata_is_named(tmp_path: Path, place: tuple[Any, ...], value: Any, message: str) -> None:
    metadata, tensors = written(ONE, tmp_path / "patch.safetensors")
    path = forged(tmp_path / "forged.safetensors", replaced(metadata, place, value), tensors)
    for read in (Patch.load, read_changes, Ledger.open(tmp_path / "ledger").add):
        with pytest.raises(PatchError, match=message):
            read(path)
    assert not (tmp_path / "ledger").exists()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_numbers_that_are_not_real_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    metadata, tensors = written(ONE, tmp_path / "patch.safetensors")
    path = forged(tmp_path / "forged.safetensors", metadata, {name: value.to(dtype) for name, value in tensors.items()})
    for read in (Patch.load, read_changes):
        with pytest.raises(PatchError, match="expected real numbers"):
            read(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("adapter", "shape", 0), -1, "is damaged: RuntimeError.*; make the patch again"),
        (("method",), 3, "no method 3"),
        (("method",), "theirs", "no method 'theirs' is installed"),
    ],
)
def test_adapter_that_can_not_be_made_is_refused(
    place: tuple[Any, ...], value: Any, message: str, tmp_path: Path
) -> None:
    patch = on_tiny("calinet", tiny("llama")).edit(edits_of(1))
    metadata, tensors = written(patch, tmp_path / "patch.safetensors")
    path = forged(tmp_path / "forged.safetensors", replaced(metadata, ("content", 0, *place), value), tensors)
    with pytest.raises(PatchError, match=message):
        Patch.load(path)


def test_product_that_overflows_is_refused_on_reading(tmp_path: Path) -> None:
    metadata, tensors = written(ONE, tmp_path / "patch.safetensors")
    path = forged(tmp_path / "forged.safetensors", metadata, {name: value * 1e25 for name, value in tensors.items()})
    with pytest.raises(PatchError, match="not finite"):
        Patch.load(path)
    assert not Factors(left=torch.full((2, 1), 1e30), right=torch.full((2, 1), 1e30)).is_finite
    assert Factors(left=torch.full((2, 1), 1e30), right=torch.full((2, 1), 1e-30)).is_finite
    assert Factors(left=torch.zeros(0, 3), right=torch.zeros(2, 3)).is_finite


@pytest.mark.parametrize("shape", [(), (4,), (4, 1)])
def test_factors_that_do_not_fit_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    metadata, tensors = written(ONE, tmp_path / "patch.safetensors")
    path = forged(tmp_path / "forged.safetensors", metadata, tensors | {"w.weight.left": torch.ones(shape)})
    for read in (Patch.load, read_changes):
        with pytest.raises(PatchError, match=r"has factors of w\.weight that don't fit"):
            read(path)


@pytest.mark.parametrize("shape", [(), (5, 2), (6,)])
def test_keys_that_do_not_fit_the_weight_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    metadata, tensors = written(ONE, tmp_path / "patch.safetensors")
    state = {"state/key/w.weight": torch.ones(6, 2)}
    assert isinstance(Patch.load(forged(tmp_path / "whole.safetensors", metadata, tensors | state)), WeightPatch)
    state = {"state/key/w.weight": torch.ones(shape)}
    with pytest.raises(PatchError, match=r"has a key/w\.weight of the shape .* does not fit; make it again"):
        Patch.load(forged(tmp_path / "forged.safetensors", metadata, tensors | state))


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
