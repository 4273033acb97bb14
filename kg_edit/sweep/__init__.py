"""Sweeps: a method's settings on a grid, each cell a resumable run of `kg_edit.evaluate`; a table and a picture."""

from kg_edit.sweep.cells import Cell, cells_of
from kg_edit.sweep.grid import SweepSettings, read_sweep
from kg_edit.sweep.picture import draw_sweep
from kg_edit.sweep.run import Outcome, run_sweep
from kg_edit.sweep.table import sweep_table

__all__ = [
    "Cell",
    "Outcome",
    "SweepSettings",
    "cells_of",
    "draw_sweep",
    "read_sweep",
    "run_sweep",
    "sweep_table",
]
