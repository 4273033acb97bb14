"""Families and methods of third parties, through entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from kg_edit.errors import UnsupportedModelError
from kg_edit.methods import find_method, method_names, registry
from kg_edit.methods.rank_one.rome import Rome
from kg_edit.models import architectures
from kg_edit.models.architectures import ModelSpec, find_spec

BLOOM = ModelSpec(blocks="transformer.h", down_projection="mlp.dense_4h_to_h", final_norm="transformer.ln_f")


class Mine(Rome):
    """A method of somebody else's."""

    name = "mine"


def plug_in(name: str, value: str, group: str) -> EntryPoints:
    return EntryPoints([EntryPoint(name=name, value=f"{__name__}:{value}", group=group)])


def test_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plug_in("bloom", "BLOOM", architectures.ENTRY_POINTS)
    monkeypatch.setattr(architectures, "entry_points", lambda group: found.select(group=group))
    assert find_spec("bloom") == BLOOM
    assert find_spec("gpt2") == architectures.ARCHITECTURES["gpt2"]


@pytest.mark.parametrize(("name", "value"), [("gpt2", "BLOOM"), ("bloom", "Mine")])
def test_a_plug_in_neither_overrides_nor_lies(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plug_in(name, value, architectures.ENTRY_POINTS)
    monkeypatch.setattr(architectures, "entry_points", lambda group: found.select(group=group))
    with pytest.raises(UnsupportedModelError, match="uninstall or fix this plug-in"):
        find_spec("llama")


def test_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plug_in("mine", "Mine", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", found.select)
    assert {"glame", "mine", "rome"} < set(method_names())
    assert find_method("mine") is Mine
