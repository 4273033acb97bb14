"""Sweeps: a method's settings on a grid, each cell a resumable run of `kg_edit.evaluate`; a table and a picture."""

from kg_edit.sweep.grid import Cell, SweepSettings, cells_of, read_sweep
from kg_edit.sweep.run import Outcome, draw_sweep, run_sweep, sweep_table

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
