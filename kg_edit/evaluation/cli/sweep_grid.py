"""Read a sweep's settings from a TOML file (``data/sweep.toml`` explains every key), and make its cells.

A cell is one combination of the values of the grid's axes, with its method and its checked settings.
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from kg_common.json_text import digest
from kg_edit.errors import ConfigError, KgEditError, faults_of, unknown_name
from kg_edit.evaluation.metrics.catalogue import CATALOGUE, ESTIMATED
from kg_edit.evaluation.metrics.sampled_text import EXTRAS
from kg_edit.methods import EditingMethod, MethodConfig, find_method
from kg_edit.storage.setting_fields import Seed

METRICS = ("efficacy.prob", "paraphrase.prob", "neighborhood.prob", "portability.nll", "portability.choice")
# axes that are no settings of the method
METHOD = "method"
PRESET = "preset"
_MOST_CELLS = 10_000
_LONGEST = 120  # characters of a folder's name, at most
_UNUSABLE = re.compile(r"[^A-Za-z0-9._+-]+")  # in the name of a folder


class SweepData(BaseModel):
    """The records on which every cell is scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field("counterfact-plus", description="the benchmark's name, as for kg-edit evaluate")
    file: Path | None = Field(None, description="the benchmark's file")
    limit: PositiveInt | None = Field(20, description="use only the first N records")


class SweepSettings(BaseModel):
    """A sweep: the settings that all cells share, and the ``grid`` of those that vary.

    ``grid`` maps an axis to its values: a setting of the method (a dot goes one level down), ``method`` or ``preset``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("smollm2-135m", description="named model, hub id, folder or .gguf file")
    dtype: str = Field("auto", description="auto, float32, bfloat16 or float16")
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    graph: tuple[str, ...] = Field((), description="a list of graph files, folders or SPARQL URLs")
    method: str = Field("glame", description="the method of all cells, unless it is an axis")
    preset: str = Field("default", description="named settings of the method, unless it is an axis")
    schedule: str = Field("single", description="single, batch:N or sequential:N, as for kg-edit evaluate")
    seed: Seed = Field(0, description="random seed of choices and intervals")
    metrics: tuple[str, ...] = Field(
        METRICS, min_length=1, description="a list of metrics for the table and the picture"
    )
    data: SweepData = Field(SweepData(), description="the table [data]")
    settings: dict[str, Any] = Field({}, description="the table [settings]: settings of all cells")
    grid: dict[str, tuple[Any, ...]] = Field(
        min_length=1, description="the table [grid]: axes, each with a list of values"
    )

    @field_validator("grid", mode="before")
    @classmethod
    def _flat(cls, grid: object) -> object:
        """Flatten the grid: ``covariance.tokens = [...]`` is a nested table in TOML, but one axis here."""
        if not isinstance(grid, Mapping):
            return grid
        axes: dict[str, Any] = {}
        for axis, values in _flatten(grid):
            if axis in axes:  # as "covariance.tokens" and in a table
                raise ValueError(f"the axis {axis} is given twice; keep one")
            axes[axis] = values
        return axes

    @field_validator("grid")
    @classmethod
    def _distinct(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for axis, values in grid.items():
            if not values:
                raise ValueError(f"the axis {axis} has no value; give it some, or leave it out")
            if len(set(map(str, values))) < len(values):  # as text, because a cell's folder is named by it
                raise ValueError(f"the axis {axis} has a value twice: {list(values)}; keep one")
        return grid


def read_sweep(path: Path) -> SweepSettings:
    """Read a sweep's file."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read {path}: {error}; kg-edit sweep --example prints an example") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; kg-edit sweep --example prints an example") from error
    try:
        settings = SweepSettings.model_validate(table)
    except ValidationError as error:
        faults = (f"{path}: key {fault.field}: {fault.message}" for fault in faults_of(error, SweepSettings))
        raise ConfigError("\n".join(faults)) from error
    for metric in settings.metrics:
        if metric not in CATALOGUE:
            raise unknown_name("metric", metric, CATALOGUE)
        if metric in EXTRAS or getattr(CATALOGUE[metric], "where", ESTIMATED) != ESTIMATED:
            raise ConfigError(
                f"{path}: key metrics: no cell of a sweep has {metric}, which `kg-edit evaluate` measures on request; "
                "leave it out"
            )
    return settings


def example() -> str:
    """Return an example of a sweep's file, with every key explained."""
    return (files("kg_edit") / "data" / "sweep.toml").read_text(encoding="utf-8")


def _flatten(grid: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the axes with their values; that of a nested table is called "table.axis"."""
    for name, value in grid.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{start}{name}.")
        else:
            yield f"{start}{name}", value


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the grid: its values on the axes, its method and its settings."""

    values: Mapping[str, Any]
    method: type[EditingMethod]
    config: MethodConfig

    @property
    def folder(self) -> str:
        """The name of the cell's folder, such as ``layer=6 steps=20``."""
        full = " ".join(f"{axis}={value}" for axis, value in self.values.items())
        names = []
        for axis, value in self.values.items():
            usable = _UNUSABLE.sub("-", str(value))
            names.append(f"{axis}={usable}")
        name = " ".join(names)
        if name == full and len(full) <= _LONGEST:
            return name
        # A name that is cut, or lacks characters, gets a hash, so that two cells never share a folder.
        return f"{name[:_LONGEST]} {digest(full)[:8]}"


def cells_of(settings: SweepSettings) -> tuple[Cell, ...]:
    """Return all cells; the last axis varies fastest."""
    for axis in settings.grid:
        _check_axis(axis, settings)
    count = math.prod(map(len, settings.grid.values()))
    if count > _MOST_CELLS:
        raise ConfigError(
            f"the grid has {count:,} cells, each of them a run; leave values out: at most {_MOST_CELLS:,}"
        )
    cells = []
    for combination in itertools.product(*settings.grid.values()):
        values = dict(zip(settings.grid, combination, strict=True))
        axes = {axis: value for axis, value in values.items() if axis not in (METHOD, PRESET)}
        options = settings.settings | axes
        name = str(values.get(METHOD, settings.method))
        preset = str(values.get(PRESET, settings.preset))
        method = find_method(name)
        try:
            config = method.config_class.preset(preset, options, method=name)
        except KgEditError as error:
            error.add_note(f"in the cell {values} of the method {name}")
            raise
        cells.append(Cell(values=values, method=method, config=config))
    return tuple(cells)


def _check_axis(axis: str, settings: SweepSettings) -> None:
    """Refuse an axis that is also set elsewhere, as a whole or in part."""
    path = axis.split(".")
    if axis in settings.settings or _holds(settings.settings, path):  # "a.b" = 1, or a table a with b = 1
        raise ConfigError(f"{axis} is set in [grid] and in [settings]; keep one")
    for end in range(1, len(path)):
        group = ".".join(path[:end])
        if group in settings.grid:
            raise ConfigError(
                f"{group} and {axis} are both axes of the grid, but {axis} is a part of {group}; keep one"
            )
        if _holds(settings.settings, path[:end]) and not _holds(settings.settings, path[:end], kind=dict):
            raise ConfigError(f"{axis} is an axis of the grid, but [settings] sets {group} as a whole; keep one")


def _holds(settings: Any, path: list[str], *, kind: type = object) -> bool:
    """Return whether the nested settings have a value of this kind at a path."""
    for name in path:
        if not isinstance(settings, dict) or name not in settings:
            return False
        settings = settings[name]
    return isinstance(settings, kind)
