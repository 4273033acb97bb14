"""Ask a language model (the judge), behind an OpenAI-compatible address, which greedy answers of a finished run are
right.

The verdicts are stored in the run's folder as JSON lines, so that no answer is judged twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kg_common.json_text import digest
from kg_common.progress import Bar
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError, OutputError
from kg_edit.evaluation.case import Case, make_ceiling_cases
from kg_edit.evaluation.metrics.metric import mean
from kg_edit.evaluation.records import RunFolder
from kg_edit.scoring.model_server import ModelServer
from kg_edit.scoring.questions import right_answers, scoring_prompt
from kg_edit.storage.atomic import append_lines, drop_cut_line, read_lines
from kg_edit.storage.locks import folder_lock
from kg_edit.text.matching import normalised

PROMPT = (
    "Question: {question}\nRight answers: {answers}\nGiven answer: {text}\n\n"
    "Does the given answer say one of the right answers? Other words for the same thing are right; an answer that "
    "names something else instead, or nothing, is wrong. Reply with yes or no alone."
)
KEY = "KG_EDIT_JUDGE_KEY"  # environment variable of the key
_SHOWN = 100  # characters of a reply in a warning
_ASKED = ("portability", "multihop", "hops", "recall")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Judge(ModelServer):
    """A judge: the ``model`` of that name at a server, which is asked again if it is busy."""

    model: str
    key_name: str = KEY
    tries: int = 4

    def verdict(self, question: str, answers: Sequence[str], text: str) -> tuple[bool | None, str]:
        """Return whether ``text`` gives one of the right ``answers`` (None if the reply is neither yes nor no), and the
        reply.

        Args:
            question: the question, as a user would ask it.
            answers: its right answers, by all their names.
            text: the answer to judge.
        """
        content = PROMPT.format(question=question, answers=" | ".join(answers), text=text.strip())
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": content}]}
        data = self.ask(f"{self.url.rstrip('/')}/chat/completions", body)
        try:
            content = data["choices"][0]["message"]["content"]
        except (LookupError, TypeError) as error:
            raise self.unexpected(data, "a chat completion") from error
        reply = str(content).encode(errors="replace").decode()  # a cut emoji can't be written to the file
        words = normalised(reply.rpartition("</think>")[2])  # a reasoning model's answer is at the end
        first_word = words[0] if words else ""
        if first_word == "yes":
            return True, reply
        if first_word == "no":
            return False, reply
        return None, reply


class Judgement(BaseModel):
    """The verdict of a judge on an answer; ``right`` is None if the reply is neither yes nor no."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    section: str
    group: str  # the group of probes, or the first one if the question is in several
    question: str
    text: str
    judge: str  # the model's name
    prompt_sha256: str
    answers_sha256: str  # of the right answers
    right: bool | None
    reply: str

    @property
    def key(self) -> tuple[str, ...]:
        """What is judged by whom: judge, prompt, right answers, record, section, question and text."""
        return (
            self.judge,
            self.prompt_sha256,
            self.answers_sha256,
            self.id,
            self.section,
            self.question,
            self.text,
        )


def judge_run(
    folder: Path, records: Iterable[BenchmarkRecord], judge: Judge
) -> Mapping[str, Mapping[str, float | None]]:
    """Ask the judge about all answers of the run in ``folder`` that it has not judged yet, and return the shares of
    right ones.

    Args:
        folder: the folder of the run.
        records: the records of the run, for their questions and right answers.
        judge: the language model to ask.

    Returns:
        Section -> ``portability.judge`` (and multihop, hops, recall) -> mean over records of the share of verdicts that
        are yes; a reply that is neither yes nor no counts as no.
    """
    if not RunFolder(folder).records.is_file():
        raise OutputError(f"{folder} has no records of a run; give the output folder of kg-edit evaluate")
    cases = {record.id: Case.of(record) for record in records}
    has_questions = any(list(_judged_questions(case)) for case in cases.values())
    if not has_questions:
        raise ConfigError(f"the data has no questions whose answers are judged; they are those of {', '.join(_ASKED)}")
    answers = list(_list_answers(folder, cases, judge))
    if not answers:
        if any(entry.id in cases for entry in RunFolder(folder).entries()):
            raise ConfigError(f"{folder}: its records have no questions that are judged: those of {', '.join(_ASKED)}")
        raise ConfigError(f"{folder}: no record of this run is in the data; give --data and --dataset of the run")
    with folder_lock(folder):
        verdicts = _ask_about(answers, judge, RunFolder(folder).verdicts)
    judged = [verdicts[answer.key] for answer, _ in answers]
    _warn_of_unclear(judged)

    # The one verdict on a question of two groups counts in both.
    groups = [answer.group for answer, _ in answers]
    return _shares(judged, groups)


def _ask_about(
    answers: Sequence[tuple[Judgement, tuple[str, ...]]], judge: Judge, file: Path
) -> dict[tuple[str, ...], Judgement]:
    """Return the verdicts by key: those in the file, and new ones on the other answers, each written as it comes."""
    drop_cut_line(file)
    verdicts = {verdict.key: verdict for verdict in read_lines(file, Judgement)}
    for answer, names in Bar(answers, title="judge", unit="answer"):
        if answer.key in verdicts:
            continue
        right, reply = judge.verdict(answer.question, names, answer.text)
        verdict = answer.model_copy(update={"right": right, "reply": reply})
        verdicts[verdict.key] = verdict
        append_lines(file, [verdict.model_dump_json()])
    return verdicts


def _warn_of_unclear(judged: Sequence[Judgement]) -> None:
    """Say how many replies are neither yes nor no."""
    unclear = [verdict.reply for verdict in judged if verdict.right is None]
    if unclear:
        words = "%d of %d replies are neither yes nor no, and count as no; the first: %r"
        log.warning(words, len(unclear), len(judged), unclear[0][:_SHOWN])


def _shares(judged: Sequence[Judgement], groups: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return the share of right answers by section and group: the mean over a record's questions, then over records."""
    by_group: dict[tuple[str, str], dict[str, list[float]]] = {}
    for verdict, group in zip(judged, groups, strict=True):
        by_record = by_group.setdefault((verdict.section, f"{group}.judge"), {})
        by_record.setdefault(verdict.id, []).append(float(verdict.right is True))
    shares: dict[str, dict[str, float | None]] = {}
    for (section, name), by_record in by_group.items():
        shares.setdefault(section, {})[name] = mean(mean(values) for values in by_record.values())
    return shares


def _list_answers(folder: Path, cases: Mapping[str, Case], judge: Judge) -> Iterator[tuple[Judgement, tuple[str, ...]]]:
    """Yield each answer of the run as an empty verdict, with the right answers."""
    prompt = digest(PROMPT)
    for entry in RunFolder(folder).entries():
        case = cases.get(entry.id)
        if case is None:
            continue
        ceilings = make_ceiling_cases(case)  # the questions of their probes come after facts, and are named with them
        for section, content in entry.sections.items():
            for group, question, name, names in _judged_questions(ceilings.get(section, case)):
                if name not in content.texts:
                    continue
                answer = Judgement(
                    id=entry.id,
                    section=section,
                    group=group,
                    question=question,
                    text=content.texts[name],
                    judge=judge.model,
                    prompt_sha256=prompt,
                    answers_sha256=digest(names),
                    right=None,
                    reply="",
                )
                yield answer, names


def _judged_questions(case: Case) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Yield (group, question, name of its text in a section, right answers)."""
    for question in case.questions:
        yield "portability", question.question, question.question, right_answers(question)
    for family in _ASKED:
        for query in case.queries(family):
            yield family, query.prompt, scoring_prompt(query), query.right_names
