"""Write the packaged text for C (`--corpus packaged`) with SmolLM2: kg_edit/data/corpus.jsonl.gz.

python studies/corpus.py                  # all pieces, about six minutes on one thread
python studies/corpus.py --pieces 2       # two more pieces; run it until all are there

Half of the texts begin with one of `STARTS`, the others at the document's start; all are sampled at temperature 1. The
pieces are seeded by their numbers and kept beside the package's file (corpus.partial.jsonl), so a killed run continues.
The same processor with the same number of threads writes the same text.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from kg_edit.cli.console import friendly
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import left_pad
from kg_edit.models.sampling import continue_text, document_start
from kg_edit.storage.atomic import replacing, write_text

log = logging.getLogger("studies.corpus")
PACKAGED = Path(__file__).resolve().parents[1] / "kg_edit" / "data" / "corpus.jsonl.gz"
LENGTH = 128
PIECES = 8

# Openings of encyclopedias, news, stories, letters, talk, instructions, code and lists.
STARTS = (
    "The city of", "The capital of", "Born in", "He was born in", "She studied", "In 1998,",
    "In the nineteenth century,", "The river", "The company", "The University of", "Scientists have found that",
    "A new study", "The government", "The president of", "On Tuesday,", "According to", "The film", "The song",
    "The novel", "The band", "The football club", "The island of", "Mount", "Lake", "The species", "The language",
    "The church", "The bridge", "The battle of", "The treaty", "The museum", "The painting", "The theory of",
    "Mathematics is", "Let x be", "An atom", "The cell", "Doctors", "The patient", "Once upon a time",
    "The old man", "She opened the door", '"I don\'t know," he said', "We walked", "My mother", "Dear Sir,",
    "Hello,", "Hi everyone!", "Q: What is", "Question:", "How to", "Step 1:", "First,", "Add the", "Ingredients:",
    "def ", "import ", "<html>", "SELECT", "#include", "1.", "- ", "Title:", "Chapter 2",
)  # fmt: skip
ROWS = 2 * len(STARTS)


def write_piece(model: LanguageModel, number: int) -> list[str]:
    """Return `ROWS` sampled texts of `LENGTH` tokens; every other one has a start of `STARTS`."""
    tokenizer = model.tokenizer
    start_ids = list[list[int]]()
    for start in STARTS:
        start_ids.append(tokenizer(start, add_special_tokens=False)["input_ids"])
        start_ids.append([])
    batch = left_pad([[document_start(tokenizer), *ids] for ids in start_ids], device=model.device)
    sampled = continue_text(model, batch.ids, batch.mask, tokens=LENGTH, seed=number).tolist()
    rows = []
    for start, continuation in zip(start_ids, sampled, strict=True):
        rows.append([*start, *continuation][:LENGTH])
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [text.rstrip("\ufffd") for text in texts]  # the last token may be half a character


def write(model: LanguageModel, pieces: range, partial: Path) -> Iterator[int]:
    """Append the texts of ``pieces`` to ``partial``, a line of JSON each; yield the number of each piece."""
    content = ""
    if partial.exists():
        content = partial.read_text(encoding="utf-8")
    for number in pieces:
        for text in write_piece(model, number):
            content += json.dumps(text, ensure_ascii=False) + "\n"
        write_text(partial, content)
        yield number


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pieces that are not there yet; compress them when all are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pieces", type=int, default=PIECES, metavar="N", help="most pieces to write now")
    parser.add_argument("--out", type=Path, default=PACKAGED, metavar="FILE.jsonl.gz")
    options = parser.parse_args(arguments)
    partial = options.out.with_name("corpus.partial.jsonl")
    written = 0  # pieces
    if partial.exists():
        written = partial.read_text(encoding="utf-8").count("\n") // ROWS
    model = LanguageModel.load(options.model, dtype="bfloat16")  # writes twice as fast as in float32
    for number in islice(write(model, range(written, PIECES), partial), options.pieces):
        log.info("piece %d of %d", number + 1, PIECES)
        written = number + 1
    if written < PIECES:
        return
    content = gzip.compress(partial.read_bytes(), compresslevel=9, mtime=0)  # the same bytes for the same text
    with replacing(options.out) as scratch:
        scratch.write_bytes(content)
    partial.unlink()
    log.info("%s: %d texts, %d bytes", options.out, ROWS * PIECES, len(content))


if __name__ == "__main__":
    with friendly("studies"):
        main()
