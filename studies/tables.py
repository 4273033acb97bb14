"""The tables of the README and the pages, from the measured numbers in results/*.csv.

python studies/tables.py                                # render every table anew
python studies/tables.py --check                        # name the files whose tables differ; exit code 1
python studies/tables.py --add single=runs/rome         # the scores of a finished `kg-edit evaluate` run as CSV rows

A page shows a table between `<!-- results: NAME -->` and `<!-- /results -->`, where NAME is a table or a view of
results/tables.toml. Two pages are generated as a whole: docs/measurements.md, the main tables, means only;
docs/claims.md, what the papers claim (results/claims.toml), the numbers that answer it, and a verdict.
"""

from __future__ import annotations

import argparse
import csv
import logging
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from math import hypot, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # rendering needs the standard library only
    from kg_edit.evaluation.summary import Summary

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
APPENDIX = ROOT / "docs" / "measurements.md"
CLAIMS = ROOT / "docs" / "claims.md"
MARKED = re.compile(r"(<!-- results: ([\w-]+) -->\n)(.*?)(<!-- /results -->)", re.DOTALL)
CEILINGS = {
    "fact_in_prompt": "the fact in the prompt",
    "fact_and_relation_in_prompt": "the fact and the relation in the prompt",
}
log = logging.getLogger("studies.tables")
INTRODUCTION = """# Measurements

This page has the tables of most methods, with means only. `studies/tables.py` generates it. [Metrics](metrics.md)
explains the columns, and [results](results.md) and [benchmarks](benchmarks.md) explain the tables. Unless a table says
otherwise, these things hold:

- The model is SmolLM2-135M-Instruct in float32, on two cores.
- Each method edits its default layers. For ROME and GLAME this is layer 6.
- C is from text that the model wrote (`--corpus self`).
- Closed forms have `remember=0`.

The CSV files have the 95 % intervals, further columns and rows, and all other tables:

{files}

The tables of these files are named in [tables.toml](../results/tables.toml).
"""


class Number(NamedTuple):
    """One measured number: a row of a CSV file. Numbers are text, so that their digits are those of the measurement."""

    table: str
    data: str
    n: str
    method: str
    settings: str
    metric: str
    mean: str = ""
    low: str = ""  # ends of the 95 % interval
    high: str = ""
    p: str = ""
    model: str = ""
    commit: str = ""
    note: str = ""

    @property
    def row(self) -> str:
        """The name of the row of a table that shows the number."""
        return ", ".join(filter(None, (self.method, self.settings)))


class Results:
    """The numbers of results/*.csv, and what tables.toml says of their tables and views."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = folder
        self.words: dict[str, Any] = tomllib.loads((folder / "tables.toml").read_text(encoding="utf-8"))
        self.tables: dict[str, list[Number]] = {name: [] for name in self.words["tables"]}
        for file in self.words["files"]:
            with (folder / f"{file}.csv").open(encoding="utf-8", newline="") as lines:
                for line in csv.DictReader(lines):
                    self.tables[line["table"]].append(Number(**line))

    def add(self, numbers: Iterable[Number]) -> None:
        """Put numbers into their tables: a number that is there already is replaced, a new row is the last."""
        for number in numbers:
            cells = {(old.row, old.metric): old for old in self.tables[number.table]}
            cells[number.row, number.metric] = number
            rows = list(dict.fromkeys(row for row, _ in cells))
            self.tables[number.table] = sorted(
                cells.values(), key=lambda old: rows.index(old.row)
            )  # rows stay together

    def save(self) -> None:
        """Write the CSV files."""
        for file in self.words["files"]:
            with (self.folder / f"{file}.csv").open("w", encoding="utf-8", newline="") as lines:
                writer = csv.writer(lines, lineterminator="\n")
                writer.writerow(Number._fields)
                for name, table in self.words["tables"].items():
                    if table["file"] == file:
                        writer.writerows(self.tables[name])

    def markdown(self, name: str, *, intervals: bool = True, short: bool = False) -> str:
        """Return the Markdown of a table or view: a column per metric, or a row per metric (`metrics_as_rows`).

        Args:
            name: the table or view.
            intervals: show the 95 % intervals.
            short: show the columns of `appendix_columns` only, and no row of `appendix_without`.
        """
        view = self.words.get("views", {}).get(name, {})
        table = view.get("table", name)
        options: dict[str, Any] = self.words["tables"][table] | view
        numbers = self.tables[table]
        cells = {(number.row, number.metric): number for number in numbers}
        rows = options.get("rows") or [*dict.fromkeys(number.row for number in numbers)]
        shown = options.get("columns") or _metrics(numbers)
        percent = bool(options.get("percent"))
        without = options.get("appendix_without", []) if short else []
        known = {number.row for number in numbers}
        absent = [row for row in (*rows, *without) if row not in known]
        if absent:
            raise ValueError(f"{name}: results/ has no row {absent[0]!r} in {table}")
        if short:
            shown = options.get("appendix_columns", shown)
            rows = [row for row in rows if row not in without]

        def text(row: str, metric: str) -> str:
            return shown_text(cells.get((row, metric)), percent=percent, intervals=intervals)

        if options.get("metrics_as_rows"):
            # rows of one metric may have different records: "200 / 180"
            body = []
            for metric in shown:
                counts = dict.fromkeys(cell.n for cell in numbers if cell.metric == metric)
                texts = [text(row, metric) for row in rows]
                body.append([metric, " / ".join(counts), *texts])
            return markdown(["", "n", *rows], body)
        body = []
        for row in rows:
            texts = [text(row, metric) for metric in shown]
            body.append([row, *texts])
        return markdown(["", *shown], body)

    def number(self, table: str, row: str, metric: str) -> Number:
        """Return one number."""
        for number in self.tables.get(table, []):
            if (number.row, number.metric) == (row, metric):
                return number
        raise ValueError(f"results/ has no number {metric!r} of {row!r} in {table}")

    def appendix(self) -> str:
        """Return the page with the tables of `appendix = true`, means only, and links to the files of all."""
        files = "\n".join(f"- [{title}](../results/{file}.csv)" for file, title in self.words["files"].items())
        parts = [INTRODUCTION.format(files=files)]
        for name, table in self.words["tables"].items():
            if table.get("appendix"):
                body = self.markdown(name, intervals=False, short=True)
                parts.append(f"## {table['title']}\n\n{table['caption']}\n\n{body}\n")
        return "\n".join(parts)


def _metrics(numbers: Sequence[Number]) -> list[str]:
    """Return the metrics in the order of the row that has most of them; the others follow."""
    rows: dict[str, list[str]] = {}
    for number in numbers:
        rows.setdefault(number.row, []).append(number.metric)
    return [*dict.fromkeys([*max(rows.values(), key=len), *(number.metric for number in numbers)])]


def shown_text(number: Number | None, *, percent: bool = False, intervals: bool = True) -> str:
    """Return a number as a table shows it: `0.97 [0.93, 1.00]`, or `97 [93, 100]` in percent; empty if not measured."""
    if number is None:
        return ""
    low = _digits(number.low, percent=percent)
    high = _digits(number.high, percent=percent)
    parts = [_digits(number.mean, percent=percent)]
    if intervals and low != high:  # a bootstrap of equal values has no interval
        parts.append(f"[{low}, {high}]")
    parts.append(number.note)
    text = " ".join(filter(None, parts))
    return f"{text}, p {number.p}" if number.p and intervals else text


def _digits(value: str, *, percent: bool) -> str:
    if percent and value:
        return f"{Decimal(value) * 100:.0f}"
    return f"{int(value):,}" if re.fullmatch(r"\d{5,}", value) else value


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar or star in a cell is escaped."""
    lines = []
    for row in (header, *rows):
        cells = " | ".join(map(_escaped, row))
        lines.append(f"| {cells} |")
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _escaped(text: str) -> str:
    return re.sub(r"([|*])", r"\\\1", text)


# The claims of the papers.

# two-sided 5 %; the same and 80 % power: 1.96 + 0.84
_Z = 1.96
_POWER = 2.8
_MARGIN = 0.05  # "the same", or a level, holds within it
CLAIM_COLUMNS = ("claim", "theirs", "ours", "difference [95 %]", "measured", "verdict")
CLAIMS_INTRODUCTION = """# The claims of the papers

Each row of the tables is a claim, in percent: what the paper found, what we found, and a verdict. The rows are made
from [claims.toml](../results/claims.toml) and the [CSV files](../results/tables.toml). We measured SmolLM2-135M unless
the column *measured* names another model. The papers measured other models, most of them larger. So a difference is
reproduced by its sign, not by its size. The column *measured* names the table and the metric. n is that of the first
row, and is 100 unless it is given. An empty cell is as above.

These are the verdicts: {counts}. They mean:

- **reproduced**: the difference has the claimed sign, and its 95 % interval excludes 0. If the claim is that two
  numbers are equal, the interval lies within 5 points of 0. If the claim is a level that is reached, the interval lies
  above 5 points below the level.
- **direction**: the same, but our set-up also differs from the paper's as the brackets say.
- **contradicted**: the interval lies below half of the smallest difference that the paper found, or below 0 if it gives
  none. If the claim is an equality or a level, the interval lies wholly beyond the 5 points.
- **not seen**: none of these holds. *Needs 13, theirs 2.5* means that a difference would be seen, with 80 % power, from
  13 points on, while the paper's is 2.5.
- **not run**: the claim is listed below the table, with the cost in hours of one processor thread.

The interval is that of two independent rows. It is made from the intervals of both, or from share and n where a row has
none. It is mostly too wide where both rows have the same records, and too narrow for edits that share a model. It is
not corrected for the number of claims.
"""


def error_of(number: Number) -> float:
    """Return the standard error of a number: from its 95 % interval, or of a share of n (Agresti and Coull)."""
    if number.low and number.low != number.high:
        return (float(number.high) - float(number.low)) / (2 * _Z)
    mean = float(number.mean)
    n = int(number.n or 0)
    if not (0 <= mean <= 1 and n) or re.search("nll|perplexity|times", number.metric):
        raise ValueError(f"{number.table}, {number.row}, {number.metric}: no interval, so the verdict is by hand")
    share = (mean * n + 2) / (n + 4)
    return sqrt(share * (1 - share) / (n + 4))


def verdict_of(difference: float, error: float, expect: str, effect: float = 0, differs: str = "") -> str:
    """Return the verdict on a claim by the rule of the page.

    Args:
        difference: ours, a share.
        error: its standard error.
        expect: the claim: `more`, `less`, `same`, or `at least`.
        effect: the smallest of their differences, a share; 0 if the paper gives none.
        differs: in what the measurement is not the paper's.
    """
    within = _MARGIN if expect in ("same", "at least") else 0
    claimed = {"more": difference, "less": -difference, "same": -abs(difference), "at least": difference}[expect]
    low = claimed + within - _Z * error
    high = claimed + within + _Z * error
    note = f" ({differs})" if differs else ""
    if low > 0:
        return f"direction{note}" if differs else "reproduced"
    if high < effect / 2:
        return f"contradicted{note}"
    theirs = f", theirs {100 * effect:.3g}" if effect else ""
    return f"not seen, needs {100 * _POWER * error:.0f}{theirs}{note}"


def claim_cells(results: Results, claim: dict[str, Any]) -> list[str]:
    """Return the row of a claim of claims.toml: claim, theirs, ours, difference, what was measured, verdict."""
    head = [claim.get("claim", ""), claim.get("theirs", "")]
    first = results.number(claim["table"], claim["row"], claim["metric"])
    model = "" if first.model == "SmolLM2-135M" else f", {first.model}"
    n = f"; n {first.n}" if first.n not in ("", "100") else ""
    measured = f"`{first.table}`: {first.metric}{n}{model}"
    if "verdict" in claim:
        return [*head, f"`{first.row}`: {shown_text(first)}", "", measured, claim["verdict"]]
    ours = f"`{first.row}` {100 * float(first.mean):.0f}"
    error = error_of(first)
    if "level" in claim:
        difference = float(first.mean) - claim["level"]
    else:
        row = claim.get("against", first.row)
        metric = claim.get("against_metric", first.metric)
        other = results.number(claim.get("against_table", first.table), row, metric)
        difference = float(first.mean) - float(other.mean)
        error = hypot(error, error_of(other))
        ours += f", `{row if 'against' in claim else metric}` {100 * float(other.mean):.0f}"
    low = f"{100 * (difference - _Z * error):+.0f}"
    mean = f"{100 * difference:+.0f}"
    high = f"{100 * (difference + _Z * error):+.0f}"
    effect = claim.get("effect", 0) / 100
    verdict = verdict_of(difference, error, claim["expect"], effect, claim.get("differs", ""))
    return [*head, ours, f"{mean} [{low}, {high}]", measured, verdict]


def claims_page(results: Results) -> str:
    """Return docs/claims.md: a table of its claims for each paper, those not run, and how many have which verdict."""
    papers = tomllib.loads((results.folder / "claims.toml").read_text(encoding="utf-8"))["papers"]
    parts = []
    verdicts = Counter[str]()
    for paper in papers:
        rows = [claim_cells(results, claim) for claim in paper["claims"] if "cost" not in claim]
        for above, row in reversed([*pairwise(rows)]):
            row[4] = "" if row[4] == above[4] else row[4]  # what was measured; an empty cell is as above
        costs = [claim for claim in paper["claims"] if "cost" in claim]
        undone = "\n".join(_escaped(f"- Not run: {claim['claim']}. Cost: {claim['cost']}.") for claim in costs)
        verdicts.update([re.split("[,:(]", row[-1])[0].strip() for row in rows] + ["not run"] * len(costs))
        table = markdown(CLAIM_COLUMNS, rows) if rows else ""
        parts.append("\n\n".join(filter(None, (f"## {paper['name']}", paper["about"], table, undone))) + "\n")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    return "\n".join([CLAIMS_INTRODUCTION.format(counts=counts), *parts])


# From an evaluation run to numbers.


def of_run(results: Results, table: str, run: Summary, method: str, settings: str = "") -> Iterator[Number]:
    """Yield the numbers of a finished run: of the unedited model, the edited one, and the ceilings if it has them.

    If fewer or more records were scored than for the table's first row, or another model was edited, the rows say so:
    they replace no others. All rows of a table with `names_model` name their model.
    """
    described = results.words["tables"][table]
    n = str(max(run.provenance["counts"]["edited"].values(), default=run.n))  # of a long sequence a sample is scored
    other = "" if n == next((number.n for number in results.tables[table]), n) else f"{n} records"
    model = model_name(run.provenance.get("model", {}).get("name", "smollm2-135m"))
    if described.get("names_model") or model != next((number.model for number in results.tables[table]), model):
        other = ", ".join(filter(None, (other, model)))
    rows = {"base": ("unedited", ""), "edited": (method, settings)}
    rows |= {section: ("unedited", detail) for section, detail in CEILINGS.items() if section in run.sections}
    for section, (name, detail) in rows.items():
        about = {
            "table": table,
            "data": described["data"],
            "n": n,
            "method": name,
            "settings": ", ".join(filter(None, (detail, other))),
            "model": model,
            "commit": str(run.provenance.get("commit") or "")[:7],
        }
        for label, metric in described["metrics"].items():
            estimate = dict(zip(("mean", "low", "high"), value_of(run, section, metric), strict=True))
            if estimate["mean"] is not None:
                digits = 1 if metric in COSTS or metric.endswith(("nll", "perplexity")) else 2
                values = {part: f"{value:.{digits}f}" for part, value in estimate.items() if value is not None}
                yield Number(**about, metric=label, **values)


COSTS = ("seconds", "perplexity")
MODELS = {  # names in the tables
    "smollm2-135m": "SmolLM2-135M",
    "gemma-3-270m-q4_k_m": "Gemma 3 270M",
    "qwen2.5-coder-0.5b": "Qwen2.5-Coder-0.5B",
}


def model_name(name: str) -> str:
    """Return the name in the tables of a model that is given by name or file."""
    return MODELS.get(Path(name).stem, name)


def value_of(run: Summary, section: str, metric: str) -> tuple[float | None, float | None, float | None]:
    """Return mean and interval of a metric; of scores of the whole model, the value at the curve's end."""
    if metric == "seconds":
        return (run.seconds_per_edit if section == "edited" else None), None, None
    if metric == "answer":  # its seconds, as a multiple of the unedited model's
        times = run.seconds_per_answer if section == "edited" else None
        return (times["edited"] / times["base"] if times else None), None, None
    if metric == "perplexity" or metric.startswith(("retention.", "general.")):
        points = run.curve or ()
        if not points or section not in ("base", "edited"):
            return None, None, None
        point = points[0 if section == "base" else -1]
        name = "general.perplexity" if metric == "perplexity" else metric
        return {**point.retention, **point.general}.get(name), None, None
    score = run.sections[section].get(metric)
    return (score.mean, score.ci95_low, score.ci95_high) if score else (None, None, None)


# The pages.


def rendered(results: Results, root: Path = ROOT) -> dict[Path, str]:
    """Return {page: its text with every table anew}; the appendix and the claims are generated as a whole."""
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    generated = {
        root / APPENDIX.relative_to(ROOT): results.appendix(),
        root / CLAIMS.relative_to(ROOT): claims_page(results),
    }
    texts = {page: page.read_text(encoding="utf-8") for page in pages if page not in generated}
    updated = {
        page: MARKED.sub(lambda match: f"{match[1]}{results.markdown(match[2])}\n{match[4]}", text)
        for page, text in texts.items()
    }
    return updated | generated


def outdated(results: Results, root: Path = ROOT) -> dict[Path, str]:
    """Return the pages whose tables differ from the CSV files, with the text that they should have."""
    pages = rendered(results, root).items()
    return {page: text for page, text in pages if not page.is_file() or page.read_text(encoding="utf-8") != text}


def render(results: Results) -> None:
    """Write the tables into their pages."""
    for page, text in outdated(results).items():
        page.write_text(text, encoding="utf-8")
        log.info("%s", page.relative_to(ROOT))


def main(arguments: Sequence[str] | None = None) -> int:
    """Render, check, or add runs; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table differs")
    parser.add_argument("--add", action="append", default=[], metavar="TABLE=FOLDER", help="add a finished run")
    parser.add_argument("--settings", default="", help="of the added rows, as the table shows them")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = Results()
    if options.check:
        pages = outdated(results)
        for page in pages:
            log.info("%s: run python studies/tables.py", page.relative_to(ROOT))
        return int(bool(pages))
    for addition in options.add:
        from kg_edit.evaluation.summary import Summary

        table, _, folder = addition.partition("=")
        run = Summary.load(Path(folder) / "summary.json")
        results.add(of_run(results, table, run, run.provenance["method"], options.settings))
    if options.add:
        results.save()
    render(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
