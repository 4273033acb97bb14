"""Published covariances made to do harm: zip bombs, pickles, wrong shapes and numbers are refused in one message."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from kg_edit.covariance.published import import_covariance
from kg_edit.errors import CovarianceError
from tests.attacks.commands import bounded_memory
from tests.everyday import keep_first
from tests.kg_edit.tiny import tiny

SIZE = 48  # of the tiny model's keys
SUM, COUNT = "mom2.mom2.npy", "mom2.count.npy"


def array(values: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values), allow_pickle=False)
    return file.getvalue()


def header(text: str, *, version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    data = text.encode("latin-1")
    size = len(data) if length is None else length
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", size) + data


def stated(shape: str, kind: str = "'<f4'") -> bytes:
    return header("{'descr': " + kind + ", 'fortran_order': False, 'shape': " + shape + ", }\n") + bytes(64)


GOOD = array(np.eye(SIZE, dtype=np.float32) * 1000)
TOKENS = array(np.int64(1000))
FILES: dict[str, dict[str, bytes | Callable[[], bytes]]] = {
    "10^12 numbers": {SUM: stated("(1000000, 1000000)"), COUNT: TOKENS},
    "objects, which are pickled": {SUM: stated(f"({SIZE}, {SIZE})", "'|O'"), COUNT: TOKENS},
    "zip bomb": {SUM: GOOD, COUNT: TOKENS, "more.npy": lambda: bytes(400_000_000)},
    "bomb for the sum": {SUM: lambda: header("a" * 60_000) + bytes(400_000_000), COUNT: TOKENS},
    "header that is a program": {SUM: header("__import__('os').system('touch pwned')"), COUNT: TOKENS},
    "nested header": {SUM: header("(" * 9000), COUNT: TOKENS},
    "header of 4 GB": {SUM: header("{}", version=b"\x02\x00", length=2**32 - 1), COUNT: TOKENS},
    "unknown version": {SUM: header("{}", version=b"\x09\x00"), COUNT: TOKENS},
    "negative shape": {SUM: stated("(-1, -1)"), COUNT: TOKENS},
    "shape that overflows": {SUM: stated(f"({2**62}, {2**62})"), COUNT: TOKENS},
    "too little data": {SUM: stated(f"({SIZE}, {SIZE})"), COUNT: TOKENS},
    "whole numbers": {SUM: array(np.eye(SIZE, dtype=np.int64)), COUNT: TOKENS},
    "complex": {SUM: array(np.eye(SIZE, dtype=np.complex64)), COUNT: TOKENS},
    "one row": {SUM: array(np.ones(SIZE, dtype=np.float32)), COUNT: TOKENS},
    "half a token": {SUM: GOOD, COUNT: array(0.5)},
    "NaN tokens": {SUM: GOOD, COUNT: array(float("nan"))},
    "endless tokens": {SUM: GOOD, COUNT: array(float("inf"))},
    "tokens in words": {SUM: GOOD, COUNT: array("many")},
    "nothing": {},
}


def changed(name: str, change: Callable[[bytes], bytes]) -> bytes:
    return change(zipped(FILES[name] if name else {SUM: GOOD, COUNT: TOKENS}))


def zipped(members: Mapping[str, bytes | Callable[[], bytes]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data() if callable(data) else data)
    return file.getvalue()


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut at its end": lambda data: data[:-5],
    "sums that lie": lambda data: data[:60] + bytes(byte ^ 0x55 for byte in data[60:120]) + data[120:],
    "zeros": lambda data: bytes(len(data)),
}


def refused(data: bytes, folder: Path) -> None:
    path = folder / "c.npz"
    path.write_bytes(data)
    with bounded_memory(), pytest.raises(CovarianceError) as caught:
        import_covariance(path, tiny("llama"), layer=1, folder=folder / "store")
    assert str(path) in str(caught.value)
    assert not (folder / "store").exists() and not (folder / "pwned").exists()


@pytest.mark.parametrize("name", keep_first(FILES, keep=2))
def test_hostile_array_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "zip bomb":  # a further array is not unpacked
        (tmp_path / "c.npz").write_bytes(zipped(FILES[name]))
        with bounded_memory():
            assert import_covariance(tmp_path / "c.npz", tiny("llama"), layer=1, folder=tmp_path / "s").count == 1000
        return
    refused(zipped(FILES[name]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", BYTES)
def test_damaged_npz_is_refused(name: str, tmp_path: Path) -> None:
    refused(changed("", BYTES[name]), tmp_path)
