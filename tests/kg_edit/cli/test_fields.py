"""Options from the fields of a dataclass."""

from __future__ import annotations

from dataclasses import dataclass, fields
from inspect import signature
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from kg_edit.cli.evaluate import evaluate
from kg_edit.cli.evaluation import Evaluation
from kg_edit.cli.fields import with_fields_of


@dataclass(frozen=True, kw_only=True)
class Job:
    name: Annotated[str, typer.Option(help="what it is called")]
    count: Annotated[int, typer.Option("--many", min=1)] = 3
    extras: Annotated[list[str] | None, typer.Option("--extra")] = None


def test_fields_are_options_and_reach_the_command_as_one_value() -> None:
    seen: list[tuple[Job, bool]] = []
    app = typer.Typer()

    @app.command()
    @with_fields_of(Job, after={"name": ("dry",)})
    def work(job: Job, *, dry: bool = False) -> None:
        """Do it."""
        seen.append((job, dry))

    run = CliRunner().invoke
    assert run(app, ["--name", "a", "--many", "5", "--extra", "x", "--extra", "y", "--dry"]).exit_code == 0
    assert run(app, ["--name", "b"]).exit_code == 0
    assert seen == [(Job(name="a", count=5, extras=["x", "y"]), True), (Job(name="b"), False)]
    assert run(app, []).exit_code == run(app, ["--name", "a", "--many", "0"]).exit_code == 2
    assert list(signature(work).parameters) == ["name", "dry", "count", "extras"]
    assert run(app, ["--help"]).output.index("Do it.") > 0


@pytest.mark.parametrize("field", fields(Evaluation), ids=lambda field: field.name)
def test_every_field_of_an_evaluation_is_an_option_with_its_default(field: object) -> None:
    name, default = field.name, field.default  # type: ignore[attr-defined]
    option = signature(evaluate).parameters[name]
    assert option.default == (option.empty if name == "data" else default)
    assert any(isinstance(part, typer.models.OptionInfo) and part.help for part in option.annotation.__metadata__)
