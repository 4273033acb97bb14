"""Options from the fields of a dataclass, and of a pydantic model in it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Annotated

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from kg_edit.cli.fields import with_fields_of
from kg_edit.errors import ConfigError
from kg_edit.evaluation.cli.evaluate import evaluate
from kg_edit.evaluation.cli.evaluation import EvaluateOptions
from kg_edit.evaluation.config import EvalConfig


class Measure(BaseModel):
    every: int = Field(1, description="how often", ge=1)
    extras: tuple[Annotated[str, Field(max_length=3)], ...] = Field(
        (), description="more", json_schema_extra={"flag": "--extra"}
    )
    opened: str | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    name: Annotated[str, typer.Option(help="what it is called")]
    count: Annotated[int, typer.Option("--many", min=1)] = 3
    measure: Measure = field(default_factory=Measure)
    tags: Annotated[list[str] | None, typer.Option("--tag")] = None


def test_fields_are_options_and_reach_the_command_as_one_value() -> None:
    seen: list[tuple[Job, bool]] = []
    app = typer.Typer()

    @app.command()
    @with_fields_of(Job, after={"name": ("dry",)})
    def work(job: Job, *, dry: bool = False) -> None:
        """Do it."""
        seen.append((job, dry))

    run = CliRunner().invoke
    measured = ["--every", "2", "--extra", "x", "--extra", "y"]
    assert run(app, ["--name", "a", "--many", "5", "--tag", "t", "--dry", *measured]).exit_code == 0
    assert run(app, ["--name", "b"]).exit_code == 0
    assert seen == [
        (Job(name="a", count=5, tags=["t"], measure=Measure(every=2, extras=("x", "y"))), True),
        (Job(name="b"), False),
    ]
    assert run(app, []).exit_code == run(app, ["--name", "a", "--many", "0"]).exit_code == 2
    wrong = run(app, ["--name", "a", "--every", "0"]).exception
    assert isinstance(wrong, ConfigError) and str(wrong).startswith("--every: ")
    wrong = run(app, ["--name", "a", "--extra", "long"]).exception
    assert isinstance(wrong, ConfigError) and str(wrong).startswith("--extra: ")
    assert list(signature(work).parameters) == ["name", "dry", "count", "every", "extras", "tags"]
    assert run(app, ["--help"]).output.index("Do it.") > 0


def test_every_field_of_an_evaluation_is_an_option_with_help() -> None:
    options = signature(evaluate).parameters
    run_fields = {option.name for option in fields(EvaluateOptions)} - {"config"}
    measured = {name for name, info in EvalConfig.model_fields.items() if info.description}
    assert options.keys() >= run_fields | measured
    for name in run_fields | measured:
        assert any(
            isinstance(part, typer.models.OptionInfo) and part.help for part in options[name].annotation.__metadata__
        )


@pytest.mark.parametrize("name", ["general", "tasks", "quick", "retention"])
def test_what_options_only_name_has_no_option_of_the_config(name: str) -> None:
    assert EvalConfig.model_fields[name].description is None
