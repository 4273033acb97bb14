import pytest
from pyoxigraph import Literal, NamedNode, Quad, Store

from tests.wikidata_cache.wikidata_helpers import Edit, facts
from wikidata_cache import WikidataCache
from wikidata_cache.errors import BadOptionError, UnknownLabelError
from wikidata_cache.ids import ENTITY, RDFS_LABEL
from wikidata_cache.sources import queries
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.wordings import ALL_TEMPLATES as TEMPLATES

IDS = {
    "named": ["Philadelphia"],
    "ends": ["P19 object", "P19 subject"],
    "at_end": ["P19 object Q65", "P19 object Q84"],
    "label_in": ["Q1345 zh", "Q84 ko"],
    "description_in": ["Q1345 zh", "Q84 ko"],
    "named_in": ["zh 北京", "ko 런던"],
}


def test_query_sorts_ids() -> None:
    assert TEMPLATES["out"].query(["Q2", "Q1"]) == TEMPLATES["out"].query(["Q1", "Q2"])


@pytest.mark.parametrize("label", ['say "hi"', "back\\slash", "two\nlines", "tab\t", "😀 عربى", "'}{#?x", "a$b"])
def test_named_query_finds_any_label(label: str) -> None:
    store = Store()
    store.add(Quad(NamedNode(ENTITY + "Q1"), NamedNode(RDFS_LABEL), Literal(label, language="en")))
    assert facts(OxigraphSource(store, name="one", provenance={})).named([label]) == {label: ("Q1",)}


def test_queries_are_portable() -> None:
    texts = [template.query(IDS.get(kind, ["Q1", "Q2"])) for kind, template in TEMPLATES.items()]
    for text in texts:
        assert not any(word in text for word in ("SERVICE", "hint:", "RAND", "OFFSET", "bd:"))


@pytest.mark.parametrize(
    "bad", ["Q1> . }", "Q1 wd:Q2", "P1/P2", "q1", "Q01", "Q1\n", "\uff311", "Q\u0661", "P\u0661", ""]
)
def test_ids_cannot_inject_sparql(cache: WikidataCache, bad: str) -> None:
    for ask in (cache.labels, cache.facts.out, cache.facts.incoming, cache.facts.degrees, cache.facts.claims):
        with pytest.raises(BadOptionError, match=r"not a Wikidata id.*find"):
            ask([bad])
    with pytest.raises(BadOptionError):
        cache.neighbourhood(bad)
    for field in ("subject_id", "relation_id", "target_new_id", "target_true_id"):
        with pytest.raises(BadOptionError, match=field):
            cache.subgraph(Edit("s", "o", **{field: bad}))


@pytest.mark.parametrize(
    "label", ['x"@en } UNION { ?e ?p ?l', 'Twin" . ?s ?p ?o #', "\\", '"""', "}}", "\u2028", "\x00"]
)
def test_labels_cannot_inject_sparql(toy: WikidataCache, label: str) -> None:
    assert toy.find(label) == ()
    with pytest.raises(UnknownLabelError):
        toy.subgraph(Edit("s", label))


def test_answers_end_with_a_mark(cache: WikidataCache) -> None:
    """Without the row that sorts last, an answer that a server has cut off would look like a short one."""
    for kind, template in TEMPLATES.items():
        query = template.query(IDS.get(kind, ["Q1345", "Q84"]))
        rows = cache.source.select(query)
        assert [row for row in rows if "end" in row] == [rows[-1]]
        assert rows[-1]["end"] == queries.read_answer_mark(query)


def test_queries_stay_small() -> None:
    for kind, template in TEMPLATES.items():
        forms = {"named": "x" * 93 + "{}", "ends": "P1{} object", "at_end": "P1{} object Q1{}"}
        forms |= {"label_in": "Q13{} zh", "description_in": "Q13{} zh", "named_in": "zh " + "x" * 93 + "{}"}
        longest = [forms.get(kind, "Q13{}").replace("{}", f"{i:07d}") for i in range(template.size)]
        assert len(template.query(longest)) < 30_000, kind


def test_claim_times_are_normalised() -> None:
    wd, prop, rank = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/", "http://wikiba.se/ontology#"
    template = TEMPLATES["claims"]
    row = {"s": f"{wd}Q1", "p": f"{prop}statement/P54", "o": f"{wd}Q2", "rank": f"{rank}NormalRank"}
    forms = {
        "2003-07-01T00:00:00+00:00": "2003-07-01T00:00:00Z",  # rdflib
        "-044-03-15T00:00:00Z": "-0044-03-15T00:00:00Z",  # Virtuoso
        "+12000-01-01T00:00:00.000Z": "12000-01-01T00:00:00Z",
        "2003": "2003",
    }
    for form, expected in forms.items():
        [fact] = template.read(["Q1"], [row | {"start": form}])
        assert fact.value == [["P54", "Q2", "normal", expected, ""]]


@pytest.mark.parametrize("key", ["Q1", "Q1 ", "Q1 zh-hant", "q1 zh", "Q1 zh ko", "Q1> } zh"])
def test_keys_of_words_cannot_inject_sparql(cache: WikidataCache, key: str) -> None:
    with pytest.raises(BadOptionError, match="such as 'Q42 zh'"):
        list(cache.source.ask(TEMPLATES["label_in"], [key]))


@pytest.mark.parametrize("label", ['x"@ko } UNION { ?e ?p ?l', "\\", '"""', "}}", "two words", "\n"])
def test_any_label_in_a_language_is_found(label: str) -> None:
    store = Store()
    store.add(Quad(NamedNode(ENTITY + "Q1"), NamedNode(RDFS_LABEL), Literal(label, language="ko-kp")))
    [answer] = OxigraphSource(store, name="one", provenance={}).ask(TEMPLATES["named_in"], [f"ko {label}", "ko y"])
    assert {fact.id: fact.value for fact in answer.facts} == {f"ko {label}": ["Q1"], "ko y": []}
