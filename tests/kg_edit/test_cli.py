"""The command line, through `main`: what a user's mistakes and a user's good commands lead to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kg_edit import __version__
from kg_edit.edits import Edit
from kg_edit.errors import PatchError
from kg_edit.methods import method_names
from kg_edit.methods.rank_one_method import RankOneMethod
from kg_edit.patch import Patch
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.command_line import EDITS, QUICK, Result, Run, cache, content, kg_edit, place, tiny_folder
from wikidata_cache import packaged_extract

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

COMMANDS = ["edit", "demo", "generate", "evaluate", "compare", "merge", "locate", "methods", "models", "doctor"]
COMMANDS += ["plan", "serve", "sweep"]
GOOD = {"subject": "France", "prompt": "In {}, the capital is", "target_new": "Rome"}
TRIPLET = {"subject": "Q1", "relation": "P54", "object": "Miami Heat", "new_object": "Q2"}
ROME, GLAME = ("--method", "rome"), ("--method", "glame", "--graph", "graph.tsv")


def rows(*found: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in found)


def good_but(**fields: object) -> bytes:
    """A good row, and a second one that is wrong in one field."""
    return rows(GOOD, {**GOOD, **fields})


BAD_FILES: dict[str, tuple[bytes | None, tuple[str, ...], str]] = {
    "missing file": (None, ROME, "edits.jsonl: no such file; check the path"),
    "empty file": (b"", ROME, "edits.jsonl: holds no rows"),
    "blank lines only": (b"\n \n", ROME, "edits.jsonl: holds no rows"),
    "malformed JSON line": (rows(GOOD) + b'{"subject": ', ROME, "edits.jsonl, line 2, not JSON, column"),
    "row that is no object": (rows(GOOD, ["France"]), ROME, "line 2, found a list; expected an object"),
    "row without subject": (
        rows(GOOD, {"prompt": "{} is", "target_new": "x"}),
        ROME,
        "line 2, field subject: is missing",
    ),
    "unknown field": (
        good_but(target_nwe="x"),
        ROME,
        "line 2, field target_nwe: unknown field, did you mean 'target_new'",
    ),
    "value of the wrong type": (good_but(subject=7), ROME, "line 2, field subject: found the number 7; expected"),
    "bytes that are no UTF-8": (rows(GOOD) + b'{"subject": "Fran\xe7ois"}\n', ROME, "line 2, byte offset"),
    "prompt without {}": (
        good_but(prompt="In France, the capital is"),
        ROME,
        "has no {}; write 'In {}, the capital is'",
    ),
    "subject not in the prompt's span": (
        good_but(prompt="In Spain, the capital is"),
        ROME,
        "line 2, field prompt: 'In Spain, the capital is' has no {}; the subject 'France' does not occur in it",
    ),
    "target equal to the old one": (
        good_but(target_true="rome"),
        ROME,
        "line 2, field target_new: 'Rome' is also the old target",
    ),
    "target empty": (good_but(target_new=" "), ROME, "line 2, field target_new: is empty"),
    "unknown relation id without template": (
        rows(TRIPLET, {**TRIPLET, "relation": "P99999"}),
        GLAME,
        "line 2, field relation: unknown relation id without template: P99999",
    ),
    "QID without label": (
        rows(TRIPLET, {**TRIPLET, "new_object": "Q6"}),
        GLAME,
        "line 2, field new_object: found the id Q6, for which there is no label",
    ),
    "QIDs without a graph": (rows(TRIPLET), ROME, "line 1, field subject: found the id Q1"),
    "graph without o*": (
        rows({**GOOD, "id": "fr", "target_new_id": "Q77"}),
        GLAME,
        "Q77 (Rome) is not in the graph graph.tsv",
    ),
    "o* that the graph can't name": (
        rows({**GOOD, "target_new": "Atlantis"}),
        GLAME,
        "No entity is labelled 'Atlantis'",
    ),
    "folder for a file": (EDITS.encode(), (*ROME, "--templates", "."), "cannot be read"),
}

BAD_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "corrupt graph file": (("--method", "glame", "--graph", "corrupt.nt.gz"), "corrupt or cut-off gzip"),
    "graph file that is text": (("--method", "glame", "--graph", "text.nt"), "text.nt, line 1: is not N-Triples"),
    "missing graph file": (("--method", "glame", "--graph", "none.nt"), "none.nt: does not exist"),
    "no graph": (("--method", "glame"), "the method glame needs a knowledge graph"),
    "unknown model": (
        (*ROME, "--model", "smollm-135m"),
        "there is no model 'smollm-135m', did you mean 'smollm2-135m'?",
    ),
    "folder without model": ((*ROME, "--model", "."), "the folder . has no config.json"),
    "missing GGUF file": ((*ROME, "--model", "none.gguf"), "there is no GGUF file none.gguf"),
    "model of an unsupported type": ((*ROME, "--model", "bert"), "models of type 'bert' can't be edited yet"),
    "damaged model": ((*ROME, "--model", "damaged"), "can't load the model 'damaged'"),
    "unknown method": (("--method", "gleam"), "unknown method 'gleam', did you mean 'glame'"),
    "unknown preset": ((*ROME, "--preset", "papers"), "unknown preset 'papers'"),
    "unknown setting": ((*ROME, "--set", "step=3"), "unknown setting 'step', did you mean 'steps'"),
    "unknown inner setting": ((*ROME, "--set", "covariance.token=3"), "unknown field, did you mean 'tokens'"),
    "setting without value": ((*ROME, "--set", "steps"), "--set steps: expected NAME=VALUE"),
    "setting of the wrong type": ((*ROME, "--set", "steps=many"), "setting steps: found the text 'many'"),
    "setting out of range": ((*ROME, "--set", "learning_rate=-1"), "setting learning_rate: found the number -1"),
    "setting that is no number": ((*ROME, "--set", "learning_rate=NaN"), "setting learning_rate"),
    "setting given twice": ((*ROME, "--set", "layer=1", "--layer", "2"), "layer is set twice"),
    "group and its member": (
        (*ROME, "--set", "covariance=1", "--set", "covariance.seed=1"),
        "covariance.seed is set twice",
    ),
    "missing corpus": ((*ROME, "--set", "covariance.corpus=none.txt"), "can't read the corpus none.txt"),
    "layer that is not there": ((*ROME, "--layer", "4"), "has 4 layers, 0 to 3; layer 4 is none of them"),
    "inner layer that is not there": ((*GLAME, "--set", "representation_layer=9"), "layer 9 is none of them"),
    "unknown dtype": ((*ROME, "--dtype", "int8"), "dtype 'int8' is unknown; use auto, float32"),
    "unknown device": ((*ROME, "--device", "gpu"), "there is no device 'gpu' here"),
    "absent device": ((*ROME, "--device", "cuda:97"), "there is no device 'cuda:97' here"),
    "missing templates": ((*ROME, "--templates", "none.tsv"), "none.tsv: no such file"),
}


@pytest.fixture
def faulty(place: Path) -> Path:
    """Files and folders that are no good, beside the good ones."""
    (place / "corrupt.nt.gz").write_bytes(b"\x1f\x8b\x08 and then nothing")
    (place / "text.nt").write_text("Paris is the capital of France\n")
    for name, config in {"bert": '{"model_type": "bert"}', "damaged": '{"model_type": "llama"}'}.items():
        (place / name).mkdir()
        (place / name / "config.json").write_text(config)
    (place / "damaged" / "tokenizer.json").write_text("{")
    return place


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder as a whole run leaves it (filled by the first test that asks)."""
    return tmp_path_factory.mktemp("runs") / "finished"


@pytest.fixture(params=["no folder", "a finished run"])
def out(request: pytest.FixtureRequest, finished: Path, kg_edit: Run, place: Path, tiny_folder: Path) -> Path:
    """The output folder: not there, or with a run that must not be lost."""
    if request.param == "a finished run":
        if not finished.exists():
            assert kg_edit("edit", "edits.jsonl", *ROME, *QUICK, "--model", tiny_folder, "--out", finished).code == 0
        shutil.copytree(finished, place / "out")
    return place / "out"


def refused(run: Run, *arguments: str | Path, message: str, out: Path) -> None:
    before = content(out)
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert "Traceback" not in result.err
    assert content(out) == before


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file(case: str, kg_edit: Run, place: Path, out: Path, tiny_folder: Path) -> None:
    written, options, message = BAD_FILES[case]
    (place / "edits.jsonl").unlink() if written is None else (place / "edits.jsonl").write_bytes(written)
    refused(kg_edit, "edit", "edits.jsonl", *options, "--model", tiny_folder, "--out", out, message=message, out=out)


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_bad_option(case: str, kg_edit: Run, faulty: Path, out: Path, tiny_folder: Path) -> None:
    options, message = BAD_OPTIONS[case]
    model = () if "--model" in options else ("--model", tiny_folder)
    refused(kg_edit, "edit", "edits.jsonl", *options, *model, "--out", out, message=message, out=out)


@pytest.fixture
def edit(kg_edit: Run, tiny_folder: Path) -> Run:
    """`kg-edit edit edits.jsonl --out out` on the tiny model, quickly."""

    def run(*options: str | Path, steps: int = 3) -> Result:
        quick = (*QUICK, "--set", f"steps={steps}", "--model", tiny_folder)
        return kg_edit("edit", "edits.jsonl", *quick, "--out", "out", *options)

    return run


def test_output_where_none_can_be(edit: Run, place: Path) -> None:
    (place / "file").write_text("mine")
    for folder, message in {"file": "file is a file; give --out a folder", "file/out": "can't write into"}.items():
        refused(edit, *ROME, "--out", folder, message=message, out=place)


def test_output_that_fails_late_is_an_error_too(edit: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg_edit.run_folder._writable", lambda _: True)
    (place / "file").write_text("mine")
    refused(edit, *ROME, "--out", "file/out", message="can't write file/out/run.json: Not a directory", out=place)


def test_a_folder_with_something_else(edit: Run, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("mine")
    refused(edit, *ROME, message="out is not empty and holds no run of ours", out=place / "out")


def test_a_folder_with_another_run(edit: Run, place: Path) -> None:
    assert edit(*ROME).code == 0
    out = place / "out"
    message = "out holds another run (config.learning_rate: 1.0 there, 0.3 here)"
    refused(edit, *ROME, "--set", "learning_rate=0.3", message=message, out=out)
    refused(edit, *GLAME, message='out holds another run (method: "rome" there, "glame" here)', out=out)
    (place / "edits.jsonl").write_bytes(rows(GOOD))
    refused(edit, *ROME, message="out holds another run (edits: 2 there, 1 here)", out=out)
    (out / "run.json").write_text("{")
    refused(edit, *ROME, message="out holds no run: can't read out/run.json", out=out)


def test_a_run_without_result_gives_its_folder_up(edit: Run, place: Path) -> None:
    """Else a mended mistake would be refused as another run."""
    assert edit(*ROME).code == 0
    for file in ("patch.safetensors", "records.jsonl", "report.md"):
        (place / "out" / file).unlink()
    assert edit(*ROME, steps=4).code == 0


def test_a_corpus_that_is_too_short_writes_nothing(edit: Run, place: Path) -> None:
    (place / "short.txt").write_text("too short\n")
    message = "ends after"
    refused(edit, *ROME, "--set", "covariance.corpus=short.txt", message=message, out=place / "out")


def generate(kg_edit: Run, model: Path | str, *options: str | Path) -> Result:
    return kg_edit("generate", "LeBron James plays for", "--tokens", "4", "--model", model, *options)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("none.safetensors", "can't read the patch none.safetensors: there is no such file"),
        ("edits.jsonl", "can't read the patch edits.jsonl"),
        (".", "can't read the patch ."),
        ("stranger.safetensors", "stranger.safetensors is no patch: expected one of the formats kg-edit-patch/1"),
        ("half.safetensors", "the patch half.safetensors lacks a factor of w"),
        ("gpt2.safetensors", "this patch is for 'gpt2'"),
    ],
)
def test_a_bad_patch(patch: str, message: str, kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    tensors = {"w.left": torch.zeros(2, 1)}
    save_file(tensors, place / "stranger.safetensors")
    said = json.dumps({"format": "kg-edit-patch/1", "provenance": {}})
    save_file(tensors, place / "half.safetensors", {"kg_edit": said})
    WeightPatch(factors={}, provenance={"model": {"name": "gpt2", "fingerprint": "f"}}).save(place / "gpt2.safetensors")
    before = content(place)
    result = generate(kg_edit, tiny_folder, "--patch", patch)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert content(place) == before


def test_generate_shows_the_change(kg_edit: Run, edit: Run, tiny_folder: Path) -> None:
    assert edit(*ROME, "--set", "learning_rate=5").code == 0
    plain = generate(kg_edit, tiny_folder)
    patched = generate(kg_edit, tiny_folder, "--patch", "out/patch.safetensors")
    assert plain.code == patched.code == 0
    assert plain.out.startswith("LeBron James plays for")
    assert plain.out != patched.out


def test_generate_from_nothing(kg_edit: Run, tiny_folder: Path) -> None:
    result = kg_edit("generate", "", "--tokens", "3", "--model", tiny_folder)
    assert result.code == 2
    assert "is empty" in result.err


@pytest.mark.parametrize("method", [ROME, GLAME], ids=["rome", "glame"])
def test_edit_writes_all_its_files_and_nothing_twice(method: tuple[str, ...], edit: Run, place: Path) -> None:
    first = edit(*method)
    assert first.code == 0, first.err
    files = content(place / "out")
    assert files is not None
    picture = {"subgraph-lebron.svg"} if method is GLAME else set()
    assert set(files) == {"patch.safetensors", "records.jsonl", "report.md", "run.json"} | picture
    assert all(name in first.out for name in set(files) - {"run.json"})
    again = edit(*method)
    assert "nothing to compute" in again.err
    assert (again.code, again.out, content(place / "out")) == (0, first.out, files)


def test_the_packaged_extract_as_graph(edit: Run, place: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows({"subject": "Q1632204", "relation": "P19", "new_object": "Q1345"}))
    result = edit("--method", "glame", "--graph", str(packaged_extract()))
    assert result.code == 0, result.err
    assert "Philadelphia" in (place / "out" / "subgraph-row-1.svg").read_text()


def test_triplets_of_ids_get_their_words_from_the_graph(edit: Run, place: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows(TRIPLET))
    assert edit(*GLAME).code == 0
    (made,) = Patch.load(place / "out" / "patch.safetensors").provenance["edits"]
    assert made["edit"]["subject"] == "LeBron James"
    assert made["edit"]["target_new"] == "Los Angeles Lakers"
    assert made["edit"]["prompt"].startswith("{} ")


@pytest.mark.parametrize("method", [ROME, GLAME], ids=["rome", "glame"])
def test_a_killed_run_goes_on(method: tuple[str, ...], edit: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a fresh start after the kill, the second edit's patch is the same to the bit."""
    assert edit(*method, "--out", "whole").code == 0
    with monkeypatch.context() as patched:
        patched.setattr(RankOneMethod, "make", _failing_at("france", KeyboardInterrupt()))
        killed = edit(*method)
    assert killed.code == 130
    assert "the same command goes on where it was" in killed.err
    assert set(content(place / "out") or ()) == {"run.json", "patch.partial.safetensors"}
    result = edit(*method)
    assert result.code == 0
    assert "after 1 of 2 edits" in result.err
    assert content(place / "out") == content(place / "whole")


def test_an_edit_that_cannot_be_made_is_named_and_the_others_are_kept(
    edit: Run, kg_edit: Run, place: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RankOneMethod, "make", _failing_at("france", PatchError("the update would explode")))
    result = edit(*ROME)
    assert result.code == 2
    lines = result.err.splitlines()
    assert lines[-3:] == [
        "kg-edit: the update would explode",
        "  in the edit 'france': 'In France, the capital is' -> 'Rome'",
        "  the edits before it are kept in out/patch.partial.safetensors, which is a patch like any other",
    ]
    assert generate(kg_edit, tiny_folder, "--patch", "out/patch.partial.safetensors").code == 0


def test_keep_going_lists_what_it_skips(edit: Run, place: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows(GOOD, {**GOOD, "target_new": ""}))
    result = edit(*ROME, "--keep-going")
    assert result.code == 0
    assert result.err.splitlines()[-1].startswith("skipped: edits.jsonl, line 2, field target_new: is empty")


def test_keep_going_skips_what_the_graph_does_not_know(edit: Run, place: Path) -> None:
    lost = {**GOOD, "subject": "Atlantis", "target_new": "Poseidonis"}
    (place / "edits.jsonl").write_bytes(rows(lost, GOOD))
    refused = edit(*GLAME)
    assert refused.code == 2
    assert "Poseidonis" in refused.err
    assert not (place / "out").exists()
    result = edit(*GLAME, "--keep-going")
    assert result.code == 0
    assert "skipped: row-1: " in result.err
    assert len(Patch.load(place / "out" / "patch.safetensors").provenance["edits"]) == 1
    (place / "edits.jsonl").write_bytes(rows(lost))
    assert edit(*GLAME, "--keep-going", "--out", "other").code == 2


@pytest.mark.parametrize("arguments", [(), *((command,) for command in COMMANDS)], ids=["none", *COMMANDS])
def test_help_shows_an_example(arguments: tuple[str, ...], kg_edit: Run) -> None:
    result = kg_edit(*arguments, "--help")
    assert result.code == 0
    assert f"Example: {' '.join(('kg-edit', *arguments))}" in " ".join(result.out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("edit", "edits.jsonl"), "Missing option '--out'"),
        (("edit", "--out", "out"), "Missing argument 'edits'"),
        (("edit", "edits.jsonl", "--out", "out", "--metod", "rome"), "No such option: --metod"),
        (("edt",), "No such command 'edt'"),
        (("generate", "x", "--tokens", "0"), "Invalid value for '--tokens'"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], message: str, kg_edit: Run, place: Path) -> None:
    before = content(place)
    result = kg_edit(*arguments)
    assert result.code == 2
    assert message in " ".join(result.err.split())
    assert content(place) == before


def test_evaluate_refuses_before_the_model_is_loaded(kg_edit: Run, place: Path) -> None:
    given = ("--data", "edits.jsonl", *ROME, "--model", "none/such", "--out")
    assert "did you mean 'counterfact'" in kg_edit("evaluate", "--dataset", "counterfct", *given, "out").err
    assert "field case_id: is missing" in kg_edit("evaluate", *given, "out").err
    refused(kg_edit, "evaluate", "--dataset", "edits", *given, ".", message=". is not empty", out=place)


def test_methods_and_models(kg_edit: Run) -> None:
    listed = kg_edit("methods")
    assert listed.code == 0
    lines = {line.split()[0]: line for line in listed.out.splitlines()[1:]}  # a method is one line, however long
    assert list(lines) == list(method_names())
    assert all(word in lines["rome"] for word in ("weights", "in turn", "recomputed", "arXiv 2202.05262"))
    shown = kg_edit("methods", "rome")
    assert all(word in shown.out for word in ("learning_rate", "presets: default, fast, paper"))
    assert "did you mean 'rome'" in kg_edit("methods", "roem").err
    named = kg_edit("models")
    assert named.code == 0
    assert all(word in named.out for word in ("smollm2-135m", "pip install", "gpt2, gpt_neox"))
    assert kg_edit("--version").out == f"kg-edit {__version__}\n"


def test_doctor(kg_edit: Run, tiny_folder: Path) -> None:
    result = kg_edit("doctor", tiny_folder)
    assert result.code == 0
    assert "LlamaForCausalLM" in result.out
    assert "restored: bit for bit" in result.out
    assert kg_edit("doctor", tiny_folder, "--layer", "9").code == 2


@pytest.mark.parametrize("environment", [{"COLUMNS": "60"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_any_terminal(environment: dict[str, str], edit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = edit(*ROME)
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= int(environment.get("COLUMNS", "200"))
    assert "\x1b" not in result.out + result.err


def _failing_at(name: str, error: BaseException) -> Callable[..., Patch]:
    """`make`, but that it raises ``error`` for one edit."""
    whole = RankOneMethod.make

    def make(self: RankOneMethod, edits: Sequence[Edit], *, before: Patch) -> Patch:
        if edits[0].id == name:
            raise error
        return whole(self, edits, before=before)

    return make
