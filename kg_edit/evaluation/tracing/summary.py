"""Average traces by token role, with bootstrap intervals over facts, find the peak layer, and draw heat maps.

- `LocateSummary`: the mean indirect effect p[restored] - p[corrupted] at each role and layer, and its 95 % interval.
- `draw_summary`, `draw_trace`: a heat map of it, over many facts, or token by token for one fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from kg_edit.evaluation.plots import figure, save_figure
from kg_edit.evaluation.statistics import random_numbers
from kg_edit.evaluation.tracing.corrupted_run import Kind
from kg_edit.evaluation.tracing.trace import LAST, ROLES, Trace

_RESAMPLES = 1000
_FEWEST = 5  # facts; with fewer, resamples mean nothing
Table = NDArray[np.float64]
Cells = tuple[float | None, ...]


class Effects(BaseModel):
    """A role's mean indirect effect at each layer, and its 95 % interval.

    None if too few facts have a token of the role: the mean needs one fact, the interval five.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    facts: int
    mean: Cells
    ci95_low: Cells
    ci95_high: Cells


class Peak(BaseModel):
    """The layer at which restoring states at the subject's last token has the largest effect, on average over facts.

    ``ci95`` are the layers between which the peak is in 95 % of bootstrap resamples of the facts; ``share`` is the
    share of resamples with exactly this peak. Both are None for fewer than five facts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    effect: float
    ci95: tuple[int, int] | None
    share: float | None


class LocateSummary(BaseModel):
    """The averages over all facts of a run of causal tracing, by token role, and the facts that were left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    window: int
    facts: int
    failed: Mapping[str, str]  # id -> why it could not be traced
    unknown: tuple[str, ...]  # ids of facts that the model does not know, left out
    clean: float  # mean p[clean]
    corrupted: float  # mean p[corrupted]
    roles: Mapping[str, Effects]
    peak: Peak

    @classmethod
    def of(
        cls,
        traces: Sequence[Trace],
        *,
        failed: Mapping[str, str] | None = None,
        unknown: Sequence[str] = (),
        seed: int = 0,
    ) -> Self:
        """Average traces.

        Args:
            traces: at least one, all of one kind and one model.
            failed: why facts could not be traced, by id.
            unknown: ids of facts that the model does not know.
            seed: that of the bootstrap.
        """
        values = _list_effects(traces)  # [facts, roles, layers]
        means = _average_effects(values, np.ones((1, len(traces))))[0]  # [roles, layers]
        # Bootstrap over facts: how often each is drawn in each resample, [resamples, facts].
        share = [1 / len(traces)] * len(traces)
        drawn = random_numbers(seed).multinomial(len(traces), share, size=_RESAMPLES).astype(float)
        spread = _average_effects(values, drawn)  # [resamples, roles, layers]
        last = ROLES.index(LAST)
        return cls(
            kind=traces[0].kind,
            window=traces[0].window,
            facts=len(traces),
            failed=dict(failed or {}),
            unknown=tuple(unknown),
            clean=float(np.mean([trace.clean for trace in traces])),
            corrupted=float(np.mean([trace.corrupted for trace in traces])),
            roles=_summarise_roles(values, means, spread),
            peak=_find_peak(means[last], spread[:, last], facts=len(traces)),
        )


def _summarise_roles(values: Table, means: Table, spread: Table) -> dict[str, Effects]:
    """Return the effects of each role.

    Args:
        values: the effects in each fact, [facts, roles, layers].
        means: their means, [roles, layers].
        spread: the means of the resamples, [resamples, roles, layers]; NaN in one without a fact of the role.
    """
    absent = np.isnan(spread).all(0)  # [roles, layers]
    low, high = np.nanpercentile(np.where(absent, 0.0, spread), [2.5, 97.5], axis=0)
    facts_with_role = (~np.isnan(values[:, :, 0])).sum(0)  # [roles]
    roles = {}
    for column, role in enumerate(ROLES):
        facts = int(facts_with_role[column])
        is_hidden = facts < _FEWEST
        roles[role] = Effects(
            facts=facts,
            mean=_list_cells(means[column]),
            ci95_low=_list_cells(low[column], hide=is_hidden),
            ci95_high=_list_cells(high[column], hide=is_hidden),
        )
    return roles


def _list_effects(traces: Sequence[Trace]) -> Table:
    """Return the mean effect over a role's tokens in each fact, [facts, roles, layers]; NaN without such a token."""
    values = np.full((len(traces), len(ROLES), len(traces[0].restored[0])), np.nan)
    for row, trace in enumerate(traces):
        for column, role in enumerate(ROLES):
            of_role = [effects for name, effects in zip(trace.roles, trace.effects, strict=True) if name == role]
            if of_role:
                values[row, column] = np.mean(of_role, axis=0)
    return values


def _find_peak(mean: Table, spread: Table, *, facts: int) -> Peak:
    """Return the peak of the mean effects [layers], and how certain it is by the resamples [resamples, layers]."""
    layer = int(mean.argmax())
    effect = float(mean[layer])
    if facts < _FEWEST:
        return Peak(layer=layer, effect=effect, ci95=None, share=None)
    peaks = spread.argmax(-1)
    first, final = np.percentile(peaks, [2.5, 97.5], method="nearest")
    exactly = float((peaks == layer).mean())
    return Peak(layer=layer, effect=effect, ci95=(int(first), int(final)), share=exactly)


def _average_effects(values: Table, weights: Table) -> Table:
    """Return weighted means [resamples, roles, layers] of [facts, roles, layers], over facts that have the role.

    mean_rnl = sum_f w_rf v_fnl / sum_f w_rf,   f: the facts with a value v_fnl
    """
    present = ~np.isnan(values)
    summed = np.einsum("rf,fnl->rnl", weights, np.where(present, values, 0.0))
    counted = np.einsum("rf,fnl->rnl", weights, present.astype(float))
    return np.asarray(np.divide(summed, counted, out=np.full_like(summed, np.nan), where=counted > 0))


def _list_cells(row: Table, *, hide: bool = False) -> Cells:
    """Return the values of a row [layers]; None for NaN, and for all if ``hide``."""
    cells = list[float | None]()
    for value in row.tolist():
        cell = None if hide or np.isnan(value) else value
        cells.append(cell)
    return tuple(cells)


_COLOURS: dict[Kind, str] = {"hidden": "Purples", "mlp": "Greens", "attention": "Reds"}  # the paper's
_NAMES: dict[Kind, str] = {"hidden": "hidden state", "mlp": "MLP output", "attention": "attention output"}


def draw_summary(summary: LocateSummary, path: Path, *, model: str) -> Path:
    """Draw the average indirect effects, one row for each role; the peak at the subject's last token is marked."""
    shown = [role for role in ROLES if summary.roles[role].facts]
    effects = []
    for role in shown:
        effects.append([value or 0.0 for value in summary.roles[role].mean])
    if summary.facts == 1:
        facts = "one fact"
    else:
        facts = f"mean of {summary.facts} facts"
    title = f"{model}: {_NAMES[summary.kind]} restored, {_word_window(summary.window)}, {facts}"
    return _draw(effects, shown, path, kind=summary.kind, title=title, mark=summary.peak.layer)


def draw_trace(trace: Trace, path: Path) -> Path:
    """Draw one fact's indirect effects, one row for each token; the subject's tokens have a star."""
    names = []
    for token, role in zip(trace.tokens, trace.roles, strict=True):
        star = "*" if "subject token" in role else ""
        escaped = repr(token)[1:-1].replace("$", r"\$")  # line breaks are shown, and $ begins no formula
        names.append(escaped + star)
    title = f"p({trace.answer.strip()!r}): {trace.clean:.3f} clean, {trace.corrupted:.3f} corrupted; "
    title += f"{_NAMES[trace.kind]} restored, {_word_window(trace.window)}"
    return _draw(trace.effects, names, path, kind=trace.kind, title=title)


def _draw(
    effects: Sequence[Sequence[float]],
    names: Sequence[str],
    path: Path,
    *,
    kind: Kind,
    title: str,
    mark: int | None = None,
) -> Path:
    """Draw the effects [rows][layers] as a heat map with a name for each row; ``mark`` is a layer."""
    table = np.array(effects)
    drawn = figure(max(5.0, 2.4 + 0.2 * table.shape[1]), 1.2 + 0.28 * len(names))
    axes = drawn.subplots()
    image = axes.imshow(table, cmap=_COLOURS[kind], aspect="auto", interpolation="nearest", vmin=0.0)
    axes.set_yticks(range(len(names)), labels=list(names), fontsize=8)
    axes.set_xlabel("layer (middle of the window)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(title.replace("$", r"\$"), fontsize=8)  # no formula
    if mark is not None:
        axes.axvline(mark, color="black", lw=0.8, ls=":")
    drawn.colorbar(image, ax=axes, label="p[restored] - p[corrupted]", extend="min")
    return save_figure(drawn, path)


def _word_window(window: int) -> str:
    return "one layer" if window == 1 else f"{window} layers at once"
