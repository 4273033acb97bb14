import pytest

from tests.wikidata_cache.wikidata_helpers import Server
from wikidata_cache import WikidataCache
from wikidata_cache.errors import CacheMissError, ServiceForbiddenError, UserQueryError
from wikidata_cache.sources.user_queries import canonicalize, forbid_service

AWAY = "http://127.0.0.1:9/sparql"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("SELECT  *\n\tWHERE {\n ?s ?p ?o }  # all\n", "SELECT * WHERE { ?s ?p ?o }"),
        ("SELECT ?s { ?s <http://e/x#y>  'a  # b' }", "SELECT ?s { ?s <http://e/x#y> 'a  # b' }"),
        ("SELECT * { ?s ?p '''it''s  # a\n\n\"text\"'''  } #", "SELECT * { ?s ?p '''it''s  # a\n\n\"text\"''' }"),
        ('SELECT * { ?s ?p "a \\" #  b"@en }# c', 'SELECT * { ?s ?p "a \\" #  b"@en }'),
        ("SELECT * { FILTER(?a < 3)  # ?b > 4\n}", "SELECT * { FILTER(?a < 3) }"),
        ("select * {}", "select * {}"),
    ],
)
def test_canonical_text_of_a_query(query: str, text: str) -> None:
    assert canonicalize(query) == canonicalize(text) == text


def test_canonical_leaves_doubtful_query_unchanged() -> None:
    query = "SELECT * { FILTER(?a<e:b#>\n) }"
    assert canonicalize(f" {query}\n") == query


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT * {{ SERVICE <{AWAY}> {{ ?s ?p ?o }} }}",
        f"select*{{sErViCe<{AWAY}>{{}}}}",
        f"SELECT * {{ SERVICE # where\n SILENT\t<{AWAY}> {{ }} }}",
        f"SELECT * {{ ?s ?p 1SERVICE<{AWAY}>{{}} }}",
        f"PREFIX : <{AWAY}> SELECT * {{ SERVICE:x{{}} }}",
        f"SELECT * {{ \\u0053ERVICE <{AWAY}> {{}} }}",
        f"SELECT * {{ ?s ?p 'a' }} # '\nSERVICE <{AWAY}> {{}}",
        f'SELECT * {{ ?s ?p "\\\\" SERVICE <{AWAY}> {{}} ?a ?b "x" }}',
        f'PREFIX e: <http://e/> SELECT * {{ FILTER(?a<e:b#> """\n) SERVICE <{AWAY}> {{}} #"""\n}}',
        "SELECT * { FILTER(?a<?b)SERVICE?g#>\n{?s ?p ?o} }",
    ],
)
def test_forbid_service_finds_hidden_service(query: str) -> None:
    with pytest.raises(ServiceForbiddenError, match="nothing may go out"):
        forbid_service(query, "nothing may go out")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT ?service { ?service <http://www.w3.org/ns/sparql-service-description#x> 'SERVICE <x> {}' }",
        "SELECT * { ?s ?p ?o } # SERVICE <x> {}",
        'SELECT * { ?s ex:service """\nSERVICE <x> {}"""@service }',
        "SELECT $SERVICE { VALUES $SERVICE { <http://e/SERVICE/a_(b)> <urn:service:x> } }",
    ],
)
def test_forbid_service_allows_the_word_in_texts(query: str) -> None:
    forbid_service(query, "nothing may go out")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ASK { ?s ?p ?o }", "has the form ASK"),
        ("PREFIX select: <http://e/> CONSTRUCT { } WHERE { }", "has the form CONSTRUCT"),
        ("# SELECT\nDELETE WHERE { ?s ?p ?o }", "is an update"),
        ("LOAD <http://e/select>", "is an update"),
        ("hello", "has no SELECT"),
    ],
)
def test_only_select_queries_are_accepted(query: str, found: str, toy: WikidataCache) -> None:
    with pytest.raises(UserQueryError, match=found):
        toy.query(query)


def test_local_graph_answers_user_queries(toy: WikidataCache) -> None:
    assert toy.query("SELECT ?o { <http://www.wikidata.org/entity/Q3> ?p ?o FILTER(isIRI(?o)) }") == [
        {"o": "http://www.wikidata.org/entity/Q5"}
    ]
    with pytest.raises(ServiceForbiddenError, match="on this machine"):
        toy.query(f"SELECT * {{ SERVICE <{AWAY}> {{ ?s ?p ?o }} }}")
    with pytest.raises(UserQueryError, match="is not SPARQL"):
        toy.query("SELECT * { ?s undeclared:p ?o }")


def test_user_query_rows_are_cached(server: Server, cache_path: str) -> None:
    query = "SELECT ?l { <http://www.wikidata.org/entity/Q65> <http://www.w3.org/2000/01/rdf-schema#label> ?l }"
    online = WikidataCache(server.url, cache=cache_path)
    rows = online.query(query)
    assert {"l": "Los Angeles"} in rows
    assert online.query(query.replace(" ", "\n  ") + " # again") == rows
    assert len(server.requests) == 2  # the query, and its echo
    offline = WikidataCache(cache=cache_path)
    assert offline.query(query) == rows
    with pytest.raises(CacheMissError, match="kind 'query' for SELECT"):
        offline.query("SELECT ?s { ?s ?p ?o }")
    with pytest.raises(ServiceForbiddenError, match="offline"):
        offline.query(f"SELECT * {{ SERVICE <{AWAY}> {{ ?s ?p ?o }} }}")
    assert len(WikidataCache(server.url, cache=cache_path, mode="refresh").query(query)) == len(rows)
    assert len(server.requests) == 4


def test_row_has_its_variables_in_the_order_of_the_query(server: Server, cache_path: str, toy: WikidataCache) -> None:
    """From an endpoint, from the cache, and from a local graph alike."""
    label = "<http://www.w3.org/2000/01/rdf-schema#label>"
    query = f"SELECT ?z ?a {{ ?z {label} ?a . FILTER(STRSTARTS(?a, 'Los')) }}"
    online = WikidataCache(server.url, cache=cache_path)
    asked = [online.query(query), online.query(query), WikidataCache(cache=cache_path).query(query), toy.query(query)]
    assert {tuple(row) for rows in asked for row in rows} == {("z", "a")}


def test_kg_offline_forbids_service(toy: WikidataCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_OFFLINE", "1")
    with pytest.raises(ServiceForbiddenError, match="KG_OFFLINE"):
        toy.query(f"SELECT * {{ SERVICE <{AWAY}> {{ ?s ?p ?o }} }}")
