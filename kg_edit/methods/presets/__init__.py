"""Published settings of methods by model: one TOML file for each model, with one table for each method.

``--preset gpt2-xl`` with ``--method rome`` uses the table ``methods.rome`` of ``gpt2-xl.toml``. A second published
setting of the same method is a table such as ``methods."glame:mquake"``; its preset is called ``gpt2-xl:mquake``.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kg_edit.errors import ConfigError, UnknownNameError, faults_of, unknown_name

_SUFFIX = ".toml"

log = logging.getLogger(__name__)


def published_settings(name: str, method: str, *, config_presets: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the preset ``name`` for ``method``.

    Args:
        name: the preset, such as "gpt2-xl" or "gpt2-xl:mquake".
        method: the method's name, as in the file.
        config_presets: the presets of the method's config class, for the error message.
    """
    file_name, colon, variant = name.partition(":")  # "gpt2-xl", ":", "mquake"; without a variant "gpt2-xl", "", ""
    tables: dict[str, MethodPreset] = {}
    if file_name in list_published_models():
        tables = read_presets(file_name).methods
    table_name = f"{method}{colon}{variant}"  # "glame:mquake", or "glame"
    if table_name in tables:
        return tables[table_name].settings

    known = sorted([*config_presets, *list_presets(method)])
    others = _methods_with(variant, tables)
    if others:
        raise UnknownNameError(
            f"unknown preset {name!r} for {method}, known for {', '.join(others)}; {method} has: {', '.join(known)}"
        )
    raise unknown_name("preset", name, known)


def _methods_with(variant: str, tables: Iterable[str]) -> list[str]:
    """Return the methods that have a table with this variant ("" for the plain one); ``tables`` are tables' names."""
    methods = set[str]()
    for table_name in tables:
        table_method, _, table_variant = table_name.partition(":")
        if table_variant == variant:
            methods.add(table_method)
    return sorted(methods)


def list_presets(method: str) -> list[str]:
    """Return the names that ``--preset`` takes for ``method``, variants included, besides those of its config class."""
    names = []
    for file_name in list_published_models():
        for table_name in read_presets(file_name).methods:
            table_method, colon, variant = table_name.partition(":")
            if table_method == method:
                names.append(f"{file_name}{colon}{variant}")
    return sorted(names)


def list_published_models() -> tuple[str, ...]:
    """Return the models that have a preset file, by the file's name without its suffix."""
    names = [entry.name for entry in files("kg_edit.methods.presets").iterdir()]
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)))


def read_presets(name: str) -> ModelPresets:
    """Return the published settings in the file ``name`` (without its suffix), such as "gpt2-xl"."""
    if name not in list_published_models():
        raise unknown_name("preset", name, list_published_models())
    text = (files("kg_edit.methods.presets") / f"{name}{_SUFFIX}").read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
        content["name"] = name
        return ModelPresets(**content)
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            reason = "; ".join(str(fault) for fault in faults_of(error, ModelPresets))
        raise ConfigError(f"the preset file {name}{_SUFFIX} is damaged: {reason}; install kg-edit again") from error


def warn_of_another_model(preset: str, config: Mapping[str, Any]) -> None:
    """Warn if a preset is published for a model with another ``config.json``: its layers were chosen for that one."""
    file_name = preset.partition(":")[0]
    if file_name not in list_published_models():  # a preset of the method's config class, such as "paper"
        return
    published = read_presets(file_name)
    differ = [key for key, value in published.config.items() if key in config and config[key] != value]
    if differ:
        sizes = ", ".join(f"{key} {published.config[key]} there, {config[key]} here" for key in differ[:3])
        log.warning("the preset %s is published for %s (%s); its layers may not fit", preset, published.about, sizes)


class MethodPreset(BaseModel):
    """The published settings of a method: their source, their values by our names, and what differs or has no name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="the paper or public code from which the values are taken")
    settings: dict[str, Any] = Field(description="settings of the method")
    differs: tuple[str, ...] = Field(
        (), description="differences between the published method and this package, in words"
    )


class ModelPresets(BaseModel):
    """All published settings for one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="name of the file, which is the name of the preset")
    model: str = Field(description="hub id, or a name that `kg-edit models` lists")
    about: str = Field(description="short description of the model")
    config: dict[str, Any] = Field(description="settings of config.json that identify the model's size")
    methods: dict[str, MethodPreset] = Field(description='tables by "method" or "method:variant"')
