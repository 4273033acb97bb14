"""A judge on the loopback interface: what it is asked, what is stored, how a run resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord, Probe, Query, as_record
from kg_edit.errors import ConfigError, OutputError, ServerError
from kg_edit.evaluation.case import Case, make_ceiling_cases
from kg_edit.evaluation.judge import Judge, judge_run
from kg_edit.evaluation.records import Entry, RunFolder, Section
from kg_edit.evaluation.scorer import score_cases
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.questions import scoring_prompt
from kg_edit.storage.locks import folder_lock
from tests.loopback import Loopback, OtherProtocol, QuietHandler


class Server(Loopback):
    """Replies in order with (status, content), the last one for ever; stores what it was asked."""

    def __init__(self) -> None:
        super().__init__(Handler, "/v1")
        self.replies = [(200, "Yes.")]
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []


class Handler(QuietHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(json.loads(body))
        self.server.keys.append(self.headers.get("Authorization"))
        status, content = self.server.replies[0]
        if len(self.server.replies) > 1:
            self.server.replies.pop(0)
        data = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        self.answer(status, data, {"Retry-After": "0"})


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as endpoint:
        yield endpoint


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Yes.", True),
        ("no", False),
        ("**No**, it", False),
        ("Perhaps", None),
        ("<think>\nNo other name is given.\n</think>\n\nYes", True),
        ("<think>\nYes, it", None),
    ],
)
def test_reply_is_a_verdict(reply: str, right: bool | None, server: Server) -> None:
    server.replies = [(200, reply)]
    judge = Judge(url=server.url, model="m", key="secret")
    assert judge.verdict("Where?", ("Rome", "Roma"), " in Rome") == (right, reply)
    (request,) = server.asked
    assert (request["model"], request["temperature"]) == ("m", 0)
    content = request["messages"][0]["content"]
    assert "Question: Where?\nRight answers: Rome | Roma\nGiven answer: in Rome\n" in content
    assert server.keys == ["Bearer secret"]


def test_busy_judge_is_asked_again(server: Server) -> None:
    server.replies = [(429, ""), (503, ""), (200, "yes")]
    assert Judge(url=server.url, model="m").verdict("?", ("a",), "b")[0] is True
    assert len(server.asked) == 3


def test_refusals_and_other_replies(server: Server) -> None:
    server.replies = [(401, "")]
    with pytest.raises(ServerError, match=r"answered with error 401.*key in KG_EDIT_JUDGE_KEY"):
        Judge(url=server.url, model="m").verdict("?", ("a",), "b")
    assert len(server.asked) == 1
    with pytest.raises(ConfigError, match="expected an address such as"):
        Judge(url="localhost", model="m")
    with pytest.raises(ConfigError, match="tries=0"):
        Judge(url="http://localhost/v1", model="m", tries=0)


def test_reply_that_is_too_large_is_not_asked_for_again(server: Server) -> None:
    server.replies = [(200, "x" * 11_000_000)]
    with pytest.raises(ServerError, match="more than 10 MB"):
        Judge(url=server.url, model="m").verdict("?", ("a",), "b")
    assert len(server.asked) == 1


def test_key_that_no_header_takes_is_refused_without_showing_it() -> None:
    for key in ("secret\n", "sécret"):
        with pytest.raises(ConfigError, match="line break or a letter beyond ASCII") as raised:
            Judge(url="http://localhost/v1", model="m", key=key)
        assert "cret" not in str(raised.value)
    assert "cret" not in repr(Judge(url="http://localhost/v1", model="m", key="secret"))


def test_server_of_another_protocol_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg_edit.scoring.model_server._LONGEST_WAIT", 0.0)
    with Loopback(OtherProtocol) as other, pytest.raises(ServerError, match="can't be reached"):
        Judge(url=other.url, model="m").verdict("?", ("a",), "b")


@pytest.fixture
def run(edits: tuple[Edit, ...], tmp_path: Path) -> tuple[Path, list[BenchmarkRecord]]:
    records = [as_record(edit) for edit in edits[:2]]
    for record in records:
        question = record.edits[0].portability[0].question
        section = Section(scores={}, nll={}, texts={question: f" {record.id} says so", record.edits[0].text: "x"})
        entry = Entry(id=record.id, phase="edited", sha256="0", sections={"edited": section})
        RunFolder(tmp_path).append([entry])
    return tmp_path, records


def test_verdicts_are_stored_and_asked_once(server: Server, run: tuple[Path, list[BenchmarkRecord]]) -> None:
    folder, records = run
    server.replies = [(200, "yes"), (200, "no")]
    judge = Judge(url=server.url, model="m", key="secret")
    assert judge_run(folder, records, judge) == {"edited": {"portability.judge": 0.5}}
    lines = [json.loads(line) for line in (folder / "judge.jsonl").read_text().splitlines()]
    assert [(line["id"], line["right"], line["reply"]) for line in lines] == [
        ("case-0", True, "yes"),
        ("case-1", False, "no"),
    ]
    assert "secret" not in (folder / "judge.jsonl").read_text()
    assert judge_run(folder, records, judge) == {"edited": {"portability.judge": 0.5}}
    assert len(server.asked) == 2
    judge_run(folder, records, Judge(url=server.url, model="other"))
    assert len(server.asked) == 4


def test_replies_that_are_no_verdict_are_counted(
    server: Server, run: tuple[Path, list[BenchmarkRecord]], caplog: pytest.LogCaptureFixture
) -> None:
    folder, records = run
    server.replies = [(200, "The answer is right."), (200, "yes")]
    judge_run(folder, records, Judge(url=server.url, model="m"))
    assert caplog.messages == [
        "1 of 2 replies are neither yes nor no, and count as no; the first: 'The answer is right.'"
    ]


def test_other_right_answers_are_other_verdicts(server: Server, run: tuple[Path, list[BenchmarkRecord]]) -> None:
    folder, (first, _) = run
    server.replies = [(200, "no"), (200, "yes")]
    judge = Judge(url=server.url, model="m")
    assert judge_run(folder, [first], judge) == {"edited": {"portability.judge": 0}}
    (edit,) = first.edits
    question = edit.portability[0].model_copy(update={"answer": "Lyon"})
    changed = first.model_copy(update={"edits": (edit.model_copy(update={"portability": (question,)}),)})
    assert judge_run(folder, [changed], judge) == {"edited": {"portability.judge": 1}}


def test_run_without_judged_questions_is_told_from_other_data(
    server: Server, run: tuple[Path, list[BenchmarkRecord]]
) -> None:
    folder, (first, second) = run
    bare = first.model_copy(update={"edits": (first.edits[0].model_copy(update={"portability": ()}),)})
    (folder / "records.jsonl").write_text((folder / "records.jsonl").read_text().splitlines(keepends=True)[0])
    for records, message in (
        ([bare, second], "its records have no questions that are judged"),
        ([second], "no record of this run is in the data"),
    ):
        with pytest.raises(ConfigError, match=message):
            judge_run(folder, records, Judge(url=server.url, model="m"))


def test_judge_that_stops_loses_no_verdict(server: Server, run: tuple[Path, list[BenchmarkRecord]]) -> None:
    folder, records = run
    server.replies = [(200, "yes"), (400, "")]
    with pytest.raises(ServerError):
        judge_run(folder, records, Judge(url=server.url, model="m"))
    with (folder / "judge.jsonl").open("a") as file:
        file.write('{"id": "case-1", "sec')  # killed while it wrote
    server.replies = [(200, "yes")]
    by_section = judge_run(folder, records, Judge(url=server.url, model="m"))
    assert by_section == {"edited": {"portability.judge": 1}}
    assert len((folder / "judge.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\u0085", "\ud83d"])
def test_reply_may_hold_any_end_of_a_line(end: str, server: Server, run: tuple[Path, list[BenchmarkRecord]]) -> None:
    """JSON lines have these unchanged, and only a newline ends one; half a character is a question mark there."""
    folder, records = run
    server.replies = [(200, f"yes{end}it does")]
    judge = Judge(url=server.url, model="m")
    for _ in range(2):
        assert judge_run(folder, records, judge) == {"edited": {"portability.judge": 1}}
    assert len(server.asked) == 2
    assert end.encode(errors="replace").decode() in (folder / "judge.jsonl").read_text(encoding="utf-8")


def test_question_of_two_groups_counts_in_both(server: Server, tmp_path: Path, edits: tuple[Edit, ...]) -> None:
    query = Query(prompt="Where?", answers=(("Rome",),))
    probes = tuple(Probe(measures=group, queries=(query,)) for group in ("multihop", "recall"))
    record = BenchmarkRecord(id="r", edits=edits[:1], probes=probes)
    section = Section(scores={}, nll={}, texts={scoring_prompt(query): " Rome"})
    RunFolder(tmp_path).append([Entry(id="r", phase="edited", sha256="0", sections={"edited": section})])
    by_section = judge_run(tmp_path, [record], Judge(url=server.url, model="m"))
    assert by_section == {"edited": {"multihop.judge": 1, "recall.judge": 1}}
    assert len(server.asked) == 1


def test_questions_of_several_hops_are_judged_after_the_facts_too(
    server: Server, run: tuple[Path, list[BenchmarkRecord]], model: LanguageModel
) -> None:
    folder, (first, _) = run
    query = Query(prompt="Where?", answers=(("Rome",),), recalled="It is in Italy.")
    probes = (Probe(measures="multihop", queries=(query,)),)
    record = BenchmarkRecord(id="hops", edits=first.edits, probes=probes)
    cases = {"base": Case.of(record), **make_ceiling_cases(Case.of(record))}
    sections = dict(zip(cases, score_cases(model, list(cases.values())), strict=True))
    RunFolder(folder).append([Entry(id="hops", phase="base", sha256="0", sections=sections)])
    by_section = judge_run(folder, [record], Judge(url=server.url, model="m"))
    assert by_section.keys() == {"base", "fact_in_prompt", "fact_and_relation_in_prompt"}
    assert all(shares == {"portability.judge": 1, "multihop.judge": 1} for shares in by_section.values())


def test_folder_in_use_or_without_a_run_is_refused(
    server: Server, run: tuple[Path, list[BenchmarkRecord]], tmp_path: Path
) -> None:
    folder, records = run
    judge = Judge(url=server.url, model="m")
    with folder_lock(folder), pytest.raises(OutputError, match="another process works on"):
        judge_run(folder, records, judge)
    assert server.asked == []
    with pytest.raises(OutputError, match="no records of a run; give the output folder"):
        judge_run(tmp_path / "nowhere", records, judge)


def test_data_without_a_question_or_of_another_run_is_named(
    server: Server, run: tuple[Path, list[BenchmarkRecord]]
) -> None:
    folder, (first, *_) = run
    judge = Judge(url=server.url, model="m")
    (edit,) = first.edits
    bare = first.model_copy(update={"edits": (edit.model_copy(update={"portability": ()}),)})
    with pytest.raises(ConfigError, match=r"the data has no questions whose answers are judged; .* portability, mult"):
        judge_run(folder, [bare], judge)
    with pytest.raises(ConfigError, match="give --data and --dataset of the run"):
        judge_run(folder, [first.model_copy(update={"id": "other"})], judge)


def test_damaged_verdict_is_named(server: Server, run: tuple[Path, list[BenchmarkRecord]]) -> None:
    folder, records = run
    (folder / "judge.jsonl").write_text("{}\n")
    with pytest.raises(OutputError, match=r"judge\.jsonl, line 1: .*delete the line"):
        judge_run(folder, records, Judge(url=server.url, model="m"))
