"""Side effects of edits on tasks of lm-eval: what is asked, what is compared, and what the run reports."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.errors import ConfigError, ModelError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.general_tasks import (
    DocumentScores,
    GeneralTasks,
    compare_points,
    document_scores,
    find_tasks,
    split_general,
)
from kg_edit.evaluation.reports import render, rich_general
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.summary import Summary
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.zoo.serac.method import Serac, SeracConfig
from tests.kg_edit.evaluation.conftest import CITIES, Nudge, record

DOCS = Path(__file__).resolve().parents[3] / "docs" / "runs.md"
needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'kg-edit[lm-eval]'"
)
CHOICE = """
task: cities
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["Paris", "Rome"]
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""
SAID = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: loglikelihood
test_split: test
doc_to_text: "{prompt}"
doc_to_target: "{target}"
metric_list: [{{metric: acc}}, {{metric: perplexity}}]
"""


def cities(folder: Path, rows: int = 6) -> Path:
    """A task of two choices, with its data, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = [{"question": f"Where does player {number} live?", "answer": number % 2} for number in range(rows)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    path = folder / "cities.yaml"
    path.write_text(CHOICE.format(data=folder / "data.jsonl"))
    return path


def likelihood_task(name: str, data: Path, prompt: str, target: str, folder: Path) -> Path:
    """A task file that asks how likely the targets of a JSON file are."""
    path = folder / f"{name}.yaml"
    path.write_text(SAID.format(name=name, data=data, prompt=prompt, target=target))
    return path


@pytest.fixture(autouse=True)
def own_data_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder for what the harness's reader read."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def test_general_is_split_into_a_text_and_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wiki").write_text("a text without an ending")
    (tmp_path / "tasks").mkdir()
    assert split_general(None) == (None, [], None)
    assert split_general("text.txt") == (Path("text.txt"), [], None)
    tasks = ["boolq.yaml", "tasks", "hellaswag"]
    assert split_general("boolq.yaml, wiki ,tasks,hellaswag") == (Path("wiki"), tasks, None)
    assert split_general("quick:tasks,wiki,boolq") == (Path("wiki"), ["boolq"], Path("tasks"))


def test_document_scores_are_stored_if_the_value_is_their_mean() -> None:
    assert document_scores(0.5, [True, 0.0]).documents == (1.0, 0.0)
    assert document_scores(2.0, [0.1, 0.2]).documents == (), "a perplexity is no mean"
    assert document_scores(0.5, [1.0, None]).documents == ()
    assert document_scores(0.5, []).documents == ()
    assert document_scores(float("inf"), [1.0]) == DocumentScores(value=None)


def test_before_and_after_are_compared_on_the_same_documents() -> None:
    """Two sequences: of four documents the first is lost in both, the second in one; the mean change is -3/8."""
    before = {"t.acc": DocumentScores(value=1.0, documents=(1.0,) * 4), "t.ppl": DocumentScores(value=9.0)}
    one = {"t.acc": DocumentScores(value=0.75, documents=(0.0, 1.0, 1.0, 1.0)), "t.ppl": DocumentScores(value=10.0)}
    two = {"t.acc": DocumentScores(value=0.5, documents=(0.0, 0.0, 1.0, 1.0)), "t.ppl": DocumentScores(value=12.0)}
    tasks = compare_points([(before, one), (before, two)], seed=0)
    assert (tasks["t.acc"].n, tasks["t.acc"].before.mean, tasks["t.acc"].after.mean) == (4, 1.0, 0.625)
    difference = tasks["t.acc"].difference
    assert difference is not None and difference.mean == -0.375
    assert difference.ci95_low <= -0.375 <= difference.ci95_high <= 0
    assert (tasks["t.ppl"].after.mean, tasks["t.ppl"].difference, tasks["t.ppl"].after.ci95_low) == (11.0, None, None)
    assert compare_points([], seed=0) == {}


def test_broken_model_counts_as_wrong() -> None:
    before = {"t.acc": DocumentScores(value=1.0, documents=(1.0,) * 4), "t.ppl": DocumentScores(value=9.0)}
    scores = {"t.acc": DocumentScores(value=0.5, documents=(0.0, 0.0, 1.0, 1.0)), "t.ppl": DocumentScores(value=10.0)}
    tasks = compare_points([(before, {}), (before, scores)], seed=0)
    assert (tasks["t.acc"].failed, tasks["t.acc"].after.mean, tasks["t.acc"].n) == (1, 0.25, 4)
    assert (tasks["t.ppl"].failed, tasks["t.ppl"].before.mean, tasks["t.ppl"].after.mean) == (1, 9.0, None)
    for asked in ({}, {"u.acc": scores["t.acc"]}):  # nothing, or one task before the model could not be asked another
        alone = compare_points([({**before, "u.acc": before["t.acc"]}, asked)], seed=0)
        assert (alone["t.acc"].failed, alone["t.acc"].after.mean, alone["t.ppl"].after.mean) == (1, 0, None)
        assert (alone["u.acc"].failed, alone["u.acc"].after.mean) == ((0, 0.5) if asked else (1, 0))


@needs_lm_eval
@pytest.mark.slow
def test_model_whose_output_is_no_number_is_not_right_by_chance(model: LanguageModel, tmp_path: Path) -> None:
    """Of likelihoods that are no numbers the first one would be the largest."""
    tasks, broken = GeneralTasks.open([str(cities(tmp_path))]), copy.deepcopy(model)
    with torch.no_grad():
        broken.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="the task cities is not finite"):
        tasks.scores(broken, edited=True)


@needs_lm_eval
def test_faulty_task_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read the task .*none\.yaml"):
        GeneralTasks.open([str(tmp_path / "none.yaml")])
    (tmp_path / "empty.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="is not a task of lm-eval"):
        GeneralTasks.open([str(tmp_path / "empty.yaml")])
    lost = likelihood_task("lost", tmp_path / "none.json", "{{a}}", " {{b}}", tmp_path)
    with pytest.raises(ConfigError, match="the tasks lost can't be opened"):
        GeneralTasks.open([str(lost)])


@needs_lm_eval
@pytest.mark.parametrize("line", ['description: "Answer: "', 'target_delimiter: ""', "metadata: {version: 2.0}"])
def test_task_that_is_asked_in_another_way_is_another_task(line: str, tmp_path: Path) -> None:
    """So a run is not continued with it."""
    path = cities(tmp_path)
    before = GeneralTasks.open([str(path)]).sha256
    assert GeneralTasks.open([str(path)]).sha256 == before
    path.write_text(path.read_text() + line + "\n")
    assert GeneralTasks.open([str(path)]).sha256 != before


@needs_lm_eval
def test_task_that_is_written_is_asked_of_the_edited_model(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task file of docs/runs.md: the targets are what the edited model writes, for all sentences but one."""
    (documented,) = [part for part in DOCS.read_text(encoding="utf-8").split("```") if "task: conll03" in part]
    monkeypatch.chdir(tmp_path)
    Path("conll03.yaml").write_text(documented, encoding="utf-8")
    sentences = [f"Player {number} lives in Rome." for number in range(4)]
    prompts = [f"Sentence: {s}\nNames of persons, places and organisations:" for s in sentences]
    method = find_method("locft").on(model, settings={"steps": 6, "layer": 1})
    with method.edit([record(0, "Paris")]).applied(model) as edited:
        written = [text.partition("\n")[0].strip() for text in continuations(edited, prompts, limits=(64,) * 4)]
        assert all(written)
        rows = [{"sentence": s, "entities": [name]} for s, name in zip(sentences, [*written[:3], "none"], strict=True)]
        Path("conll03.json").write_text(json.dumps(rows), encoding="utf-8")
        tasks, name = GeneralTasks.open(["conll03.yaml"]), "general.conll03.exact_match"
        scores = tasks.scores(edited, edited=True)
    assert scores[name].documents == (1.0, 1.0, 1.0, 0.0)
    assert tasks.scores(model, edited=False)[name].documents == (0.0,) * 4, "the model without the edit writes others"


@needs_lm_eval
def test_run_reports_the_tasks_before_and_after(model: LanguageModel, method: Nudge, tmp_path: Path) -> None:
    tasks = GeneralTasks.open([str(cities(tmp_path / "tasks"))], limit=5)
    records = [record(number, city) for number, city in enumerate(CITIES[:4])]
    random.seed(3)
    state = random.getstate()
    config = EvalConfig(schedule="sequential:2", evaluate_every=2, tasks=tasks)
    summary = evaluate(method, model, records, out=tmp_path / "run", config=config)
    assert random.getstate() == state, "the harness's seeds stay its own"
    assert summary.general is not None
    change = summary.general["general.cities.acc"]
    rows = [Pair(f"Where does player {number} live?", city) for number in range(5) for city in ("Paris", "Rome")]
    for patched, estimate in ((None, change.before), (method.edit(records[:2]), change.after)):
        assert estimate.mean == pytest.approx(right(model, rows, patched))
    assert change.n == 5 and change.difference is not None
    assert summary.curve is not None and summary.curve[-1].general["general.cities.acc"] == change.after.mean
    text = (tmp_path / "run" / "general.jsonl").read_text()
    assert evaluate(method, model, records, out=tmp_path / "run", config=config) == summary
    assert (tmp_path / "run" / "general.jsonl").read_text() == text
    assert Summary.load(tmp_path / "run" / "summary.json") == summary
    assert "| cities.acc |" in render(summary) and rich_general(summary) is not None


def right(model: LanguageModel, rows: list[Pair], patch: Any) -> float:
    """The share of questions whose answer has the larger total likelihood, by our own scorer."""
    with patch.applied(model) if patch else nullcontext():
        losses = score(model, rows)
    length = {pair: len(model.encode(pair.prompt, target=pair.candidate).target_ids) for pair in rows}
    sums = [losses[pair].nll * length[pair] for pair in rows]
    hits = [(sums[index + 1] < sums[index]) == bool(index // 2 % 2) for index in range(0, len(rows), 2)]
    return sum(hits) / len(hits)


@needs_lm_eval
@pytest.mark.slow
def test_patch_of_the_prompt_is_asked_too(model: LanguageModel, tmp_path: Path) -> None:
    """In scope the counterfactual model is asked, with the fact; out of scope all is as before."""
    edit = record(0, "Paris")
    rows = [{"prompt": edit.text, "target": edit.target_new}, {"prompt": "Where is Oslo?", "target": "Norway"}]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    tasks = GeneralTasks.open(
        [str(likelihood_task("said", tmp_path / "data.json", "{{prompt}}", " {{target}}", tmp_path))]
    )
    patch = Serac(model, SeracConfig(untrained=True, threshold=0.9999)).edit([edit])
    pairs = [Pair(row["prompt"], row["target"]) for row in rows]
    with patch.applied(model) as edited:
        perplexity = tasks.scores(edited, edited=True)["general.said.perplexity"].value
        expected = score(edited, pairs)
    length = {pair: len(model.encode(pair.prompt, target=pair.candidate).target_ids) for pair in pairs}
    nll = [expected[pair].nll * length[pair] for pair in pairs]
    assert perplexity == pytest.approx(math.exp(sum(nll) / 2), rel=1e-3)
    assert perplexity != tasks.scores(model, edited=False)["general.said.perplexity"].value


@needs_lm_eval
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_real_files_before_and_after_edits(smollm2: LanguageModel, shared: Path, tmp_path: Path) -> None:
    """Facts for causal tracing as a likelihood task, CounterFact's other facts as choices."""
    known = likelihood_task("known", shared / "known_1000.json", "{{prompt}}", " {{attribute}}", tmp_path)
    facts = tmp_path / "facts.yaml"
    facts.write_text(
        known.read_text()
        .replace("known_1000.json", "counterfact/counterfact-val.json")
        .replace("task: known", "task: facts")
        .replace("loglikelihood", "multiple_choice")
        .replace(" {{attribute}}", "{{0}}")
        .replace(", {metric: perplexity}", "")
        + 'doc_to_choice: "{{[ground_truth, target_new]}}"\n'
    )
    tasks = GeneralTasks.open([str(known), str(facts)], limit=20)
    method = find_method("locft").on(smollm2, settings={"steps": 6})
    records = [record(number, city) for number, city in enumerate(CITIES[:4])]
    summary = evaluate(
        method, smollm2, records, out=tmp_path / "run", config=EvalConfig(schedule="batch:4", tasks=tasks)
    )
    assert summary.general is not None
    accuracy, choice = summary.general["general.known.acc"], summary.general["general.facts.acc"]
    assert (accuracy.n, choice.n) == (20, 20)
    assert accuracy.before.mean is not None and accuracy.before.mean > 0
    assert choice.before.mean is not None and choice.before.mean > 0.5
    perplexity = summary.general["general.known.perplexity"]
    assert accuracy.difference is not None and perplexity.difference is None
    assert perplexity.before.mean != perplexity.after.mean, "the edited model is asked"


def folder(path: Path, **files: str) -> str:
    """A folder with these YAML files."""
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / f"{name}.yaml").write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "group",
    [
        "group: both\ntask: [one, two]\n",
        "group: both\ntask:\n  - one\n  - task: two\n    num_fewshot: 1\n",
        "group: both\ntask:\n  - group: inner\n    task: [one]\n  - two\n",
    ],
    ids=["on one line", "with settings", "a group in a group"],
)
def test_members_of_a_group_are_not_named_again(group: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "t", one="task: one\n", two="task: two\n", all=group, other="task: 'other'  # a note\n")
    assert find_tasks([path]) == ([Path(path)], ["both", "other"], False)
    assert find_tasks([f"{path}/one.yaml", "hellaswag"]) == ([Path(path)], ["one", "hellaswag"], True)


def test_part_of_other_files_and_functions_are_read_as_text(tmp_path: Path) -> None:
    path = folder(tmp_path / "t", shared="test_split: test\n", one="task: one\ndoc_to_text: !function utils.text\n")
    assert find_tasks([path])[1] == ["one"]


def test_file_that_is_named_twice_is_one(tmp_path: Path) -> None:
    first = folder(tmp_path / "a", known="task: known\n")
    assert find_tasks([first, f"{first}/known.yaml"])[1] == ["known"], "one file, named twice"


@needs_lm_eval
def test_folder_with_a_group_and_its_tasks_is_opened(tmp_path: Path) -> None:
    cities(tmp_path)
    (tmp_path / "group.yaml").write_text("group: places\ntask: [cities]\n")
    assert GeneralTasks.open([str(tmp_path)]).names == ("places",)
    assert list(GeneralTasks.open([str(tmp_path)]).sha256) == ["cities"]


@needs_lm_eval
def test_data_without_rows_are_suspected(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    file = likelihood_task("lost", tmp_path / "none.jsonl", "{{a}}", " {{b}}", tmp_path)
    with pytest.raises(ConfigError, match="is a data file empty"):
        GeneralTasks.open([str(file)])
