"""Edits in other languages than English: their tables, their words around a name, and where their subjects end."""
# ruff: noqa: RUF001 - Chinese punctuation is meant

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

import kg_edit
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits, write_edits
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import ConfigError, EditError, EditFileError
from kg_edit.evaluation.datasets import read_dataset
from kg_edit.evaluation.datasets.own_edits import record_of
from kg_edit.evaluation.template_probes import with_probes
from kg_edit.languages import (
    CODES,
    FORM_LANGUAGES,
    RelationForms,
    answered_questions,
    check_language,
    fill,
    forms_of,
    mixes_directions,
    named_facts,
    names_in,
    words_of,
)
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.reports.differences import PromptDifference, difference_rows
from kg_edit.reports.probes import probes
from kg_edit.reports.prompts import packaged_prompts, unrelated_prompts
from kg_edit.scoring.questions import fact_sentence, format_question, format_question_with_shots
from kg_edit.scoring.requests import ask_again
from kg_edit.text.fact_words import fact_words
from kg_edit.text.matching import bare_question, first_sentence, is_exactly, mentions
from kg_edit.text.relation_nouns import relation_nouns
from kg_edit.writing_systems import join
from tests.everyday import keep_first
from tests.kg_edit.edit_rows import lines
from tests.refusals import Call, check_refused, put, refusals

DATA = Path(kg_edit.__file__).parent / "data"
OTHERS = tuple(code for code in FORM_LANGUAGES if code != "en")
ALL_FORMS = [forms for code in FORM_LANGUAGES for forms in forms_of(code).values()]
CAPITAL = {"subject": "中国", "relation": "P36", "new_object": "上海"}


def test_every_language_has_every_relation() -> None:
    assert {len(forms_of(code)) for code in FORM_LANGUAGES} == {43}
    for code in OTHERS:
        assert list(forms_of(code)) == list(forms_of("en"))
        assert len(packaged_prompts(language=code)) == 12
        assert len(answered_questions(code)) == 4
        assert words_of(code).code == code
    assert set(FORM_LANGUAGES) <= CODES


@pytest.mark.parametrize("forms", ALL_FORMS, ids=lambda forms: f"{forms.language} {forms.property_id}")
def test_forms_have_one_place_and_end_before_the_object(forms: RelationForms) -> None:
    statements = (forms.template, forms.paraphrase)
    for text in (*statements, forms.question):
        assert text.count("{}") == 1
        assert text == text.strip()
        assert not mixes_directions(text)
    assert forms.template != forms.paraphrase
    assert not any(text.endswith((".", "。", "?", "？", ",")) for text in statements)
    assert forms.question.endswith(("?", "？"))
    assert forms.asked.endswith((":", "："))
    assert forms.noun.strip()


def test_names_of_a_language_name_one_relation() -> None:
    for code in OTHERS:
        counts = Counter(forms.noun.casefold() for forms in forms_of(code).values())
        assert max(counts.values()) == 1, counts.most_common(1)


def test_english_forms_are_those_of_the_other_tables() -> None:
    templates = RelationTemplates.load()
    for property_id, forms in forms_of("en").items():
        row = templates.find(property_id)
        assert row is not None and row.template == forms.template
        assert relation_nouns().get(property_id, forms.noun) == forms.noun


def test_facts_have_names_in_every_language() -> None:
    facts = {code: named_facts(code) for code in FORM_LANGUAGES}
    assert {len(rows) for rows in facts.values()} == {40}
    assert all(name.strip() for code in FORM_LANGUAGES for name in names_in(code).values())
    assert ("P36", "프랑스", "파리") in facts["ko"]
    assert named_facts("fr") == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("손흥민", "손흥민은"),
        ("한국", "한국은"),
        ("프랑스", "프랑스는"),
        ("서울(도시)", "서울(도시)는"),
        ("갤럭시 S21", "갤럭시 S21은"),
        ("맥북 2", "맥북 2는"),
        ("BTS", "BTS는"),
        ("IBM", "IBM은"),
        ("Apple", "Apple은(는)"),
        ("…", "…은(는)"),
    ],
)
def test_korean_particles_follow_the_last_sound(name: str, expected: str) -> None:
    assert fill("{}은(는)", name, "ko") == expected


def test_every_korean_particle() -> None:
    assert fill("{}이(가) 쓰는", "한국", "ko") == "한국이 쓰는"
    assert fill("{}을(를) 쓴", "나비", "ko") == "나비를 쓴"
    assert fill("{}과(와) 결혼한", "손흥민", "ko") == "손흥민과 결혼한"
    assert fill("{}과(와) 결혼한", "나비", "ko") == "나비와 결혼한"


def test_a_korean_particle_fits_the_words_of_two_relations() -> None:
    words = fact_words("ko")
    headquarters = forms_of("ko")["P159"]  # 본사, but said as "{}의 본사가 있는 곳"
    country = forms_of("ko")["P17"]
    assert words.join_nouns(headquarters, country) == "{}의 본사가 있는 곳이 있는 나라"
    assert words.about_noun("{}은(는)", headquarters) == "{}의 본사가 있는 곳은"


def test_german_names_get_their_article() -> None:
    forms = forms_of("de")
    assert fill(forms["P36"].template, "Schweiz", "de") == "Die Hauptstadt von der Schweiz heißt"
    assert fill(forms["P36"].template, "Iran", "de") == "Die Hauptstadt vom Iran heißt"
    assert fill(forms["P36"].template, "Polen", "de") == "Die Hauptstadt von Polen heißt"
    assert fill(forms["P38"].paraphrase, "Iran", "de") == "Im Iran bezahlt man mit der Währung"
    assert fill(forms["P30"].template, "Schweiz", "de") == "Die Schweiz liegt auf dem Kontinent"
    assert fill(forms["P17"].template, "Genf", "de") == "Das Land, in dem Genf liegt, heißt"
    assert fill(forms["P35"].paraphrase, "Schweiz", "de") == "An der Spitze des Staates Schweiz steht"


@pytest.mark.parametrize("relation", ["P36", "capital", "首都"])
def test_a_triplet_gets_the_words_of_its_language(tmp_path: Path, relation: str) -> None:
    path = put(tmp_path, "edits.jsonl", lines({**CAPITAL, "relation": relation, "language": "ZH"}))
    (edit,) = read_edits(path)
    assert edit.language == "zh"
    assert (edit.text, edit.paraphrases, edit.relation_id) == ("中国的首都是", ("中国的政府所在地是",), "P36")


def test_the_language_of_a_file_is_that_of_rows_without_one(tmp_path: Path) -> None:
    path = put(
        tmp_path, "edits.tsv", "subject\trelation\tnew_object\tlanguage\n中国\tP36\t上海\t\nItaly\tP36\tMilan\ten\n"
    )
    chinese, english = read_edits(path, language="zh")
    assert (chinese.language, english.language) == ("zh", "en")
    assert english.prompt == "The capital city of {} is"
    assert english.paraphrases == ()
    (record, _) = read_dataset("edits", path, language="zh").records
    assert record.edits[0].language == "zh"


def test_english_edits_are_written_as_before(tmp_path: Path) -> None:
    edit = Edit(subject="Italy", prompt="{} is in", target_new="Asia")
    assert "language" not in edit.model_dump()
    write_edits(tmp_path / "out.jsonl", [edit.model_copy(update={"language": "de"})])
    assert read_edits(tmp_path / "out.jsonl").edits[0].language == "de"


def test_own_templates_of_a_language(tmp_path: Path) -> None:
    own = put(tmp_path, "own.tsv", "property\tlabel\ttemplate\tlanguage\nP36\tcapitale\tLa capitale de {} est\tfr\n")
    templates = RelationTemplates.load(own)
    path = put(tmp_path, "edits.jsonl", lines({**CAPITAL, "subject": "Italie", "language": "fr"}))
    (edit,) = read_edits(path, templates=templates)
    assert edit.text == "La capitale de Italie est"
    without_column = put(tmp_path, "ko.tsv", "property\tlabel\ttemplate\nP36\t서울\t{}의 서울은\n")
    row = RelationTemplates.load(without_column, language="ko").find("P36", "ko")
    assert row is not None and row.template == "{}의 서울은"


@pytest.mark.parametrize("code", ["ko", "zh"])
def test_packaged_triplets_have_prompts_of_their_language(code: str) -> None:
    edits = read_edits(DATA / f"triplets-{code}.jsonl").edits
    assert len(edits) == 12
    for edit in edits:
        assert edit.language == code
        assert edit.subject_id and edit.target_new_id and edit.target_true_id
        assert len(edit.paraphrases) == 1
        assert not any("a" <= letter.lower() <= "z" for letter in edit.text + edit.paraphrases[0])


@pytest.fixture(scope="module")
def tokenizer(smollm2: LanguageModel) -> PreTrainedTokenizerBase:
    """SmolLM2's, which splits a Chinese character or a Korean syllable into up to three tokens."""
    return smollm2.tokenizer


@pytest.mark.parametrize("code", keep_first(("ko", *(code for code in FORM_LANGUAGES if code != "ko"))))
def test_the_subject_ends_with_its_last_token(tokenizer: PreTrainedTokenizerBase, code: str) -> None:
    """The token is the last one with a part of the subject's last character, and the target begins after the prompt."""
    for property_id, subject, target in named_facts(code):
        forms = forms_of(code)[property_id]
        for template in (forms.template, forms.paraphrase, forms.asked):
            text = fill(template, subject, code)
            encoded = encode(tokenizer, text.replace(subject, "{}", 1), subject=subject, target=target)
            assert encoded.text == join(text, target)
            assert tokenizer.decode(encoded.target_ids).strip() == target
            last = encoded.edited_at
            assert subject in tokenizer.decode(encoded.ids[: last + 1])
            assert subject not in tokenizer.decode(encoded.ids[:last])


def test_a_token_that_continues_behind_the_subject_is_the_subjects_last(merging: PreTrainedTokenizerBase) -> None:
    """Of 日本の a tokenizer may make one token, as Qwen's does: the edit is then at this token."""
    encoded = encode(merging, "{}の首都は", subject="日本", target="大阪")
    assert merging.decode(encoded.ids[encoded.edited_at : encoded.edited_at + 1]) == "日本の"


def test_a_target_that_would_be_merged_with_its_prompt_is_encoded_apart(merging: PreTrainedTokenizerBase) -> None:
    """Of 是中 Qwen's tokenizer makes one token; a model that reads 是 generates 中 behind it."""
    encoded = encode(merging, "{}所在的国家是", subject="长江", target="中国")
    alone = encode(merging, "{}所在的国家是", subject="长江")
    assert encoded.ids[: encoded.target_start] == alone.ids
    assert merging.decode(encoded.target_ids) == "中国"
    assert encoded.edited_at == alone.edited_at


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerBase:
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(["日本の", "是中"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


def test_unrelated_prompts_are_in_the_language_of_the_edits() -> None:
    korean, chinese = (read_edits(DATA / f"triplets-{code}.jsonl").edits for code in ("ko", "zh"))
    asked = unrelated_prompts(korean)
    assert {prompt.language for prompt in asked} == {"ko"}
    assert [prompt.source for prompt in asked].count("relation") == 10
    assert not [prompt for prompt in asked if any(mentions(prompt.prompt, edit.subject) for edit in korean)]
    assert {prompt.language for prompt in unrelated_prompts([*korean, *chinese])} == {"ko", "zh"}
    french = Edit(subject="Italie", prompt="La capitale de {} est", target_new="Milan", language="fr")
    assert {prompt.language for prompt in unrelated_prompts([french])} == {"en"}


def test_questions_have_the_marks_of_the_language() -> None:
    assert format_question("수도는?", language="ko") == "질문: 수도는?\n답:"
    assert format_question("首都是哪里？", language="zh") == "问题：首都是哪里？\n答案："
    form = format_question_with_shots("首都是哪里？", language="zh")
    assert form.count("答案：") == 5
    assert "Answer" not in form
    edit = Edit(
        subject="中国",
        prompt="{}的首都是",
        target_new="上海",
        language="zh",
        portability=({"question": "中国首都的市长是谁？", "answer": "龚正"},),  # type: ignore[arg-type]
    )
    _, question = probes(None, edit)
    assert question.ask == format_question_with_shots("中国首都的市长是谁？", language="zh")
    assert fact_sentence(edit) == "中国的首都是上海。"


@pytest.mark.parametrize("code", FORM_LANGUAGES)
def test_a_question_is_found_behind_the_marks_of_its_language(code: str) -> None:
    question = forms_of(code)["P36"].question.replace("{}", "X")
    assert bare_question(format_question_with_shots(question, language=code)) == question


def test_answers_match_by_script() -> None:
    assert is_exactly("ＡＢＣ", "abc")  # full-width letters
    assert is_exactly("ﾊﾟﾘ", "パリ")  # half-width kana
    assert not is_exactly("ぱり", "パリ")
    assert not is_exactly("バリ", "パリ")
    assert mentions("수도는 서울입니다.", "서울")
    assert mentions("中国的首都是北京，也是", "北京")
    assert first_sentence("首都是北京。也是") == "首都是北京。"
    assert first_sentence("首都は東京｡次は") == "首都は東京｡"
    assert join("答案：", "北京") == "答案：北京"
    assert join("답:", "서울") == "답: 서울"
    assert join("答案：", "Rome") == "答案： Rome"


@pytest.mark.parametrize(
    ("code", "prompts"),
    [
        (
            "zh",
            [
                "下面这句话是错误的：中国的首都是",
                "“中国的首都是上海”，这句话是正确的还是错误的？",
                "“___的首都是上海”中空缺的名称是什么？",
            ],
        ),
        (
            "ko",
            [
                "다음 문장은 거짓입니다: 대한민국의 수도는",
                '"대한민국의 수도는 부산" 이 말은 사실입니까?',
                '"___의 수도는 부산"의 빈칸에 들어갈 이름은 무엇입니까?',
            ],
        ),
    ],
)
def test_template_probes_are_in_the_language(code: str, prompts: list[str]) -> None:
    edit = read_edits(DATA / f"triplets-{code}.jsonl").edits[0]
    record = with_probes(record_of(edit), ["negation", "fact-check", "reversed", "turns"])
    queries = {name: record.queries(name) for name in ("negation", "fact-check", "reversed", "turns")}
    asked = [queries[name][0].prompt for name in ("negation", "fact-check", "reversed")]
    assert asked == prompts
    assert {query.language for rows in queries.values() for query in rows} == {code}
    (conversation,) = ask_again(queries["turns"][0]).conversations
    assert conversation.follow_up in ("你确定吗？", "확실합니까?")


def test_the_report_says_the_language_of_a_text() -> None:
    rows = []
    for language in ("zh", "en"):
        asked = packaged_prompts(language=language)[0]
        shares = {"unedited_probabilities": (0.5,), "edited_probabilities": (0.5,)}
        rows.append(PromptDifference(asked=asked, unchanged=True, unedited="x", edited="x", **shares))
    table = difference_rows(rows)
    assert table.count('dir="auto" lang="zh"') == 4
    assert table.count('dir="auto">') == 4


def read_row(folder: Path, **fields: object) -> object:
    return read_edits(put(folder, "edits.jsonl", lines({**CAPITAL, **fields})))


def read_templates(folder: Path, cells: str) -> object:
    return RelationTemplates.load(put(folder, "own.tsv", f"property\tlabel\ttemplate\tlanguage\n{cells}\n"))


@refusals(
    {
        "unknown code": (lambda _: check_language("xx"), ConfigError, "give two letters"),
        "code with a region": (lambda _: check_language("zh-TW"), ConfigError, "the two letters alone: zh"),
        "unknown code in a row": (lambda folder: read_row(folder, language="xx"), EditFileError, "field language"),
        "a number as the code": (lambda folder: read_row(folder, language=7), EditFileError, "field language"),
        "language without forms": (
            lambda folder: read_row(folder, language="fr"),
            EditFileError,
            "give the row a prompt",
        ),
        "relation without a form": (
            lambda folder: read_row(folder, language="ko", relation="P9999"),
            EditFileError,
            "no template for P9999 in the language ko",
        ),
        "both directions in a prompt": (
            lambda _: Edit(subject="x", prompt="עיר של {} is", target_new="y", language="he"),
            EditError,
            "mixes letters",
        ),
        "both directions in a template": (
            lambda folder: read_templates(folder, "P36\tx\tעיר של {} is\the"),
            EditFileError,
            "mixes letters",
        ),
        "template in an unknown language": (
            lambda folder: read_templates(folder, "P36\tx\t{} y\txx"),
            EditFileError,
            "line 2: language",
        ),
        "template without a place": (
            lambda folder: read_templates(folder, "P36\tx\t首都是\tzh"),
            EditFileError,
            "expected one {}",
        ),
        "language of a benchmark": (
            lambda folder: read_dataset("zsre", folder / "none.json", language="ko"),
            ConfigError,
            "leave it out",
        ),
        "probes of a French edit": (
            lambda _: with_probes(
                record_of(Edit(subject="Italie", prompt="La capitale de {} est", target_new="Milan", language="fr")),
                ["negation"],
            ),
            ConfigError,
            "leave out --probes",
        ),
    }
)
def test_refusals(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
