"""What a training file shares with the prompts of a test is left out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit, Question
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.locality import HeldOutPrompts, count_locality_queries, locality_queries


def record(edit: Edit, *prompts: str) -> BenchmarkRecord:
    queries = tuple(Query(prompt=prompt, answers=(("Rome",),)) for prompt in prompts)
    return BenchmarkRecord(id=edit.id, edits=(edit,), probes=(Probe(measures="locality", queries=queries),))


def edit(subject: str, *neighborhood: str, prompt: str = "{} plays for") -> Edit:
    return Edit(subject=subject, prompt=prompt, target_new="Miami", target_true="Rome", neighborhood=neighborhood)


def test_held_out_prompts_are_removed_from_training() -> None:
    question = Question(question="Where does LeBron live?", answer="Miami")
    tested = edit("LeBron", "Wade plays for").model_copy(update={"portability": (question,)})
    test = HeldOutPrompts([record(tested, "Who wrote Ulysses?")])
    assert test.without(record(edit("lebron", prompt="{} lives in"))) is None, "its subject is tested"
    assert test.without(record(edit("Wade"))) is None, "its own prompt is asked"
    trained = test.without(
        record(edit("Kobe", "wade plays for", "Oden plays for", "LeBron lives in"), "Who wrote Ulysses?")
    )
    assert trained is not None and trained.edits[0].neighborhood == ("Oden plays for",) and not trained.probes
    assert [query.prompt for query in locality_queries(trained.edits[0], trained)] == ["Oden plays for"]
    worded = edit("Kobe").model_copy(update={"paraphrases": ("LeBron PLAYS for", "Kobe's team is")})
    learned = test.without(record(worded.model_copy(update={"portability": (question,)})))
    assert learned is not None and not learned.edits[0].portability
    assert learned.edits[0].paraphrases == ("Kobe's team is",)
    untouched = record(edit("Kobe", "Oden plays for", "LeBronne lives in"), "Who wrote Dubliners?")
    unstructured = record(Edit(prompt="Who is he?", target_text="A poet."))
    for tests in (test, HeldOutPrompts([record(tested), unstructured])):
        assert tests.without(untouched) == untouched
    short = HeldOutPrompts([record(edit("US")), record(edit("The Who")), record(edit("!!!"))])
    prompts = ("who rules the us?", "The Who sing", "!!! sing", "Who is just?")
    assert [short.has(prompt) for prompt in prompts] == [True, True, True, False]
    other = record(Edit(prompt="Who is she?", target_text="A poet."))
    assert HeldOutPrompts([unstructured]).without(other) and not HeldOutPrompts([unstructured]).without(unstructured)


@pytest.mark.slow
def test_held_out_prompts_remove_shared_neighbours_of_published_files(shared: Path) -> None:
    """A training file without the tested subjects still had a fifth of the tested neighbours."""
    test = find_dataset("counterfact-plus")(shared / "counterfact_plus" / "dev.json")[:100]
    train = find_dataset("counterfact")(shared / "counterfact" / "counterfact-edit.json")[:2000]
    tested = {prompt for record in test for edit in record.edits for prompt in edit.neighborhood}
    held_out = HeldOutPrompts(test)
    remaining = [rest for record in train if (rest := held_out.without(record))]
    before, after = (
        {prompt for record in part for edit in record.edits for prompt in edit.neighborhood} & tested
        for part in (train, remaining)
    )
    assert len(before) > 20 and not after
    assert count_locality_queries(remaining) < count_locality_queries(train)
