"""IKE: the published template, demonstrations that don't give the edit's own prompts away."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import EditFileError
from kg_edit.methods.in_context.ike import Demonstrations, Ike, IkeConfig, demonstration
from kg_edit.patches.prompt_patch import PromptPatch
from kg_edit.text.similarity import TfIdf
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


@pytest.fixture
def training(tmp_path: Path) -> Path:
    path = tmp_path / "training.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    return path


def ike(**settings: Any) -> Ike:
    return Ike(tiny("llama"), IkeConfig.preset("default", settings))


def made(*edits: Edit, **settings: Any) -> PromptPatch:
    patch = ike(**settings).edit(edits)
    assert isinstance(patch, PromptPatch)
    return patch


def test_the_published_template_without_demonstrations() -> None:
    patch = made(EDIT)
    assert patch.prompt_transform("LeBron James plays for") == (
        "New Fact: LeBron James plays for Miami Heat\nPrompt: LeBron James plays for"
    )
    assert patch.prompt_transform("Kobe Bryant plays for") == "Kobe Bryant plays for", "a neighbour is left alone"


def test_other_facts_of_the_patch_are_copied_as_demonstrations() -> None:
    patch = made(EDIT, OTHER, count=1)
    assert patch.prompt_transform("LeBron James is in") == (
        "New Fact: Spike Hughes comes from Oslo\nPrompt: Spike Hughes comes from Oslo\n\n"
        "New Fact: LeBron James plays for Miami Heat\nPrompt: LeBron James is in"
    )
    assert patch.without(["2"]).prompt_transform("LeBron James is in") == made(EDIT, count=1).prompt_transform(
        "LeBron James is in"
    )


def test_demonstrations_of_a_file(training: Path) -> None:
    patch = made(EDIT, demonstrations=str(training), count=8)
    blocks = patch.prompt_transform("The team of LeBron James is").split("\n\n")
    assert blocks[-1] == "New Fact: LeBron James plays for Miami Heat\nPrompt: The team of LeBron James is"
    assert len(blocks) == 9 and all(block.startswith("New Fact: Player ") for block in blocks[:-1]), "the likest ones"
    answers = [block.rpartition("\nPrompt: ")[2] for block in blocks[:-1]]
    kinds = ["update" if "'s team" in one else "retain" if "Keeper" in one else "copy" for one in answers]
    assert sorted(kinds) == ["copy", *["retain"] * 4, *["update"] * 3], "1 : 4 : 3"
    assert all(one.endswith("the Lakers") == (kind == "retain") for one, kind in zip(answers, kinds, strict=True))
    record = patch.edits[0]
    assert record["demonstrations"] == 8
    assert len(patch.provenance["methods"][0]["files_sha256"]["demonstrations"]) == 64


def test_the_edits_own_record_is_no_demonstration(training: Path) -> None:
    """It holds the paraphrases and neighbours that the edit is tested with."""
    patch = made(EDIT, demonstrations=str(training), count=32)
    told = patch.prompt_transform("LeBron James plays for").rpartition("\n\n")[0]
    assert "LeBron James" not in told and "Kobe Bryant" not in told and "Cairo" in told


def test_the_same_seed_gives_the_same_demonstrations(training: Path) -> None:
    texts = [
        made(EDIT, demonstrations=str(training), count=8, seed=seed).prompt_transform("LeBron James")
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_an_edit_without_paraphrases_or_neighbours_is_copied(training: Path) -> None:
    for kind in ("copy", "update", "retain"):
        assert demonstration(OTHER, kind, random.Random(0)) == (  # noqa: S311 - nothing secret
            "New Fact: Spike Hughes comes from Oslo\nPrompt: Spike Hughes comes from Oslo"
        )
    assert Demonstrations(edits=(), alike=TfIdf()).examples(EDIT, count=3, seed=0) == ()


def test_a_file_that_is_not_there() -> None:
    config = IkeConfig(demonstrations="nowhere.json")
    with pytest.raises(EditFileError, match="no such file"):
        Ike.check_inputs(config, None, [EDIT])
    with pytest.raises(EditFileError, match="no such file"):
        Ike(tiny("llama"), config).edit([EDIT])


def test_as_published_the_fact_is_told_before_every_prompt() -> None:
    patch = Ike(tiny("llama"), IkeConfig.preset("paper")).edit([EDIT])
    assert isinstance(patch, PromptPatch)
    assert patch.prompt_transform("The Thames flows").startswith("New Fact: LeBron James plays for Miami Heat\n")
    assert patch.without(["1"]).prompt_transform("The Thames flows") == "The Thames flows"
