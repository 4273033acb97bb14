"""Sweeps: evaluate a method on a grid of settings, each cell a resumable run of `kg_edit.evaluate`; table and plot."""

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
