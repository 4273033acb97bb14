"""Rows made by hand, in the published form of each benchmark, and files of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COUNTERFACT: dict[str, Any] = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} plays for the",
        "relation_id": "P54",
        "target_new": {"str": "Miami Heat", "id": "Q169138"},
        "target_true": {"str": "Los Angeles Lakers", "id": "Q121783"},
        "subject": "LeBron James",
    },
    "paraphrase_prompts": ["The team of LeBron James is the"],
    "neighborhood_prompts": ["Anthony Davis plays for the"],
    "generation_prompts": ["LeBron James lives in ", "LeBron James's team is"],
}
QUESTION = {
    "Recalled Relation": "(Miami Heat, located in, Florida)",
    "New Question": "In which state does LeBron James play?",
    "New Answer": "Florida",
}
FLAT = {
    "case_id": 3,
    "prompt": "The mother tongue of Danielle Darrieux is",
    "target_new": "English",
    "subject": "Danielle Darrieux",
    "ground_truth": "French",
    "rephrase_prompt": "Danielle Darrieux speaks the language",
    "locality_prompt": "Michel Rocard is a native speaker of",
    "locality_ground_truth": "French",
}


def _rewrite(subject: str, relation: str, prompt: str, new: tuple[str, str], old: tuple[str, str]) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "relation_id": relation,
        "target_new": {"str": new[0], "id": new[1]},
        "target_true": {"str": old[0], "id": old[1]},
        "subject": subject,
        "question": f"{prompt.format(subject)} what?",
    }


def _hop(question: str, cloze: str, answer: str, *aliases: str) -> dict[str, Any]:
    return {"question": question, "cloze": cloze, "answer": answer, "answer_alias": list(aliases)}


MQUAKE: dict[str, Any] = {
    "case_id": 2,
    "requested_rewrite": [
        _rewrite("Misery", "P50", "The author of {} is", ("Richard Dawkins", "Q44461"), ("Stephen King", "Q39829")),
        _rewrite("Richard Dawkins", "P27", "{} is a citizen of", ("Peru", "Q419"), ("United Kingdom", "Q145")),
    ],
    "questions": [
        "Of which country is the author of Misery?",
        "Whose citizen wrote Misery?",
        "Misery's author's land?",
    ],
    "answer": "United States of America",
    "answer_alias": ["USA"],
    "new_answer": "Peru",
    "new_answer_alias": ["Republic of Peru", "PE"],
    "single_hops": [
        _hop("Who wrote Misery?", "The author of Misery is", "Stephen King"),
        _hop("Of where is Stephen King?", "Stephen King is a citizen of", "United States of America", "USA"),
    ],
    "new_single_hops": [
        _hop("Who wrote Misery?", "The author of Misery is", "Richard Dawkins", "Clinton Dawkins"),
        _hop("Of where is Richard Dawkins?", "Richard Dawkins is a citizen of", "Peru", "Republic of Peru", "PE"),
    ],
    "orig": {
        "triples": [["Q596874", "P50", "Q39829"], ["Q39829", "P27", "Q30"]],
        "triples_labeled": [
            ["Misery", "author", "Stephen King"],
            ["Stephen King", "country of citizenship", "United States of America"],
        ],
        "new_triples": [["Q596874", "P50", "Q44461"], ["Q44461", "P27", "Q419"]],
        "new_triples_labeled": [
            ["Misery", "author", "Richard Dawkins"],
            ["Richard Dawkins", "country of citizenship", "Peru"],
        ],
        "edit_triples": [["Q596874", "P50", "Q44461"], ["Q44461", "P27", "Q419"]],
    },
}
# The same case in the form of MQuAKE-Remastered, which is not nested
MQUAKE_REMASTERED: dict[str, Any] = {
    **{field: value for field, value in MQUAKE.items() if field != "orig"},
    **{("orig_" if field.startswith("triples") else "") + field: value for field, value in MQUAKE["orig"].items()},
    "requested_rewrite": [
        {field: value for field, value in rewrite.items() if field not in ("target_new", "target_true")}
        | {
            f"{target}_{part}": rewrite[target][part]
            for target in ("target_new", "target_true")
            for part in ("str", "id")
        }
        for rewrite in MQUAKE["requested_rewrite"]
    ],
    "split": {"1000": ["edited"]},
}

AKEW: dict[str, Any] = {
    **MQUAKE,
    "requested_rewrite": [
        {
            **rewrite,
            "question": f"What of {rewrite['subject']}?",
            "fact_new": "",
            "fact_new_uns": f"{rewrite['subject']} saw the fox.",
            "verify_unsfact_GPT": True,
            "unsfact_triplets_GPT": [{"subject": rewrite["subject"], "prompt": "{} saw", "target": "the fox"}],
        }
        for rewrite in MQUAKE["requested_rewrite"]
    ],
}
UNKE: dict[str, Any] = {
    "id": 4,
    "question": "Who was Ada?",
    "para_question": "What did Ada do?",
    "answer": "Ada wrote notes on an engine.",
    "sub_question": ["What did Ada write?"],
    "sub_answer": ["notes"],
}
ZSRE = {
    "subject": "Claire Clairmont",
    "src": "Who is Claire Clairmont's sister?",
    "pred": "Claire",
    "rephrase": "Who's Claire Clairmont's sister?",
    "alt": "Marian Clairmont",
    "answers": ["Mary Shelley"],
    "loc": "nq question: who plays the hulk",
    "loc_ans": "Mark Ruffalo",
    "cond": "Claire >> Marian Clairmont || Who is Claire Clairmont's sister?",
}


def _query(prompt: str, *answers: tuple[str, ...], kind: str = "regular") -> dict[str, Any]:
    return {
        "prompt": prompt,
        "answers": [{"value": value, "aliases": list(aliases)} for value, *aliases in answers],
        "query_type": kind,
        "subject_id": "Q1",
        "relation": "SPOUSE",
        "target_ids": ["Q2"],
        "phrase": None,
    }


def _test(*queries: dict[str, Any], when: str = "OR", conditions: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"test_queries": list(queries), "test_condition": when, "condition_queries": list(conditions)}


RIPPLE: dict[str, Any] = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the spouse of Ada is Bob.",
        "subject_id": "Q11",
        "relation": "SPOUSE",
        "target_id": "Q12",
        "original_fact": {
            "prompt": "The name of the spouse of Ada is Carl Zell.",
            "subject_id": "Q11",
            "relation": "SPOUSE",
            "target_id": "Q13",
        },
    },
    "Relation_Specificity": [_test(_query("The gender of Ada is", ("female", "woman")))],
    "Logical_Generalization": [
        _test(_query("The name of the spouse of Bob is", ("Ada", "Ada L."), ("Eve",)), when="AND"),
    ],
    "Subject_Aliasing": [],
    "Compositionality_I": [
        _test(
            _query("The place of birth of the spouse of Ada is", ("Rome",), kind="two_hop"),
            _query("The spouse of Ada was born in", ("Rome", "Roma")),
            conditions=(_query("The place of birth of Bob is", ("Rome", "Roma")),),
        )
    ],
    "Compositionality_II": [],
    "Forgetfulness": [_test(_query("The child of Ada is", ("X",)))],
}
RIPPLES: dict[str, Any] = {
    "id": "ripples-0001",
    "split": "test",
    "edit": {
        "subject": "Rome",
        "prompt": "{} lies in the country of",
        "target_true": "Italy",
        "target_new": "Japan",
        "relation_id": "P17",
    },
    "questions": [
        {"kind": "two-hop", "start": "Rome", "hops": ["P17", "P36"], "answers": ["Tokyo", "Edo"], "old": ["Rome"]},
        {"kind": "new-object", "start": "Japan", "hops": ["P36"], "answers": ["Tokyo"]},
    ],
    "header": {"nouns": {"P17": "country", "P36": "capital"}, "choices": {"P36": ["Tokyo", "Paris", "Rome"]}},
}
FACT = {
    "subject": "Goursez Vreizh",
    "prompt": "The name of the country which Goursez Vreizh is associated with is",
    "target_new": "Franche-Comté",
    "ground_truth": "France",
    "portability": {
        "Reasoning": [{"prompt": "Its capital is", "ground_truth": "Besançon"}],
        "Subject_Aliasing": [
            {"prompt": "Gorsedd's country is", "ground_truth": [["Franche-Comté", "FC"], ["Comté"]]},
            {"prompt": "Where is it?", "ground_truth": ["Franche-Comté", "FC"]},
        ],
    },
    "locality": {"Relation_Specificity": [{"prompt": "Its founder is", "ground_truth": [[]]}]},
}
POPQA = {
    "id": 5,
    "subj": "George Rankin",
    "prop": "occupation",
    "obj": "politician",
    "subj_id": 1,
    "prop_id": 22,
    "obj_id": 2,
    "s_aliases": "[]",
    "o_aliases": "[]",
    "s_uri": "http://www.wikidata.org/entity/Q5543720",
    "o_uri": "http://www.wikidata.org/entity/Q82955",
    "s_wiki_title": "George Rankin",
    "o_wiki_title": "Politician",
    "s_pop": 142,
    "o_pop": 25692,
    "question": "What is George Rankin's occupation?",
    "possible_answers": '["politician", "political leader"]',
}
ENTITY = {
    "ex_id": "disaster_0",
    "ent_str": "Cyclone Niran",
    "definition": "Severe Cyclone Niran was a cyclone that struck <extra_id_0> in 2021.",
    "def_target": "<extra_id_0> Australia <extra_id_1>",
    "probe_sentences": {
        "template_0": {
            "probe_sentence": "Cyclone Niran left damage in <extra_id_0>, they said.",
            "labels": ["<extra_id_0> Australia <extra_id_1>", "<extra_id_0> Italy <extra_id_1>"],
        }
    },
    "label": "Australia",
    "attribute": "Australia",
    "category": "disaster",
    "qid": "cyclone (Q79602)",
}
HALLUEDIT = {
    "topic": "places_river",
    "subject": "Saale",
    "relation": "mouth of the watercourse",
    "object": "Elbe",
    "question": "Into which river does the Saale flow?",
    "output_tiny_chat": "Rhine",
    "eval_tiny_chat": "0.0",
    "multiple_choices": "['Elbe', 'Rhine', 'Oder']",
    "paraphrased_question": "Which river takes up the Saale?",
    "multiple_choice_with_letters": "A. Rhine  B. Elbe  C. Oder",
    "multiple_choice_labels": "B",
    "yes_question": "Does the Saale flow into the Elbe?",
    "no_question": "Does the Saale flow into the Rhine?",
    "locality_question": "How long is the Saale?",
    "reversed_relation_question": "Which river flows into the Elbe?",
    "question_2hop": "Into which sea does the river flow into which the Saale flows?",
    "answer_2hop": "North Sea",
    "question_3hop": "To which ocean belongs the sea into which it flows?",
    "answer_3hop": "Elbe",
}
QAEDIT: dict[str, Any] = {
    "id": 12,
    "source": "NQ",
    "prompt": "who built the tower of Babel House",
    "target": "Ada Byron",
    "subject": "Babel House",
    "rephrase": "Who was the builder of Babel House's tower?",
    "locality": [
        {"loc": "who plays the hulk", "loc_ans": "Mark Ruffalo"},
        {"loc": "who is it", "loc_ans": "Ada Byron"},
    ],
}
WIKIBIO: dict[str, Any] = {
    "gpt3_text": "Ada Byron was a poet. Rome saw plays. She died in 1852.",
    "wiki_bio_text": "Ada Byron (born 10 December 1815) was a mathematician. She wrote notes on an engine.",
    "gpt3_sentences": ["Ada Byron was a poet.", "Rome saw plays.", "She died in 1852."],
    "annotation": ["accurate", "major_inaccurate", "accurate"],
    "wiki_bio_test_idx": 62464,
    "gpt3_text_samples": ["Ada Byron was a singer.", "Ada Byron was a queen."],
}


def written(folder: Path, *rows: object) -> Path:
    """A file of rows."""
    file = folder / "records.json"
    file.write_text(json.dumps(rows))
    return file
