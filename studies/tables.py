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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
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

This page has three tables that compare most of the methods. The cells are means, without intervals.
[Metrics](metrics.md) explains the columns, and [results](results.md) discusses the main methods. `studies/tables.py`
generates this page. The measurements of all three tables have this in common:

- The edited model is SmolLM2-135M-Instruct in float32, on two CPU cores.
- Each method edits its default layers. For ROME and GLAME this is layer 6.
- Methods that need the covariance C of the keys measure it on text that SmolLM2 itself wrote (`--corpus self`).
- Closed-form methods run with `remember=0`, so an edit does not protect the keys of earlier edits.

The following CSV files have the 95 % intervals of these tables, further columns and rows, and all other tables of this
project:

{files}

[tables.toml](../results/tables.toml) lists the tables of each CSV file, with their captions.
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
        return join_words(self.method, self.settings)


def join_words(*words: str) -> str:
    """Return words with commas between them, without empty ones."""
    return ", ".join(word for word in words if word)


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
            by_row: dict[str, list[Number]] = {}  # the numbers of a row stay together
            for cell in cells.values():
                by_row.setdefault(cell.row, []).append(cell)
            self.tables[number.table] = list(chain.from_iterable(by_row.values()))

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
        rows, metrics = _rows_and_metrics(numbers, options, short=short)
        known = {number.row for number in numbers}
        for row in (*rows, *options.get("appendix_without", [])):
            if row not in known:
                raise ValueError(f"{name}: results/ has no row {row!r} in {table}")
        cells = {(number.row, number.metric): number for number in numbers}
        percent = bool(options.get("percent"))

        def text(row: str, metric: str) -> str:
            return shown_text(cells.get((row, metric)), percent=percent, intervals=intervals)

        body = []
        if options.get("metrics_as_rows"):
            for metric in metrics:
                # Rows of one metric may have different records: "200/180"
                counts = dict.fromkeys(cell.n for cell in numbers if cell.metric == metric)
                body.append([metric, "/".join(counts), *[text(row, metric) for row in rows]])
            return markdown(["", "n", *rows], body)
        for row in rows:
            body.append([row, *[text(row, metric) for metric in metrics]])
        return markdown(["", *metrics], body)

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


def _rows_and_metrics(
    numbers: Sequence[Number], options: Mapping[str, Any], *, short: bool
) -> tuple[list[str], list[str]]:
    """Return the names of the rows and of the metrics that a table shows; ``short`` as in `Results.markdown`."""
    rows = options.get("rows") or list(dict.fromkeys(number.row for number in numbers))
    metrics = options.get("columns") or _metrics(numbers)
    if short:
        metrics = options.get("appendix_columns", metrics)
        without = options.get("appendix_without", [])
        rows = [row for row in rows if row not in without]
    return rows, metrics


def _metrics(numbers: Sequence[Number]) -> list[str]:
    """Return the metrics in the order of the row that has most of them; the others follow."""
    by_row: dict[str, list[str]] = {}
    for number in numbers:
        by_row.setdefault(number.row, []).append(number.metric)
    longest = max(by_row.values(), key=len)
    all_metrics = [number.metric for number in numbers]
    return list(dict.fromkeys([*longest, *all_metrics]))  # each once


def shown_text(number: Number | None, *, percent: bool = False, intervals: bool = True) -> str:
    """Return a number as a table shows it: `0.97 [0.93, 1.00]`, or `97 [93, 100]` in percent; empty if not measured."""
    if number is None:
        return ""
    low = _digits(number.low, percent=percent)
    high = _digits(number.high, percent=percent)
    parts = []
    if number.mean:
        parts.append(_digits(number.mean, percent=percent))
    if intervals and low != high:  # a bootstrap of equal values has no interval
        parts.append(f"[{low}, {high}]")
    if number.note:
        parts.append(number.note)
    text = " ".join(parts)
    if number.p and intervals:
        text += f", p {number.p}"
    return text


def _digits(value: str, *, percent: bool) -> str:
    """Return a value in percent, or with commas if it is a large whole number."""
    if percent and value:
        return f"{Decimal(value) * 100:.0f}"
    if re.fullmatch(r"\d{5,}", value):
        return f"{int(value):,}"
    return value


def format_share(value: float | None) -> str:
    """Return a value with two decimals, as the CSV files have shares; "" if there is none."""
    if value is None:
        return ""
    return f"{value:.2f}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar or star in a cell is escaped."""
    lines = []
    for row in (header, *rows):
        cells = " | ".join(_escape(cell) for cell in row)
        lines.append(f"| {cells} |")
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _escape(text: str) -> str:
    return re.sub(r"([|*])", r"\\\1", text)


# The claims of the papers.

_Z = 1.96  # of a two-sided test at 5 %
_POWER = 2.8  # the same with 80 % power: 1.96 + 0.84
_MARGIN = 0.05  # a claim of "the same" or of a level holds within it
CLAIM_COLUMNS = ("claim", "theirs", "ours", "difference [95 %]", "measured", "verdict")
_MEASURED = CLAIM_COLUMNS.index("measured")
CLAIMS_INTRODUCTION = """# The claims of the papers

Each row of the tables has one claim of a paper, what the paper found (*theirs*), what was measured here (*ours*), and a
verdict. The numbers are percentages, and differences are percentage points. `python studies/tables.py` makes this page
from [claims.toml](../results/claims.toml) and the [CSV files](../results/tables.toml).

The model is SmolLM2-135M unless the column *measured* names another model. The papers measured other models, most of
them larger. So a claim is reproduced if a difference has the claimed sign, whatever its size. The column *measured*
names the table in the CSV files, and the metric. The column *ours* names the compared rows of that table, each with its
score. In the column *theirs*, a number without a name belongs to the method that the claim names first. The number of
records is n. It is 100 unless another number is given, and for two compared rows it is that of the first row. An empty
cell has the content of the cell above it.

The page has these verdicts: {counts}. They mean:

- **reproduced**: the difference has the claimed sign, and its 95 % interval excludes 0. If the claim is that two
  numbers are equal, the interval lies within 5 points of 0. If the claim is that a level is reached, the interval lies
  above a bound that is 5 points below the level.
- **direction**: the result is as for *reproduced*, but the measurement differs from the paper's. The brackets name what
  differs.
- **contradicted**: the interval lies below half of the smallest difference that the paper found, or below 0 if the
  paper gives no difference. If the claim is that two numbers are equal or that a level is reached, the interval lies
  wholly outside the margin of 5 points.
- **not seen**: the interval supports neither the claim nor its opposite. *Needs 13, theirs 2.5* means that only a
  difference of 13 points or more would be seen here, with 80 % power, while the paper found 2.5 points.
- **not run**: the claim was not measured. It is listed below the table, with the cost of measuring it in hours of one
  processor thread.

The interval of a difference is computed as if the two rows were independent. It comes from the interval of each row, or
from share and n if a row has no interval. The interval is mostly too wide if both rows have the same records, and too
narrow if all edits are made in one model. No interval is corrected for the number of claims.
"""


def error_of(number: Number) -> float:
    """Return the standard error of a number: from its 95 % interval, or of a share of n (Agresti and Coull)."""
    if number.low and number.low != number.high:
        return (float(number.high) - float(number.low)) / (2 * _Z)
    mean = float(number.mean)
    n = int(number.n or 0)
    is_share = 0 <= mean <= 1 and not re.search("nll|perplexity|times", number.metric)
    if not n or not is_share:
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
    # How far the difference is on the side of the claim
    distances = {
        "more": difference,
        "less": -difference,
        "same": _MARGIN - abs(difference),
        "at least": _MARGIN + difference,
    }
    low = distances[expect] - _Z * error
    high = distances[expect] + _Z * error
    if low > 0 and not differs:
        return "reproduced"
    if low > 0:
        verdict = "direction"
    elif high < effect / 2:
        verdict = "contradicted"
    else:
        verdict = f"not seen, needs {100 * _POWER * error:.0f}"
        if effect:
            verdict += f", theirs {100 * effect:.3g}"
    if differs:
        verdict += f" ({differs})"
    return verdict


def claim_cells(results: Results, claim: dict[str, Any]) -> list[str]:
    """Return the row of a claim of claims.toml: claim, theirs, ours, difference, what was measured, verdict."""
    head = [claim.get("claim", ""), claim.get("theirs", "")]
    first = results.number(claim["table"], claim["row"], claim["metric"])
    measured = f"`{first.table}`: {first.metric}"
    if first.n not in ("", "100"):
        measured += f"; n {first.n}"
    if first.model != "SmolLM2-135M":
        measured += f", {first.model}"
    if "verdict" in claim:
        return [*head, f"`{first.row}`: {shown_text(first)}", "", measured, claim["verdict"]]
    found = _compare(results, claim, first)
    low = f"{100 * (found.difference - _Z * found.error):+.0f}"
    mean = f"{100 * found.difference:+.0f}"
    high = f"{100 * (found.difference + _Z * found.error):+.0f}"
    effect = claim.get("effect", 0) / 100
    verdict = verdict_of(found.difference, found.error, claim["expect"], effect, claim.get("differs", ""))
    return [*head, found.ours, f"{mean} [{low}, {high}]", measured, verdict]


class _Comparison(NamedTuple):
    """The numbers of a claim in words, their difference as a share, and its standard error."""

    ours: str
    difference: float
    error: float


def _compare(results: Results, claim: Mapping[str, Any], first: Number) -> _Comparison:
    """Compare a claim's first number with the level that the claim gives, or with another number."""
    ours = f"`{first.row}` {100 * float(first.mean):.0f}"
    if "level" in claim:
        return _Comparison(ours, float(first.mean) - claim["level"], error_of(first))
    # What the claim does not give of the other number is that of the first one.
    row = claim.get("against", first.row)
    metric = claim.get("against_metric", first.metric)
    other = results.number(claim.get("against_table", first.table), row, metric)
    other_name = metric
    if "against" in claim:
        other_name = row
    ours += f", `{other_name}` {100 * float(other.mean):.0f}"
    difference = float(first.mean) - float(other.mean)
    return _Comparison(ours, difference, hypot(error_of(first), error_of(other)))


def _name_verdict(text: str) -> str:
    """Return a verdict without its details: "not seen" for "not seen, needs 13, theirs 2.5"."""
    return re.split("[,:(]", text)[0].strip()


def claims_page(results: Results) -> str:
    """Return docs/claims.md: a table of its claims for each paper, those not run, and how many have which verdict."""
    papers = tomllib.loads((results.folder / "claims.toml").read_text(encoding="utf-8"))["papers"]
    parts = []
    verdicts = Counter[str]()
    for paper in papers:
        rows = list[list[str]]()
        not_run = list[str]()
        measured = ""  # in the row above
        for claim in paper["claims"]:
            if "cost" in claim:
                not_run.append(_escape(f"- Not run: {claim['claim']}. Cost: {claim['cost']}."))
                continue
            row = claim_cells(results, claim)
            verdicts[_name_verdict(row[-1])] += 1
            if row[_MEASURED] == measured:
                row[_MEASURED] = ""  # an empty cell is as above
            else:
                measured = row[_MEASURED]
            rows.append(row)
        sections = [f"## {paper['name']}", paper["about"]]
        if rows:
            sections.append(markdown(CLAIM_COLUMNS, rows))
        if not_run:
            sections.append("\n".join(not_run))
            verdicts["not run"] += len(not_run)
        parts.append("\n\n".join(section for section in sections if section) + "\n")
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
    model = model_name(run.provenance.get("model", {}).get("name", "smollm2-135m"))
    other_records = ""
    other_model = ""
    if described.get("names_model"):
        other_model = model
    if results.tables[table]:
        first = results.tables[table][0]
        if n != first.n:
            other_records = f"{n} records"
        if model != first.model:
            other_model = model
    rows = {"base": ("unedited", ""), "edited": (method, settings)}
    for section, detail in CEILINGS.items():
        if section in run.sections:
            rows[section] = ("unedited", detail)
    for section, (name, detail) in rows.items():
        about = {
            "table": table,
            "data": described["data"],
            "n": n,
            "method": name,
            "settings": join_words(detail, other_records, other_model),
            "model": model,
            "commit": str(run.provenance.get("commit") or "")[:7],
        }
        for label, metric in described["metrics"].items():
            mean, low, high = [_format_score(value, metric) for value in value_of(run, section, metric)]
            if mean:
                yield Number(**about, metric=label, mean=mean, low=low, high=high)


def _format_score(value: float | None, metric: str) -> str:
    """Return a score with two decimals, or with one if it is no share; "" if there is none."""
    if value is not None and (metric in COSTS or metric.endswith(("nll", "perplexity"))):
        return f"{value:.1f}"
    return format_share(value)


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
        if section != "edited":
            return None, None, None
        return run.seconds_per_edit, None, None
    if metric == "answer":  # its seconds, as a multiple of the unedited model's
        times = run.seconds_per_answer
        if section != "edited" or not times:
            return None, None, None
        return times["edited"] / times["base"], None, None
    if metric == "perplexity":
        return _value_on_curve(run, section, "general.perplexity"), None, None
    if metric.startswith(("retention.", "general.")):
        return _value_on_curve(run, section, metric), None, None
    score = run.sections[section].get(metric)
    if not score:
        return None, None, None
    return score.mean, score.ci95_low, score.ci95_high


def _value_on_curve(run: Summary, section: str, metric: str) -> float | None:
    """Return a score of the whole model: of the unedited one the curve's first value, of the edited one its last."""
    points = run.curve or ()
    if not points or section not in ("base", "edited"):
        return None
    point = points[-1]
    if section == "base":
        point = points[0]
    return {**point.retention, **point.general}.get(metric)


# The pages.


def rendered(results: Results, root: Path = ROOT) -> dict[Path, str]:
    """Return {page: its text with every table anew}; the appendix and the claims are generated as a whole."""
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    generated = {
        root / APPENDIX.relative_to(ROOT): results.appendix(),
        root / CLAIMS.relative_to(ROOT): claims_page(results),
    }

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}{results.markdown(match[2])}\n{match[4]}"

    updated = {}
    for page in pages:
        if page not in generated:
            updated[page] = MARKED.sub(fill, page.read_text(encoding="utf-8"))
    return updated | generated


def outdated(results: Results, root: Path = ROOT) -> dict[Path, str]:
    """Return the pages whose tables differ from the CSV files, with the text that they should have."""
    differing = {}
    for page, text in rendered(results, root).items():
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            differing[page] = text
    return differing


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
