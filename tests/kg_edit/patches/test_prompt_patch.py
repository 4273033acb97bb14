"""Patches of the prompt: which facts are inserted, where, in which form, and found by the prompt alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from kg_edit.errors import ConfigError, ModelError, PatchError
from kg_edit.patches.base import Patch, PatchStack, edits_beside_weights
from kg_edit.patches.factors import Factors
from kg_edit.patches.prompt_patch import PromptFact, PromptPatch, PromptRule
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.text.similarity import best, cosine, encoder_index, share_index, tfidf_index
from tests.kg_edit.tiny import tiny

LAKERS = PromptFact(
    id="1", subject="LeBron James", prompt="LeBron James plays for", text="LeBron James plays for Miami."
)
LONDON = PromptFact(
    id="2", subject="Spike Hughes", prompt="Spike Hughes comes from", text="Spike Hughes comes from Oslo."
)
BORN = PromptFact(
    id="3", subject="LeBron James", prompt="LeBron James was born in", text="LeBron James was born in Rome."
)
PARAGRAPH = PromptFact(
    id="4", subject="", prompt="What do you know of the team in Miami?", text="It won the title. It plays in an arena."
)


def patch(*facts: PromptFact, **rule: object) -> PromptPatch:
    edits = [{"edit": {"id": fact.id}} for fact in facts]
    validated = PromptRule.model_validate(rule)
    return PromptPatch(facts=tuple((validated, fact) for fact in facts), provenance={"edits": edits})


WADE = "Question: Who is LeBron James?\nAnswer: A player\n\nQuestion: Who is Dwyane Wade?\nAnswer:"
HUGHES = "Question: Who is LeBron James?\nAnswer: A player\n\nQuestion: Who is Spike Hughes?\nAnswer:"
SHOWN = LAKERS.model_copy(update={"examples": ("nearest", "farther")})
WITHHELD = LAKERS.model_copy(update={"withheld": True})
SIMILAR: dict[str, object] = {"gate": "similarity", "threshold": 0.5}
FRAMES: dict[str, object] = {"before_fact": "F: ", "before_prompt": "P: "}


@pytest.mark.parametrize(
    ("facts", "rule", "prompt", "before"),
    [
        # the subject is named, in any case
        ((LAKERS, LONDON), {}, "LeBron James plays for", f"{LAKERS.text}\n"),
        ((LAKERS, LONDON), {}, "the team of LEBRON JAMES's", f"{LAKERS.text}\n"),
        *(((LAKERS, LONDON), {}, other, "") for other in ("Dwyane Wade plays for", "LeBron plays for", "Answer:", "")),
        ((LAKERS, LONDON), {}, "James Hughes comes from", ""),
        # a fact without a subject is found by its prompt
        ((LAKERS, PARAGRAPH), {}, "What do you know of the team in Miami?", f"{PARAGRAPH.text}\n"),
        ((LAKERS, PARAGRAPH), {}, "What do you know of LeBron James?", f"{LAKERS.text}\n"),
        # the text around facts and prompts, and the fact's own examples, of which the nearest comes last
        ((LAKERS,), FRAMES, "Is LeBron James tall?", f"F: {LAKERS.text}\nP: "),
        ((SHOWN,), {}, "LeBron James", f"farther\n\nnearest\n\n{LAKERS.text}\n"),
        # the most similar fact comes last, in any order of the edits, and only so many are inserted
        ((LAKERS, BORN), {}, "Where was LeBron James born?", f"{LAKERS.text}\n{BORN.text}\n"),
        ((BORN, LAKERS), {}, "Where was LeBron James born?", f"{LAKERS.text}\n{BORN.text}\n"),
        ((LAKERS, BORN), {"most": 1}, "Where was LeBron James born?", f"{BORN.text}\n"),
        # a prompt with examples is compared by its last paragraph
        ((LAKERS, LONDON), {}, WADE, ""),
        ((LAKERS, LONDON), {}, HUGHES, f"{LONDON.text}\n"),
        ((WITHHELD, BORN), {}, "LeBron James plays for", f"{BORN.text}\n"),
        # by similarity a subject need not be named
        ((LAKERS, LONDON), SIMILAR, "James plays for", f"{LAKERS.text}\n"),
        ((LAKERS, LONDON), SIMILAR, "The river Thames", ""),
        ((LAKERS,), {"threshold": 0.0}, "The river Thames", f"{LAKERS.text}\n"),
        # other facts as examples
        (
            (LAKERS, LONDON),
            {"own_examples": 1, **FRAMES},
            "LeBron James",
            f"F: {LONDON.text}\nP: {LONDON.text}\n\nF: {LAKERS.text}\nP: ",
        ),
        ((LAKERS,), {"own_examples": 1, **FRAMES}, "LeBron James", f"F: {LAKERS.text}\nP: "),
    ],
)
def test_prompt_transform_inserts_the_relevant_facts(
    facts: tuple[PromptFact, ...], rule: dict[str, object], prompt: str, before: str
) -> None:
    assert patch(*facts, **rule).prompt_transform(prompt) == before + prompt


@pytest.mark.parametrize(
    ("subject", "asked", "other"),
    [
        ("中国", "中国的首都是", "美国的首都是"),
        ("阿里巴巴", "谁创立了阿里巴巴", "巴西里阿"),  # its characters in another order
        ("猫", "一只猫在", "一只狗在"),
        ("한국", "한국의 수도는", "일본의 수도는"),  # a particle is joined to the name
        ("iPhone", "请问iPhone的公司", "请问手机的公司"),
    ],
)
def test_subject_within_a_word_of_its_script_is_named(subject: str, asked: str, other: str) -> None:
    prompt_patch = patch(PromptFact(id="a", subject=subject, prompt=asked, text="x"))
    assert prompt_patch.prompt_transform(asked) == f"x\n{asked}"
    assert prompt_patch.prompt_transform(other) == other


def test_earlier_of_equally_similar_facts_is_chosen() -> None:
    assert best([0.5, 0.7, 0.5, 0.7], 3) == [1, 3, 0]
    twins = [PromptFact(id=str(n), subject="Rome", prompt=f"{name} Rome", text=name) for n, name in enumerate("xyz")]
    assert patch(*twins, most=2).prompt_transform("See Rome") == "y\nx\nSee Rome"
    assert {patch(*twins, most=2).prompt_transform("See Rome") for _ in range(5)} == {"y\nx\nSee Rome"}


def test_later_fact_of_a_prompt_is_inserted_until_it_is_removed() -> None:
    later = LAKERS.model_copy(update={"id": "later", "text": "LeBron James plays for Rome."})
    prompt_patch = patch(LAKERS, later)
    assert prompt_patch.prompt_transform("LeBron James") == "LeBron James plays for Rome.\nLeBron James"
    assert prompt_patch.without(["later"]).prompt_transform("LeBron James") == f"{LAKERS.text}\nLeBron James"
    assert prompt_patch.without(["later", "1"]).is_empty


def test_applied_yields_another_model_and_leaves_the_first() -> None:
    model = tiny("llama")
    with patch(LAKERS).applied(model) as edited:
        assert edited.encode("LeBron James plays for").text == patch(LAKERS).prompt_transform("LeBron James plays for")
        assert model.prompt_transform is None and edited.model is model.model
        with pytest.raises(PatchError, match="already applied to this model"), patch(LONDON).applied(edited):
            pass


def test_prompt_transform_of_the_model_runs_afterwards() -> None:
    chat = replace(tiny("llama"), prompt_transform=lambda text: f"<user>{text}")
    with patch(LAKERS).applied(chat) as edited:
        assert edited.encode("LeBron James").text == f"<user>{LAKERS.text}\nLeBron James"


def test_target_has_no_part_in_the_search() -> None:
    """A candidate that names the subject finds nothing; only the prompt is looked at."""
    model, texts = tiny("llama"), list[str]()
    prompt_patch = patch(LAKERS)
    pairs = [Pair("The best player is", "LeBron James"), Pair("The best player is", "Dwyane Wade")]
    clean = score(model, pairs)
    with prompt_patch.applied(model) as edited:
        assert score(edited, pairs) == clean
        listening = replace(edited, prompt_transform=lambda text: texts.append(text) or text)  # type: ignore[func-returns-value]
        score(listening, pairs)
    assert set(texts) == {"The best player is"}


def test_scores_are_those_of_the_text_with_the_fact() -> None:
    model = tiny("llama")
    with patch(LAKERS).applied(model) as edited:
        scores = score(edited, [Pair("LeBron James plays for", "Paris")])
    inserted = Pair(f"{LAKERS.text}\nLeBron James plays for", "Paris")
    assert scores[Pair("LeBron James plays for", "Paris")].nll == pytest.approx(
        score(model, [inserted])[inserted].nll, abs=1e-5
    )


def test_patches_of_different_rules_add() -> None:
    first, second, other = patch(LAKERS), patch(LONDON), patch(BORN, before_fact="Note: ")
    both = first + second
    assert isinstance(both, PromptPatch) and len(both.books) == 1
    assert [record["edit"]["id"] for record in both.edits] == ["1", "2"]
    mixed = both + other
    assert isinstance(mixed, PromptPatch) and len(mixed.books) == 2
    assert mixed.prompt_transform("LeBron James") == f"{LAKERS.text}\nNote: {BORN.text}\nLeBron James", (
        "the later one is nearer"
    )
    stack = PatchStack.of(WeightPatch(factors={}), mixed)
    assert stack is mixed, "what changes nothing is left out"


def test_records_of_a_stack_stay_with_the_parts_that_made_them() -> None:
    one = torch.ones(2, 1)
    weights = WeightPatch(
        factors={"w": Factors(left=one, right=one)}, provenance={"edits": [{"edit": {"id": "w"}, "method": "rome"}]}
    )
    stack = weights + patch(LAKERS)
    records = [{"edit": {"id": id_}, "method": method} for id_, method in (("w", "rome"), ("1", "ike"), ("2", "ike"))]
    complete = stack.with_records(records, {"model": {"name": "m"}})
    assert list(complete.edits) == records and complete.provenance["model"] == {"name": "m"}
    assert edits_beside_weights(complete) == "1 (ike), 2 (ike)"


def test_facts_of_two_rules_stand_before_one_prompt() -> None:
    """The words before the prompt are there once, although both rules have them."""
    strict = patch(LAKERS, threshold=0.9, **FRAMES)
    mixed = strict + patch(BORN, threshold=0.5, **FRAMES)
    assert isinstance(mixed, PromptPatch) and len(mixed.books) == 2
    prompt = mixed.prompt_transform("Is LeBron James tall?")
    assert prompt == f"F: {LAKERS.text}\nF: {BORN.text}\nP: Is LeBron James tall?"
    unframed = mixed + patch(PARAGRAPH)
    assert isinstance(unframed, PromptPatch)
    assert unframed.prompt_transform("Is LeBron James tall?") == prompt, "a rule without a relevant fact adds nothing"


def test_later_fact_with_another_rule_replaces_an_earlier_one() -> None:
    later = LAKERS.model_copy(update={"id": "9", "text": "LeBron James plays for Boston."})
    prompt_patch = patch(LAKERS, LONDON) + patch(later, before_fact="Note: ")
    text = "LeBron James plays for"
    assert prompt_patch.prompt_transform(text) == f"Note: {later.text}\n{text}"
    assert prompt_patch.without(["9"]).prompt_transform(text) == f"{LAKERS.text}\n{text}", "as before the later edit"
    withheld = patch(LAKERS) + patch(later.model_copy(update={"withheld": True}), before_fact="Note: ")
    assert withheld.prompt_transform(text) == text


def test_examples_are_as_many_as_the_model_holds() -> None:
    model = tiny("gpt2")
    others = [
        PromptFact(id=f"x{n}", subject=f"Hughes {n}", prompt=f"Hughes {n} is", text=f"Hughes {n} is {'a ' * 9}man.")
        for n in range(30)
    ]
    prompt_patch = patch(LAKERS, *others, own_examples=30)
    with pytest.raises(ModelError):
        model.encode(prompt_patch.prompt_transform("LeBron James plays for"))
    with prompt_patch.applied(model) as edited:
        prompt = edited.encode("LeBron James plays for")
    assert LAKERS.text in prompt.text and 1 <= prompt.text.count("man.") < 60


def test_prompt_patch_is_saved_and_read(tmp_path: Path) -> None:
    prompt_patch = patch(LAKERS, LONDON) + patch(BORN, before_fact="Note: ", own_examples=2)
    path = prompt_patch.save(tmp_path / "patch.safetensors")
    again = Patch.load(path)
    assert isinstance(prompt_patch, PromptPatch) and isinstance(again, PromptPatch)
    assert (again.facts, again.provenance) == (prompt_patch.facts, prompt_patch.provenance)
    assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert again.prompt_transform("LeBron James") == prompt_patch.prompt_transform("LeBron James") != "LeBron James"


def test_tfidf_shares_and_cosines() -> None:
    assert share_index(["LeBron James"])("James and lebron") == pytest.approx([1])
    assert share_index(["LeBron James"])("James Bond") == pytest.approx([0.5]), "two names, equally rare"
    (oslo,) = share_index(["University of Oslo"])("University of Rome")
    assert oslo < 0.75, "of is common"
    assert share_index(["", "?!"])("anything?!") == [0, 0]
    assert cosine({"a": 3.0, "b": 4.0}, {"a": 1.0}) == pytest.approx(0.6)
    assert cosine({}, {"a": 1.0}) == 0
    alike = tfidf_index(["LeBron James", "Spike Hughes", ""])("james lebron?")
    assert alike == pytest.approx([1, 0, 0])


def test_named_encoder_is_used_and_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real path, with a stand-in for the package: embeddings by the number of a's and b's."""
    loaded = list[str]()

    class SentenceTransformer:
        def __init__(self, name: str, *, device: str) -> None:
            if name == "missing":
                raise OSError("no such folder")
            loaded.append(name)

        def encode(self, texts: Sequence[str], *, normalize_embeddings: bool, convert_to_numpy: bool) -> np.ndarray:
            counts = np.array([[text.count("a"), text.count("b")] for text in texts], dtype=float)
            lengths: np.ndarray = np.linalg.norm(counts, axis=1, keepdims=True).clip(1e-9)
            return counts / lengths

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    facts = [PromptFact(id=name, subject=name, prompt=name, text=name) for name in ("aa", "ab", "bb")]
    rule = {"gate": "similarity", "threshold": 0.6, "encoder": "toy"}
    prompt_patch = patch(*facts[:1], **rule) + patch(*facts[1:], **rule)
    assert isinstance(prompt_patch, PromptPatch)
    assert prompt_patch.prompt_transform("aaa") == "ab\naa\naaa"
    assert prompt_patch.prompt_transform("aaab") == "ab\naa\naaab"
    assert prompt_patch.prompt_transform("bbb") == "ab\nbb\nbbb"
    assert loaded == ["toy"], "once"
    with pytest.raises(ConfigError, match="can't load the encoder 'missing'"):
        encoder_index(["a"], "missing")
