"""What methods put around an edit is in its language: chains, questions, further facts, and what precedes a prompt."""
# ruff: noqa: RUF001 - Chinese punctuation is meant

from __future__ import annotations

import logging
import re
from typing import Any

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.graphs.facts import graph_facts, relations_without_words
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import edit_subgraph, other_label
from kg_edit.languages import FORM_LANGUAGES, RelationForms, forms_of
from kg_edit.methods.composed_facts import direct_question, edit_as_fact, objects_of, ripples
from kg_edit.methods.glame_plus.answers import choose_others
from kg_edit.methods.glame_plus.teacher import TeacherQuestion
from kg_edit.methods.graph_memory.chain_text import put_chain_before
from kg_edit.methods.graph_memory.method import GraphMemory
from kg_edit.methods.graph_memory.patch import GraphMemoryPatch
from kg_edit.methods.graph_memory.relation_words import RelationWords
from kg_edit.methods.graph_memory.walk import Walker
from kg_edit.text.fact_words import fact_words, relation_forms, warn_of_english
from kg_edit.text.matching import bare_question, normalised
from kg_edit.text.relation_nouns import diverse_prompts, relation_examples
from kg_edit.zoo.in_context.ike import Ike
from kg_edit.zoo.in_context.memprompt import MemPrompt, clarified_examples
from kg_edit.zoo.in_context.rag import Rag
from kg_edit.zoo.mello.demonstrations import show_demonstrations
from kg_edit.zoo.mello.loop import decompose, loop_words
from kg_edit.zoo.mello.method import Mello
from tests.everyday import keep_first
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.tiny import tiny
from wikidata_cache import SubgraphOptions, WikidataCache, packaged_extract

OTHERS = tuple(code for code in FORM_LANGUAGES if code != "en")
# Microsoft, whose country becomes Germany, and what the graph states of Germany
NAMES = {
    "de": ("Microsoft", "Deutschland", "Berlin", "Europa", "Olaf Scholz"),
    "es": ("Microsoft", "Alemania", "Berlín", "Europa", "Olaf Scholz"),
    "ja": ("マイクロソフト", "ドイツ", "ベルリン", "ヨーロッパ", "オラフ・ショルツ"),
    "ko": ("마이크로소프트", "독일", "베를린", "유럽", "올라프 숄츠"),
    "zh": ("微软", "德国", "柏林", "欧洲", "奥拉夫·朔尔茨"),
}
SECOND_HOPS = {
    "de": "Wie heißt die Hauptstadt des Landes von Microsoft?",
    "es": "¿Cuál es la capital del país de Microsoft?",
    "ja": "マイクロソフトがある国の首都はどこですか？",
    "ko": "마이크로소프트가 있는 나라의 수도는 어디입니까?",
    "zh": "微软所在的国家的首都是哪里？",
}
CHAINS = {
    "de": "Das Land, in dem Microsoft liegt, heißt Deutschland. Die Hauptstadt von Deutschland heißt Berlin.",
    "es": "El país donde se encuentra Microsoft es Alemania. La capital de Alemania es Berlín.",
    "ja": "マイクロソフトがある国はドイツです。ドイツの首都はベルリンです。",
    "ko": "마이크로소프트가 있는 나라는 독일입니다. 독일의 수도는 베를린입니다.",
    "zh": "微软所在的国家是德国。德国的首都是柏林。",
}


def microsoft(code: str) -> Edit:
    """The edit of Microsoft's country in a language."""
    subject, country, *_ = NAMES[code]
    forms = forms_of(code)["P17"]
    fields = {"subject": subject, "target_new": country, "relation": forms.noun, "relation_id": "P17"}
    prompt = forms.template.replace("{}이(가)", "{}가")
    return Edit(id="microsoft", prompt=prompt, language=code, **fields)  # type: ignore[arg-type]


def graph(code: str) -> nx.MultiDiGraph:
    """What is stated of Germany, with the relations named in the language."""
    _, country, capital, continent, head = NAMES[code]
    forms = forms_of(code)
    made = nx.MultiDiGraph()
    for property_id, end in (("P36", capital), ("P30", continent), ("P6", head)):
        made.add_edge(country, end, label=forms[property_id].noun)
    return made


def subgraph(code: str) -> nx.MultiDiGraph:
    return PrivateGraph(graph(code)).subgraph(microsoft(code))


@pytest.mark.parametrize("code", OTHERS)
def test_a_question_of_two_hops_gets_its_chain(code: str) -> None:
    settings = {"choose": "words", "recall": False}
    patch = GraphMemory.on(tiny("llama"), settings=settings, graph=graph(code)).edit([microsoft(code)])
    assert isinstance(patch, GraphMemoryPatch)
    walk = Walker(patch.graph, tiny("llama"), patch.rule).walk(SECOND_HOPS[code])
    assert "".join(statement.sentence for statement in walk.statements) == CHAINS[code].replace(". ", ".")
    words = fact_words(code)
    prompt = put_chain_before(words.between_marks(SECOND_HOPS[code]), walk.statements, examples=1)
    example, chain_and_question = prompt.split("\n\n")
    assert chain_and_question == f"{CHAINS[code]}\n{words.between_marks(SECOND_HOPS[code])}"
    first, _, third, *_ = words.made_up[0]
    assert first in example and example.endswith(third)
    assert NAMES[code][0] not in example
    assert not walk_of(patch, "Where is the capital?")


def walk_of(patch: GraphMemoryPatch, question: str) -> Any:
    return Walker(patch.graph, tiny("llama"), patch.rule).walk(question)


def test_a_korean_example_has_the_particles_of_its_names() -> None:
    patch = GraphMemory.on(tiny("llama"), settings={"choose": "words", "recall": False}, graph=graph("ko")).edit(
        [microsoft("ko")]
    )
    assert isinstance(patch, GraphMemoryPatch)
    walk = walk_of(patch, SECOND_HOPS["ko"])
    text = put_chain_before(SECOND_HOPS["ko"], walk.statements, examples=2)
    _, second, _ = text.split("\n\n")
    assert second.startswith("퀼론이 있는 나라는 마르벡입니다. 마르벡의 수도는 울벤입니다.\n퀼론이 있는 나라의 수도는")


def test_no_english_word_is_in_a_chain(caplog: pytest.LogCaptureFixture) -> None:
    """Of the extract, which has few labels in Korean: relations without words are left out, said in one line."""
    subject = {"subject": "독일", "subject_id": "Q183", "relation_id": "P36", "language": "ko"}
    edit = Edit(prompt="{}의 수도는", target_new="런던", target_new_id="Q84", **subject)  # type: ignore[arg-type]
    source = WikidataCache(packaged_extract()).in_language("ko")
    with caplog.at_level(logging.WARNING):
        patch = GraphMemory.on(tiny("llama"), settings={"choose": "words", "recall": False}, graph=source).edit([edit])
    assert isinstance(patch, GraphMemoryPatch)
    assert caplog.text.count("graph-memory leaves out what the graph states by") == 1
    ((_, remembered),) = patch.remembered
    assert len(remembered.stated) > 20
    for statement in (remembered.fact, *remembered.stated, *patch.graph.facts.values()):
        assert not re.search("[a-z]", statement.sentence_template), statement.sentence_template


def test_a_statement_in_other_words_leaves_nothing_to_ask_for() -> None:
    words = RelationWords("ko")
    asked = words.read_question(normalised("마이크로소프트가 속한 나라는"), range(7))
    match = asked.match(words.packaged["P17"])
    assert match is not None and asked.without(match).count_left() == 0


def test_edits_of_several_languages_have_graphs_of_their_own(tmp_path: Any) -> None:
    both = [microsoft("ko"), microsoft("zh").model_copy(update={"id": "zh"})]
    joined = nx.compose(graph("ko"), graph("zh"))
    patch = GraphMemory.on(tiny("llama"), settings={"choose": "words", "recall": False}, graph=joined).edit(both)
    patch.save(tmp_path / "patch")
    with patch.applied(tiny("llama")) as model:
        for code in ("ko", "zh"):
            assert model.prompt_transform is not None
            assert CHAINS[code] in model.prompt_transform(SECOND_HOPS[code])
    again = GraphMemoryPatch.load(tmp_path / "patch")
    assert isinstance(again, GraphMemoryPatch) and again.remembered == patch.remembered  # type: ignore[attr-defined]


ALL_FORMS = [forms for code in OTHERS for forms in forms_of(code).values()]


@pytest.mark.parametrize("code", OTHERS)
def test_packaged_questions_ask_for_their_relation(code: str) -> None:
    words = RelationWords(code)
    missed = []
    for forms in forms_of(code).values():
        relation = words.packaged[forms.property_id]
        for text in (forms.template, forms.paraphrase, forms.question):
            asked = words.read_question(normalised(text.replace("{}", "X")), [])
            if asked.match(relation) is None:
                missed.append((forms.property_id, text))
    assert missed == []


@pytest.mark.parametrize(
    ("code", "question"),
    [
        ("de", "Frage: Wie heißt die Hauptstadt des Landes von Microsoft?\nAntwort:"),
        ("es", "Pregunta: ¿Cuál es la capital del país de Microsoft?\nRespuesta:"),
        ("ja", "質問：マイクロソフトがある国の首都はどこですか？\n答え："),
        ("ko", "질문: 마이크로소프트가 있는 나라의 수도는 어디입니까?\n답:"),
        ("zh", "问：微软所在的国家的首都是哪里？\n答："),
    ],
)
def test_composed_facts_are_asked_in_the_language(code: str, question: str) -> None:
    edit = microsoft(code)
    capital = NAMES[code][2]
    objects = objects_of(edit, subgraph(code), exclude=(), every_relation=True)
    facts = ripples(edit, objects, limit=9, per_relation=1)
    assert {fact.noun for fact in facts} == {forms_of(code)[key].noun for key in ("P36", "P30", "P6")}
    (fact,) = [fact for fact in facts if fact.target == capital]
    words = fact_words(code)
    asked = direct_asked(fact.prompt(words.ask), edit)
    assert asked == question
    assert bare_question(asked) == SECOND_HOPS[code]
    assert all(fact.prompt(wording).count("{}") == 1 for wording in words.wordings)
    shown = fact.context(words.ask, shown=1)
    thing, target = relation_examples(code)[fact.noun][0]
    assert shown.startswith(direct_question(fact.noun, thing, code)) and shown.endswith(f"{target}\n\n{{}}")
    own = edit_as_fact(edit)
    assert own is not None and own.target == edit.target_new


def direct_asked(template: str, edit: Edit) -> str:
    """The question about the edit's subject."""
    from kg_edit.languages import fill

    return fill(template, edit.subject, edit.language)


@pytest.mark.parametrize("code", OTHERS)
def test_nothing_english_is_in_the_words_of_a_language(code: str) -> None:
    """Latin letters in Chinese, Japanese and Korean words would be English ones; German and Spanish are not asked."""
    if code in ("de", "es"):
        english = fact_words("en")
        assert {english.question, english.new_fact, english.ask}.isdisjoint(fact_words(code).wordings)
        return
    edit = microsoft(code)
    noun = forms_of(code)["P38"].noun
    question = TeacherQuestion(noun=noun, of=edit.target_new, forms=relation_forms(noun, code))
    texts = [*question.as_question.longest_first, *question.as_sentence.longest_first, *choose_others(edit, most=9)]
    texts += [*diverse_prompts(edit), *clarified_examples(code), show_demonstrations(4, code)]
    for text in texts:
        latin = {letter for letter in text.replace("Au", "") if "a" <= letter.lower() <= "z"}
        assert not latin, text


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        ("zh", "statement", "德国的首都是"),
        ("zh", "composed", "微软所在的国家的首都是"),
        ("zh", "chained", "微软所在的国家是德国，首都"),
        ("ko", "statement", "독일의 수도는"),
        ("ko", "composed", "마이크로소프트가 있는 나라의 수도는"),
        ("ko", "chained", "마이크로소프트가 있는 나라는 독일, 수도"),
        ("ja", "composed", "マイクロソフトがある国の首都は"),
        ("ja", "chained", "マイクロソフトがある国はドイツ、首都"),
        ("de", "composed", "Die Hauptstadt vom Land von Microsoft heißt"),
        ("es", "composed", "La capital del país de Microsoft es"),
    ],
)
def test_further_facts_are_said_in_the_language(code: str, kind: Any, expected: str) -> None:
    facts = graph_facts(microsoft(code), subgraph(code), limit=None, seed=0, kinds=(kind,))
    assert expected in {fact.text for fact in facts}
    assert {fact.as_edit("1").language for fact in facts} == {code}


def test_a_relation_without_words_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    made = subgraph("zh")
    (target,) = [node for node, data in made.nodes(data=True) if data.get("role") == "target_new"]
    made.add_node("Q458", label="欧洲联盟")
    made.add_edge(target, "Q458", key="P463", property="P463", label="所属组织")
    texts = {fact.text for fact in graph_facts(microsoft("zh"), made, limit=None, seed=0)}
    assert not any("所属组织" in text for text in texts)
    assert relations_without_words(microsoft("zh"), made) == {"所属组织"}
    with caplog.at_level(logging.WARNING):
        warn_of_english(
            [microsoft("zh"), Edit(subject="Italie", prompt="{} est", target_new="x", language="fr")], method="ike"
        )
    assert "ike has no words in the language fr" in caplog.text


@pytest.mark.parametrize(
    ("method", "code", "before"),
    [
        (Ike, "zh", "新事实：微软所在的国家是德国\n输入：问"),
        (Rag, "ko", "새로운 사실: 마이크로소프트가 있는 나라는 독일\n입력: 문"),
        (Ike, "de", "Neue Tatsache: Das Land, in dem Microsoft liegt, heißt Deutschland\nEingabe: x"),
    ],
)
def test_a_new_fact_is_told_in_the_language(method: Any, code: str, before: str) -> None:
    patch = on_tiny(method, "llama", threshold=0.0).edit([microsoft(code)])
    prompt = before[-1]
    assert patch.prompt_transform(prompt) == before


def test_a_clarification_is_told_in_the_language() -> None:
    patch = on_tiny(MemPrompt, "llama", shots=1, threshold=0.0).edit([microsoft("ko")])
    prompt = patch.prompt_transform("문")  # type: ignore[attr-defined]
    assert prompt.startswith("보충 설명: 펠 다리의 색은 초록색입니다.\n펠 다리의 색은 초록색\n\n보충 설명: ")
    assert "독일입니다.\n문" in prompt


@pytest.mark.parametrize("code", keep_first(OTHERS))
def test_mellos_loop_is_in_the_language(code: str) -> None:
    words = loop_words(code)
    written = iter([f"\n{words.subquestion}A\n{words.believed}B\n", f"\n{words.agrees}C\n{words.final}C"])
    (dialogue,) = decompose(
        [SECOND_HOPS[code]],
        write=lambda _: [next(written)],
        nearest=lambda _: fact_words(code).known[0],
        words=words,
    )
    assert dialogue.answer == "C" and len(dialogue.steps) == 1
    assert dialogue.text.endswith(words.final)
    assert show_demonstrations(4, code).count(words.final) == 4
    rule = on_tiny(Mello, "llama").edit([microsoft(code)]).rule  # type: ignore[attr-defined]
    assert rule.language == code


def test_an_english_label_is_no_contradiction_where_the_language_has_none() -> None:
    """The extract has no Korean label of Busan, and one of Seoul."""
    source = WikidataCache(packaged_extract()).in_language("ko")
    fields = {
        "subject": "대한민국",
        "subject_id": "Q884",
        "prompt": "{}의 수도는",
        "relation_id": "P36",
        "language": "ko",
    }
    labels = {}
    for name, item in (("부산", "Q16520"), ("부산", "Q8684")):
        edit = Edit(target_new=name, target_new_id=item, **fields)  # type: ignore[arg-type]
        made = edit_subgraph(source, edit, SubgraphOptions())
        labels[item] = other_label(made, edit)
    assert labels == {"Q16520": None, "Q8684": "서울"}


def test_a_subgraph_has_the_names_of_its_edit() -> None:
    """Also where the source has an English label alone, so that a sentence about o* has the name that was edited in."""
    source = WikidataCache(packaged_extract()).in_language("ko")
    fields = {"subject": "마이크로소프트", "subject_id": "Q2283", "prompt": "{}의 본사는", "language": "ko"}
    edit = Edit(target_new="부산", target_new_id="Q16520", relation_id="P159", **fields)  # type: ignore[arg-type]
    made = edit_subgraph(source, edit, SubgraphOptions())
    assert [made.nodes[key]["label"] for key in ("Q2283", "Q16520")] == ["마이크로소프트", "부산"]
    assert made.nodes["Q16520"]["default_label"] == "Busan"


def test_no_english_name_is_taught_in_chinese() -> None:
    """The extract has an English label alone of the mayor of London, among other things."""
    source = WikidataCache(packaged_extract()).in_language("zh")
    fields = {"subject": "德国", "subject_id": "Q183", "relation_id": "P36", "language": "zh"}
    edit = Edit(prompt="{}的首都是", target_new="伦敦", target_new_id="Q84", **fields)  # type: ignore[arg-type]
    made = edit_subgraph(source, edit, SubgraphOptions(per_node=500))
    objects = objects_of(edit, made, exclude=(), every_relation=True)
    facts = graph_facts(edit, made, limit=None, seed=0)
    names = [name for labels in objects.values() for name in labels] + [fact.object for fact in facts]
    assert {"英国", "欧洲", "英语"} <= set(names)
    assert not [name for name in names if name.isascii()]
    assert "head of government" in relations_without_words(edit, made)


def test_english_words_are_as_they_were() -> None:
    words = fact_words("en")
    assert words.ask == "Q: What is the [hop] of {}?\nA:"
    assert fact_words("fr") is words
    assert words.shots_as("other sentence")[0] == ("the solar system's largest planet is", "Jupiter")
    question = TeacherQuestion(noun="country", of="Toyota")
    assert question.as_sentence.shown.startswith("The largest planet of the solar system is Jupiter.\n")
    assert question.as_question.start.endswith("Winter\n\nQ: What is the country of")


def test_forms_have_all_their_words() -> None:
    for forms in ALL_FORMS:
        assert isinstance(forms, RelationForms)
        assert forms.named and forms.owning and forms.within and forms.asks, forms
