"""The labels of the packaged extract in other languages are made from tables of names."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import pytest
from pyoxigraph import RdfFormat, parse

from tests.pipelines.scripts import STUDIES, module
from wikidata_cache import packaged_extract
from wikidata_cache.ids import local_id

COUNTRY = {"WIKIDATAID": "Q145", "ISO_A2_EH": "GB", "NAME_KO": "영국", "NAME_DE": "Vereinigtes Königreich"}
COUNTRY |= {f"NAME_{suffix}": "" for suffix in ("ES", "ZH", "ZHT", "JA")}
CITY = {"name": "Manchester", "countrycode": "GB", "population": 500_000}
CITIES = [
    CITY | {"alternatenames": ["Mancunium", "맨체스터", "マンチェスター", "曼彻斯特", "曼徹斯特"]},
    CITY | {"population": 40_000, "alternatenames": ["작은 맨체스터"]},
    CITY | {"name": "Leeds", "alternatenames": ["리즈", "리드"]},
]


def write_dbase(path: Path, row: dict[str, str]) -> None:
    """A table of one row, each field 40 bytes wide."""
    start = 32 + 32 * len(row) + 1
    header = bytes([3, 0, 0, 0]) + struct.pack("<IHH", 1, start, 1 + 40 * len(row)) + bytes(20)
    fields = b"".join(name.encode().ljust(11, b"\0") + b"C" + bytes(4) + bytes([40]) + bytes(15) for name in row)
    content = b" " + b"".join(text.encode().ljust(40) for text in row.values())
    path.write_bytes(header + fields + b"\r" + content)


def write_cldr(folder: Path, locale: str, package: str, file: str, table: dict) -> None:
    path = folder / f"cldr-{package}-full" / "main" / locale / f"{file}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"main": {locale: table}}), encoding="utf-8")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    write_dbase(tmp_path / "ne_10m_admin_0_countries_deu.dbf", COUNTRY)
    (tmp_path / "cities5000.json").write_text(json.dumps(dict(enumerate(CITIES))), encoding="utf-8")
    english = {"languages": {"fr": "French", "xx": "London"}, "territories": {}, "scripts": {}}
    korean = {"languages": {"fr": "프랑스어", "xx": "런던어"}, "territories": {}, "scripts": {}}
    for locale in ("en", "de", "es", "zh", "zh-Hant", "ja", "ko"):
        names = {"en": english, "ko": korean}.get(locale, {kind: {} for kind in english})
        city = {"ko": {"exemplarCity": "로마"}}.get(locale, {"_type": "zone"})
        for kind, table in names.items():
            write_cldr(tmp_path, locale, "localenames", kind, {"localeDisplayNames": {kind: table}})
        write_cldr(tmp_path, locale, "numbers", "currencies", {"numbers": {"currencies": {}}})
        zones = {"Europe": {"Rome": city}}
        write_cldr(tmp_path, locale, "dates", "timeZoneNames", {"dates": {"timeZoneNames": {"zone": zones}}})
    return tmp_path


@pytest.mark.slow
def test_names_are_matched_by_id_or_by_label_and_class(
    sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    out = sources / "labels.nt.gz"
    module("extract_labels").main([str(sources), str(packaged_extract()), "--out", str(out)])
    assert "ko: no label of 5,69" in capsys.readouterr().out
    labels = {}
    for triple in parse(gzip.decompress(out.read_bytes()), RdfFormat.N_TRIPLES):
        labels[local_id(triple.subject.value), triple.object.language] = triple.object.value
    found = {entity: text for (entity, language), text in labels.items() if language == "ko"}
    assert found["Q145"] == "영국" and found["P27"] == "국적"  # by their ids
    assert (found["Q150"], found["Q220"], found["Q18125"]) == ("프랑스어", "로마", "맨체스터")
    assert "Q84" not in found, "London is no language"
    assert not set(found.values()) & {"리즈", "리드", "작은 맨체스터"}, "one of several names, or of a smaller city"
    assert (labels["Q18125", "zh"], labels["Q18125", "zh-hant"]) == ("曼彻斯特", "曼徹斯特")
