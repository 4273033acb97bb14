"""Where the time of an edit goes: by kind of operation, the plain way (one edit) and the fast one (eight in a batch).

From PyTorch's profiler, which slows small operations down: read shares, not seconds. With --picture FILE.svg also
drawn (docs/profile.svg). Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tools.model_edits import LAYER, SETTINGS, some_edits, values
from torch.profiler import ProfilerActivity, profile

from kg_edit.engine.fast_loss import find_engine
from kg_edit.locate_then_edit.objective import Request
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import sample_contexts

BATCH = 8
KINDS: Mapping[str, tuple[str, ...]] = {
    "matrix products": ("mm", "addmm", "bmm", "linear"),
    "attention": ("scaled_dot_product",),
    "softmax and loss": ("softmax", "nll_loss", "cross_entropy", "logsumexp"),
    "copies": ("copy_", "cat", "index", "fill_", "clone", "contiguous", "gather", "zero_"),
}
COLOURS = {
    "matrix products": "#1b4965",
    "attention": "#5fa8d3",
    "softmax and loss": "#9d4edd",
    "copies": "#e9a03b",
    "the rest": "#9aa7b1",
}


def shares(work: Callable[[], object], edits: int) -> dict[str, float]:
    """Profile ``work``; return the seconds per edit by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    seconds = dict.fromkeys(COLOURS, 0.0)
    for event in seen.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "the rest")
        seconds[kind] += event.self_cpu_time_total / 1e6 / edits
    return seconds


def fast(model: LanguageModel, asked: list[Request], contexts: tuple[str, ...]) -> None:
    """Find the values of the edits, with the contexts computed only once."""
    values(model, asked, find_engine(model, LAYER, contexts))


def draw(bars: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw stacked bars, one bar for each way of editing."""
    with matplotlib.rc_context({"svg.hashsalt": "kg-edit", "svg.fonttype": "none", "font.size": 9.0}):
        figure = Figure(figsize=(8.0, 2.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        left = dict.fromkeys(bars, 0.0)
        for kind, colour in COLOURS.items():
            widths = [bar[kind] for bar in bars.values()]
            axes.barh(list(bars), widths, left=list(left.values()), color=colour, label=kind, height=0.6)
            left = {name: left[name] + bar[kind] for name, bar in bars.items()}
        for name, end in left.items():
            axes.text(end, name, f"  {end:.1f} s", va="center")
        axes.set_xlim(0, 1.12 * max(left.values()))
        axes.set_xlabel("seconds an edit under the profiler")
        axes.spines[["top", "right"]].set_visible(False)
        axes.invert_yaxis()
        figure.legend(loc="outside upper center", ncols=len(COLOURS), frameon=False)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Profile both ways, perhaps draw, and end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    model = LanguageModel.load("smollm2-135m")
    model.model.requires_grad_(False)
    contexts = sample_contexts(model, lengths=SETTINGS.context_lengths)
    requests = [Request.of(model, edit, contexts) for edit in some_edits(BATCH)]
    bars = {
        "plain, one edit": shares(lambda: values(model, requests[:1], None), 1),
        f"fast, {BATCH} edits": shares(lambda: fast(model, requests, contexts), BATCH),
    }
    if options.picture:
        draw(bars, options.picture)
    plain, quick = bars.values()
    rounded = {name: {kind: round(seconds, 3) for kind, seconds in bar.items()} for name, bar in bars.items()}
    print(json.dumps({"name": "profile_edit", "ratio": round(sum(plain.values()) / sum(quick.values()), 2), **rounded}))


if __name__ == "__main__":
    main()
