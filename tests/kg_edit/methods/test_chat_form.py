"""Edits in chat form: what a method is asked, in one form and in both."""

from __future__ import annotations

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.locate_then_edit.objective import Request
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import chatting

EDIT = Edit(subject="LeBron James", prompt="{} plays for the", target_new="Rome", target_true="Miami Heat")
CONTEXTS = ("{}", "The river. {}")
METHODS = keep_first(("rome", "ft-m", "grace"))


def test_edit_has_one_form_or_both() -> None:
    assert EDIT.model_dump(mode="json")["chat"] is False
    assert EDIT.with_form(chat=True).model_dump()["chat"] is True
    assert EDIT.with_form(chat="both").forms == (False, True)
    fields = {"subject": "S", "prompt": "{} is", "target_new": "T"}
    ids = {Edit.model_validate({**fields, "chat": chat}).id for chat in (False, True, "both")}
    assert len(ids) == 3 and Edit.model_validate(fields).id in ids


def test_contexts_are_inside_the_users_turn() -> None:
    rows = Request.of(chatting(), EDIT.with_form(chat=True), CONTEXTS).rewrites
    turn = "<user>Complete the sentence: {}LeBron James plays for the\n<assistant>Rome"
    assert [row.text for row in rows] == [f"<s>{turn.format(before)}" for before in ("", "The river. ")]


def test_joint_method_has_the_same_rows() -> None:
    editor = find_method("memit")(chatting(), find_method("memit").config_class(), contexts=CONTEXTS)
    (fact,) = editor.make_facts(EDIT.with_form(chat=True))
    assert fact.prompts.rewrites == Request.of(chatting(), EDIT.with_form(chat=True), CONTEXTS).rewrites


def test_a_batch_may_give_the_two_forms_different_targets() -> None:
    editor = find_method("memit")(chatting(), find_method("memit").config_class(), contexts=CONTEXTS)
    other = EDIT.model_copy(update={"id": "other", "target_new": "Paris", "chat": True})
    groups = editor.make_batch_facts([EDIT, other])
    assert [(len(group.facts), group.opposed) for group in groups] == [(1, 0), (1, 0)]


def test_edit_in_both_forms_has_the_rows_of_both() -> None:
    plain, chat, both = (Request.of(chatting(), EDIT.with_form(chat=form), CONTEXTS) for form in (False, True, "both"))
    assert both.rewrites == plain.rewrites + chat.rewrites
    assert both.essence == plain.essence != chat.essence


@pytest.mark.parametrize("method", METHODS)
def test_edit_in_chat_form_changes_the_answer_in_chat(method: str) -> None:
    model = chatting()
    editor = find_method(method).on(model, settings=QUICK[method])
    plain, chat = (editor.edit([EDIT.with_form(chat=form)]) for form in (False, True))
    pair = Pair(EDIT.text, "Rome")

    def nll(patch: object, reader: LanguageModel) -> float:
        with patch.applied(reader) as edited:  # type: ignore[attr-defined]
            return score(edited, [pair])[pair].nll

    assert nll(chat, model.in_chat()) < nll(plain, model.in_chat())
    assert nll(plain, model) < nll(chat, model)
    assert chat.provenance["edits"][0]["edit"]["chat"] is True
