"""A comparison as a table: for the terminal, Markdown, LaTeX and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.table import Table

from kg_edit.errors import ConfigError
from kg_edit.evaluate.compare_picture import draw_comparison
from kg_edit.evaluate.comparison import Comparison
from kg_edit.evaluate.differences import RESAMPLES, Difference
from kg_edit.storage.atomic import write_json, write_text

_ESCAPED = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"} | {"~": "\\textasciitilde{}", "^": "\\^{}", "<": "$<$"}
)


def markdown(comparison: Comparison) -> str:
    """A Markdown table; a difference that is more than chance is bold."""
    header, *rows = _cells(comparison, bold=lambda text: f"**{text}**")
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{caption(comparison)}\n"


def latex(comparison: Comparison) -> str:
    """A LaTeX table for the package booktabs."""
    header, *rows = _cells(comparison, bold=lambda text: rf"\textbf{{{text}}}", escape=_in_latex)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_in_latex(caption(comparison))}}}",
            r"\end{table}",
            "",
        ]
    )


def rich_comparison(comparison: Comparison) -> Table:
    """The same table for the terminal."""
    header, *rows = _cells(comparison, bold=lambda text: f"{text} *")
    table = Table(caption=caption(comparison) + " *: found.", caption_justify="left")
    for place, title in enumerate(header):
        table.add_column(title, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write ``path`` as its ending says: .md, .tex, .json, .png, .svg or .pdf.

    Raises:
        ConfigError: the ending is none of these.
        OutputError: the file can't be written.
    """
    check_ending(path)
    return _WRITERS[path.suffix.casefold()](comparison, path)


def check_ending(path: Path) -> None:
    """Check that the ending of ``path`` names a form in which a comparison can be written.

    Raises:
        ConfigError: it does not.
    """
    if path.suffix.casefold() not in _WRITERS:
        raise ConfigError(f"can't write a comparison as {path}; its ending has to be one of {', '.join(_WRITERS)}")


def caption(comparison: Comparison) -> str:
    """What the numbers are."""
    tests = sorted({found.test for row in comparison.rows for found in row.differences.values()})
    said = {
        "McNemar": "exact McNemar test for 0-1 scores",
        "sign flips": "paired permutation test (sign flips) for others",
        "swaps": "paired permutation test (records swapped) for the editing score",
    }
    first = comparison.sides[0]
    return " ".join(
        [
            f"{comparison.records} records. Differences to {first} are paired, with 95 % bootstrap intervals;",
            f"two-sided p: {', '.join(said[test] for test in tests)}; {RESAMPLES:,} resamples, seed {comparison.seed}.",
            "A difference is found (bold) where p after Holm's correction for all rows is below .05.",
            *(f"Note: {note}." for note in comparison.notes),
        ]
    )


def _cells(
    comparison: Comparison, *, bold: Callable[[str], str], escape: Callable[[str], str] = lambda text: text
) -> list[list[str]]:
    first, *others = comparison.sides
    header = ["metric", "n", *comparison.sides]
    header += [title for side in others for title in (f"{side} - {first}", "p")]
    rows = [list(map(escape, header))]
    for row in comparison.rows:
        means = [_number(row.means[side].mean or 0.0) for side in comparison.sides]
        changes = [text for side in others for text in _difference(row.differences.get(side), bold, escape)]
        rows.append([escape(row.metric), str(row.n), *means, *changes])
    return rows


def _difference(found: Difference | None, bold: Callable[[str], str], escape: Callable[[str], str]) -> tuple[str, str]:
    if found is None:
        return "", ""
    mean, low, high = (_number(value, "+") for value in (found.mean, found.ci95_low, found.ci95_high))
    text, p = f"{mean} [{low}, {high}]", "<.001" if found.p < 0.001 else f"{found.p:.3f}"
    return bold(text) if found.is_found else text, escape(p)


def _number(value: float, sign: str = "") -> str:
    """Three decimals, or two digits of what would be 0 then."""
    return f"{value:{sign}.3f}" if abs(value) >= 0.005 or value == 0 else f"{value:{sign}.1e}"


def _in_latex(text: str) -> str:
    return text.translate(_ESCAPED)


def _json(comparison: Comparison, path: Path) -> Path:
    return write_json(path, comparison.model_dump(mode="json"))


_WRITERS: Mapping[str, Callable[[Comparison, Path], Path]] = {
    ".md": lambda comparison, path: write_text(path, markdown(comparison)),
    ".tex": lambda comparison, path: write_text(path, latex(comparison)),
    ".json": _json,
    ".png": draw_comparison,
    ".svg": draw_comparison,
    ".pdf": draw_comparison,
}
