from pathlib import Path

from tests.wikidata_cache.wikidata_helpers import facts
from wikidata_cache import Source, WikidataCache, open_source
from wikidata_cache.ids import ENTITY, RDFS_LABEL


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line} .\n" for line in lines), encoding="utf-8")
    return path


def label(entity: str, text: str, language: str) -> str:
    return f'<{ENTITY}{entity}> <{RDFS_LABEL}> "{text}"@{language}'


def test_out_returns_truthy_item_values_only(tmp_path: Path) -> None:
    wd, wdt = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
    subject = f"<{wd}Q1>"
    path = write(
        tmp_path / "g.nt",
        f"{subject} <{wdt}P31> <{wd}Q5>",
        f"{subject} <{wdt}P31> <http://www.wikidata.org/.well-known/genid/def>",
        f"{subject} <{wdt}P31> _:somekind",
        f"{subject} <{wdt}P19> <http://www.wikidata.org/.well-known/genid/abc>",
        f"{subject} <{wdt}P20> _:unknown",
        f'{subject} <{wdt}P569> "1952"',
        f"{subject} <http://www.wikidata.org/prop/P31> <{wd}statement/Q1-abc>",
        f"{subject} <http://www.wikidata.org/prop/direct-normalized/P214> <{wd}Q6>",
        f"{subject} <{wdt}P1> <{wd}P31>",
        f"{subject} <{wdt}P1> <{wd}Q1-F1>",
    )
    source = open_source(path)
    assert isinstance(source, Source)
    assert facts(source).out(["Q1", "Q2"]) == {"Q1": [("P31", "Q5")], "Q2": []}
    assert facts(source).types(["Q1", "Q2"]) == {"Q1": frozenset({"Q5"}), "Q2": frozenset()}
    assert facts(source).mentioned(["Q1", "Q5"]) == {"Q5"}
    assert facts(source).out([]) == {}


def test_label_languages_fall_back(tmp_path: Path) -> None:
    path = write(
        tmp_path / "g.nt",
        label("Q1", "colour", "en-GB"),
        label("Q1", "color", "en"),
        label("Q2", "Björk", "mul"),
        label("Q2", "Bjork", "en-gb"),
        label("Q3", "Farbe", "de"),
        label("Q4", "simply", "simple"),
        label("Q5", "  ", "en"),
    )
    cache = WikidataCache(path)
    assert cache.labels(["Q1", "Q2", "Q3", "Q4", "Q5"]) == {"Q1": "color", "Q2": "Björk", "Q4": "simply"}
    assert cache.find("Björk") == ("Q2",)
    assert cache.find("colour") == ("Q1",)
    assert cache.find("Farbe") == ()


def test_find_is_exact_and_sorted(toy: WikidataCache) -> None:
    assert toy.find("Twin") == ("Q10", "Q11")
    assert toy.find("twin") == ()
    assert toy.find("admires") == ("P3",)
