"""Benchmarks as tasks of EleutherAI's lm-evaluation-harness: a document is a record, and the metrics are this
project's.

`kg-edit data tasks` writes the folder that ``lm_eval --include_path`` reads; its tasks are `BenchmarkTask`. All prompts
of a record are asked together, as log-likelihoods and continuations (`kg_edit.evaluation.requests`). The harness loads
the model, usually an edited one. Metrics that compare with the unedited model (locality.unchanged) are missing. Own
edits are asked as they are in the file, in plain text: without the line break that `kg-edit evaluate` puts before a
subject that the model would not read there.

Only the harness imports this module, which needs the extra ``kg-edit[lm-eval]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task, TaskConfig
from transformers import PreTrainedTokenizerBase

from kg_edit.errors import ConfigError
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.metrics.catalogue import RECORD_METRICS, metrics_for
from kg_edit.evaluation.metrics.metric import Metric
from kg_edit.evaluation.records import items
from kg_edit.evaluation.requests import CaseRequests
from kg_edit.evaluation.task_folder import SETTINGS, TaskSettings
from kg_edit.models.loading import load_tokenizer
from kg_edit.scoring.questions import answers

_TOKENIZER_ARGS = ("tokenizer", "pretrained", "model")  # keys of --model_args, tried in this order
Document = dict[str, Any]


class BenchmarkTask(Task):  # type: ignore[misc,unused-ignore]
    """The records of a benchmark, each with all prompts that `kg-edit evaluate` would ask of the edited model.

    ``config`` is the content of a task's file: its name, and `TaskSettings` in its metadata, to which the harness adds
    the model's arguments. These arguments name the tokenizer; `of` takes the tokenizer as an object.
    """

    VERSION = 1
    OUTPUT_TYPE = "generate_until"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        settings, metadata = TaskSettings.of_task(config), dict(config["metadata"])
        self._config = TaskConfig(
            task=config["task"], num_fewshot=0, generation_kwargs={"until": ["\n"]}, metadata=metadata
        )
        self._given: PreTrainedTokenizerBase | None = None
        self._records = settings.records()

    @classmethod
    def of(
        cls, settings: TaskSettings, *, tokenizer: PreTrainedTokenizerBase, name: str | None = None
    ) -> BenchmarkTask:
        """Make the task for a model in memory: ``lm_eval.simple_evaluate(model=…, tasks=[task])``.

        Raises:
            ConfigError, EditFileError, UnknownNameError: the records can't be read, or can't be scored by the harness.
        """
        fields = settings.model_dump(mode="json", exclude_defaults=True)
        task = cls({"task": name or settings.name, "metadata": {SETTINGS: fields}})
        task._given = tokenizer
        return task

    @property
    def task_name(self) -> str:
        """Return the name of the task, from its file or from `of`."""
        return str(self.config.task)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer of the model; it counts tokens and limits the length of answers.

        Raises:
            ConfigError: the harness does not know its name.
        """
        if self._given is not None:
            return self._given
        args = self.config.metadata or {}
        name = next((args[key] for key in _TOKENIZER_ARGS if isinstance(args.get(key), str) and args[key]), None)
        if name is None:
            raise ConfigError(
                f"{self.config.task}: no tokenizer to count tokens; name one: --model_args tokenizer=NAME, or in "
                "Python TaskManager(metadata={'tokenizer': NAME})"
            )
        return load_tokenizer(name)

    @cached_property
    def _case_requests(self) -> dict[str, CaseRequests]:
        """The requests of each record, by the record's id."""
        pool = answers(self._records)
        case_items = items(self._records, pool, EvalConfig(chat=False))
        return {item.id: CaseRequests(case=item.case, tokenizer=self.tokenizer) for item in case_items}

    def download(self, *_: object) -> None:
        """Do nothing: the records are read from their file."""

    def has_training_docs(self) -> bool:
        """Return False."""
        return False

    def has_validation_docs(self) -> bool:
        """Return False."""
        return False

    def has_test_docs(self) -> bool:
        """Return True: the records are the test documents."""
        return True

    def test_docs(self) -> list[Document]:
        """Return one document for each record: its id, and the prompt and the new target of its first edit."""
        firsts = [(record.id, record.edits[0]) for record in self._records]
        return [{"id": name, "prompt": edit.text, "target_new": edit.target_new} for name, edit in firsts]

    def doc_to_text(self, doc: Document) -> str:
        """Return the prompt of the record's first edit."""
        return str(doc["prompt"])

    def doc_to_target(self, doc: Document) -> str:
        """Return the new target of the record's first edit."""
        return str(doc["target_new"])

    def fewshot_context(
        self,
        doc: Document,
        num_fewshot: int = 0,
        *,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = False,
        chat_template: Callable[..., str] | None = None,
        gen_prefix: str | None = None,
    ) -> str:
        """Return the prompt alone, whatever lm-eval passes: the questions have answered examples of their own."""
        return self.doc_to_text(doc)

    def construct_requests(
        self,
        doc: Document,
        ctx: str,
        *,
        metadata: tuple[str, int, int],
        apply_chat_template: bool = False,
        chat_template: Callable[..., str] | None = None,
    ) -> list[Instance]:
        """Return the requests of the record, numbered in their order.

        Raises:
            ConfigError: a chat template is asked for.
            PromptError: a prompt and its target can't be separated in tokens.
        """
        if apply_chat_template:
            raise ConfigError(f"{self.config.task} is asked in plain text; leave --apply_chat_template out")
        return [
            Instance(request_type=request.kind, doc=doc, arguments=request.arguments, idx=index, metadata=metadata)
            for index, request in enumerate(self._case_requests[doc["id"]].requests)
        ]

    def process_results(self, doc: Document, results: Sequence[Any]) -> dict[str, float]:
        """Return the record's metrics by name; missing metrics do not count in the means."""
        return self._case_requests[doc["id"]].metrics(results)

    def aggregation(self) -> dict[str, Callable[[Iterable[float]], float]]:
        """Return each metric's aggregation: the mean over the records that have it."""
        return dict.fromkeys(self._metrics, mean)

    def higher_is_better(self) -> dict[str, bool]:
        """Return whether higher is better, for each metric with a better direction."""
        return {name: metric.better == "higher" for name, metric in self._metrics.items() if metric.better != "neither"}

    @cached_property
    def _metrics(self) -> Mapping[str, Metric]:
        """All metrics of records, and those of sub-categories that only these records have."""
        by_record = (metrics_for(Case.of(record)) for record in self._records)
        return {**RECORD_METRICS, **{name: metric for metrics in by_record for name, metric in metrics.items()}}
