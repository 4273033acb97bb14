"""A run on a record of each data set, from its file to its summary, whose every number is computed by hand.

The model is a `parrot`: it generates one phrase after every prompt, another after the edit. So a greedy score is 1 if
that phrase is an answer, a teacher-forced one the share of an answer's words that the phrase has in their place, and a
preference is for that phrase. Losses and differences of probabilities are those of a plain forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from statistics import fmean

import pytest
import torch

from kg_edit.evaluation.case import Case
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.own_edits import TEXTS
from kg_edit.evaluation.metrics.catalogue import metrics_for
from kg_edit.evaluation.run import evaluate
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.evaluation.conftest import NudgeConfig
from tests.kg_edit.evaluation.datasets.rows import FACT, MQUAKE, written
from tests.kg_edit.evaluation.datasets.test_reading import ROWS
from tests.kg_edit.evaluation.parrot import Lesson, parrot

Triple = tuple[str, str, str]  # prompt, the answer that counts +, the answer that counts -
Asked = tuple[str, str]  # prompt, answer
Choice = tuple[str, str, str]  # prompt, the right answer, the wrong ones with a space between


@dataclass(frozen=True)
class Expected:
    """A run: the phrases of the model before and after, and each score before and after; others are missing.

    ``leads``: metrics that are the mean over prompts of p(one answer) - p(another); ``losses``: metrics that are the
    mean over categories of the mean of -log p(answer) a token; ``perplexities``: metrics that are the mean of its exp.
    ``chosen``: metrics that are the share of prompts whose right answer has the lowest loss. All are computed here,
    with a plain forward pass.
    """

    name: str
    phrases: tuple[str, str]
    scores: Mapping[str, tuple[float | None, float | None]]
    leads: Mapping[str, Sequence[Triple]] = field(default_factory=dict)
    losses: Mapping[str, Sequence[Sequence[Asked]]] = field(default_factory=dict)
    perplexities: Mapping[str, Sequence[Asked]] = field(default_factory=dict)
    chosen: Mapping[str, Sequence[Choice]] = field(default_factory=dict)


HEAT, LAKERS, FLORIDA = "Miami Heat", "Los Angeles Lakers", "In which state does LeBron James play?"
UP, DOWN, YES, NO, NEVER = (0, 1), (1, 0), (1, 1), (0, 0), (None, 0)
ADA = "This is a Wikipedia passage about ada byron."
ROME, ENGINE = "Rome saw plays.", "She wrote notes on an engine."
COUNTERFACT_LEADS: dict[str, Sequence[Triple]] = {
    "efficacy.magnitude": [("LeBron James plays for the", HEAT, LAKERS)],
    "paraphrase.magnitude": [("The team of LeBron James is the", HEAT, LAKERS)],
    "neighborhood.magnitude": [("Anthony Davis plays for the", LAKERS, HEAT)],
}
MQUAKE_LEADS: dict[str, Sequence[Triple]] = {
    "efficacy.magnitude": [
        ("The author of Misery is", "Richard Dawkins", "Stephen King"),
        ("Richard Dawkins is a citizen of", "Peru", "United Kingdom"),
    ]
}
MQUAKE_LOSSES: dict[str, Sequence[Sequence[Asked]]] = {
    f"multihop.{name}": [[(f"Question: {question}\nAnswer:", answer) for question in MQUAKE["questions"]]]
    for name, answer in (("nll", "Peru"), ("2_hops.nll", "Peru"), ("old.nll", "United States of America"))
}
ZSRE_LEADS: dict[str, Sequence[Triple]] = {
    "efficacy.magnitude": [("Who is Claire Clairmont's sister?", "Marian Clairmont", "Mary Shelley")],
    "paraphrase.magnitude": [("Who's Claire Clairmont's sister?", "Marian Clairmont", "Mary Shelley")],
}
RIPPLE_LEADS: dict[str, Sequence[Triple]] = {
    "efficacy.magnitude": [("The name of the spouse of Ada is", "Bob", "Carl Zell")]
}
COUNTRY = "The name of the country which Goursez Vreizh is associated with is"
RIPPLES_LEADS: dict[str, Sequence[Triple]] = {"efficacy.magnitude": [("Rome lies in the country of", "Japan", "Italy")]}
CAPITAL = "Question: What is the capital of the country of Rome?\nAnswer:"
RIPPLES_LOSSES: dict[str, Sequence[Sequence[Asked]]] = {
    name: [[(CAPITAL, "Tokyo")]] for name in ("ripples-known.nll", "ripples-known.stated.nll")
}


def zsre_losses(target: str) -> dict[str, Sequence[Sequence[Asked]]]:
    prompts = {"efficacy": "Who is Claire Clairmont's sister?", "paraphrase": "Who's Claire Clairmont's sister?"}
    return {f"{group}.nll": [[(prompt, target)]] for group, prompt in prompts.items()}


def both(**scores: tuple[float | None, float | None]) -> dict[str, tuple[float | None, float | None]]:
    """The scores of the one cell that has a question, and of the two cells of which it is one."""
    groups = ("ripples-known", "ripples-known.stated")
    return {f"{group}.{name}": score for group in groups for name, score in scores.items()}


KNOWEDIT_LEADS: dict[str, Sequence[Triple]] = {"efficacy.magnitude": [(COUNTRY, "Franche-Comté", "France")]}
KNOWEDIT_LOSSES: dict[str, Sequence[Sequence[Asked]]] = {
    "efficacy.nll": [[(COUNTRY, "Franche-Comté")]],
    "portability.nll": [
        [("Its capital is", "Besançon")],
        [("Gorsedd's country is", "Franche-Comté"), ("Question: Where is it?\nAnswer:", "Franche-Comté")],
    ],
}
SAALE, TAKES = "Into which river does the Saale flow?", "Which river takes up the Saale?"
HALLUEDIT_LEADS: dict[str, Sequence[Triple]] = {
    f"{group}.magnitude": [(prompt, "Elbe", "Rhine")] for group, prompt in (("efficacy", SAALE), ("paraphrase", TAKES))
}
HALLUEDIT_LOSSES: dict[str, Sequence[Sequence[Asked]]] = {
    "efficacy.nll": [[(SAALE, "Elbe")]],
    "paraphrase.nll": [[(TAKES, "Elbe")]],
    "portability.nll": [
        [("Question: Into which sea does the river flow into which the Saale flows?\nAnswer:", "North Sea")],
        [("Question: To which ocean belongs the sea into which it flows?\nAnswer:", "Elbe")],
    ],
    "reversed.nll": [[("Question: Which river flows into the Elbe?\nAnswer:", "Saale")]],
}
NOTES = "Ada wrote notes on an engine."
OVERLAPS = ("bleu", "hidden_cosine", "rouge_1", "rouge_2", "rouge_l")
RUNS = (
    Expected(
        "counterfact",
        (LAKERS, HEAT),
        {
            **{"efficacy.prob": UP, "efficacy.greedy": UP, "paraphrase.prob": UP, "neighborhood.prob": DOWN},
            "editing_score": NO,  # of three parts: the data set has no questions
        },
        COUNTERFACT_LEADS,
    ),
    Expected(  # portability succeeds, the edit does not: its scores are 0, and so is the editing score
        "counterfact-plus",
        (HEAT, "Florida"),
        {
            **{"efficacy.prob": YES, "efficacy.greedy": DOWN, "paraphrase.prob": YES, "neighborhood.prob": NO},
            **{"portability.greedy": UP, "portability.teacher_forced": UP, "editing_score": NO},
        },
        COUNTERFACT_LEADS,
        {"portability.nll": [[(f"Question: {FLORIDA}\nAnswer:", "Florida")]]},
    ),
    Expected(  # one of two edits and the end of the chain; of its two hops only the second
        "mquake",
        ("Stephen King", "Peru"),
        {
            **{"efficacy.prob": (0.5, 0.5), "efficacy.greedy": (0, 0.5)},
            **{"multihop.any_of_3": UP, "multihop.edit_wise": (0, 0.5), "multihop.instance_wise": NO},
            **{"multihop.2_hops.any_of_3": UP, "multihop.2_hops.prob": UP, "multihop.2_hops.instance_wise": NO},
            **{
                "multihop.2_hops.hop_share": (0, 0.5),
                "multihop.2_hops.hop_wise": NO,
                "multihop.2_hops.old.any_of_3": NO,
            },
            **{"multihop.hop_share": (0, 0.5), "multihop.hop_wise": NO, "multihop.prob": UP},
            "multihop.old.any_of_3": NO,
        },
        MQUAKE_LEADS,
        MQUAKE_LOSSES,
    ),
    Expected(  # after the edit it generates the neighbour's answer; of "Mary Shelley" it still knows the second word
        "zsre",
        ("Mary Shelley", "Mark Ruffalo"),
        {
            **{"efficacy.greedy": DOWN, "efficacy.teacher_forced": (1, 0.5)},
            **{"paraphrase.greedy": DOWN, "paraphrase.teacher_forced": (1, 0.5)},
            **{"locality.greedy": UP, "locality.teacher_forced": (0.5, 1), "locality.unchanged": (None, 0.5)},
        },
        losses=zsre_losses("Mary Shelley"),
    ),
    Expected(
        "zsre-alt",
        ("Mary Shelley", "Marian Clairmont"),
        {
            **{"efficacy.prob": UP, "efficacy.greedy": UP, "efficacy.teacher_forced": (0.5, 1)},
            **{"paraphrase.prob": UP, "paraphrase.greedy": UP, "paraphrase.teacher_forced": (0.5, 1)},
            **{"locality.greedy": NO, "locality.teacher_forced": NO, "locality.unchanged": NEVER},
        },
        ZSRE_LEADS,
        zsre_losses("Marian Clairmont"),
    ),
    Expected(  # the condition of CI is that the unedited model knows where Bob is from; LG asks for Ada and Eve
        "ripple-edits",
        ("Rome", "Bob"),
        {
            **{"efficacy.prob": UP, "efficacy.greedy": UP, "efficacy.teacher_forced": UP},
            **{"ripple.RS": NO, "ripple.LG": NO, "ripple.CI": DOWN},
        },
        RIPPLE_LEADS,
        {"efficacy.nll": [[("The name of the spouse of Ada is", "Bob")]]},
    ),
    Expected(  # the answer, but not by way of steps; o* itself is not generated
        "ripples",
        ("Rome", "Tokyo"),
        {
            **{"efficacy.prob": DOWN, "efficacy.greedy": NO, "ripples-edit.question.greedy": NO},
            **{"ripples-stay.new-object.greedy": UP},
            **both(greedy=UP, steps=NO, choice=NO, greedy_old=DOWN),
        },
        RIPPLES_LEADS,
        RIPPLES_LOSSES,
    ),
    Expected(  # one category of two; three tokens, of which the last two follow from those before
        "knowedit",
        ("France", "Franche-Comté"),
        {
            **{"efficacy.prob": UP, "efficacy.greedy": UP, "efficacy.teacher_forced": (2 / 3, 1)},
            **{"portability.greedy": (0, 0.5), "portability.teacher_forced": (1 / 3, 0.5)},
            **{"portability.Reasoning.greedy": NO, "portability.Reasoning.teacher_forced": NO},
            **{"portability.Subject_Aliasing.greedy": UP, "portability.Subject_Aliasing.teacher_forced": (2 / 3, 1)},
        },
        KNOWEDIT_LEADS,
        KNOWEDIT_LOSSES,
    ),
    Expected(  # another answer to the question than the edit's object
        "popqa",
        ("lawyer", "political leader"),
        {"efficacy.greedy": NO, "recall.greedy": UP, "recall.substring": UP},
    ),
    Expected(  # its text ends after a full stop; of both sentences only the first token is unsure
        "wikibio",
        (ROME, ENGINE),
        {"efficacy.prob": YES, "efficacy.greedy": NO, "hallucination.prob": YES},
        {"efficacy.magnitude": [(f"{ADA} Ada Byron was a poet.", ENGINE, ROME)]},
        perplexities={
            "hallucination.true.perplexity": [(f"{ADA} Ada Byron was a poet.", ENGINE)],
            "hallucination.own.perplexity": [(f"{ADA} Ada Byron was a poet.", ROME)],
            "accurate.perplexity": [
                (ADA, "Ada Byron was a poet."),
                (f"{ADA} Ada Byron was a poet. {ROME}", "She died in 1852."),
            ],
        },
    ),
    Expected(  # of the text only the first token is unsure; a text has the cosine 1 with itself, one token 0
        "unke",
        ("lawyer", NOTES),
        {
            **{"efficacy.greedy": UP, "efficacy.teacher_forced": (6 / 7, 1)},
            **{"paraphrase.greedy": UP, "paraphrase.teacher_forced": (6 / 7, 1)},
            **{f"{group}.{name}.greedy": UP for group in TEXTS for name in OVERLAPS},
            **{"sub-question.greedy": UP, "sub-question.rouge_l.greedy": UP},
        },
        losses={
            **{"efficacy.nll": [[("Who was Ada?", NOTES)]], "paraphrase.nll": [[("What did Ada do?", NOTES)]]},
            "sub-question.nll": [[("Question: What did Ada write?\nAnswer:", "notes")]],
        },
    ),
    Expected(  # the end of the chain and one of the facts, but not a text
        "akew",
        ("lawyer", "Peru"),
        {
            **{"efficacy.greedy": NO, "efficacy.teacher_forced": NO, "triple.greedy": NO},
            **{f"unstructured.{name}.greedy": NO for name in OVERLAPS},
            **{f"multihop.{name}": UP for name in ("any_of_3", "2_hops.any_of_3", "prob", "2_hops.prob")},
            **{f"multihop.{name}": (0, 0.5) for name in ("edit_wise", "hop_share", "2_hops.hop_share")},
            **{
                f"multihop.{group}{name}": NO
                for group in ("", "2_hops.")
                for name in ("hop_wise", "instance_wise", "old.any_of_3")
            },
        },
        losses={
            **MQUAKE_LOSSES,
            "efficacy.nll": [[(f"What of {name}?", f"{name} saw the fox.") for name in ("Misery", "Richard Dawkins")]],
            "triple.nll": [[(f"{name} saw", "the fox") for name in ("Misery", "Richard Dawkins")]],
        },
    ),
    Expected("entity-inferences", ("Italy", "Australia"), {"efficacy.greedy": UP, "inference.choice": UP}),
    Expected(  # the letter of no choice; the old answer's question, and one hop of two
        "halluedit",
        ("Rhine", "Elbe"),
        {
            **{"efficacy.prob": UP, "efficacy.greedy": UP, "efficacy.teacher_forced": UP},
            **{"paraphrase.prob": UP, "paraphrase.greedy": UP, "paraphrase.teacher_forced": UP},
            **{"portability.greedy": (0, 0.5), "portability.teacher_forced": (0, 0.5)},
            **{"portability.2_hops.greedy": NO, "portability.2_hops.teacher_forced": NO},
            **{"portability.3_hops.greedy": UP, "portability.3_hops.teacher_forced": UP},
            **{"reversed.greedy": NO, "locality.same_text": NEVER},
        },
        HALLUEDIT_LEADS,
        HALLUEDIT_LOSSES,
        chosen={
            "multiple-choice.choice": [(f"Question: {SAALE} A. Rhine  B. Elbe  C. Oder\nAnswer:", "B", "A C")],
            "fact-check.prob": [
                ("Question: Does the Saale flow into the Elbe?\nAnswer:", "Yes", "No"),
                ("Question: Does the Saale flow into the Rhine?\nAnswer:", "No", "Yes"),
            ],
        },
    ),
    Expected(  # of two tokens the second always follows from the first; one unrelated answer is the target
        "qaedit",
        ("Mark Ruffalo", "Ada Byron"),
        {
            **{"efficacy.greedy": UP, "efficacy.teacher_forced": (0.5, 1)},
            **{"paraphrase.greedy": UP, "paraphrase.teacher_forced": (0.5, 1)},
            **{"locality.greedy": (0.5, 0.5), "locality.teacher_forced": (0.75, 0.75)},
            "locality.unchanged": (None, 0.5),
        },
        losses={
            "efficacy.nll": [[("who built the tower of Babel House", "Ada Byron")]],
            "paraphrase.nll": [[("Who was the builder of Babel House's tower?", "Ada Byron")]],
        },
    ),
    Expected(
        "edits",
        ("new", "old"),
        {"efficacy.greedy": UP, "efficacy.teacher_forced": UP},
        losses={"efficacy.nll": [[("Ada is", "old")]]},
    ),
)


def test_every_data_set_has_a_case() -> None:
    assert {run.name for run in RUNS} == set(ROWS)


# Names, several hops, own rows
EVERYDAY = ("counterfact", "ripple-edits", "edits")
RUNS_OF_A_DAY = [pytest.param(run, id=run.name, marks=() if run.name in EVERYDAY else pytest.mark.slow) for run in RUNS]


@pytest.mark.parametrize("run", RUNS_OF_A_DAY)
def test_run_on_each_data_set(run: Expected, tmp_path: Path) -> None:
    model, records = parrot(*run.phrases), find_dataset(run.name)(written(tmp_path, ROWS[run.name]))
    out, method = tmp_path / "run", Lesson(model, NudgeConfig())
    summary = evaluate(method, model, records, out=out)
    assert (summary.n, summary.provenance["failed"]) == (1, 0)
    assert method.calls == [edit.id for edit in records[0].edits]
    metrics = {*metrics_for(Case.of(records[0])), "editing_score"}
    assert {*run.scores, *run.leads, *run.losses, *run.perplexities, *run.chosen} <= metrics
    with method.edit(records[0].edits).applied(model):
        edited = plain(run, model)
    for index, (section, losses) in enumerate(((summary.base, plain(run, model)), (summary.edited, edited))):
        means = {name: section[name].mean if name in section else None for name in metrics}
        expected = {name: run.scores[name][index] if name in run.scores else losses.get(name) for name in metrics}
        assert means == {
            name: None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)
            for name, value in expected.items()
        }
    again = evaluate(method, model, records, out=out)
    assert again == summary


@pytest.mark.slow
def test_own_row_with_categories_has_the_scores_of_knowedit(tmp_path: Path) -> None:
    """Also those of its categories, of which a user may name others."""
    founder = {"prompt": "Its founder is", "ground_truth": [["France"]]}
    row = {**FACT, "locality": {"Relation_Specificity": [founder], "distracting": [{**founder, "prompt": "It is"}]}}
    row["portability"] = {
        **FACT["portability"],
        "one_hop": [{"prompt": "Its region is", "ground_truth": "Franche-Comté"}],
    }
    scores = {}
    for name in ("knowedit", "edits"):
        model, records = parrot("France", "Franche-Comté"), find_dataset(name)(written(tmp_path, row))
        summary = evaluate(Lesson(model, NudgeConfig()), model, records, out=tmp_path / name)
        scores[name] = {
            (section, metric): estimate.mean
            for section, estimates in summary.sections.items()
            for metric, estimate in estimates.items()
            if estimate.mean is not None
        }
    assert scores["edits"] == pytest.approx(scores["knowedit"], rel=1e-4)
    assert {("edited", f"portability.{name}.greedy") for name in ("Reasoning", "one_hop")} <= scores["edits"].keys()
    assert {("edited", f"locality.{name}.unchanged") for name in row["locality"]} <= scores["edits"].keys()


def plain(run: Expected, model: LanguageModel) -> dict[str, float]:
    """The losses and leads of a run as the model now is."""
    leads = {
        name: fmean(exp(-nll(model, prompt, one)) - exp(-nll(model, prompt, other)) for prompt, one, other in triples)
        for name, triples in run.leads.items()
    }
    losses = {
        name: fmean(fmean(nll(model, *pair) for pair in category) for category in categories)
        for name, categories in run.losses.items()
    }
    perplexities = {name: fmean(exp(nll(model, *pair)) for pair in pairs) for name, pairs in run.perplexities.items()}
    chosen = {
        name: fmean(
            nll(model, prompt, right) < min(nll(model, prompt, wrong) for wrong in others.split())
            for prompt, right, others in choices
        )
        for name, choices in run.chosen.items()
    }
    return leads | losses | perplexities | chosen


@torch.no_grad()
def nll(model: LanguageModel, prompt: str, answer: str) -> float:
    """The mean of -log p over the tokens of the answer, after the prompt and one space."""
    front, back = (model.tokenizer(text)["input_ids"] for text in (prompt, f" {answer}"))
    logits = model.model(torch.tensor([front + back])).logits[0, len(front) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(back)))
