"""What the readers of data sets refuse: each row is a mistake in a file, and the place or word that a user needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kg_edit.errors import EditFileError, UnknownNameError
from kg_edit.evaluation.datasets import find_dataset, guess_dataset
from kg_edit.evaluation.datasets.reading import read_document
from tests.kg_edit.evaluation.datasets.rows import RIPPLE, written
from tests.kg_edit.evaluation.datasets.test_reading import ROWS
from tests.refusals import Call, check_refused, put, refusals

DEEP = "[" * 100_000


def rows(name: str, *values: object) -> Call:
    """A file of these rows is read as the data set of a name."""
    return lambda folder: find_dataset(name)(written(folder, *values))


def row(name: str, **change: Any) -> Call:
    """A file of one good row, of which some fields are others."""
    return rows(name, {**ROWS[name], **change})


def second(name: str, **change: Any) -> Call:
    """A file of a good row, and of another one, of which some fields are others."""
    return rows(name, ROWS[name], {**ROWS[name], **change})


def text(name: str, content: str) -> Call:
    """A file with this content is read as the data set of a name."""
    return lambda folder: find_dataset(name)(put(folder, "x.json", content))


def guess(name: str, content: str) -> Call:
    """The data set of a file is guessed from its content."""
    return lambda folder: guess_dataset(put(folder, name, content))


ROW_FAULTS: dict[str, tuple[Call, str]] = {
    "counterfact-plus: no question": (
        rows("counterfact-plus", ROWS["counterfact"]),
        "record 1, field portability: '7': has no portability question",
    ),
    "counterfact: prompts as text": (
        row("counterfact", generation_prompts="LeBron James lives in"),
        "record 1, field generation_prompts",
    ),
    "counterfact: prompt as number": (row("counterfact", generation_prompts=[3]), "record 1, field generation_prompts"),
    "counterfact: id twice": (second("counterfact"), "record 2, field id: '7' is the id of record 1 too"),
    "entity-inferences: no mask": (
        row("entity-inferences", definition="No mask."),
        "record 1, field definition: 'No mask.' has no <extra_id_0>",
    ),
    "entity-inferences: target without mask": (
        row("entity-inferences", def_target="Australia"),
        "record 1, field def_target: found 'Australia'",
    ),
    "entity-inferences: unknown label": (
        row("entity-inferences", label="Peru"),
        "field label: 'Peru' is not among the labels of probe_sentences.template_0",
    ),
    "halluedit: answers of two models": (
        row("halluedit", output_other_chat="Rhine"),
        "record 1, field output_other_chat: is a second column of output",
    ),
    "halluedit: question without subject": (
        second("halluedit", question="Which river?"),
        "record 2, field question: the subject 'Saale' does not occur",
    ),
    "halluedit: no object": (second("halluedit", object=""), "record 2, field object: is empty"),
    "halluedit: half a hop": (second("halluedit", answer_2hop=""), "record 2, field answer_2hop: is missing"),
    "halluedit: no such choice": (
        second("halluedit", multiple_choice_labels="D"),
        "field multiple_choice_labels: found 'D'; expected one of A, B, C",
    ),
    "halluedit: choices without letters": (
        second("halluedit", multiple_choice_with_letters="Elbe"),
        "field multiple_choice_with_letters: found 'Elbe'",
    ),
    "knowedit: row of no subset": (
        rows("knowedit", {"prompt": "x"}),
        "record 1, field subject: is missing; expected a row of KnowEdit",
    ),
    "mquake: no answer": (second("mquake", case_id=3, new_answer=""), "record 2, field new_answer: is empty"),
    "mquake: no questions": (second("mquake", case_id=3, questions=[]), "record 2, field questions"),
    "mquake: no edits": (second("mquake", case_id=3, requested_rewrite=[]), "record 2, field requested_rewrite"),
    "popqa: id in a short row": (
        rows("popqa", {"input": "What sport does José Silva play?", "output": '["Q2736"]', "id": 9}),
        "record 1, field output: 'Q2736' is a Wikidata id",
    ),
    "popqa: answers as a word": (row("popqa", possible_answers="politician"), "expected a list"),
    "popqa: deep answers": (row("popqa", possible_answers=DEEP), "record 1, field possible_answers"),
    "ripple-edits: unknown relation": (
        row("ripple-edits", edit={**RIPPLE["edit"], "relation": "SPOUSES"}),
        "field edit.relation: unknown relation 'SPOUSES', did you mean 'spouse'",
    ),
    "ripple-edits: sentence of another relation": (
        row("ripple-edits", edit={**RIPPLE["edit"], "prompt": "Ada is the spouse of Bob."}),
        "record 1, field edit.prompt: found 'Ada is the spouse of Bob.'",
    ),
    "unke: questions without answers": (
        row("unke", sub_answer=[]),
        "field sub_answer: 0 answers to 1 questions",
    ),
    "wikibio: too few annotations": (
        row("wikibio", annotation=["accurate", "major_inaccurate"]),
        "field annotation: expected a list as long as",
    ),
    "wikibio: annotation as text": (row("wikibio", annotation="accurate"), "field annotation"),
    "wikibio: unknown annotation": (row("wikibio", annotation=["accurate", "wrong", "accurate"]), "field annotation"),
    "wikibio: nothing to edit": (row("wikibio", annotation=["accurate"] * 3), "one to be edited"),
    "wikibio: no sentences": (row("wikibio", gpt3_sentences=[]), "field gpt3_sentences"),
    "wikibio: no biography": (row("wikibio", wiki_bio_text=None), "field wiki_bio_text"),
    # The first passage has three edits, which are three records
    "wikibio: second passage is empty": (
        rows(
            "wikibio",
            {**ROWS["wikibio"], "annotation": ["minor_inaccurate"] * 3},
            {**ROWS["wikibio"], "gpt3_sentences": [], "annotation": []},
        ),
        "record 3, passage 2, field gpt3_sentences: found a list",
    ),
    "zsre-alt: id as the old answer": (
        row("zsre-alt", answers=["Q12345"]),
        "record 1, field answers[0]: 'Q12345' is a Wikidata id",
    ),
}
FILE_FAULTS: dict[str, tuple[Call, str]] = {
    "cut off": (text("zsre", "[1, 2"), "line 1, column 6: not JSON"),
    "bad second line": (text("zsre", '{"a": 1}\n{"a": }'), "line 2, column 7: not JSON"),
    "bad line after empty ones": (text("zsre", '{"a": 1}\n\n \n{"a": }'), "line 4, column 7: not JSON"),
    "deep": (text("zsre", DEEP), "x.json: can't be read: lists or objects are nested too deeply"),
    "deep second line": (text("zsre", f'{{"a": 1}}\n{DEEP}'), "x.json, line 2: can't be read"),
    "long number": (text("zsre", "9" * 5_000), "x.json: can't be read: Exceeds the limit"),
    "record that is a number": (text("zsre", "[3]"), "record 1, found the number 3; expected an object"),
    "no records": (text("zsre", "[]"), "has no records; expected records of zsre"),
    "table as a benchmark": (
        lambda folder: find_dataset("counterfact-plus")(
            put(folder, "a.csv", "subject,prompt,target_new\nAda,{} is,old\n")
        ),
        "or a table of own edits: --dataset edits",
    ),
    "name that is too long": (lambda _: read_document(Path("a" * 300)), "cannot be read: File name too long"),
    "absent data set of a hub": (lambda folder: read_document(Path(f"hf:{folder / 'absent'}")), "hf:"),
    "guess of nothing": (guess("x.json", "[]"), "has no rows; expected one edit or triplet per row"),
    "guess of half a table": (guess("x.csv", "subject,prompt\n"), "line 1: lacks the column 'target_new'"),
    "guess of an empty table": (guess("x.csv", ""), "has no rows"),
    "guess of a bad line": (guess("x.jsonl", '{"x": 1}\n{"x": }\n'), "line 2, column 7: not JSON"),
    "guess of a text": (guess("x.txt", '{"x": }'), "line 1, column 7: not JSON"),
    "guess of unknown rows": (lambda folder: guess_dataset(written(folder, {"x": 1})), "give --dataset NAME"),
}


@refusals(
    {name: (call, EditFileError, keyword) for name, (call, keyword) in {**ROW_FAULTS, **FILE_FAULTS}.items()}
    | {
        "unknown name": (
            lambda _: find_dataset("counterfactplus"),
            UnknownNameError,
            "did you mean 'counterfact-plus'?; known: akew, counterfact, ",
        )
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
