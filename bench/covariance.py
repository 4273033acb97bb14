"""Covariances of five layers in one pass, against one layer at a time: SmolLM2-135M, layers 4 to 8, real text.

Both ways see the same tokens of the same text. The plain way runs all blocks (the head is spared) over batches sorted
by length, and updates the full square, for one layer after another; "stopping" is the same with a forward that ends at
the layer. The fast way is `kg-edit covariance` whole: one pass, packed texts, checkpoints, the error estimate, files
written. Time grows with the tokens alone, so that few of them give the ratio of many (--tokens 100000). Ends with one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import torch
from tools.machine import matmul_peak, watched_memory
from tools.model_edits import plain_model
from torch import Tensor

from kg_edit.covariance.corpora import TextCorpus
from kg_edit.covariance.files import Identity, read_moment
from kg_edit.covariance.measure import add_text, open_sums, write_covariances
from kg_edit.models.hooks import StopForwardError, catch_stop, watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import left_pad

ROOT = Path(__file__).resolve().parents[1]
TEXT = (
    Path(os.environ.get("KG_EDIT_MEASUREMENT_DATA", "measurement-data")) / "wikitext2" / "valid.txt"
)  # docs/contributing/data.md
LAYERS = (4, 5, 6, 7, 8)
MAX_TOKENS = 256


def lines_of(corpus: Path | None) -> list[str]:
    """Return the non-empty lines of the given file, else of the measurement data, else of this repository's pages."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    files = [corpus] if corpus else [TEXT] if TEXT.exists() else pages
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines(keepends=True)]
    return [line for line in lines if line.strip()]


def fast(model: LanguageModel, lines: list[str], tokens: int) -> tuple[dict[int, Tensor], int]:
    """Measure C of all layers in one pass; return {layer: C} and the number of tokens."""
    corpus = TextCorpus("bench", lambda: cycle(lines), max_tokens=MAX_TOKENS)
    modules = {layer: model.weight_name(layer) for layer in LAYERS}
    ids = {
        layer: Identity(model=model.fingerprint, module=module, corpus=corpus.name, tokens=tokens)
        for layer, module in modules.items()
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sums = open_sums(model, ids, folder, ridge=1e-4)
        add_text(model, corpus, sums, folder, progress=False)
        manifests = write_covariances(sums, folder)
        moments = {layer: read_moment(folder / f"{ids[layer].id}.safetensors", ids[layer])[0] for layer in LAYERS}
    for layer, manifest in manifests.items():
        print(f"layer {layer}: direction turned by {[turn.median_degrees for turn in manifest.doublings]} degrees")
    return moments, manifests[LAYERS[0]].count


@torch.no_grad()
def plain(model: LanguageModel, lines: list[str], tokens: int, layer: int, *, stop: bool) -> Tensor:
    """Measure C of one layer in its own pass over the same ``tokens`` tokens; ``stop`` ends a forward at the layer."""
    module = model.down_projection(layer)
    total = torch.zeros(())

    def see(key: Tensor, _: Tensor) -> None:
        nonlocal total
        rows = key.reshape(-1, key.shape[-1])[mask.bool().reshape(-1)]
        total = total + (rows.T @ rows).double()
        if stop:
            raise StopForwardError

    for rows in batches(model, lines, tokens):
        batch = left_pad(rows, device=model.device)
        mask = batch.mask
        with watch(module, see), catch_stop():
            model.model.base_model(
                input_ids=batch.ids, attention_mask=mask, position_ids=batch.positions, use_cache=False
            )
    return total / tokens


def batches(model: LanguageModel, lines: list[str], tokens: int) -> Iterator[list[list[int]]]:
    """Yield batches of rows of similar length, each of about 2048 padded tokens, until ``tokens`` tokens are read."""
    rows = []
    source = cycle(lines)
    while tokens > sum(map(len, rows)):
        rows += [row[:MAX_TOKENS] for row in model.tokenizer(list(islice(source, 1)))["input_ids"]]
    for begin in range(0, len(rows), 128):
        pool = sorted(rows[begin : begin + 128], key=len)
        while pool:
            size = max(1, 2048 // len(pool[-1]))
            yield pool[-size:]
            del pool[-size:]


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--corpus", type=Path, help="text file, a text a line; begun again if it is too short")
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    lines = lines_of(options.corpus)
    with watched_memory() as memory:
        begin = time.perf_counter()
        moments, tokens = fast(model, lines, options.tokens)
        quick = time.perf_counter() - begin
    reference = plain_model(options.model)
    slow = {False: 0.0, True: 0.0}
    difference = 0.0
    for layer in LAYERS:
        for stop in slow:
            begin = time.perf_counter()
            expected = plain(reference, lines, tokens, layer, stop=stop)
            slow[stop] += time.perf_counter() - begin
            difference = max(difference, float((moments[layer] - expected).norm() / expected.norm()))
    print(f"{tokens} tokens, {len(LAYERS)} layers: fast {quick:.1f} s, plain {slow[False]:.1f} s")
    print(f"stopping at the layer {slow[True]:.1f} s; C differs by at most {difference:.1e}")
    print(f"{memory.peak:.0f} MB above the model; the machine's matmul gives {matmul_peak():.0f} GFLOP/s")
    result = {
        "name": "covariance",
        "ratio": round(slow[False] / quick, 2),
        "ratio_stopping": round(slow[True] / quick, 2),
        "fast_seconds": round(quick, 2),
        "plain_seconds": round(slow[False], 2),
        "tokens": tokens,
        "layers": len(LAYERS),
        "memory_mb": round(memory.peak),
        "difference": difference,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
