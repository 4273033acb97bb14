"""A real vLLM and a real llama-server, where they are installed: edits are pushed, asked, replaced and taken out.

The programs are found by ``KG_EDIT_VLLM`` and ``KG_EDIT_LLAMA_SERVER``, or on the path.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch

from kg_edit.covariance.moment import Covariance
from kg_edit.edits.files import read_edits
from kg_edit.errors import ServerError
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.loading import named_model_file, resolve_model
from kg_edit.patches.entries import list_patch_entries
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.ledger.check import CompletionServer, check_served
from kg_edit.ship.live.servers import LlamaServer, find_server
from tests.kg_edit.command_line import Result, Run, cache, kg_edit, place
from tests.kg_edit.ship.export.test_shipped import SHAPES

__all__ = ["cache", "kg_edit", "place"]  # fixtures
NAME, LAYER, RANK = "smollm2-135m", 6, 8
START_S = 1800  # vLLM imports and compiles for minutes, on a busy machine for many
PROMPT = "This sentence is here because servers store what they computed of a long beginning of a text. " * 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def program(variable: str, name: str) -> str:
    """The path of a program, or a skip."""
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed; set {variable}")
    return found


@pytest.fixture(scope="module")
def patch(smollm2: LanguageModel) -> WeightPatch:
    """Ten edits by ROME, of which the first three are used alone too."""
    size = weight_matrix(smollm2.down_projection(LAYER)).shape[1]
    identity = Covariance(moment=torch.eye(size), tokens=0, ridge=0.0, id="identity")
    config = RomeConfig(layer=LAYER, steps=15)
    rome = Rome(smollm2, config, contexts=("{}", "It is well known. {}"), covariance=identity)
    made = rome.edit(read_edits(SHAPES).edits[:10])
    assert isinstance(made, WeightPatch)
    return made


def first(patch: WeightPatch, count: int) -> WeightPatch:
    """The first edits of a sequence of ROME: their columns and their records."""
    factors = {name: pair.columns(range(count)) for name, pair in patch.factors.items()}
    return WeightPatch(factors=factors, provenance={**patch.provenance, "edits": list(patch.edits[:count])})


@contextmanager
def started(*command: str, port: int, log: Path, **variables: str) -> Iterator[str]:
    """The address of a server, from when it answers until the end of the block."""
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **variables})
        try:
            deadline = time.monotonic() + START_S
            while True:
                try:
                    find_server(url, seconds=5)
                    break
                except ServerError:
                    assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                    time.sleep(1)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def successes(url: str, model: str, patch: WeightPatch) -> int:
    """How many edits of the patch a model of the server generates."""
    server = CompletionServer(url=url, model=model, seconds=600)
    return sum(not edit.failures() for edit in check_served(server, list_patch_entries(patch), ("rewrite",)))


def test_vllm(kg_edit: Run, place: Path, patch: WeightPatch) -> None:
    vllm, port = program("KG_EDIT_VLLM", "vllm"), free_port()
    three = first(patch, 3)
    three.save(place / "three.safetensors")
    first(patch, 1).save(place / "one.safetensors")
    patch.save(place / "ten.safetensors")
    options = ("--enable-lora", "--max-lora-rank", str(RANK), "--max-model-len", "512", "--dtype", "float32")
    command = (vllm, "serve", resolve_model(NAME), "--served-model-name", "base", *options, "--enforce-eager")
    variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with started(*command, "--port", str(port), port=port, log=place / "vllm.log", **variables) as url:

        def push(file: str, *options: str) -> Result:
            command = ("patch", "push", file, "--server", url, "--as", "edited", "--folder", "pushed")
            return kg_edit(*command, "--timeout", "600", *options)

        result = push("one.safetensors", "--check")
        assert result.code == 0, result.err
        assert successes(url, "base", three) == 0
        asked = PROMPT + list_patch_entries(three)[1].edit.text
        with_one = completion(url, asked)
        refused = push("three.safetensors")
        assert refused.code == 2 and "--replace" in refused.err
        assert push("three.safetensors", "--replace", "--check").code == 0
        assert successes(url, "edited", three) == 3
        with_three = completion(
            url, PROMPT + three.edits[1]["edit"]["prompt"].format(three.edits[1]["edit"]["subject"])
        )
        assert with_three != with_one, "nothing is left of the replaced adapter, nor in stored beginnings of texts"
        too_large = push("ten.safetensors", "--replace")
        assert too_large.code == 2 and f"at most {RANK}: give --rank {RANK}" in too_large.err, too_large.err
        assert successes(url, "edited", three) == 3, "as before"
        assert push("ten.safetensors", "--replace", "--rank", str(RANK)).code == 0
        assert kg_edit("patch", "pull", "edited", "--server", url).code == 0
        assert kg_edit("patch", "check", "three.safetensors", "--server", url, "--served", "edited").code == 2


def completion(url: str, prompt: str) -> str:
    return CompletionServer(url=url, model="edited", seconds=600).complete(prompt, tokens=8)


def test_llama_server(kg_edit: Run, place: Path, patch: WeightPatch) -> None:
    llama, port = program("KG_EDIT_LLAMA_SERVER", "llama-server"), free_port()
    three = first(patch, 3)
    three.save(place / "three.safetensors")
    first(patch, 1).save(place / "one.safetensors")
    assert kg_edit("patch", "export", "three.safetensors", "--to", "gguf", "edited").code == 0
    adapter = str(place / "edited" / "adapter.gguf")
    command = (llama, "-m", str(named_model_file(NAME)), "--lora-scaled", f"{adapter}:0", "--no-cache-prompt")
    with started(*command, "--port", str(port), port=port, log=place / "llama.log") as url:
        server = find_server(url)
        assert isinstance(server, LlamaServer) and server.adapters() == {"edited": (0, adapter, 0.0)}
        (base,) = [entry["id"] for entry in server.models()]
        assert successes(url, base, three) == 0
        assert successes(url, "edited", three) == 3, "each request applies it"
        assert successes(url, base, three) == 0
        other = kg_edit("patch", "push", "one.safetensors", "--server", url, "--as", "edited")
        assert other.code == 2 and "other edits" in other.err
        result = kg_edit("patch", "push", "three.safetensors", "--server", url, "--as", "edited", "--check")
        assert result.code == 0, result.err
        assert successes(url, base, three) == 3
        assert kg_edit("patch", "pull", "edited", "--server", url).code == 0
        assert successes(url, base, three) == 0
