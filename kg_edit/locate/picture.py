"""Heat maps: what puts the answer back, by token role over many facts, or token by token for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kg_edit.evaluate.plots import figure, save_figure
from kg_edit.locate.roles import ROLES
from kg_edit.locate.sites import Kind
from kg_edit.locate.summary import LocateSummary
from kg_edit.locate.trace import Trace

_COLOURS: dict[Kind, str] = {"hidden": "Purples", "mlp": "Greens", "attention": "Reds"}  # the paper's
_NAMES: dict[Kind, str] = {"hidden": "hidden state", "mlp": "MLP output", "attention": "attention output"}


def draw_summary(summary: LocateSummary, path: Path, *, model: str) -> Path:
    """Draw the average indirect effect, a row for each role; the peak at the subject's last token is marked.

    Raises:
        OutputError: the file can't be written.
    """
    shown = [(role, found.mean) for role in ROLES if (found := summary.roles[role]).facts]
    effects = [[float(value or 0.0) for value in mean] for _, mean in shown]
    title = f"{model}: {_NAMES[summary.kind]} restored, {_layers(summary.window)}, mean of {summary.facts} facts"
    return _draw(effects, [role for role, _ in shown], path, kind=summary.kind, title=title, mark=summary.peak.layer)


def draw_trace(trace: Trace, path: Path) -> Path:
    """Draw one fact's indirect effects, a row for each token; the subject's tokens carry a star.

    Raises:
        OutputError: the file can't be written.
    """
    pairs = zip(trace.tokens, trace.roles, strict=True)
    names = [repr(token)[1:-1].replace("$", r"\$") + ("*" if "subject token" in role else "") for token, role in pairs]
    title = f"p({trace.answer.strip()!r}): {trace.clean:.3f} clean, {trace.corrupted:.3f} corrupted; "
    title += f"{_NAMES[trace.kind]} restored, {_layers(trace.window)}"
    return _draw(trace.effects, names, path, kind=trace.kind, title=title.replace("$", r"\$"))


def _draw(
    effects: Sequence[Sequence[float]],
    names: Sequence[str],
    path: Path,
    *,
    kind: Kind,
    title: str,
    mark: int | None = None,
) -> Path:
    table = np.array(effects)
    drawn = figure(max(5.0, 2.4 + 0.2 * table.shape[1]), 1.2 + 0.28 * len(names))
    axes = drawn.subplots()
    image = axes.imshow(table, cmap=_COLOURS[kind], aspect="auto", interpolation="nearest", vmin=0.0)
    axes.set_yticks(range(len(names)), labels=list(names), fontsize=8)
    axes.set_xlabel("layer (middle of the window)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(title, fontsize=8)
    if mark is not None:
        axes.axvline(mark, color="black", lw=0.8, ls=":")
    drawn.colorbar(image, ax=axes, label="p[restored] - p[corrupted]", extend="min")
    return save_figure(drawn, path)


def _layers(window: int) -> str:
    return "one layer" if window == 1 else f"{window} layers at once"
