"""The settings of a run: what is measured, and when.

`kg-edit evaluate` and a notebook build one `EvalConfig`, and all functions below take it whole. A new option is one
field here: `kg-edit evaluate` has an option for each field with a description, and `EvalConfig.settings` writes it to
``run.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from kg_common.json_text import digest
from kg_edit.errors import ConfigError, describe, faults_of
from kg_edit.evaluation.schedule import CURVE_RECORDS, CurvePlan, Schedule, Shard
from kg_edit.storage.run_differences import Settings
from kg_edit.storage.setting_fields import Seed

if TYPE_CHECKING:
    from kg_edit.evaluation.general_tasks import GeneralTasks
    from kg_edit.evaluation.quick_tasks import QuickTasks
    from kg_edit.evaluation.retention import RetentionTest
else:  # options are checked before torch is imported, which these classes need
    GeneralTasks = QuickTasks = RetentionTest = Any


_MANY = "Many edits in one model"  # panel of the command's help


_LONGEST_NAME = 255  # characters of a file's name; a longer text is no path
_OPENED_BY = {  # in kg_edit
    "general": "scoring.perplexity.read_text",
    "tasks": "evaluation.general_tasks.GeneralTasks.open",
    "quick": "evaluation.quick_tasks.QuickTasks.open",
    "retention": "evaluation.retention.read_retention_test",
}


class EvalConfig(BaseModel):
    """What a run measures, and when. The defaults score each edit alone.

    Raises:
        UnknownNameError: there is no such schedule, extra metric, or template probe.
        ConfigError: a number in the schedule, `evaluate_every`, `sample` or `shard` is not possible; an extra needs a
            package that is not installed; a text, tasks or a retention test are not opened.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    schedule: str = Field(
        "single",
        description="`single`, `batch:N`, `sequential:N` or `batch:B,sequential:N` (N records in all).",
        json_schema_extra={"panel": _MANY},
    )
    evaluate_every: int | None = Field(
        None,
        description="Number of records between two points of the curve.",
        json_schema_extra={"show_default": "about ten points", "panel": _MANY},
    )
    sample: int | None = Field(
        None,
        description="For long sequences: score only this many evenly spread records, at the curve's points.",
        json_schema_extra={"panel": _MANY},
    )
    ceilings: bool = Field(False, description="Also score portability with the facts in the prompt.")
    extras: tuple[str, ...] = Field(
        (), description="Also score a costly metric. Repeatable.", json_schema_extra={"flag": "--extra"}
    )
    probes: tuple[str, ...] = Field(
        (),
        description="Also ask probes made from the edit by templates: negation, fact-check, distracting, reversed, "
        "elsewhere, refutation; or as conversations with a chat model: turns, thinking. Names with commas.",
    )
    time_answers: bool = Field(
        False, description="Also time an answer of the unedited and of the edited model, one prompt at a time."
    )
    chat: bool | None = Field(
        None,
        description="Ask all prompts as chat user turns, or none.",
        json_schema_extra={
            "flag": "--chat/--plain",
            "show_default": "as the edit is made",
            "panel": "Chat form, start of a text",
        },
    )
    seed: Seed = Field(0, description="Random seed of choices and intervals; the method's own is `--set seed=N`.")
    retry_failed: bool = Field(
        False,
        description="Compute the failed records of the run in the output folder again; in a sequence, also what comes "
        "after the first of them.",
        json_schema_extra={"panel": "Checks"},
    )
    other_code: bool = Field(
        False,
        description="Continue a run whose records were computed with other code of kg-edit.",
        json_schema_extra={"panel": "Checks"},
    )
    shard: str | None = Field(
        None, description="`i/n`, i from 0: run only this part; `kg-edit merge` puts the parts together."
    )

    general: str | None = None
    """A text; the perplexity on it is measured at each point of the curve."""
    tasks: GeneralTasks | None = None
    """Tasks of lm-eval, asked at each point of the curve."""
    quick: QuickTasks | None = None
    """Sets of general ability that need no lm-eval, asked at each point of the curve."""
    retention: RetentionTest | None = None
    """Unrelated prompts; GRACE's retention rates are measured at each point of the curve."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            faults = faults_of(error, type(self))
            raise ConfigError("\n".join(str(fault) for fault in faults)) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # pydantic's mark, as in `edits.edit.Record`

    @field_validator("schedule")
    @classmethod
    def _canonical_schedule(cls, text: str) -> str:
        return str(Schedule.parse(text))

    @field_validator("shard")
    @classmethod
    def _canonical_shard(cls, text: str | None) -> str | None:
        """Read 0/1 as None: the whole run is not a shard."""
        if text is None or Shard.parse(text) == Shard():
            return None
        return str(Shard.parse(text))

    @field_validator("extras", "probes", mode="before")
    @classmethod
    def _as_names(cls, names: object) -> object:
        """Read a name alone as a list of one."""
        return (names,) if isinstance(names, str) else names

    @field_validator("extras")
    @classmethod
    def _known_extras(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            return ()
        from kg_edit.evaluation.metrics.catalogue import find_extras

        return find_extras(names)

    @field_validator("probes")
    @classmethod
    def _known_probes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            return ()
        from kg_edit.evaluation.template_probes import parse_probe_names

        return parse_probe_names(names)

    @field_validator("general", "tasks", "quick", "retention")
    @classmethod
    def _are_opened(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse the path of a file or the names of tasks in the place of what they contain."""
        name = str(info.field_name)
        if name == "general" and isinstance(value, str):
            is_path = len(value) <= _LONGEST_NAME and Path(value).is_file()
        else:
            is_path = isinstance(value, str | Path | list | tuple)
        if is_path:
            raise ValueError(f"found {describe(value)}; expected what kg_edit.{_OPENED_BY[name]} returns")
        return value

    @model_validator(mode="after")
    def _refuse_a_curve_without_steps(self) -> EvalConfig:
        numbers = {
            f"evaluate every {self.evaluate_every} edits": self.evaluate_every,
            f"score a sample of {self.sample} records": self.sample,
        }
        for what, number in numbers.items():
            if number is not None and (number < 1 or not Schedule.parse(self.schedule).has_steps):
                raise ConfigError(
                    f"{what} under the schedule {self.schedule}: expected a number of at least 1, and a schedule under "
                    "which edits accumulate, such as sequential:100"
                )
        return self

    def with_files(
        self,
        *,
        general: str | None = None,
        general_limit: int | None = None,
        retention: Path | None = None,
        tokenizer: str | None = None,
    ) -> EvalConfig:
        """Return the config with the text, tasks and prompts that the options of `kg-edit evaluate` name.

        Args:
            general: a text file, tasks of lm-eval and ``quick:FOLDER``, separated by commas.
            general_limit: the number of first documents of each task, and of drawn rows of each quick set.
            retention: a file of unrelated prompts.
            tokenizer: the model's name, for tasks that count tokens.

        Raises:
            ConfigError: a file or task can't be read, or ``general_limit`` counts nothing.
            EditFileError: the file of prompts can't be read, or has none.
        """
        from kg_edit.evaluation.general_tasks import GeneralTasks, split_general
        from kg_edit.evaluation.quick_tasks import ROWS, QuickTasks
        from kg_edit.evaluation.retention import read_retention_test
        from kg_edit.scoring.perplexity import read_text

        text_file, tasks, sets = split_general(general)
        if general_limit and not tasks and not sets:
            raise ConfigError("--general-limit counts the documents of tasks; name some with --general")
        opened: dict[str, object] = {}
        if text_file:
            opened["general"] = read_text(text_file)
        if tasks:
            opened["tasks"] = GeneralTasks.open(tasks, limit=general_limit, tokenizer=tokenizer)
        if sets:
            opened["quick"] = QuickTasks.open(sets, seed=self.seed, rows=general_limit or ROWS)
        if retention:
            opened["retention"] = read_retention_test(retention)
        return self.model_copy(update=opened)

    @property
    def plan(self) -> CurvePlan:
        """The steps of each sequence of edits, and the records to score after each step."""
        return CurvePlan.of(Schedule.parse(self.schedule), self.evaluate_every, sample=self.sample)

    @property
    def part(self) -> Shard:
        """The shard as numbers; the whole run is shard 0 of 1."""
        return Shard.parse(self.shard) if self.shard else Shard()

    @property
    def has_points(self) -> bool:
        """Whether the points of the curve have more than the records' scores: perplexity, tasks or retention."""
        return any(part is not None for part in (self.general, self.tasks, self.quick, self.retention))

    @property
    def settings(self) -> Settings:
        """The part of ``run.json`` that this config decides; texts and files count by their content."""
        not_compared = {"evaluate_every", "retry_failed", "other_code"}
        files = {"general", "tasks", "quick", "retention"}
        fields = self.model_dump(mode="json", exclude=not_compared | files)
        if self.plan.schedule.has_steps:
            fields |= {"evaluate_every": self.plan.every, "curve_records": CURVE_RECORDS}
        return {
            **fields,
            "general_sha256": None if self.general is None else digest(self.general),
            "general_tasks": None if self.tasks is None else self.tasks.settings,
            "general_quick": None if self.quick is None else self.quick.settings,
            "retention_sha256": None if self.retention is None else self.retention.digest,
        }

    @classmethod
    def of(cls, settings: Settings) -> EvalConfig:
        """Return what the `settings` of a run say about its records: which ones, and when each is scored.

        What else is measured is left out: texts and tasks are only named there, and an extra may need a package that a
        reader of the run has not installed.

        Raises:
            ConfigError: as for the class.
        """
        names = ("schedule", "evaluate_every", "sample", "ceilings", "chat", "seed", "shard")
        return cls(**{name: settings[name] for name in names if name in settings})
