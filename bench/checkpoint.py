"""Merging a patch into a checkpoint on disk, and extracting it again, against copying the checkpoint's files.

    python bench/checkpoint.py --folder /mnt/large --shape llama-3.2-3b        # takes 13 GB there

The checkpoint has the shape of a Llama and random weights in bfloat16, in shards of at most 5 GB; weights of one shape
are alike, which takes less time to draw. The patch has the
form of one edit by ROME: a change of rank 1 of one down-projection. Each command runs in a process of its own. Its
memory is what it allocates itself (RssAnon) at its peak: pages of the mapped files are not counted, as the system takes
them back. Each way writes to the same disk, one after the other. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from kg_edit.models.loading import resolve_model
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.checkpoint.stored import Checkpoint

SHAPES = {  # width, inner width, blocks, heads, heads of keys and values
    "llama-3.2-1b": (2048, 8192, 16, 32, 8),
    "llama-3.2-3b": (3072, 8192, 28, 24, 8),
    "llama-3-8b": (4096, 14336, 32, 32, 8),
}
VOCABULARY = 128_256
SHARD_BYTES = 5_000_000_000
EVERY = 0.01  # seconds between looks at the memory


def write_checkpoint(shape: str, folder: Path) -> None:
    """Write a checkpoint of random weights; only one shard of it is in memory at a time."""
    width, inner, blocks, heads, kept_heads = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=kept_heads,
        tie_word_embeddings=shape != "llama-3-8b",
        dtype="bfloat16",
    )
    folder.mkdir(parents=True)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    for file in Path(resolve_model("smollm2-135m")).glob("*token*"):
        shutil.copy(file, folder)  # any tokenizer: nothing is encoded
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    draw = torch.Generator().manual_seed(0)
    places = dict[str, str]()
    shard = dict[str, torch.Tensor]()
    drawn = dict[torch.Size, torch.Tensor]()
    for name, parameter in model.named_parameters():
        if sum(tensor.nbytes for tensor in shard.values()) + 2 * parameter.numel() > SHARD_BYTES:
            _write_shard(shard, folder, places)
            shard = {}
        if parameter.shape not in drawn:
            drawn[parameter.shape] = (0.02 * torch.randn(parameter.shape, generator=draw)).to(torch.bfloat16)
        shard[name] = drawn[parameter.shape].clone()
    _write_shard(shard, folder, places)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_shard(shard: dict[str, torch.Tensor], folder: Path, places: dict[str, str]) -> None:
    """Write one file, and note in ``places`` which file has which weight."""
    name = f"model-{len(set(places.values())) + 1:05}.safetensors"
    save_file(shard, folder / name, metadata={"format": "pt"})
    places.update(dict.fromkeys(shard, name))


def write_patch(shape: str, base: Path, file: Path) -> None:
    """Write a patch of rank 1 of the down-projection of block 5."""
    width, inner, *_ = SHAPES[shape]
    draw = torch.Generator().manual_seed(1)
    pair = Factors(left=torch.randn(width, 1, generator=draw), right=0.02 * torch.randn(inner, 1, generator=draw))
    model = {"name": str(base), "fingerprint": Checkpoint.open(base).fingerprint()}
    fact = {"id": "1", "subject": "LeBron James", "prompt": "{} plays for", "target_new": "Los Angeles Lakers"}
    provenance = {"model": model, "edits": [{"edit": fact, "method": "rome", "batch": 1}]}
    WeightPatch(factors={"model.layers.5.mlp.down_proj.weight": pair}, provenance=provenance).save(file)


def read_factors(file: Path) -> Factors:
    """Return the only change of a patch."""
    patch = Patch.load(file)
    if not isinstance(patch, WeightPatch):
        raise SystemExit(f"{file} changes no weight")
    (pair,) = patch.factors.values()
    return pair


def run(*command: str) -> tuple[float, float]:
    """Run a command until the disk has its files; return the seconds, and the peak of what it allocated, in GB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _allocated(process.pid))
        time.sleep(EVERY)
    if process.returncode != 0:
        raise SystemExit(process.returncode)
    os.sync()
    return time.perf_counter() - start, peak


def _allocated(pid: int) -> float:
    """Return the memory of a process that is not a page of a file, in GB; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    for line in lines:
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e9
    return 0.0


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-3.2-1b", choices=SHAPES, help="%(default)s by default")
    parser.add_argument("--folder", type=Path, help="where the checkpoints are made (default: the temporary folder)")
    options = parser.parse_args()
    kg_edit = (sys.executable, "-m", "kg_edit", "patch")
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        base = Path(scratch) / "base"
        patch = Path(scratch) / "patch.safetensors"
        copied = Path(scratch) / "copied"
        merged = Path(scratch) / "merged"
        extracted = Path(scratch) / "extracted.safetensors"
        write_checkpoint(options.shape, base)
        write_patch(options.shape, base, patch)
        copy_seconds, _ = run("cp", "-r", str(base), str(copied))
        shutil.rmtree(copied)
        merge_seconds, merge_memory = run(*kg_edit, "merge", str(patch), "--model", str(base), "--out", str(merged))
        extract = ("extract", str(base), str(merged), "--out", str(extracted))
        extract_seconds, extract_memory = run(*kg_edit, *extract)
        gigabytes = sum(file.stat().st_size for file in base.iterdir()) / 1e9
        made = read_factors(patch)
        pair = read_factors(extracted)
        changes = (pair.product.flatten().double(), made.product.flatten().double())
        cosine = torch.cosine_similarity(*changes, dim=0)
    print(f"a checkpoint of the shape of {options.shape}, {gigabytes:.1f} GB: copied in {copy_seconds:.1f} s")
    print(f"merged in {merge_seconds:.1f} s, with {merge_memory:.2f} GB of memory")
    print(f"extracted in {extract_seconds:.1f} s, with {extract_memory:.2f} GB: rank {pair.rank}, cosine {cosine:.4f}")
    result = {
        "bench": "checkpoint",
        "shape": options.shape,
        "gigabytes": round(gigabytes, 2),
        "ratio": round(merge_seconds / copy_seconds, 2),
        "seconds": {"copy": copy_seconds, "merge": merge_seconds, "extract": extract_seconds},
        "memory": {"merge": merge_memory, "extract": extract_memory},
        "rank": pair.rank,
        "cosine": float(cosine),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
