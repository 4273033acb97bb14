"""`kg-edit edit --language`: triplets in other languages become prompts, a patch and a report in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kg_edit as package
from tests.kg_edit.command_line import QUICK, Run, cache, kg_edit, place, refused, tiny_folder

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

DATA = Path(package.__file__).parent / "data"
STEPS = ("--set", "steps=2", "--force", "--no-alone")


def write_triplets(place: Path, code: str, count: int) -> None:
    """The first packaged triplets of a language, without their field ``language``."""
    lines = []
    for line in (DATA / f"triplets-{code}.jsonl").read_text(encoding="utf-8").splitlines()[:count]:
        row = json.loads(line)
        del row["language"]
        lines.append(json.dumps(row) + "\n")
    (place / "edits.jsonl").write_text("".join(lines))


@pytest.mark.slow
@pytest.mark.parametrize(("code", "prompt"), [("zh", "中国的首都是"), ("ko", "대한민국의 수도는")])
def test_prompts_and_report_are_in_the_language(
    kg_edit: Run, place: Path, tiny_folder: Path, code: str, prompt: str
) -> None:
    write_triplets(place, code, 2)
    options = (*QUICK, *STEPS, "--language", code, "--model", tiny_folder, "--out", "out")
    result = kg_edit("edit", "edits.jsonl", "--method", "rome", *options)
    assert result.code == 0, result.err
    assert prompt in result.out
    page = (place / "out" / "report.html").read_text(encoding="utf-8")
    assert f'dir="auto" lang="{code}"' in page
    probes = [json.loads(line)["probe"] for line in (place / "out" / "records.jsonl").read_text().splitlines()]
    assert {probe["language"] for probe in probes} == {code}
    assert {probe["kind"] for probe in probes} == {"rewrite", "paraphrase"}
    others = [json.loads(line)["asked"] for line in (place / "out" / "locality.jsonl").read_text().splitlines()]
    assert {prompt["language"] for prompt in others} == {code}


def test_ids_get_the_labels_of_the_language(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    triplet = {"subject": "Q148", "relation": "P36", "new_object": "Q8686", "language": "zh"}
    (place / "edits.jsonl").write_text(json.dumps(triplet) + "\n")
    options = (*QUICK, *STEPS, "--no-locality-check", "--model", tiny_folder, "--out", "out")
    result = kg_edit("edit", "edits.jsonl", "--method", "rome", "--graph", "extract", *options)
    assert result.code == 0, result.err
    assert "的首都是" in result.out
    assert "上海" in result.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--language", "xx"), "'xx', which is not the code of a language"),
        (("--language", "ko-KR"), "give the two letters alone: ko"),
        (("--language", "fr"), "give the row a prompt"),
    ],
)
def test_languages_that_are_refused(kg_edit: Run, place: Path, options: tuple[str, ...], message: str) -> None:
    write_triplets(place, "zh", 1)
    refused(kg_edit, "edit", "edits.jsonl", *options, "--out", "out", message=message, out=place / "out")


def test_an_id_without_a_label_in_the_chain_is_refused(kg_edit: Run, place: Path) -> None:
    triplet = {"subject": "Q99999999", "relation": "P36", "new_object": "Q90", "language": "ko"}
    (place / "edits.jsonl").write_text(json.dumps(triplet) + "\n")
    options = ("--graph", "extract", "--language", "ko", "--out", "out")
    refused(kg_edit, "edit", "edits.jsonl", *options, message="found the id Q99999999, for which", out=place / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--language", "fr"), "there are no packaged prompts"),
        (("prompts.txt", "--language", "ko"), "no effect on the prompts of a file"),
    ],
)
def test_diff_refuses_a_language_without_prompts(
    kg_edit: Run, place: Path, options: tuple[str, ...], message: str
) -> None:
    (place / "prompts.txt").write_text("The capital of Italy is\n")
    refused(kg_edit, "diff", *options, message=message, out=place / "out")
