import gzip
from pathlib import Path

import pytest

from tests.wikidata_cache.wikidata_helpers import facts
from wikidata_cache import open_source
from wikidata_cache.errors import GraphFileError
from wikidata_cache.stores.load import load

WIKIDATA = "http://www.wikidata.org"
LINE = f"<{WIKIDATA}/entity/Q1> <{WIKIDATA}/prop/direct/P1> <{WIKIDATA}/entity/Q2> .\n"


def test_file_can_be_named_in_several_forms(tmp_path: Path) -> None:
    plain, zipped = tmp_path / "a" / "g.nt", tmp_path / "b" / "g.nt.gz"
    for path in (plain, zipped):
        path.parent.mkdir()
    plain.write_text(LINE)
    zipped.write_bytes(gzip.compress(LINE.encode()))
    for spec in (
        plain,
        str(zipped),
        f"memory:{plain}",
        str(plain.parent),
        [plain, zipped],
        f"{plain}, {zipped}",
    ):
        assert facts(open_source(spec)).out(["Q1"]) == {"Q1": [("P1", "Q2")]}


def test_comma_may_be_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a,b.nt"
    path.write_text(LINE)
    assert open_source(str(path)).name == "a,b.nt"


@pytest.mark.parametrize("space", ["", " "])
def test_comma_may_be_part_of_a_url(space: str, tmp_path: Path) -> None:
    url = "https://example.org/sparql?graphs=a,b"
    assert open_source(space + url, cache=tmp_path / "c.sqlite").name == url


def test_list_may_be_longer_than_a_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{'part' * 8}-{number}.nt" for number in range(10)]
    for name in names:
        Path(name).write_text(LINE)
    assert facts(open_source(",".join(names))).out(["Q1"]) == {"Q1": [("P1", "Q2")]}


def test_provenance_has_two_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "g.nt").write_text(LINE.replace("P1", "P1" if folder == "a" else "P2"))
    files = open_source([tmp_path / "a" / "g.nt", tmp_path / "b" / "g.nt"]).provenance()["files"]
    assert isinstance(files, list)
    assert [entry["name"] for entry in files] == [str(tmp_path / folder / "g.nt") for folder in ("a", "b")]


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g.nt").write_text(LINE)
    monkeypatch.setenv("HOME", str(tmp_path))
    load([tmp_path / "g.nt"], "~/wd")
    assert facts(open_source("~/wd")).out(["Q1"]) == facts(open_source("~/g.nt")).out(["Q1"]) == {"Q1": [("P1", "Q2")]}


def test_tilde_of_no_user_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraphFileError, match=r"~nobody-here/g\.nt: does not exist"):
        open_source("~nobody-here/g.nt")
    Path("~nobody-here").mkdir()
    Path("~nobody-here/g.nt").write_text(LINE)
    load(["~nobody-here/g.nt"], "~nobody-here/wd")
    assert facts(open_source("~nobody-here/wd")).out(["Q1"]) == {"Q1": [("P1", "Q2")]}
    assert open_source(None, cache="~nobody-here/c.sqlite").name == "wikidata (~nobody-here/c.sqlite)"


def test_folder_loads_all_its_graph_files(tmp_path: Path) -> None:
    (tmp_path / "a.nt").write_text(LINE)
    (tmp_path / "b.tsv").write_text("Q1\tP2\tQ3\n")
    (tmp_path / "notes.md").write_text("no graph")
    source = open_source(tmp_path)
    assert facts(source).out(["Q1"]) == {"Q1": [("P1", "Q2"), ("P2", "Q3")]}
    files = source.provenance()["files"]
    assert isinstance(files, list)
    assert [entry["name"] for entry in files] == ["a.nt", "b.tsv"]
