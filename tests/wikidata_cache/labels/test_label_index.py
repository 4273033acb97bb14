"""The label index: what people type finds what they mean, homonyms come ranked, and no text breaks it."""

import gzip
import itertools
import resource
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyoxigraph import RdfFormat, parse

from tests.wikidata_cache.wikidata_helpers import read_shared
from wikidata_cache.errors import LabelIndexError
from wikidata_cache.labels.label_index import LabelEntry, LabelIndex, build_label_index, normalise

NAMES = [
    LabelEntry("Q65", "Los Angeles", "en", "label"),
    LabelEntry("Q65", "LA", "en", "alias"),
    LabelEntry("Q65", "L.A.", "en", "alias"),
    LabelEntry("Q6681932", "Los Ángeles", "en", "label"),
    LabelEntry("Q121783", "Los Angeles Lakers", "en", "label"),
    LabelEntry("Q1588", "LA", "en", "alias"),
    LabelEntry("Q900", "LA", "en", "label"),
    LabelEntry("Q29108", "Зенит", "ru", "label"),
    LabelEntry("Q1490", "東京", "ja", "label"),
    LabelEntry("Q80", "تيم بيرنرز لي", "ar", "label"),
    LabelEntry("Q2", "🌍", "en", "alias"),
    LabelEntry("Q174", "São  Paulo", "en", "label"),
    LabelEntry("Q5", "STRASSE", "en", "label"),
    LabelEntry("Q19", 'the "quoted" AND* NEAR(x)', "en", "label"),
    LabelEntry("P19", "place of birth", "en", "label"),
    LabelEntry("Q7", " \t", "en", "label"),
    LabelEntry("Q1", "Portal", "en", "label"),
    LabelEntry("Q30", "Portal", "en", "label"),
    LabelEntry("Q4", "Portal", "en", "label"),
]
WEIGHTS = [("Q65", 5), ("Q1588", 20), ("Q4", 2), ("Q65", 7), ("Q30", 2)]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LabelIndex]:
    path = tmp_path / "labels.sqlite"
    build_label_index(path, NAMES, weights=WEIGHTS)
    with LabelIndex(path) as opened:
        yield opened


def ids(matches: list) -> list[str]:
    return [match.id for match in matches]


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("los  ANGELES ", "Q65"),
        ("зенит", "Q29108"),
        ("東京", "Q1490"),
        ("\u200fتيم بيرنرز لي\u200e", "Q80"),  # wrapped in direction marks
        ("🌍\ufe0f", "Q2"),
        ("sao paulo", "Q174"),
        ("Sa\u0303o Paulo", "Q174"),  # decomposed
        ("straße", "Q5"),
        ("\uff2c\uff0e\uff21\uff0e", "Q65"),  # full-width letters
        ("PLACE OF BIRTH", "P19"),
    ],
)
def test_exact_ignores_case_accents_and_spacing(index: LabelIndex, text: str, entity: str) -> None:
    assert index.find_exact(text)[0].id == entity


def test_exact_spelling_comes_first(index: LabelIndex) -> None:
    assert ids(index.find_exact("Los Ángeles")) == ["Q6681932", "Q65"]
    assert ids(index.find_exact("Los Angeles")) == ["Q65", "Q6681932"]
    assert index.find_exact("Los Ángeles")[0].text == "Los Ángeles"


def test_matches_are_ranked(index: LabelIndex) -> None:
    assert ids(index.find_exact("LA")) == ["Q900", "Q1588", "Q65"]
    assert [match.weight for match in index.find_exact("LA")] == [0, 20, 12]  # the numbers of one id add up
    assert ids(index.find_exact("Portal")) == ["Q4", "Q30", "Q1"]
    assert ids(index.find_exact("Portal", limit=2)) == ["Q4", "Q30"]


def test_tokens_returns_each_entity_once(index: LabelIndex) -> None:
    assert [(match.id, match.text) for match in index.find_by_words("angeles los")] == [
        ("Q65", "Los Angeles"),
        ("Q121783", "Los Angeles Lakers"),
        ("Q6681932", "Los Ángeles"),
    ]


def test_tokens_filters_by_entity_kind(index: LabelIndex) -> None:
    assert ids(index.find_by_words("birth", kind="property")) == ["P19"]
    assert index.find_by_words("birth", kind="item") == []


@pytest.mark.parametrize("text", ["", "   ", "\x00", "\u200f", "\u0301"])
def test_empty_text_finds_nothing(index: LabelIndex, text: str) -> None:
    assert index.find_exact(text) == []
    assert index.find_by_words(text) == []


@pytest.mark.parametrize(
    "text",
    [
        '"',
        "'",
        "*",
        "AND",
        "NEAR(los angeles)",
        "los NOT angeles",
        "name : los",
        "^los",
        "los + angeles",
        "{name}: los",
        "-los",
        "') OR 1=1 --",
        "'; DROP TABLE names; --",
        '"los" OR "portal"',
        "\\",
        "los\x00angeles'",
        "\ud83d",
        "?e ?p ?o } #",
    ],
)
def test_operators_are_no_commands(index: LabelIndex, text: str) -> None:
    before = index.counts
    index.find_exact(text)
    # All words of the text are demanded as words, so none of these finds what its operators would find.
    assert ids(index.find_by_words(text)) in ([], ["Q65", "Q121783", "Q6681932"] if text in PLAIN else ["Q19"])
    assert index.counts == before


PLAIN = ("^los", "los + angeles", "-los", "los\x00angeles'")  # signs are no words: "los" and "angeles" are found


def test_operators_in_a_name_are_words(index: LabelIndex) -> None:
    assert ids(index.find_by_words('NEAR(x) "quoted" and')) == ["Q19"]
    assert ids(index.find_exact('THE "QUOTED" AND* NEAR(X)')) == ["Q19"]


def test_nearest_names_are_one_letter_away(index: LabelIndex) -> None:
    for text in ("Los Angles", "los angeless", "Los Amgeles", "Lso Angeles"):
        assert ids(index.find_nearest(text)) == ["Q65", "Q6681932"], text
    for text in ("зеннит", "ЗЕНТИ", "зени", "зенид"):  # "т" is not in the last two
        assert ids(index.find_nearest(text)) == ["Q29108"], text
    assert (
        index.find_nearest("Los Angles", kind="property")
        == index.find_nearest("Lo Angles")
        == index.find_nearest("LAX")
        == []
    )


def test_very_long_text_finds_nothing(index: LabelIndex) -> None:
    assert index.find_exact("los " * 100_000) == []
    assert index.find_by_words("los " * 100_000) == []
    assert index.find_by_words("x" * 1_000_000) == index.find_nearest("x" * 1_000_000) == []


@given(st.text(max_size=60))
def test_any_name_finds_itself(text: str) -> None:
    with LabelIndex.in_memory([LabelEntry("Q1", text, "en", "label")]) as index:
        visible = bool(normalise(text))
        assert ids(index.find_exact(text)) == ["Q1"] * visible
        assert index.counts.entities == visible
        assert set(ids(index.find_by_words(text))) <= {"Q1"}
        assert normalise(normalise(text)) == normalise(text)


def test_index_counts(index: LabelIndex) -> None:
    assert index.counts == (16, 14, 4)  # " \t" is no name


def test_order_of_entries_does_not_matter() -> None:
    with (
        LabelIndex.in_memory(NAMES, weights=WEIGHTS) as one,
        LabelIndex.in_memory(NAMES[::-1] + NAMES, weights=WEIGHTS[::-1]) as other,
    ):
        assert one.counts == other.counts
        for entry in NAMES:
            assert one.find_exact(entry.text) == other.find_exact(entry.text)
            assert one.find_by_words(entry.text) == other.find_by_words(entry.text)


def test_failed_build_leaves_old_index(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    build_label_index(path, NAMES)

    def broken() -> Iterator[LabelEntry]:
        yield from NAMES[:3]
        raise RuntimeError("the dump ends here")

    with pytest.raises(RuntimeError, match="the dump ends here"):
        build_label_index(path, broken())
    assert list(tmp_path.iterdir()) == [path]
    with LabelIndex(path) as index:
        assert index.counts.labels == 14


def test_full_disk_leaves_old_index(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    build_label_index(path, NAMES)
    many = [LabelEntry(f"Q{n}", f"name {n}", "en", "label") for n in range(1, 20_000)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # bytes of a file: no more can be written
    try:
        with pytest.raises(LabelIndexError, match=r"labels\.sqlite: cannot be written"):
            build_label_index(path, many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path]
    with LabelIndex(path) as index:
        assert index.counts.labels == 14


def test_invalid_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    with pytest.raises(LabelIndexError, match="there is no such file"):
        LabelIndex(path)
    path.write_text("Q65\tlabel\tLos Angeles\n" * 100)
    with pytest.raises(LabelIndexError, match="is not a label index"):
        LabelIndex(path)
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE counts (format)").connection.close()
    with pytest.raises(LabelIndexError, match="is not a label index"):
        LabelIndex(path)
    build_label_index(path, NAMES)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE counts SET format = 'wikidata-cache labels/99'")
    connection.close()
    with pytest.raises(LabelIndexError, match=r"labels/99.*this release reads"):
        LabelIndex(path)


def test_damaged_index_is_named_by_every_query(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    build_label_index(path, [LabelEntry(f"P{n}", f"relation {n} of {n % 7}", "en", "label") for n in range(1, 3_000)])
    with closing(sqlite3.connect(path)) as connection:
        [[counts]] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'counts'")
    content = bytearray(path.read_bytes())
    for page in range(1, len(content) // 4096):  # from 0, with the schema, which is read when the file is opened
        if page != counts - 1:
            content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    with LabelIndex(path) as index:
        for query in (index.find_exact, index.find_by_words, index.find_nearest):
            with pytest.raises(LabelIndexError, match=r"labels\.sqlite: is damaged \(.*load the store again"):
                query("relation 9 of 2")


def test_index_in_read_only_folder_is_readable(tmp_path: Path) -> None:
    folder = tmp_path / "a folder?with #signs"
    folder.mkdir()
    path = folder / "labels.sqlite"
    build_label_index(path, NAMES)
    before = sorted(folder.iterdir())
    folder.chmod(0o555)
    try:
        with LabelIndex(path) as one, LabelIndex(path) as other:
            assert one.find_exact("LA") == other.find_exact("LA") != []
        assert sorted(folder.iterdir()) == before
    finally:
        folder.chmod(0o755)


@pytest.mark.slow
def test_real_names_find_themselves(tmp_path: Path) -> None:
    entries = [*shared_names("labels", "label", 20_000), *shared_names("aliases", "alias", 20_000)]
    assert len(entries) == 40_000
    path = tmp_path / "labels.sqlite"
    build_label_index(path, entries)
    with LabelIndex(path) as index:
        for entry in entries[::97]:
            assert entry.id in ids(index.find_exact(entry.text.upper(), limit=1_000)), entry
            reversed_words = " ".join(entry.text.split()[::-1])
            if normalise(entry.text).replace(" ", "").isalnum():
                assert entry.id in ids(index.find_by_words(reversed_words, limit=10_000)), entry


def shared_names(name: str, kind: str, number: int) -> Iterator[LabelEntry]:
    with gzip.open(read_shared(f"wikidata/{name}.nt.gz")) as file:
        for quad in itertools.islice(parse(file, RdfFormat.N_TRIPLES), number):
            entity = quad.subject.value.rpartition("/")[2]
            yield LabelEntry(entity, quad.object.value, quad.object.language, kind)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("ﾄﾖﾀ", "トヨタ"),  # of half width
        ("\uff34\uff4f", "to"),  # of full width
        ("ガス", "ガス"),
        ("カ\u3099ス", "ガス"),  # as macOS writes it
        ("서울", "서울"),
        ("İstanbul", "istanbul"),
        ("हिन्दी", "हिन्दी"),
        ("ไม้", "ไม้"),
        ("Miyazaki\u3000駿", "miyazaki 駿"),
    ],
)
def test_names_are_compared_by_the_rules_of_their_script(written: str, name: str) -> None:
    assert normalise(unicodedata.normalize("NFC", written)) == normalise(unicodedata.normalize("NFD", written)) == name


def test_marks_that_make_another_letter_tell_names_apart() -> None:
    assert normalise("ガス") != normalise("カス") and normalise("パリ") != normalise("ハリ")


def test_part_of_a_name_without_spaces_is_found() -> None:
    names = {
        "Q1": "東京都庁",
        "Q2": "京東商城",
        "Q3": "서울특별시",
        "Q4": "로스앤젤레스 레이커스",
        "Q5": "กรุงเทพมหานคร",
    }
    entries = [LabelEntry(entity, text, "mul", "label") for entity, text in names.items()]
    with LabelIndex.in_memory(entries) as index:
        assert ids(index.find_by_words("東京")) == ["Q1"], "and not the two characters in another order"
        assert ids(index.find_by_words("서울")) == ["Q3"]
        assert ids(index.find_by_words("레이커스 로스앤젤레스")) == ["Q4"]
        assert ids(index.find_by_words("กรุงเทพ")) == ["Q5"]
        assert ids(index.find_exact("東京")) == []


def test_index_finds_names_in_the_wanted_languages(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    build_label_index(path, NAMES)
    with LabelIndex(path, languages=("ru",)) as russian:
        assert (
            ids(russian.find_exact("Зенит")) == ["Q29108"]
            and not russian.find_exact("LA")
            and not russian.find_by_words("Los")
        )
        assert russian.list_languages() == ["ar", "en", "ja", "ru"]
