"""The pages make the library's patches, `edit.py` runs every method, the other scripts write every table."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from kg_edit.edits.files import read_edits
from kg_edit.errors import KgEditError
from kg_edit.evaluate import Summary, evaluate
from kg_edit.methods import EditingMethod, find_method, method_names, registry
from kg_edit.methods.rank_one.rome import Rome
from kg_edit.models.architectures import content_fingerprint
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from tests.everyday import keep_first
from tests.kg_edit.command_line import EDITS, GRAPH, cache, tiny_folder
from tests.kg_edit.datasets.rows import POPQA, RIPPLES
from tests.kg_edit.evaluate.conftest import CITIES, Nudge
from tests.kg_edit.evaluate.test_cli_runs import row
from wikidata_cache import WikidataCache, packaged_extract

__all__ = ["cache", "tiny_folder"]  # fixtures

FOLDER = Path(__file__).resolve().parents[1] / "pipelines"
QUICK = {"steps": 3, "further_steps": 2, "covariance": {"tokens": 500}}
# the tokens of a random model are much alike: an update that held them all would be too large, and be refused
RANK_ONE, JOINT = {**QUICK, "context_lengths": [[5, 2]], "hold": 0.01}, {**QUICK, "context_tokens": 4, "layers": [0, 1]}
PAGES: dict[str, dict[str, Any]] = {
    "rome": RANK_ONE,
    "glame": RANK_ONE,
    "rome_kg": {**RANK_ONE, "further_steps": 0},  # with them the random model would be broken, which is refused
    "memit": JOINT,
    "memit_kg": JOINT,
}
OTHERS = {"edit", "tables", "study", "ripples", "popqa"}
Script = Callable[..., int]


@pytest.fixture
def script(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Script:
    """A script with arguments, as a user runs it, in this process: its exit code."""
    monkeypatch.setenv("KG_EDIT_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edits.jsonl").write_text(EDITS)
    (tmp_path / "graph.tsv").write_text(GRAPH)
    (tmp_path / "data.json").write_text(json.dumps([row(number, city) for number, city in enumerate(CITIES[:2])]))
    caplog.set_level("INFO")

    def run(name: str, *arguments: str | Path) -> int:
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
        caplog.clear()
        try:
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def module(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"pipelines_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    made = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # a dataclass looks itself up there
    spec.loader.exec_module(made)
    return made


def method_name(page: str) -> str:
    return page.replace("_", "-")


def from_page(page: str) -> type[EditingMethod]:
    found: type[EditingMethod] = getattr(module(page), page.title().replace("_", ""))
    return found


def settings_of(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings as options."""
    flat = {name: value for name, value in found.items() if not isinstance(value, dict)}
    for name in found.keys() - flat.keys():
        flat |= {f"{name}.{key}": value for key, value in found[name].items()}
    return tuple(part for name, value in flat.items() for part in ("--set", f"{name}={json.dumps(value)}"))


def same(found: Patch, wanted: Patch) -> None:
    """Changes, state and provenance; numbers up to rounding."""
    assert isinstance(found, WeightPatch) and isinstance(wanted, WeightPatch)
    assert found.factors.keys() == wanted.factors.keys()
    for name, pair in wanted.factors.items():
        assert pair.product.norm() > 0
        assert found.factors[name].rank == pair.rank
        torch.testing.assert_close(found.factors[name].product, pair.product, rtol=1e-5, atol=1e-6)
    assert found.state.keys() == wanted.state.keys()
    for name, tensor in wanted.state.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=1e-5, atol=1e-6)
    said, expected = _leaves(found.provenance), _leaves(wanted.provenance)
    numbers = {name for name, leaf in expected.items() if isinstance(leaf, float)}
    assert numbers and {name: said[name] for name in said.keys() - numbers} == {
        name: expected[name] for name in expected.keys() - numbers
    }
    for name in numbers:
        assert said[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested values by its path."""
    if isinstance(value, Mapping):
        return {key: leaf for part in value for key, leaf in _leaves(value[part], f"{name}/{part}").items()}
    if isinstance(value, (list, tuple)):
        return {key: leaf for at, part in enumerate(value) for key, leaf in _leaves(part, f"{name}/{at}").items()}
    return {name: value}


def test_every_script_is_tested() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == {*PAGES, *OTHERS}


@pytest.mark.parametrize("page", keep_first(PAGES, keep=2))
def test_a_page_from_edits_to_the_patch_of_the_librarys_method(
    page: str, script: Script, tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = () if page in ("rome", "memit") else ("--graph", "graph.tsv")
    options = ("edits.jsonl", "--model", tiny_folder, *graph, "--out", "out", *settings_of(PAGES[page]))
    assert script(page, *options) == 0
    assert "LeBron James plays for" in caplog.text and "after:" in caplog.text
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"patch.safetensors", "records.jsonl", "report.md", "run.json"} <= files
    assert ("subgraph-lebron.svg" in files) == bool(graph)

    found = find_method(method_name(page))
    model = LanguageModel.load(str(tiny_folder))
    library = found(model, found.config_class.preset("default", PAGES[page]), graph=WikidataCache("graph.tsv"))
    same(Patch.load(tmp_path / "out" / "patch.safetensors"), library.edit(read_edits(Path("edits.jsonl")).edits))


def test_a_page_goes_on_where_it_stopped(
    script: Script, tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("edits.jsonl", "--model", tiny_folder, "--out", "out", *settings_of({**RANK_ONE, "steps": 2}))
    assert script("rome", *options) == 0
    patch = tmp_path / "out" / "patch.safetensors"
    written = patch.read_bytes()
    assert script("rome", *options) == 0
    assert "nothing to compute" in caplog.text and patch.read_bytes() == written
    assert script("rome", *options, "--set", "kl_weight=1") == 2  # other settings don't go into the same folder
    assert patch.read_bytes() == written


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_makes_the_librarys_patch_of_the_real_model(page: str, smollm2: LanguageModel) -> None:
    graph = WikidataCache(packaged_extract())
    edits = read_edits(FOLDER.parent / "kg_edit" / "data" / "demo.jsonl").edits[:2]
    found = find_method(method_name(page))
    few: dict[str, Any] = {"statements": 1, "composed": 1} if page.endswith("_kg") else {}
    few |= {"layers": [5, 6]} if page.startswith("memit") else {}
    config = found.config_class.preset("default", {"covariance": {"tokens": 2000}, "steps": 6, **few})
    made = from_page(page)(smollm2, config, graph=graph).edit(edits)
    assert content_fingerprint(smollm2.model) == smollm2.fingerprint
    same(made, found(smollm2, config, graph=graph).edit(edits))


class Mine(Rome):
    """A method of somebody else's."""

    name = "mine"


def test_a_plug_in_by_its_name(
    script: Script, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = EntryPoints([EntryPoint(name="mine", value=f"{__name__}:Mine", group=registry.ENTRY_POINTS)])
    monkeypatch.setattr(registry, "entry_points", plugins.select)
    options = ("--model", tiny_folder, "--out", "out", *settings_of(RANK_ONE))
    assert script("edit", "edits.jsonl", "--method", "mine", *options) == 0
    assert Patch.load(tmp_path / "out" / "patch.safetensors").provenance["methods"][0]["name"] == "mine"


def test_a_method_with_a_graph_by_its_name(script: Script, tmp_path: Path, tiny_folder: Path) -> None:
    options = ("--model", tiny_folder, "--graph", "graph.tsv", "--out", "out", *settings_of(RANK_ONE))
    assert script("edit", "edits.jsonl", "--method", "glame-mlp", *options) == 0
    assert (tmp_path / "out" / "subgraph-lebron.svg").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "rome", "--set", "stps=2"), "did you mean 'steps'"),
        (("--method", "romee"), "did you mean 'rome'"),
    ],
)
def test_a_mistake_is_named(
    arguments: tuple[str, ...], message: str, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("edit", "edits.jsonl", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_the_help_names_every_method(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("edit", "--help") == 0
    said = capsys.readouterr().out
    assert "python pipelines/edit.py edits.jsonl --method" in said
    joined = " ".join(said.split()).replace("- ", "-")
    assert all(f"{name}," in joined or f", {name}" in joined for name in method_names())


def nudged(method: EditingMethod, model: LanguageModel, records: Any, **options: Any) -> Summary:
    """`evaluate` with edits by a change that costs nothing."""
    return evaluate(Nudge(model), model, records, **options)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, script: Script, tmp_path: Path) -> ModuleType:
    """`tables.py`, whose runs compute their edits by a change that costs nothing."""
    made = module("tables")
    monkeypatch.setattr(made, "evaluate", nudged)
    heat = "Q169138\tP159\tQ7\nQ169138\tlabel\tMiami Heat\nQ7\tlabel\tMiami\n"
    (tmp_path / "graph.tsv").write_text(GRAPH + heat + "Q1345\tP17\tQ5\nQ1345\tlabel\tPhiladelphia\n")
    return made


def first_cells(text: str) -> list[str]:
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]


PAPER = ["FT", "ROME", "ROME-KG", "MEMIT", "MEMIT-KG", "GLAME", "w/ MLP", "w/ GNN", "w/o GKE", "random graph"]
CEILINGS = ["fact in the prompt", "fact and relation in the prompt"]


@pytest.fixture
def ripples(monkeypatch: pytest.MonkeyPatch, script: Script) -> ModuleType:
    """`ripples.py`, whose runs compute their edits by a change that costs nothing."""
    monkeypatch.syspath_prepend(FOLDER)  # as a script's own folder is
    made = module("ripples")
    monkeypatch.setattr(made, "evaluate", nudged)
    return made


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, script: Script) -> ModuleType:
    """`study.py` as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    return module("study")


@pytest.fixture
def places(tmp_path: Path, tiny_folder: Path) -> tuple[str, ...]:
    """Options for a Ripples file of two records, their graph and a model."""
    edits = {"ripples-0001": ("Japan", "Q17"), "ripples-0002": ("Kenya", "Q114")}
    rows = [
        {**RIPPLES, "id": name, "edit": {**RIPPLES["edit"], "target_new": target, "target_new_id": item}}
        for name, (target, item) in edits.items()
    ]
    header = {name: RIPPLES[name] for name in ("nouns", "inverse", "choices")}
    bare = [{name: part for name, part in row.items() if name not in header} for row in rows]
    (tmp_path / "ripples.json").write_text(json.dumps({"format": "kg-edit ripples/1", **header, "records": bare}))
    names = {"Q17": "Japan", "Q114": "Kenya", "Q1490": "Tokyo", "Q3870": "Nairobi", "P36": "capital", "P17": "country"}
    lines = ["Q17\tP36\tQ1490", "Q114\tP36\tQ3870", *(f"{item}\tlabel\t{name}" for item, name in names.items())]
    (tmp_path / "places.tsv").write_text("\n".join(lines) + "\n")
    files = ("--data", str(tmp_path / "ripples.json"), "--graph", str(tmp_path / "places.tsv"))
    return (*files, "--model", str(tiny_folder), "--out", "out")


@pytest.mark.slow
def test_the_readmes_table_between_its_markers(ripples: ModuleType, tmp_path: Path, places: tuple[str, ...]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    ripples.main([*places, "--readme", str(readme)])
    text = readme.read_text()
    assert text.startswith(
        "before\n<!-- results -->\n|  | the edit | asked as a question | paraphrase | neighborhood |"
    )
    assert text.endswith("s an edit.\n<!-- /results -->\nafter\n") and "\nold\n" not in text
    rows = ["unedited", "rome", "glame", "glame-plus", "glame-plus, wrong graph", "glame-plus, no graph"]
    assert first_cells(text)[2:] == [*rows, *(f"*ceiling: {name}*" for name in CEILINGS)]
    summary = Summary.load(tmp_path / "out" / "rome" / "summary.json")
    assert f"| rome | {module('tables').cell(summary, 'edited', 'efficacy.greedy')} |" in text
    assert "2 records; 0 edits failed; rome" in text


@pytest.mark.slow
def test_a_method_and_its_controls(ripples: ModuleType, tmp_path: Path, places: tuple[str, ...]) -> None:
    ripples.main([*places, "--rows", "rome,glame:paper", "--controls"])
    rows = ["rome", "glame:paper", *(f"glame:paper, {said}" for said in ripples.CONTROLS.values())]
    assert first_cells((tmp_path / "out" / "table.md").read_text())[2:7] == ["unedited", *rows[:4]]
    assert (tmp_path / "out" / "glame-paper-wrong" / "summary.json").is_file()


def test_a_rows_own_settings_seed_and_folder(ripples: ModuleType, tmp_path: Path) -> None:
    given = ["--rows", "rome+none,glame-net", "--set", "glame-net.network=net/", "--set", "glame-net.steps=3"]
    options = ripples._parser().parse_args([*given, "--seed", "1", "--schedule", "batch:8", "--out", "out"])
    rome, net = ripples.runs(options)
    assert rome.name == "rome, no graph" and rome.folder(options) == Path("out/rome-none-seed1-batch8")
    assert (rome.settings, net.settings) == ({"seed": 1}, {"network": "net/", "steps": 3, "seed": 1})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--rows", "glame+wrng"), "unknown control 'wrng', did you mean 'wrong'"),
        (("--rows", "glame", "--set", "glame-net.steps=3"), "unknown method of --set 'glame-net'"),
        (("--readme", "README.md"), "README.md has no place for the table"),
    ],
)
def test_an_option_of_the_table_without_effect_is_named_before_a_run(
    ripples: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    monkeypatch.delattr(ripples, "evaluate")
    kept = "before\n<!-- results -->\nno end, and text to keep\n"
    (tmp_path / "README.md").write_text(kept)
    with pytest.raises(KgEditError, match=re.escape(said)):
        ripples.main([*given, "--data", "absent.json"])
    assert (tmp_path / "README.md").read_text() == kept


@pytest.mark.slow
def test_the_study_of_runs_that_are_there(study: ModuleType, tmp_path: Path, tiny_folder: Path) -> None:
    model, records = LanguageModel.load(str(tiny_folder)), study.find_dataset("counterfact-plus")(Path("data.json"))
    for name in ("glame", "rome"):
        evaluate(Nudge(model), model, records[:2], out=tmp_path / "out" / "single" / name, ceilings=True)
    study.main(["--tables", "--out", "out"])
    text = (tmp_path / "out" / "tables.md").read_text()
    assert first_cells(text) == [
        "",
        "---",
        "unedited",
        "glame",
        "rome",
        "*fact in prompt*",
        "*fact and relation in prompt*",
    ]
    assert text.startswith(
        "## single\n\n|  | efficacy | greedy | paraphrase | neighborhood | portability: greedy | nll"
    )
    assert "2 records; schedule single." in text and "## mquake\n\nNo run yet.\n" in text


def test_a_score_with_its_interval(tables: ModuleType, tmp_path: Path, tiny_folder: Path) -> None:
    model = LanguageModel.load(str(tiny_folder))
    records = tables.find_dataset("counterfact-plus")(Path("data.json"))
    found = evaluate(Nudge(model), model, records, out=tmp_path / "run")
    assert tables.cell(found, "base", "no.such") == "\N{EN DASH}"
    score = found.sections["base"]["portability.nll"]
    wanted = f"{score.mean:.1f} [{score.ci95_low:.1f}, {score.ci95_high:.1f}]"
    assert tables.cell(found, "base", "portability.nll") == wanted
    assert not tables.cell(found, "base", "neighborhood.prob").startswith("0.")


@pytest.mark.slow
def test_the_papers_table(tables: ModuleType, script: Script, tmp_path: Path, tiny_folder: Path) -> None:
    inputs = ("--data", "data.json", "--graph", "graph.tsv", "--model", tiny_folder, "--limit", "2", "--out", "out")
    assert script("tables", "paper", *inputs) == 0
    lines = (tmp_path / "out" / "table.md").read_text()
    assert first_cells(lines) == ["", "---", "unedited", *PAPER, *(f"*{name}*" for name in CEILINGS)]
    assert all(line.rstrip(" |").endswith(" 0") for line in lines.splitlines()[3:13])  # none failed


@pytest.mark.slow
def test_glame_plus_against_rome_and_a_wrong_graph(tables: ModuleType, tmp_path: Path, tiny_folder: Path) -> None:
    inputs = ("--data", "data.json", "--graph", "graph.tsv", "--model", str(tiny_folder), "--limit", "2")
    tables.main(["glame-plus", *inputs, "--out", "out"])
    header = (tmp_path / "out" / "against-rome.md").read_text().splitlines()[0]
    assert "glame-plus" in header and "allowed-wrong-graph" in header
    for against in ("wrong-graph", "allowed-wrong-graph"):
        assert f"- {against}" in (tmp_path / "out" / f"against-{against}.md").read_text()


def test_the_study_leaves_out_methods_without_their_network(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(study, "run_part", lambda part, names, options: asked.append(names))
    for network in ((), ("--network", "mend=mend/", "--network", "ke=ke/")):
        study.main(["--out", str(tmp_path), *network])
    bare, trained = (set(method_names()) - set(names) for names in asked)
    assert (bare, trained) == ({"glame-net", "ke", "mend", "serac"}, {"glame-net", "serac"})


@pytest.mark.slow
@pytest.mark.parametrize("part", ["single", "knowedit", "retention"])
def test_a_part_of_the_study(
    part: str, script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: Path
) -> None:
    monkeypatch.syspath_prepend(FOLDER)  # as a script's own folder is
    assert script("study", "--part", part, "--limit", "2", "--methods", "definition", "--out", "out") == 0
    table = (tmp_path / "out" / "tables.md").read_text().partition(f"## {part}\n")[2]
    assert first_cells(table)[2:4] == ["unedited", "definition"]
    row = next(line for line in table.splitlines() if line.startswith("| definition"))
    assert row.count("[") >= 3, "scores with intervals"


def test_the_study_leaves_out_the_records_on_which_settings_were_chosen(study: ModuleType, shared: Path) -> None:
    every = study.find_dataset("counterfact-plus")(shared / "counterfact_plus" / "dev.json")
    assert study.PARTS["single"].every()[0].id == every[24].id
    assert study.PARTS["sequence"].every()[0].id == every[0].id


def test_popqa_with_and_without_a_paragraph(script: Script, tmp_path: Path, tiny_folder: Path) -> None:
    """Run twice: the second run computes nothing, and writes the same."""
    rows = [
        {**POPQA, "id": n, "subj": name, "s_uri": f"http://www.wikidata.org/entity/Q{n}", "s_pop": 10 * n}
        | {"question": f"What is {name}'s occupation?", "paragraphs": str([{"title": name, "text": "politician"}])}
        for n, name in enumerate(("Ann", "Ben", "Cid", "Dan", "Eve"), 1)
    ]
    (tmp_path / "popqa.json").write_text(json.dumps(rows))
    command = ("popqa", "popqa.json", "--model", tiny_folder, "--out", "out", "--picture", "out/popularity.png")
    assert script(*command) == 0
    text, lines = (tmp_path / "out" / "table.md").read_text(), (tmp_path / "out" / "always" / "records.jsonl")
    assert "Limits from 2 questions: occupation " in text and "3 questions." in text
    assert len(first_cells(text)) == 6 and first_cells(text)[-1] == "all", "a row for each of three questions"
    assert (tmp_path / "out" / "popularity.png").stat().st_size > 5000
    before = lines.read_bytes()
    assert script(*command) == 0
    assert lines.read_bytes() == before and (tmp_path / "out" / "table.md").read_text() == text
