"""The notebooks run from top to bottom, offline, from their sources; the committed outputs come from the same cells."""

from __future__ import annotations

import math
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

SOURCES = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.py"))


NUMBER = re.compile(r"(?<![\w.])-?(?:\d+\.\d+(?:e-?\d+)?|\d+e-\d+)(?![\w.])")  # whole numbers and hashes are words
SIZE = re.compile(r"(?<![\w.])(\d+)(?= kB)")
RELATIVE, ABSOLUTE = 0.02, 0.015  # of decimals: rounded scores, losses and norms of a real model, on another processor
SIZES = 0.1  # of files
MIMES = ("text/plain", "text/markdown", "image/svg+xml")  # whose text is compared; HTML has that of text/plain


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_what_a_cell_prints_is_what_the_committed_notebook_says(source: Path) -> None:
    """Words and whole numbers are the same, decimals and sizes nearly; only pixels are left out."""
    notebook = jupytext.read(source)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    committed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    for number, (cell, old) in enumerate(zip(notebook.cells, committed.cells, strict=True)):
        if cell.cell_type != "code":
            continue
        outputs, expected = outputs_of(cell), outputs_of(old)
        assert [kind for kind, _ in outputs] == [kind for kind, _ in expected], f"cell {number}; run: make notebooks"
        for (kind, new_text), (_, old_text) in zip(outputs, expected, strict=True):
            assert difference(new_text, old_text) is None, f"cell {number}, {kind}; if it is right: make notebooks"


def outputs_of(cell: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """The outputs of a cell in order, each by its kind, with its text; what one stream says in pieces is one text."""
    texts: list[tuple[str, str]] = []
    for output in cell.outputs:
        assert output.output_type != "error", output
        if output.output_type == "stream":
            if texts and texts[-1][0] == output.name:
                texts[-1] = output.name, texts[-1][1] + output.text
            else:
                texts.append((output.name, output.text))
        else:
            texts += [
                (kind, words_of(kind, output.data[kind]) if kind in MIMES else "") for kind in sorted(output.data)
            ]
    return texts


def words_of(kind: str, text: str) -> str:
    """The text itself; of a drawing what is written in it, not where."""
    return " ".join(re.findall(r">([^<>]+)<", text)) if kind == "image/svg+xml" else text


def difference(new: str, old: str) -> str | None:
    """How two texts differ, white space aside, or None if they do not."""
    words = [" ".join(SIZE.sub("#", NUMBER.sub("#", text)).split()) for text in (new, old)]
    if words[0] != words[1]:
        return f"{words[0]!r} is not {words[1]!r}"
    for pattern, relative, absolute in ((NUMBER, RELATIVE, ABSOLUTE), (SIZE, SIZES, 1.0)):
        pairs = zip(pattern.findall(new), pattern.findall(old), strict=True)
        for one, other in ((float(one), float(other)) for one, other in pairs):
            if not math.isclose(one, other, rel_tol=relative, abs_tol=absolute):
                return f"{one} is not {other}"
    return None


@pytest.mark.parametrize(
    ("new", "old", "same"),
    [
        ("loss 0.044776, 3 kB", "loss 0.0449,  3 kB", True),
        ("loss 0.044776", "loss 0.144776", False),
        ("[('Spike', 'London')]", "[('Spike', 'Paris')]", False),
        ("rank 3", "rank 4", False),
        ("off by 4e-08", "off by 1e-07", True),
        ("off by 4e-08", "off by 4e-01", False),
        ("464 kB", "470 kB", True),
        ("464 kB", "900 kB", False),
        ("'dead13577232'", "'dead13577233'", False),
    ],
)
def test_what_is_a_difference(new: str, old: str, same: bool) -> None:
    assert (difference(new, old) is None) == same


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_committed_notebook_has_the_same_cells_and_outputs(source: Path) -> None:
    committed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    cells = [(cell.cell_type, cell.source) for cell in jupytext.read(source).cells]
    assert [(cell.cell_type, cell.source) for cell in committed.cells] == cells, "run: make notebooks"
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert any(cell.get("outputs") for cell in code)
    printed = [output.text for cell in code for output in cell.outputs if output.output_type == "stream"]
    assert [text for text in printed if "False" in text] == [], (
        "a claim is an assertion, which can't be printed as false"
    )
