"""The patch: prompts get their chains, others stay as they are, and edits can be added, saved and removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit, Question
from kg_edit.engine.prefix_store import KnowsStarts
from kg_edit.errors import PatchError
from kg_edit.methods.graph_memory.method import GraphMemory
from kg_edit.methods.graph_memory.patch import GraphMemoryPatch
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.container import write_patch
from kg_edit.patches.walks import find_walks
from kg_edit.reports.probes import before_and_after
from kg_edit.scoring.generation import ask, continuations
from kg_edit.ship.export.layout import ModuleLayout
from kg_edit.ship.export.peft_adapter import write_peft
from tests.kg_edit.methods.graph_memory.toy import BULGARIA, SONY, memory
from tests.kg_edit.tiny import tiny
from tests.refusals import Call, check_refused, refusals

WRONG = nx.MultiDiGraph([("Turkey", "Madrid", {"label": "capital"})])
QUESTION = "What is the currency of the country of Sony?"


def changed(patch: Patch, text: str) -> str:
    """What the model reads instead of a text."""
    with patch.applied(tiny("llama")) as edited:
        transform = edited.prompt_transform
        return transform(text) if transform else text


def test_chain_is_right_before_the_question_after_the_prompts_own_examples() -> None:
    chain = "The country of Sony is Bulgaria. The currency of Bulgaria is lev."
    patch = memory(SONY, examples=0)
    assert changed(patch, QUESTION) == f"{chain}\n{QUESTION}"
    shown = "Question: In which country is Rome?\nAnswer: Italy\n\n"
    asked = f"Question: {QUESTION}\nAnswer:"
    assert changed(patch, shown + asked) == f"{shown}{chain}\n{asked}"


def test_example_is_the_question_and_its_chain_with_made_up_names() -> None:
    text = changed(memory(SONY, examples=1), f"Q: {QUESTION}\nA:")
    example, last = text.split("\n\n")
    facts, question, answer = example.split("\n")
    assert question == "Q: What is the currency of the country of Belmora?"
    assert facts == f"The country of Belmora is Kelvany. The currency of Kelvany is {answer.removeprefix('A: ')}."
    assert last.endswith(f"Q: {QUESTION}\nA:")


@pytest.mark.parametrize("text", ["In which country is Toyota?", "The lev of Bulgaria", "Sony was founded by", " \n"])
def test_prompt_that_asks_for_no_edit_stays_as_it_is(text: str) -> None:
    model = tiny("llama")
    with memory(SONY).applied(model) as edited:
        assert edited.encode(text).ids == model.encode(text).ids


def test_patch_is_read_back_and_an_edit_is_removed_exactly(tmp_path: Path) -> None:
    both = memory(SONY, BULGARIA)
    path = both.save(tmp_path / "patch.safetensors")
    again = Patch.load(path)
    assert isinstance(again, GraphMemoryPatch) and again.remembered == both.remembered
    alone = memory(SONY).save(tmp_path / "alone.safetensors").read_bytes()
    assert again.without(["bulgaria"]).save(tmp_path / "left.safetensors").read_bytes() == alone
    added = memory(SONY) + memory(BULGARIA)
    assert added.save(tmp_path / "sum.safetensors").read_bytes() == path.read_bytes()


def test_weights_stay_and_the_model_below_has_no_chain() -> None:
    model = tiny("llama")
    with memory(SONY).applied(model) as edited:
        assert edited.model is model.model
        assert model.prompt_transform is None


def test_walks_are_found_and_examples_stored_over_another_patch_of_the_prompt() -> None:
    def put_greeting_before(text: str) -> str:
        return f"Hello!\n\n{text}"

    patch = memory(SONY, examples=1)
    alone = changed(patch, QUESTION)
    below = replace(tiny("llama"), prompt_transform=put_greeting_before)
    with patch.applied(below) as edited:
        prompt = edited.encode(QUESTION)
        assert prompt.text == put_greeting_before(alone)
        assert [statement.object for statement in find_walks(edited, [QUESTION])[QUESTION]] == ["Bulgaria", "lev"]
        transform: object = edited.prompt_transform
        assert isinstance(transform, KnowsStarts) and 0 < transform.count_shared(edited, prompt) < len(prompt.ids)


def broken(content: object) -> Call:
    """Load a file with this content."""

    def call(folder: Path) -> object:
        patch = memory(SONY)
        path = folder / "patch.safetensors"
        write_patch(path, kind="graph-memory", provenance=patch.provenance, content=content, tensors={})
        return Patch.load(path)

    return call


@refusals(
    {
        "file without edits": (broken({"rules": []}), PatchError, "can't read the edits"),
        "file with a wrong number": (
            broken({"rules": [{}], "things": [], "statements": [], "edits": [{"id": "1", "prompt": "", "fact": 3}]}),
            PatchError,
            "can't read the edits",
        ),
        "adapter of edits beside the weights": (
            lambda folder: write_peft(memory(SONY), folder / "adapter", layout=ModuleLayout(tiny("llama").model)),
            PatchError,
            "has to run the walk",
        ),
        "edit that is not there": (lambda _: memory(SONY).without(["other"]), PatchError, "'other'"),
    }
)
def test_refusals(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)


@pytest.mark.slow
def test_second_hop_is_right_by_the_graph_and_wrong_by_a_wrong_one(smollm2: LanguageModel) -> None:
    """With the packaged extract: an edit of the country changes the capital that follows from it."""
    edit = SONY.model_copy(update={"target_new": "Turkey"})
    prompt = "Question: What is the capital of the country of Sony?\nAnswer:"
    answers = {}
    for name, source in {"right": None, "wrong": WRONG}.items():
        patch = GraphMemory.on(smollm2, graph=source).edit([edit])
        with patch.applied(smollm2) as edited:
            (answers[name],) = continuations(edited, [prompt], limits=[5])
    assert answers["right"].strip().startswith("Ankara")
    assert not answers["wrong"].strip().startswith("Ankara")


@pytest.mark.slow
def test_report_and_generate_answer_a_question_as_the_tutorial_says(smollm2: LanguageModel) -> None:
    """The report puts the question into a form, which changes the answer."""
    page = (Path(__file__).resolve().parents[4] / "docs" / "tutorials" / "private-graph.md").read_text(encoding="utf-8")
    asked = "The residence of the leader of Project Heron is"
    assert f'"{asked}" is *Voss*, but `generate` continues this text with *Ingrid Solberg*' in " ".join(page.split())
    edit = Edit(
        subject="Project Heron",
        prompt="The leader of {} is",
        relation="leader",
        target_new="Ingrid Solberg",
        portability=(Question(question=asked, answer="Voss"),),
    )
    graph = nx.MultiDiGraph([("Ingrid Solberg", "Voss", {"label": "residence"})])
    patch = GraphMemory.on(smollm2, graph=graph).edit([edit])
    _, in_report = before_and_after(smollm2, patch, edit)
    assert in_report.edited.text.startswith("Voss")
    with patch.applied(smollm2) as edited:
        assert ask(edited, asked).startswith("Ingrid Solberg")
        assert ask(edited, f"Question: {asked}\nAnswer:").startswith("Voss")
