"""IKE: the published template, demonstrations that don't give the edit's own prompts away."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.patches.prompt_patch import PromptPatch
from kg_edit.zoo.in_context.ike import Demonstrations, Ike, IkeConfig, demonstration, read_demonstrations, retained
from tests.kg_edit.tiny import tiny

EDIT = Edit(
    id="1", subject="LeBron James", prompt="{} plays for", target_true="the Lakers", target_new="Miami Heat",
    paraphrases=("The team of LeBron James is",), neighborhood=("Kobe Bryant plays for",),
)  # fmt: skip
OTHER = Edit(id="2", subject="Spike Hughes", prompt="{} comes from", target_new="Oslo")


def rows() -> list[dict[str, Any]]:
    """A training file: six players, the edit's own record, and a city."""
    players = [
        {
            "id": f"p{n}",
            "subject": f"Player {n}",
            "prompt": "{} plays for",
            "target_true": "the Lakers",
            "target_new": "Chelsea",
            "paraphrases": [f"Player {n}'s team is"],
            "neighborhood": [f"Keeper {n} plays for"],
        }
        for n in range(8)
    ]
    city = {"id": "c", "subject": "Cairo", "prompt": "{} lies in the country of", "target_new": "Peru"}
    return [*players, json.loads(EDIT.model_dump_json(exclude_defaults=True)), city]


@pytest.fixture(autouse=True)
def long_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's own context holds one demonstration."""
    monkeypatch.setattr(tiny("llama").model.config, "max_position_embeddings", 4096)


@pytest.fixture
def training(tmp_path: Path) -> Path:
    path = tmp_path / "training.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    return path


def ike(**settings: Any) -> Ike:
    return Ike(tiny("llama"), IkeConfig.preset("default", settings))


def patch_of(*edits: Edit, **settings: Any) -> PromptPatch:
    patch = ike(**settings).edit(edits)
    assert isinstance(patch, PromptPatch)
    return patch


def test_prompt_has_the_published_template() -> None:
    patch = patch_of(EDIT)
    assert patch.prompt_transform("LeBron James plays for") == (
        "New Fact: LeBron James plays for Miami Heat\nPrompt: LeBron James plays for"
    )
    assert patch.prompt_transform("Kobe Bryant plays for") == "Kobe Bryant plays for", "a neighbour is left alone"


def test_other_facts_of_the_patch_are_demonstrations() -> None:
    patch = patch_of(EDIT, OTHER, count=1)
    assert patch.prompt_transform("LeBron James is in") == (
        "New Fact: Spike Hughes comes from Oslo\nPrompt: Spike Hughes comes from Oslo\n\n"
        "New Fact: LeBron James plays for Miami Heat\nPrompt: LeBron James is in"
    )
    assert patch.without(["2"]).prompt_transform("LeBron James is in") == patch_of(EDIT, count=1).prompt_transform(
        "LeBron James is in"
    )


def test_demonstrations_of_a_file_are_similar_and_mixed(training: Path) -> None:
    patch = patch_of(EDIT, demonstrations=str(training), count=8)
    blocks = patch.prompt_transform("The team of LeBron James is").split("\n\n")
    assert blocks[-1] == "New Fact: LeBron James plays for Miami Heat\nPrompt: The team of LeBron James is"
    assert len(blocks) == 9 and all(block.startswith("New Fact: Player ") for block in blocks[:-1]), "the likest ones"
    answers = [block.rpartition("\nPrompt: ")[2] for block in blocks[:-1]]
    kinds = ["update" if "'s team" in answer else "retain" if "Keeper" in answer else "copy" for answer in answers]
    assert sorted(kinds) == ["copy", *["retain"] * 4, *["update"] * 3], "1 : 4 : 3"
    assert all(answer.endswith("the Lakers") == (kind == "retain") for answer, kind in zip(answers, kinds, strict=True))
    record = patch.edits[0]
    assert record["demonstrations"] == 8
    assert len(patch.provenance["methods"][0]["files_sha256"]["demonstrations"]) == 64


@pytest.mark.parametrize("ratio, count, expected", [
    ((1, 3, 4), 16, (2, 6, 8)), ((10, 30, 40), 16, (2, 6, 8)), ((12, 38, 50), 16, (2, 6, 8)), ((1, 3, 4), 5, (1, 2, 2)),
    ((1, 3, 4), 1, (0, 0, 1)), ((1, 1, 0), 3, (2, 1, 0)), ((0, 0, 1_000_000), 2, (0, 0, 2)),
])  # fmt: skip
def test_demonstrations_are_in_the_ratio_however_it_is_written(
    ratio: tuple[int, int, int], count: int, expected: tuple[int, int, int]
) -> None:
    kinds = IkeConfig(ratio=ratio).kinds(count)
    assert tuple(map(kinds.count, ("copy", "update", "retain"))) == expected


def test_own_copy_is_the_last_demonstration(training: Path) -> None:
    patch = patch_of(EDIT, demonstrations=str(training), count=3, own_copy=True)
    blocks = patch.prompt_transform("The team of LeBron James is").split("\n\n")
    assert len(blocks) == 5
    assert blocks[-2] == "New Fact: LeBron James plays for Miami Heat\nPrompt: LeBron James plays for Miami Heat"
    assert patch_of(EDIT, own_copy=True).prompt_transform("LeBron James is").split("\n\n")[0] == blocks[-2]


def test_own_record_is_no_demonstration(training: Path) -> None:
    """It holds the paraphrases and neighbours that the edit is tested with."""
    patch = patch_of(EDIT, demonstrations=str(training), count=32)
    shown = patch.prompt_transform("LeBron James plays for").rpartition("\n\n")[0]
    assert "LeBron James" not in shown and "Kobe Bryant" not in shown and "Cairo" in shown


def test_demonstrations_do_not_show_prompts_that_test_the_edit(tmp_path: Path) -> None:
    """CounterFact's neighbours are shared: the edit's subject is a neighbour of another record, and so is its own."""
    other = {
        "id": "p",
        "subject": "Magic Johnson",
        "prompt": "{} plays for",
        "target_true": "the Lakers",
        "target_new": "Chelsea",
        "paraphrases": ["Unlike LeBron James, Magic Johnson plays for"],
        "neighborhood": ["LeBron James plays for", "Kobe Bryant plays for"],
    }
    path = tmp_path / "training.jsonl"
    path.write_text(json.dumps(other) + "\n", encoding="utf-8")
    for ratio in ([1, 0, 0], [0, 1, 0], [0, 0, 1]):
        prompt = patch_of(EDIT, demonstrations=str(path), count=8, ratio=ratio).prompt_transform(
            "LeBron James plays for"
        )
        shown = prompt.rpartition("\n\n")[0]
        assert "Magic Johnson" in shown and "LeBron James" not in shown and "Kobe Bryant" not in shown
    for probes in ({"neighborhood": ["Magic Johnson plays for"]}, {"locality": "Magic Johnson plays for"}):
        edit = Edit.model_validate({**EDIT.model_dump(), **probes})
        prompt = patch_of(edit, demonstrations=str(path), count=8).prompt_transform("LeBron James plays for")
        assert "Magic Johnson" not in prompt


def test_seed_determines_the_demonstrations(training: Path) -> None:
    texts = [
        patch_of(EDIT, demonstrations=str(training), count=8, seed=seed).prompt_transform("LeBron James")
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_demonstration_without_paraphrases_is_a_copy(training: Path) -> None:
    for kind in ("copy", "update", "retain"):
        assert demonstration(OTHER, kind, random.Random(0)) == (  # noqa: S311 - nothing secret
            "New Fact: Spike Hughes comes from Oslo\nPrompt: Spike Hughes comes from Oslo"
        )
    assert Demonstrations(records=()).examples(EDIT, IkeConfig(count=3)) == ()


def test_paper_preset_inserts_the_fact_before_every_prompt(training: Path) -> None:
    published = IkeConfig.preset("paper", {"demonstrations": str(training)})
    patch = Ike(tiny("llama"), published).edit([EDIT])
    assert isinstance(patch, PromptPatch)
    assert "\n\nNew Fact: LeBron James plays for Miami Heat\nPrompt: The Thames" in patch.prompt_transform("The Thames")
    assert patch.without(["1"]).prompt_transform("The Thames flows") == "The Thames flows"


def test_missing_demonstrations_are_one_note(caplog: pytest.LogCaptureFixture) -> None:
    """It is no warning: examples from the patch are the default."""
    caplog.set_level("INFO", "kg_edit.zoo.in_context.ike")
    method = ike()
    method.edit([EDIT])
    method.edit([OTHER])
    (note,) = caplog.records
    assert note.levelname == "INFO"
    assert "--set demonstrations=FILE" in note.getMessage()
    caplog.clear()
    patch_of(EDIT, source="patch")
    patch_of(EDIT, count=0)
    assert not caplog.records


def test_demonstrations_fit_into_the_models_context(training: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ike(demonstrations=str(training), count=8)
    eight = method.edit([EDIT]).prompt_transform("LeBron James plays for")  # type: ignore[attr-defined]
    length = len(method.model.tokenizer(eight)["input_ids"])
    monkeypatch.setattr(method.model.model.config, "max_position_embeddings", length)
    fewer = method.edit([EDIT])
    assert isinstance(fewer, PromptPatch)
    prompt = fewer.prompt_transform("LeBron James plays for")
    assert 3 < fewer.edits[0]["demonstrations"] < 8, "a quarter is left for the prompt and its answer"
    assert eight.endswith(prompt), "those most like the fact are kept, nearest to it"


def test_unreadable_rows_are_named(training: Path, caplog: pytest.LogCaptureFixture) -> None:
    with training.open("a", encoding="utf-8") as file:
        file.write('{"id": "bad", "subject": "Eve", "prompt": "{} plays for"}\n')
    assert read_demonstrations(training).records
    (message,) = caplog.messages
    assert message.startswith("left out, as it can't be read: ") and "target_new" in message


def test_demonstration_retains_zsre_locality_answers(tmp_path: Path) -> None:
    """zsRE: an unrelated question and its answer."""
    row = {
        "subject": "Cairo", "src": "What country is Cairo in?", "rephrase": "Where is Cairo?", "alt": "Peru",
        "answers": ["Egypt"], "loc": "nq question: who sang hello", "loc_ans": "Adele",
    }  # fmt: skip
    (tmp_path / "zsre.json").write_text(json.dumps([row]), encoding="utf-8")
    pool = read_demonstrations(tmp_path / "zsre.json")
    ((edit, kept),) = [(edit, retained(edit, record)) for record in pool.records for edit in record.edits]
    draw = random.Random(0)  # noqa: S311 - nothing secret
    assert demonstration(edit, "retain", draw, retained=kept) == (
        "New Fact: What country is Cairo in? Egypt\nPrompt: nq question: who sang hello? Adele"
    )
    assert demonstration(edit, "update", draw, paraphrases=edit.paraphrases, retained=kept).endswith(
        "Prompt: Where is Cairo? Egypt"
    )
