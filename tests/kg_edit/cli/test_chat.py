"""`--chat` of the commands that edit, check and generate, on a tiny model with a chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.edits.files import in_form, read_edits
from kg_edit.errors import ConfigError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.generation import ask, reply_in_chat
from kg_edit.text.display import plain
from tests.kg_edit.command_line import GOOD, QUICK, ROME, Run, cache, kg_edit, place, rows, tiny_folder
from tests.kg_edit.tiny import CHAT_TEMPLATE

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures


@pytest.fixture
def chat_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model's folder with a chat template beside its tokenizer."""
    folder = tmp_path / "chat-model"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


def edited(run: Run, model: Path, *options: str | Path) -> Path:
    """The folder of a run with one edit."""
    result = run("edit", "edits.jsonl", *ROME, *QUICK, "--set", "steps=2", "--model", model, "--out", "out", *options)
    assert result.code == 0, result.err
    return Path("out")


@pytest.mark.slow
def test_edit_in_chat_form_from_the_file_to_the_answer(kg_edit: Run, place: Path, chat_folder: Path) -> None:
    out = edited(kg_edit, chat_folder, "--chat")
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert all(row["probe"]["chat"] for row in records)
    assert "rewrite, chat" in (out / "report.md").read_text() and "user's turn" in (out / "report.md").read_text()
    assert Patch.load(out / "patch.safetensors").edits[0]["edit"]["chat"] is True
    assert "chat_form_sha256" in json.loads((out / "run.json").read_text())
    again = kg_edit("edit", "edits.jsonl", *ROME, *QUICK, "--set", "steps=2", "--model", chat_folder, "--out", "out")
    assert again.code == 2 and "out contains another run" in again.err
    in_plain, in_chat = (
        kg_edit("patch", "check", out, "--model", chat_folder, form).out for form in ("--plain", "--chat")
    )
    assert in_plain != in_chat
    result = kg_edit("generate", "--chat", "Hi.", "--patch", out, "--model", chat_folder, "--tokens", "4")
    model = LanguageModel.load(chat_folder)
    with Patch.load(out / "patch.safetensors").applied(model) as patched:
        assert result.out == f"Hi.\n{plain(ask(patched, 'Hi.', tokens=4, chat=True))}\n"


@pytest.mark.slow
def test_row_sets_its_own_form(kg_edit: Run, place: Path, chat_folder: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows({**GOOD, "chat": "both"}))
    out = edited(kg_edit, chat_folder)
    probes = [json.loads(line)["probe"] for line in (out / "records.jsonl").read_text().splitlines()]
    assert [(probe["kind"], probe.get("chat", False)) for probe in probes] == [("rewrite", False), ("rewrite", True)]


def test_form_of_rows_and_of_options(tmp_path: Path) -> None:
    path = tmp_path / "edits.csv"
    path.write_text("subject,prompt,target_new,chat\nA,{} is,B,TRUE\nC,{} is,D,\nE,{} is,F,both\nG,{} is,H,false\n")
    edits = read_edits(path).edits
    assert [edit.chat for edit in edits] == [True, False, "both", False]
    assert [edit.chat for edit in in_form(edits, None)] == [True, False, "both", False]
    assert {edit.chat for edit in in_form(edits, None, both=True)} == {"both"}
    assert {edit.chat for edit in in_form(edits, False)} == {False}
    with pytest.raises(ConfigError, match=r"found both forms \(CLI: --both-forms\) and only plain text \(CLI: --plain"):
        in_form(edits, False, both=True)


def test_chat_without_a_template_is_refused(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    for arguments in (("edit", "edits.jsonl", *ROME, *QUICK, "--out", "out"), ("generate", "Hi.")):
        result = kg_edit(*arguments, "--chat", "--model", tiny_folder)
        assert (result.code, "has no chat template" in result.err, "leave --chat" in result.err) == (2, True, True)
    assert not (place / "out").exists()


def test_reply_is_the_assistants_whole_turn(chat_folder: Path) -> None:
    model = LanguageModel.load(chat_folder)
    answer = reply_in_chat(
        model, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}], tokens=3
    )
    prompt = "<s><system>Be brief.\n<user>Hi.\n<assistant>"
    assert (answer.read, answer.written, answer.ended) == (len(model.tokenizer(prompt)["input_ids"]), 3, False)
