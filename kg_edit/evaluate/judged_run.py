"""A finished run's greedy answers before a judge: a line a verdict, so that a judge is asked once for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.evaluate.case import Case
from kg_edit.evaluate.judge import PROMPT, Judge
from kg_edit.evaluate.metrics.metric import mean
from kg_edit.evaluate.records import RunFolder
from kg_edit.scoring.questions import right_answers, scored_after
from kg_edit.storage.jsonl import append_lines, drop_cut_line, read_lines
from kg_edit.storage.run_folder import digest

_FILE = "judge.jsonl"
_ASKED = ("portability", "multihop", "hops", "recall")


class Verdict(BaseModel):
    """What a judge said of an answer: ``right`` is None where its reply is neither yes nor no."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    section: str
    group: str  # of probes
    question: str
    text: str
    judge: str  # the model's name
    prompt_sha256: str
    right: bool | None
    reply: str

    @property
    def key(self) -> tuple[str, ...]:
        """What was asked, and of whom."""
        return self.judge, self.prompt_sha256, self.id, self.section, self.question, self.text


def judge_run(
    folder: Path, records: Iterable[BenchmarkRecord], judge: Judge, *, progress: bool = True
) -> Mapping[str, Mapping[str, float | None]]:
    """Ask about each answer of the run in ``folder`` that was not asked about; the share of right ones.

    Returns section -> ``portability.judge`` (and multihop, hops, recall) -> mean over records of the share of verdicts
    that are yes; a reply that is neither yes nor no counts as no.

    Raises:
        JudgeError: the judge can't be asked; verdicts so far are kept.
        OutputError: the run's records or its verdicts can't be read or written.
    """
    file = folder / _FILE
    drop_cut_line(file)
    known = {verdict.key: verdict for verdict in read_lines(file, Verdict)}
    wanted = list(_questions(folder, {record.id: Case.of(record) for record in records}, judge))
    for verdict, names in tqdm(wanted, desc="judge", disable=None if progress else True):
        if verdict.key not in known:
            right, reply = judge.says(verdict.question, names, verdict.text)
            known[verdict.key] = verdict.model_copy(update={"right": right, "reply": reply})
            append_lines(file, [known[verdict.key].model_dump_json()])
    return _shares([known[verdict.key] for verdict, _ in wanted])


def _questions(folder: Path, cases: Mapping[str, Case], judge: Judge) -> Iterator[tuple[Verdict, tuple[str, ...]]]:
    """Each answer of the run as a verdict to be filled in, and the right answers."""
    prompt = digest(PROMPT)
    for entry in RunFolder(folder).entries():
        case = cases.get(entry.id)
        for section, found in entry.sections.items() if case else ():
            for group, question, name, names in _asked(case) if case else ():
                if name in found.texts:
                    yield (
                        Verdict(
                            id=entry.id,
                            section=section,
                            group=group,
                            question=question,
                            text=found.texts[name],
                            judge=judge.model,
                            prompt_sha256=prompt,
                            right=None,
                            reply="",
                        ),
                        names,
                    )


def _asked(case: Case) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Group, question, the name of its text in a section, right answers."""
    for question in case.questions:
        yield "portability", question.question, question.question, right_answers(question)
    for family in _ASKED:
        for query in (query for probe in case.group(family) for query in probe.queries):
            names = tuple(name for group in query.answers for name in group)
            yield family, query.prompt, scored_after(query), names


def _shares(verdicts: Sequence[Verdict]) -> dict[str, dict[str, float | None]]:
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    for verdict in verdicts:
        right = rows.setdefault((verdict.section, f"{verdict.group}.judge"), {}).setdefault(verdict.id, [])
        right.append(float(verdict.right is True))
    found: dict[str, dict[str, float | None]] = {}
    for (section, name), by_record in rows.items():
        found.setdefault(section, {})[name] = mean(mean(values) for values in by_record.values())
    return found
