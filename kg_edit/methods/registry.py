"""The registry of all methods by name. Other packages add methods by entry points in the group ``kg_edit.methods``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from kg_edit.errors import unknown_name

if TYPE_CHECKING:
    from kg_edit.methods.base import EditingMethod

ENTRY_POINTS = "kg_edit.methods"

_METHODS = {
    "adalora": "kg_edit.methods.fine_tuning.adalora:AdaLora",
    "alphaedit": "kg_edit.methods.memit.alphaedit:AlphaEdit",
    "calinet": "kg_edit.methods.calinet.method:Calinet",
    "comeba": "kg_edit.methods.comeba.method:Comeba",
    "defer": "kg_edit.methods.defer.method:Defer",
    "definition": "kg_edit.methods.in_context.definition:Definition",
    "emmet": "kg_edit.methods.memit.emmet:Emmet",
    "ext-sub": "kg_edit.methods.ext_sub.method:ExtSub",
    "ft": "kg_edit.methods.fine_tuning.ft:Ft",
    "ft-all": "kg_edit.methods.fine_tuning.ft_all:FtAll",
    "ft-constrained": "kg_edit.methods.fine_tuning.ft:FtConstrained",
    "ft-ewc": "kg_edit.methods.fine_tuning.ewc:FtEwc",
    "ft-l": "kg_edit.methods.fine_tuning.ft:FtL",
    "ft-m": "kg_edit.methods.fine_tuning.ft:FtM",
    "ft-retrain": "kg_edit.methods.fine_tuning.ft:FtRetrain",
    "glame": "kg_edit.methods.glame.glame:Glame",
    "glame-batch": "kg_edit.methods.glame.variants:GlameBatch",
    "glame-gnn": "kg_edit.methods.glame.variants:GlameGnn",
    "glame-mlp": "kg_edit.methods.glame.variants:GlameMlp",
    "glame-net": "kg_edit.methods.glame_net.method:GlameNet",
    "glame-plus": "kg_edit.methods.glame_plus.method:GlamePlus",
    "glame-random": "kg_edit.methods.glame.variants:GlameRandom",
    "grace": "kg_edit.methods.grace.method:Grace",
    "ike": "kg_edit.methods.in_context.ike:Ike",
    "ke": "kg_edit.methods.ke.method:Ke",
    "kn": "kg_edit.methods.kn.method:Kn",
    "locft": "kg_edit.methods.fine_tuning.locft:LocFt",
    "lora": "kg_edit.methods.fine_tuning.lora:Lora",
    "mello": "kg_edit.methods.mello.method:Mello",
    "memit": "kg_edit.methods.memit.memit:Memit",
    "memit-kg": "kg_edit.methods.glame.kg_baselines:MemitKg",
    "memoe": "kg_edit.methods.memoe.method:Memoe",
    "memoir": "kg_edit.methods.memoir.method:Memoir",
    "memory": "kg_edit.methods.memory.method:Memory",
    "memprompt": "kg_edit.methods.in_context.memprompt:MemPrompt",
    "mend": "kg_edit.methods.mend.method:Mend",
    "popularity-retrieval": "kg_edit.methods.in_context.popularity:PopularityRetrieval",
    "r-rome": "kg_edit.methods.rank_one.rome:RRome",
    "rome": "kg_edit.methods.rank_one.rome:Rome",
    "rome-kg": "kg_edit.methods.glame.kg_baselines:RomeKg",
    "serac": "kg_edit.methods.serac.method:Serac",
    "t-patcher": "kg_edit.methods.t_patcher.method:TPatcher",
}


def method_names() -> tuple[str, ...]:
    """The names of all methods, plug-ins included."""
    return tuple(sorted({*_METHODS, *(entry.name for entry in entry_points(group=ENTRY_POINTS))}))


def is_packaged(name: str) -> bool:
    """Whether the method of this name is part of this package, and not of a plug-in."""
    return name in _METHODS


def check_method(name: str) -> None:
    """Check that a method of this name exists, without importing it.

    Raises:
        UnknownNameError: there is no such method; the message suggests a similar name.
    """
    if name not in _METHODS and name not in method_names():
        raise unknown_name("method", name, method_names())


def find_method(name: str) -> type[EditingMethod]:
    """Import and return the class of a method.

    Raises:
        UnknownNameError: there is no such method; the message suggests a similar name.
    """
    if name in _METHODS:
        module, _, attribute = _METHODS[name].partition(":")
        found: type[EditingMethod] = getattr(import_module(module), attribute)
        return found
    plugins = entry_points(group=ENTRY_POINTS, name=name)  # slow, as it reads all installed packages
    if not plugins:
        raise unknown_name("method", name, method_names())
    plugin: type[EditingMethod] = plugins[name].load()
    return plugin
