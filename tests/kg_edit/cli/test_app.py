"""The command line, through `main`: help, methods and models, generated texts, and what an interruption prints."""

from __future__ import annotations

import copy
import inspect
import io
import logging
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.cells import cell_len
from rich.console import Console

from kg_common import progress
from kg_edit import __version__
from kg_edit.cli import catalogue
from kg_edit.cli.app import app
from kg_edit.cli.console import friendly, quiet
from kg_edit.cli.plan import plan
from kg_edit.methods import method_names
from tests.everyday import keep_first
from tests.kg_edit.command_line import (
    ROME,
    Run,
    cache,
    edit,
    generate,
    kg_edit,
    place,
    tiny_folder,
)
from tests.kg_edit.tiny import chatting

GROUP = typer.main.get_command(app)
__all__ = ["cache", "edit", "kg_edit", "place", "tiny_folder"]  # fixtures


def subcommands(group: Any = GROUP) -> dict[str, Any]:
    """The commands of a group, each imported."""
    context = typer.Context(group)
    return {name: group.get_command(context, name) for name in group.list_commands(context)}


def commands(group: Any = GROUP, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command with the words by which it is called."""
    for name, command in subcommands(group).items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        if not hasattr(command, "commands") or command.invoke_without_command:
            yield (*path, name), command


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_one_form(path: tuple[str, ...]) -> None:
    """One imperative sentence, at most a paragraph, and examples that the command itself parses."""
    summary, *paragraphs = inspect.cleandoc(COMMANDS[path].help or "").split("\n\n")
    assert len(summary) <= 90 and summary.endswith(".") and summary[0].isupper()
    assert paragraphs[-2] == "Examples:" and len(paragraphs) <= 3
    examples = [shlex.split(line.removeprefix("- `").removesuffix("`")) for line in paragraphs[-1].splitlines()]
    calls = [example[1 + len(path) :] for example in examples if example[: 1 + len(path)] == ["kg-edit", *path]]
    assert calls, examples
    for arguments in calls:
        words = arguments[: arguments.index(">")] if ">" in arguments else arguments
        COMMANDS[path].make_context(path[-1], words)


@pytest.mark.parametrize("name", [name for name, command in subcommands().items() if hasattr(command, "commands")])
def test_groups_have_an_example(name: str, kg_edit: Run) -> None:
    shown = " ".join(kg_edit(name, "--help").out.split())
    (example, *_) = re.findall(rf"• kg-edit {name} ([\w-]+)", shown)
    assert example in subcommands()[name].commands or example.startswith("--")


def test_help_has_panels_and_room_at_80_columns(kg_edit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = kg_edit("edit", "--help").out
    panels = re.findall(r"^╭─ (.*?) ─+╮$", page, re.MULTILINE)
    assert panels[:2] == ["Arguments", "Options"] and panels[-1] == "Machine and network"
    assert {"Chat form, start of a text", "Covariance", "Checks", "Logging"} <= set(panels)
    assert all(len(line) <= 80 for line in page.splitlines())
    helps = [line[26:-1] for line in page.splitlines() if line.startswith("│ ")]
    assert max(len(text.rstrip()) for text in helps) > 45  # not a column of 18


def test_example_of_plan_can_be_run(kg_edit: Run) -> None:
    (example,) = re.findall(r"- `kg-edit (.*)`", plan.__doc__ or "")
    result = kg_edit(*example.split())
    assert result.code == 0, result.err
    assert "8,030,261,248 parameters" in result.out


@pytest.mark.slow
def test_generate_shows_the_change(kg_edit: Run, edit: Run, tiny_folder: Path) -> None:
    assert (
        edit(*ROME, "--preset", "default", "--set", "learning_rate=5", "--set", "hold=0.01", "--set", "remember=0").code
        == 0
    )
    plain = generate(kg_edit, tiny_folder)
    patched = generate(kg_edit, tiny_folder, "--patch", "out/patch.safetensors")
    assert plain.code == patched.code == 0
    assert plain.out.startswith("LeBron James plays for")
    assert plain.out != patched.out


@pytest.mark.slow
def test_folder_of_an_edit_can_be_given_for_its_patch(kg_edit: Run, edit: Run, place: Path, tiny_folder: Path) -> None:
    assert edit(*ROME).code == 0
    file = generate(kg_edit, tiny_folder, "--patch", "out/patch.safetensors")
    assert generate(kg_edit, tiny_folder, "--patch", "out") == file
    file = kg_edit("patch", "check", "out/patch.safetensors")
    assert kg_edit("patch", "check", "out") == file
    merged = kg_edit("patch", "merge", "out", "--out", "merged", "--force")
    assert merged.code == 0 and "2 edits in its weights" in merged.out


def test_generate_leaves_out_a_character_that_the_limit_cuts(kg_edit: Run, tiny_folder: Path) -> None:
    text = [kg_edit("generate", "Hi", "--tokens", str(tokens), "--model", tiny_folder).out for tokens in (6, 7)]
    assert text == ["HiwE$ from for6\n"] * 2  # the seventh token is the first byte of a character


def test_generate_refuses_an_empty_text(kg_edit: Run, tiny_folder: Path) -> None:
    result = kg_edit("generate", "", "--tokens", "3", "--model", tiny_folder)
    assert result.code == 2
    assert "is empty" in result.err


@pytest.mark.parametrize(("picture", "message"), [("walk.png", "ending in .svg"), ("none/walk.svg", "no folder none")])
def test_generate_refuses_a_picture_that_cannot_be_written_before_the_model_is_loaded(
    picture: str, message: str, kg_edit: Run, place: Path
) -> None:
    result = kg_edit("generate", "Hi", "--picture", picture, "--model", place / "absent")
    assert result.code == 2 and message in result.err


@pytest.mark.parametrize("options", [(), ("--chat",)])
def test_an_empty_answer_is_said(
    options: tuple[str, ...], kg_edit: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_model = chatting()
    model = copy.deepcopy(chat_model.model)
    torch.nn.init.zeros_(model.lm_head.weight)  # all tokens are as likely: the first one is taken
    model.generation_config.eos_token_id = 0
    model.save_pretrained(place / "silent")
    chat_model.tokenizer.save_pretrained(place / "silent")
    result = kg_edit("generate", "Who founded Google?", "--model", place / "silent", *options)
    assert result.code == 0 and "Who founded Google?: the model ended its answer at once" in result.err
    assert ("--chat asks it as a question" in result.err) == (not options)


@pytest.mark.slow
@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "active"}])
def test_idle_threads_of_openmp_sleep_unless_the_user_sets_otherwise(own: dict[str, str]) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | {"OMP_DISPLAY_ENV": "verbose"} | own
    # the cheapest command, which does not load PyTorch itself: it is loaded as the process ends
    code = "import atexit; atexit.register(__import__, 'torch'); from kg_edit.__main__ import main; main()"
    command = [sys.executable, "-c", code, "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("only GNU's OpenMP shows how long its threads spin")

    assert ("GOMP_SPINCOUNT = '0'" in shown) == (not own)


def test_methods_and_models_are_listed(kg_edit: Run) -> None:
    listed = kg_edit("methods")
    assert listed.code == 0
    table, _, choices = listed.out.partition("\n\nWhich one to take")
    lines = {line.split()[0]: line for line in table.splitlines()[1:] if line[0] != " "}
    assert "rome --preset fast" in choices
    assert [name for name in lines if name != "All"] == list(method_names()) and "weights" in lines["rome"]
    assert max(map(len, listed.out.splitlines())) <= 120
    shown = kg_edit("methods", "rome")
    assert all(word in shown.out for word in ("learning_rate", "presets: default, fast, long, paper"))
    assert "did you mean 'rome'" in kg_edit("methods", "roem").err
    assert "METHOD has no effect with --markdown" in kg_edit("methods", "rome", "--markdown").err
    named = kg_edit("models")
    assert named.code == 0
    assert all(word in named.out for word in ("smollm2-135m", "pip install", "gpt2, gpt_bigcode"))
    assert kg_edit("--version").out == f"kg-edit {__version__}\n"


def test_methods_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe a method is a line, so that it can be searched."""
    shown = io.StringIO()
    console = Console(file=shown, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(catalogue, "stdout", lambda: console)
    catalogue.list_methods()
    lines = shown.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines) and len(lines) > len(method_names())
    words = {word for line in lines for word in line.split()}
    assert words >= {"codebook", "L-infinity", "down-projection", *method_names()}


def test_doctor(kg_edit: Run, tiny_folder: Path) -> None:
    result = kg_edit("doctor", tiny_folder)
    assert result.code == 0
    assert "LlamaForCausalLM" in result.out
    assert "restored: bit for bit" in result.out
    assert kg_edit("doctor", tiny_folder, "--layer", "9").code == 2


def test_misspelt_command_is_suggested_and_groups_have_no_completion_of_their_own(kg_edit: Run) -> None:
    misspelt = kg_edit("edti")
    assert misspelt.code == 2 and "did you mean 'edit'" in misspelt.err
    assert "--install-completion" not in kg_edit("data", "--help").out


@pytest.mark.parametrize(
    ("arguments", "resumes"),
    [
        (("edit", "edits.jsonl", "--out", "out"), True),
        (("judge", "out", "--data", "edits.jsonl", "--judge", "http://localhost:1/v1"), True),
        (("mend", "train", "--data", "edits.jsonl", "--out", "out"), True),
        (("drift", "--data", "old.json", "--stream", "new.json", "--out", "out"), True),
        (("covariance", "--layers", "1"), True),
        (("models",), False),
        (("patch", "edit", "ledger", "edits.jsonl"), False),
        (("generate", "edit"), False),
        (("compare", "run"), False),
        (("data", "ripples", "--out", "x.json"), True),
        (("--help",), False),
    ],
)
def test_stopped_command_that_resumes_names_the_way(
    arguments: tuple[str, ...], resumes: bool, kg_edit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped() -> None:
        raise SystemExit(130)

    monkeypatch.setattr("kg_edit.cli.app.app", stopped)
    result = kg_edit(*arguments)
    again = "; run the same command again to continue with what is finished" if resumes else ""
    assert (result.code, result.err) == (130, f"kg-edit: stopped{again}\n")


@pytest.mark.slow
@pytest.mark.parametrize("environment", keep_first([{"COLUMNS": "60"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}]))
def test_output_fits_any_terminal(environment: dict[str, str], edit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = edit(*ROME)
    assert result.code == 0
    assert max(map(cell_len, result.out.splitlines())) <= int(environment.get("COLUMNS", "200"))
    assert "\x1b" not in result.out + result.err


def test_a_script_shows_what_it_and_the_packages_log_once(capsys: pytest.CaptureFixture[str]) -> None:
    with friendly("studies"):
        for name in ("kg_edit.evaluation", "studies.study", "somebody_else"):
            logging.getLogger(name).info("from %s", name)
    assert capsys.readouterr().err == "from kg_edit.evaluation\nfrom studies.study\n"


def test_interrupted_script_says_what_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = KeyboardInterrupt()
    stopped.add_note("the edits made before are saved")
    with pytest.raises(SystemExit, match="130"), friendly("studies"):
        raise stopped
    assert capsys.readouterr().err == "kg-edit: stopped\n  the edits made before are saved\n"


def test_log_file_of_a_command_has_a_line_on_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LINE_S", 0.02)
    with quiet():
        for _ in progress.Bar(range(2), title="rome", unit="edit"):
            time.sleep(0.1)
    assert "rome: 1 of 2 edits, " in capsys.readouterr().err
