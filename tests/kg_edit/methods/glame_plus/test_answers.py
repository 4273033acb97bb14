"""What follows from an edit, written where it is answered: the closed form by hand, and the whole on models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit
from kg_edit.engine.prefix_cache import SharedContexts
from kg_edit.locate_then_edit.objective import Request
from kg_edit.locate_then_edit.states import subject_states
from kg_edit.methods.composed_facts import ComposedFact
from kg_edit.methods.glame_plus import answers
from kg_edit.methods.glame_plus.answers import (
    AnswerOptions,
    AnswerRows,
    KnownQuestions,
    choose_others,
    find_answer_values,
    question_of,
    read_last_keys,
    solve_directions,
    write_answers,
)
from kg_edit.methods.glame_plus.method import GlamePlus, GlamePlusConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import score_each
from kg_edit.scoring.pairs import Pair
from tests.everyday import keep_first
from tests.kg_edit.locate_then_edit.test_operators import operators
from tests.kg_edit.methods.glame_plus.test_method import EDIT, graph
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import TEXT, byte_level, tiny

EXACT = {"ridge": 0.0, "softness": 0.0, "others": 0, "others_weight": 0.0}


def covariance(size: int, *, moment: torch.Tensor | None = None) -> Covariance:
    return Covariance(moment=torch.eye(size) if moment is None else moment, tokens=1000, ridge=0.0, id="test")


def test_directions_give_each_key_its_own_value() -> None:
    """With lambda 0 right^T K = 1: under each fact's key its own value and no other's is added."""
    torch.manual_seed(0)
    keys = torch.randn(7, 3)
    spread = torch.randn(7, 7)
    right = solve_directions(keys, torch.empty(7, 0), covariance(7, moment=spread @ spread.T), AnswerOptions(**EXACT))
    torch.testing.assert_close(right.T @ keys, torch.eye(3), atol=1e-4, rtol=0)


def test_directions_protect_the_keys_of_other_things() -> None:
    """Two keys in the plane, (1, 1) to be written and (1, 0) to stay: the more that weighs, the nearer to (0, 1)."""
    key, other = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [0.0]])
    shares = []
    for weight in (0.0, 1.0, 1e6):
        options = AnswerOptions(**{**EXACT, "others_weight": weight})
        right = solve_directions(key, other, covariance(2), options)
        torch.testing.assert_close(right.T @ key, torch.ones(1, 1))
        shares.append(float(right.T @ other))
    # A = diag(1 + w, 1): right = A^-1 k / (k A^-1 k) = (1 / (1 + w), 1) / (1 / (1 + w) + 1)
    assert shares == pytest.approx([1 / 2, 1 / 3, 0.0], abs=1e-5)


HUGHES = Edit(subject="Spike Hughes", relation_id="P495", prompt="{} comes from", target_new="Madagascar")


def asked_of(model: LanguageModel, subject: str) -> tuple[Prompt, ...]:
    return Request.of(model, HUGHES.model_copy(update={"subject": subject}), ["{}", "Indeed. {}"]).rewrites


def written(model: LanguageModel, layer: int, facts: list[ComposedFact], **options: Any) -> WeightPatch:
    size = model.down_projection(layer).weight.shape[1]
    chosen = AnswerOptions(**options)
    update = write_answers(
        model,
        facts,
        subject=HUGHES.subject,
        others=("Google", "Mount Everest", "Paris")[: chosen.others],
        find_rewrites=partial(asked_of, model),
        layer=layer,
        covariance=covariance(size),
        options=chosen,
        edit_patch=WeightPatch(factors={}),
        cache=KnownQuestions(),
    )
    assert update is not None and len(update.nll) == len(facts)
    assert all(after < before for before, after in update.nll)
    return WeightPatch(factors={model.weight_name(layer): update.factors}, provenance={"edits": []})


def llama2_style() -> PreTrainedTokenizerFast:
    """A BPE that puts a space before a text, and writes a line break as a byte: as Llama-2's."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    core.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=specials))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("reader", [byte_level, llama2_style])
def test_answer_ends_with_a_line_break(reader: Callable[[], PreTrainedTokenizerFast]) -> None:
    model = replace(tiny("llama"), tokenizer=reader())
    rows = question_of(ComposedFact(hop="capital of the country", target="Paris"), shown=0).about(model, "Spike")
    ends = [model.tokenizer.decode([row.ids[-1]]) for row in rows]
    assert rows and all(end.strip(" ") in ("\n", "\n\n") for end in ends), ends


def two_facts(*, count: int = 2) -> tuple[LanguageModel, AnswerRows]:
    """A tiny model, and the questions of two facts, or of ``count``, in it."""
    model, hops = tiny("llama"), ("capital of the country of origin", "currency of the country of origin")
    facts = [ComposedFact(hop=hop, target="Paris") for hop in hops[:count]]
    prompts = [question_of(fact, shown=0).about(model, HUGHES.subject) for fact in facts]
    starts = SharedContexts.of_starts(model, (row.ids[: row.subject_first] for rows in prompts for row in rows))
    return model, AnswerRows(model, 2, prompts, starts)


def test_fact_with_a_small_loss_gets_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's steps do not shrink with the loss: its value would be noise, which other subjects' prompts share."""
    model, rows = two_facts()
    before = rows.nll(torch.zeros(2, rows.keys.shape[1], model.width), rows.select((0, 1))).tolist()
    second = rows.nll(torch.zeros(2, rows.keys.shape[1], model.width), rows.select((1,))).tolist()
    torch.testing.assert_close(before[1:], second)
    monkeypatch.setattr(answers, "_STOP_BELOW", sum(before) / 2)
    easy = min((0, 1), key=before.__getitem__)
    values, seen = find_answer_values(rows, AnswerOptions(steps=3))
    assert not values[easy].any() and seen[easy] == [before[easy]]
    assert values[1 - easy].any() and seen[1 - easy][-1] < seen[1 - easy][0] == before[1 - easy]


def test_finished_fact_keeps_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam moves a value whose gradient is 0 as its moments say: also out of its bound."""
    _, rows = two_facts()
    after_a_step, once = find_answer_values(rows, AnswerOptions(steps=2))
    losses = [seen[-1] for seen in once]
    finished = min((0, 1), key=losses.__getitem__)
    monkeypatch.setattr(answers, "_STOP_BELOW", sum(losses) / 2)
    values, seen = find_answer_values(rows, AnswerOptions(steps=4))
    assert len(seen[finished]) == 2 < len(seen[1 - finished])
    torch.testing.assert_close(values[finished], after_a_step[finished], rtol=0, atol=1e-6)


def test_a_step_of_many_facts_has_the_operators_of_one() -> None:
    counts = []
    for count in (1, 2):
        _, rows = two_facts(count=count)
        more, few = (operators(partial(find_answer_values, rows, AnswerOptions(steps=steps))) for steps in (6, 3))
        counts.append(more - few)
    assert counts[1] <= 1.01 * counts[0]


@pytest.mark.parametrize("layer", [2, 3])
@pytest.mark.parametrize("dtype", keep_first([torch.bfloat16, torch.float16]))
def test_values_of_a_half_precision_model_are_float32(dtype: torch.dtype, layer: int) -> None:
    """In the last block and before it: the values are float32, the blocks above get states of the model's type."""
    exact_model = tiny("llama")
    half = LanguageModel.wrap(copy.deepcopy(exact_model.model).to(dtype), exact_model.tokenizer, name="half")
    fact = ComposedFact(hop="capital of the country of origin", target="Paris")
    rough, exact = (written(model, layer, [fact], steps=4) for model in (half, exact_model))
    for name, pair in rough.factors.items():
        assert pair.left.dtype == pair.right.dtype == torch.float32
        difference = (pair.product - exact.factors[name].product).norm()
        assert difference < 0.2 * exact.factors[name].product.norm()


@pytest.mark.slow
def test_question_in_another_wording_is_answered(smollm2: LanguageModel) -> None:
    """On the real model: two rare answers, asked in another wording; another thing keeps its answer."""
    facts = [
        ComposedFact(hop="capital of the country of origin", target="Antananarivo"),
        ComposedFact(hop="currency of the country of origin", target="kwanza"),
    ]
    layer = AnswerOptions().layer_in(len(smollm2.blocks))
    patch = written(smollm2, layer, facts, steps=20, others=3, shown=2)
    shown = "Question: what is the {} of Japan? Answer: {}\n\n"
    question = "Question: what is the {} of the country of origin of {}? Answer:"
    examples = {"capital": "Tokyo", "currency": "yen"}
    asked_mine, asked_theirs = (
        [shown.format(noun, answer) + question.format(noun, name) for noun, answer in examples.items()]
        for name in ("Spike Hughes", "Yoko Ono")
    )
    outputs = continuations(smollm2, [*asked_mine, *asked_theirs], limits=[8] * 4, patches=[patch] * 4)
    clean = continuations(smollm2, asked_theirs, limits=[8] * 2)
    assert [text.strip().split(maxsplit=1)[0].strip(".,") for text in outputs[:2]] == ["Antananarivo", "kwanza"]
    assert outputs[2:] == clean
    for fact in facts:
        assert not any(fact.target in text for text in outputs[2:])
    mine, theirs = (Pair(f"{name} comes from", HUGHES.target_new) for name in (HUGHES.subject, "Yoko Ono"))
    before, after = (score_each(smollm2, [[mine, theirs]], patches=[p])[0] for p in (None, patch))
    assert after[mine].nll < before[mine].nll - 2, "the edit's own prompt is written too"
    assert before[mine].nll - after[mine].nll > 1.5 * (before[theirs].nll - after[theirs].nll)


def test_other_things_with_the_edited_relation_come_first() -> None:
    """Such as have the edited relation come first; never s or o* themselves."""
    edit = Edit(subject="U2", relation="country of origin", relation_id="P495", prompt="{} is from", target_new="Sony")
    names = choose_others(edit, most=30)
    assert names[:2] == ("J-pop", "American English") and "Paris" in names
    assert not {"U2", "Sony"} & set(names) and len(set(names)) == len(names)
    assert choose_others(edit, most=3) == names[:3]


@pytest.mark.parametrize("family", ["llama", "falcon-alibi"])
def test_prefix_before_a_subject_is_computed_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of questions about other things, from shared beginnings and from whole rows; also with ALiBi."""
    model, layer = tiny(family), 3
    fact = ComposedFact(hop="capital of the country of origin", target="Antananarivo")
    question = question_of(fact, shown=AnswerOptions().shown)
    rows = [row for name in ("Spike", "Yoko Ono", "U2") for row in question.about(model, name)]
    starts = SharedContexts.of_starts(model, (row.ids[: row.subject_first] for row in rows[:4]))
    plain, _ = subject_states(model, rows, layer=layer, last=layer, site="value")
    torch.testing.assert_close(read_last_keys(model, rows, layer, starts), plain, rtol=1e-4, atol=1e-5)
    known = KnownQuestions()
    torch.testing.assert_close(known.find_keys(model, rows[:2], layer, starts), plain[:2].T, rtol=1e-4, atol=1e-5)
    new: list[Prompt] = []
    monkeypatch.setattr(answers, "read_last_keys", lambda *args: (new.extend(args[1]), read_last_keys(*args))[1])
    torch.testing.assert_close(known.find_keys(model, rows[1:], layer, starts), plain[1:].T, rtol=1e-4, atol=1e-5)
    assert new == rows[2:], "the second row's key is known"


@pytest.mark.parametrize("words", [36, 38])
def test_other_things_whose_prompt_does_not_fit_are_left_out(words: int) -> None:
    """Their names are longer than the subject: a question has no position left, or the edit's own prompt has none."""
    model, edit = tiny("gpt2"), EDIT.model_copy(update={"prompt": "so " * words + "{} plays for"})
    chosen = GlamePlus(model, GlamePlusConfig.preset("default", QUICK["glame-plus"]), graph=graph())
    assert len(chosen.edit([edit]).edits) == 1


@pytest.mark.slow
def test_facts_of_an_edit_are_not_kept_for_later_ones() -> None:
    """A server makes edits for as long as it runs."""
    chosen = GlamePlus(tiny("llama"), GlamePlusConfig.preset("default", QUICK["glame-plus"]), graph=graph())
    for name in ("1", "2"):
        chosen.edit([EDIT.model_copy(update={"id": name})])
    assert [edit.id for edit in chosen._targets] == ["2"]


def test_late_layer_is_written_only_with_answers() -> None:
    assert GlamePlusConfig(answers=AnswerOptions()).written_layers(30) == (6, AnswerOptions().layer_in(30))
    assert GlamePlusConfig(answers=None, ripple_weight=2.0).written_layers(30) == (6,)


@pytest.mark.slow
def test_default_preset_writes_two_weights() -> None:
    model, edit = tiny("llama"), EDIT.model_copy(update={"portability": ()})  # no test's answer to leave out
    patches = {}
    for preset in ("default", "one-value"):
        settings = {**QUICK["glame-plus"], "own": 1, **({"answers": None} if preset == "one-value" else {})}
        patches[preset] = GlamePlus(model, GlamePlusConfig.preset(preset, settings), graph=graph()).edit([edit])
    default, one_value = patches.values()
    assert isinstance(default, WeightPatch) and isinstance(one_value, WeightPatch)
    assert set(default.factors) == {model.weight_name(1), model.weight_name(3)}
    assert set(one_value.factors) == {model.weight_name(1)}
    answers = default.edits[0]["answers"]
    assert answers["layer"] == 3 and EDIT.target_new in answers["facts"].values()
    assert answers["nll_after"] < answers["nll_before"] and "answers" not in one_value.edits[0]
