"""A grid's cells: one for every combination of the axes' values, each with its method and settings checked."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kg_edit.errors import ConfigError, KgEditError
from kg_edit.methods import EditingMethod, MethodConfig, find_method
from kg_edit.storage.run_folder import digest
from kg_edit.sweep.grid import SweepSettings

METHOD, PRESET = "method", "preset"
_LONGEST = 120  # letters of a folder's name


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A point of the grid: where it lies, and the method and settings there."""

    values: Mapping[str, Any]
    method: type[EditingMethod]
    config: MethodConfig

    @property
    def folder(self) -> str:
        """The name of its folder, such as ``layer=6 steps=20``."""
        return " ".join(_part(axis, value) for axis, value in self.values.items())[:_LONGEST] + self._stamp

    @property
    def _stamp(self) -> str:
        whole = " ".join(f"{axis}={value}" for axis, value in self.values.items())
        named = " ".join(_part(axis, value) for axis, value in self.values.items())
        return "" if whole == named and len(whole) <= _LONGEST else f" {digest(whole)[:8]}"


def cells_of(settings: SweepSettings) -> tuple[Cell, ...]:
    """All cells, the last axis running fastest.

    Raises:
        UnknownNameError: an axis or a setting is none of a method's; suggests the nearest.
        ConfigError: an axis is set for all cells as well, or lies inside what is no table, or a value does not fit.
    """
    for axis in settings.grid:
        _check_axis(axis, settings)
    axes = settings.grid
    return tuple(_cell(settings, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values()))


def _cell(settings: SweepSettings, values: dict[str, Any]) -> Cell:
    own = copy.deepcopy(settings.settings)
    for axis, value in values.items():
        if axis not in (METHOD, PRESET):
            _put(own, axis, value)
    name, preset = str(values.get(METHOD, settings.method)), str(values.get(PRESET, settings.preset))
    method = find_method(name)
    try:
        return Cell(values=values, method=method, config=method.config_class.preset(preset, own, method=name))
    except KgEditError as error:
        error.add_note(f"in the cell {values} of the method {name}")
        raise


def _check_axis(axis: str, settings: SweepSettings) -> None:
    """Refuse an axis that something else sets as well, as it is or as a part of itself."""
    path = axis.split(".")
    if _holds(settings.settings, path):
        raise ConfigError(f"{axis} is an axis of the grid and stands in [settings] as well; keep one")
    for end in range(1, len(path)):
        group = ".".join(path[:end])
        if group in settings.grid:
            raise ConfigError(f"{group} and {axis} are axes of the grid, and one is a part of the other; keep one")
        if _holds(settings.settings, path[:end]) and not _holds(settings.settings, path[:end], kind=dict):
            raise ConfigError(f"{axis} is an axis of the grid, and {group} stands in [settings] as a whole; keep one")


def _put(settings: dict[str, Any], axis: str, value: Any) -> None:
    *groups, last = axis.split(".")
    for group in groups:
        settings = settings.setdefault(group, {})
    settings[last] = value


def _holds(settings: Any, path: list[str], *, kind: type = object) -> bool:
    for name in path:
        if not isinstance(settings, dict) or name not in settings:
            return False
        settings = settings[name]
    return isinstance(settings, kind)


def _part(axis: str, value: Any) -> str:
    return f"{axis}={re.sub(r'[^A-Za-z0-9._+-]+', '-', str(value))}"
