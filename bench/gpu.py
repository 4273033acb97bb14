"""Seconds and memory of edits on one accelerator, in the shapes of published models, beside what the card allows.

The weights are random and made on the device, so nothing is downloaded. For each shape: one descent and one of 32 edits
(published contexts and steps; ms a step, and the share of the limit), then whole edits by each method. The limit of a
step is the longer of two times: reading the weights above the edited layer twice (forward, backward) at the speed of a
copy, and their products at the speed of one large product; both speeds are measured first. ``profile`` among the
methods shows which kernels take the time of both descents and of an edit by GLAME.

Prints a table and then a JSON line for each row; `--out` gets the lines as they are measured. A section that takes too
long ends without a number, and says so. Without a card a tiny model is measured.

    python bench/gpu.py                                       # all shapes, 8 minutes at most
    python bench/gpu.py --shapes llama-3-8b:bfloat16 --methods rome,memit
    python bench/gpu.py --shapes gpt-j:bfloat16 --methods profile
    python bench/gpu.py --device cpu --shapes tiny:float32
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ("llama-3-8b:bfloat16", "gpt-j:float32", "smollm2-135m:float32", "qwen2.5-7b:bfloat16", "gpt2-xl:float32")
METHODS = ("rome", "memit", "glame", "alphaedit", "grace")
COLUMNS = (
    "model",
    "dtype",
    "section",
    "edits",
    "seconds",
    "an edit",
    "ms a step",
    "share of limit",
    "GB above weights",
    "GB planned",
)


def missing_packages() -> list[str]:
    """The packages that kg-edit needs and that are not installed here."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    missing = []
    for requirement in requirements:
        try:
            version(requirement.split(">")[0])
        except PackageNotFoundError:
            missing.append(requirement)
    return missing


def main() -> None:
    """Run the sections that are asked for, within the time limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--shapes", help=f"MODEL:DTYPE, with commas; default {','.join(SHAPES)}, on a CPU tiny:float32")
    parser.add_argument("--methods", default=",".join(METHODS), help="names with commas; also: profile")
    parser.add_argument("--seconds", type=float, default=480, help="time limit of the whole run")
    parser.add_argument("--section-seconds", type=float, default=60, help="time limit of one section")
    parser.add_argument("--out", type=Path, default=Path(os.devnull), help="file for the JSON lines")
    options = parser.parse_args()
    if missing := missing_packages():
        quoted = " ".join(f'"{package}"' for package in missing)
        print(f"missing: {quoted}\npip install {quoted}\nwithout a network, from a folder of wheels:")
        print(f"pip install --no-index --find-links FOLDER {quoted}")
        sys.exit(2)

    sys.path.insert(0, str(ROOT))  # kg_edit itself need not be installed
    from tools.gpu_sections import Clock, pick_device, sections  # after the check, as it imports torch

    clock = Clock(whole=options.seconds, section=options.section_seconds)
    device = pick_device(options.device)
    lines = list[str]()
    shapes = options.shapes.split(",") if options.shapes else ["tiny:float32"] if device.type == "cpu" else SHAPES
    print(" | ".join(COLUMNS))
    with options.out.open("w", encoding="utf-8") as file:
        for row in sections(device, shapes, options.methods.split(","), clock):
            shown = [row.get(name.replace(" ", "_")) for name in COLUMNS]
            print(" | ".join("" if value is None else str(value) for value in shown), row.get("note", ""), flush=True)
            lines.append(json.dumps(row))
            file.write(lines[-1] + "\n")
            file.flush()
    print("\n".join(lines))


if __name__ == "__main__":
    main()
