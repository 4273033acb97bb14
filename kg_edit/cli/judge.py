"""`kg-edit judge`: a language model's verdicts on a run's answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from kg_edit.cli.console import plain, stdout

KEY = "KG_EDIT_JUDGE_KEY"
_URL = "an OpenAI-compatible address, such as http://localhost:8000/v1"
Url = Annotated[str | None, typer.Option("--judge", metavar="URL", help=f"let a model judge the answers: {_URL}")]
ModelAtUrl = Annotated[str, typer.Option(help="the judge's name at its address")]


def judge(
    run: Annotated[Path, typer.Argument(help="the folder of a run of `kg-edit evaluate`")],
    data: Annotated[Path, typer.Option(help="the data set's JSON file that the run was on")],
    url: Annotated[str, typer.Option("--judge", metavar="URL", help=_URL)],
    model: Annotated[str, typer.Option("--judge-model", help="the judge's name at its address")] = "default",
    dataset: Annotated[str, typer.Option(help="see `kg-edit metrics --markdown`")] = "counterfact-plus",
) -> None:
    """Let a language model judge the greedy answers of a run; verdicts are kept in judge.jsonl.

    A key, where the address wants one, is taken from the environment variable KG_EDIT_JUDGE_KEY.

    Example: `kg-edit judge runs/rome --data dev.json --judge http://localhost:8000/v1 --judge-model qwen3`
    """
    from kg_edit.datasets import find_dataset
    from kg_edit.evaluate.judge import Judge
    from kg_edit.evaluate.judged_run import judge_run

    asked = Judge(url=url, model=model, key=os.environ.get(KEY))
    for section, shares in judge_run(run, find_dataset(dataset).read(data).records, asked).items():
        for name, share in shares.items():
            stdout().print(f"{plain(section)}  {name}  {'' if share is None else f'{share:.3f}'}", soft_wrap=True)
    stdout().print(f"{plain(str(run))}: judge.jsonl", soft_wrap=True)
