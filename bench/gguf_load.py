"""Making float32 files of a GGUF model, once, against the plain way: transformers alone.

The plain way reads the file three times through numpy's memory map, builds the table of tensor names once a module,
and draws random weights for the model that is saved before it takes those of the file. Processor seconds, one thread;
both folders are compared byte for byte. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kg_edit.models.loading import convert, named_model_file


def plain(gguf: Path, folder: Path) -> None:
    """Write the same files with transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config
    config.dtype = torch.float32
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a named model, or the path of a GGUF file")
    name = parser.parse_args().model
    gguf = Path(name) if name.endswith(".gguf") else named_model_file(name)
    torch.set_num_threads(1)
    seconds = {}
    files = {}
    for way, make in (("plain", plain), ("fast", convert)):
        with tempfile.TemporaryDirectory() as scratch:
            start = time.process_time()
            make(gguf, Path(scratch))
            seconds[way], files[way] = time.process_time() - start, content(Path(scratch))
    same = files["plain"] == files["fast"]
    print(f"plain {seconds['plain']:.1f} s, fast {seconds['fast']:.1f} s of processor time; the same files: {same}")
    ratio = seconds["plain"] / seconds["fast"]
    print(json.dumps({"bench": "gguf_load", "ratio": round(ratio, 2), "same": same, "seconds": seconds}))


if __name__ == "__main__":
    main()
