"""Sharing covariances: through a folder, and through the hub's calls, answered here by a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.covariance.files import Identity, Manifest, moment_path, read_moment, write_moment
from kg_edit.covariance.hub import FolderPlace, HubPlace, RemoteFolder, open_place, pull, push
from kg_edit.covariance.store import stored_covariances
from kg_edit.errors import ConfigError, CovarianceError

FLAT = torch.tensor([4.0, 1.0, 0.0, 2.0])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Covariances of two layers of one model, and of one layer of another."""
    for model, module in (("a", "layers.1"), ("a", "layers.2"), ("b", "layers.1")):
        identity = Identity(model=model, module=module, corpus="self", tokens=3)
        manifest = Manifest(**identity.model_dump(), count=3, chunks=1, model_name=f"named-{model}", size=2)
        write_moment(tmp_path / "store", FLAT, manifest)
    return tmp_path / "store"


class FolderApi:
    """The calls of `huggingface_hub.HfApi` that are made, on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commits, self.private = folder, 0, False

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert (repo_id, repo_type, exist_ok) == ("someone/covariances", "dataset", True)
        self.folder.mkdir(exist_ok=True)
        self.private = private

    def create_commit(self, repo_id: str, operations: Sequence[Any], *, commit_message: str, repo_type: str) -> None:
        assert repo_type == "dataset"
        assert commit_message == f"add {len(operations) // 2} covariances"
        for operation in operations:
            (self.folder / operation.path_in_repo).write_bytes(Path(operation.path_or_fileobj).read_bytes())
        self.commits += 1

    def list_repo_files(self, repo_id: str, *, repo_type: str) -> list[str]:
        assert repo_type == "dataset"
        return [".gitattributes", *(path.name for path in self.folder.glob("*"))]

    def hf_hub_download(self, repo_id: str, filename: str, *, repo_type: str) -> str:
        assert repo_type == "dataset"
        return str(self.folder / filename)


@pytest.fixture(params=["folder", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> RemoteFolder:
    """A folder, or a hub repository that lies in one."""
    folder = tmp_path / "place"
    return FolderPlace(folder) if request.param == "folder" else HubPlace("someone/covariances", api=FolderApi(folder))


def test_push_and_pull_give_the_same_files(place: RemoteFolder, store: Path, tmp_path: Path) -> None:
    assert len(push(place, stored_covariances(store), store)) == 3
    assert push(place, stored_covariances(store), store) == [], "what is there is not sent again"
    pulled = pull(place, tmp_path / "mine")
    assert stored_covariances(tmp_path / "mine") == stored_covariances(store)
    assert sorted(manifest.id for manifest in pulled) == sorted(manifest.id for manifest in stored_covariances(store))
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == {
        path.name: path.read_bytes() for path in store.iterdir()
    }
    assert pull(place, tmp_path / "mine") == []
    moment, _ = read_moment(moment_path(tmp_path / "mine", pulled[0]), pulled[0].identity)
    assert torch.equal(moment, torch.tensor([[4.0, 1.0], [1.0, 2.0]]))


def test_pull_selects_by_id_and_model(place: RemoteFolder, store: Path, tmp_path: Path) -> None:
    push(place, stored_covariances(store), store)
    first_id = stored_covariances(store)[0].id
    assert [manifest.id for manifest in pull(place, tmp_path / "one", ids=[first_id[:6]])] == [first_id]
    for name in ("named-a", "a"):
        assert [manifest.model for manifest in pull(place, tmp_path / name, model=name)] == ["a", "a"]
    with pytest.raises(CovarianceError, match=r"has no covariance xyz; it has: \w{16}, \w{16}, \w{16}"):
        pull(place, tmp_path, ids=[first_id, "xyz"])
    with pytest.raises(CovarianceError, match="typo has no covariances; check the place"):
        pull(FolderPlace(tmp_path / "typo"), tmp_path)


def test_damaged_covariance_is_neither_pushed_nor_pulled(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = FolderPlace(tmp_path / "place")
    push(place, stored_covariances(store), store)
    name = stored_covariances(store)[0].id
    for folder in (store, place.folder):
        file = folder / f"{name}.safetensors"
        file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CovarianceError, match="damaged"):
        pull(place, tmp_path / "mine", ids=[name])
    assert list((tmp_path / "mine").iterdir()) == []
    (place.folder / f"{name}.json").write_bytes(b"\xff")
    with pytest.raises(CovarianceError, match=rf"{name}\.json is damaged"):
        pull(place, tmp_path / "mine", ids=[name])
    (store / "other.safetensors").write_bytes(b"no tensors")
    assert len(stored_covariances(store)) == 2, "a file that can't be read does not hide the others"
    assert "other.safetensors is damaged" in caplog.text
    manifests = [Manifest.parse((store / f"{name}.json").read_text(), store)]
    with pytest.raises(CovarianceError, match="damaged"):
        push(FolderPlace(tmp_path / "other"), manifests, store)


def test_pull_refuses_another_covariances_name(store: Path, tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "place")
    first, second, _ = stored_covariances(store)
    push(place, [first, second], store)
    for ending in (".json", ".safetensors"):
        (place.folder / f"{first.id}{ending}").replace(place.folder / f"{second.id}{ending}")
    with pytest.raises(CovarianceError, match=f"describes the covariance {first.id}"):
        pull(place, tmp_path / "mine")


def test_two_pulls_do_not_disturb_each_other(store: Path, tmp_path: Path) -> None:
    """A second pull that comes and goes while the first one holds its download."""
    folder, mine = tmp_path / "place", tmp_path / "mine"
    push(FolderPlace(folder), stored_covariances(store), store)

    class Crowded(FolderPlace):
        def fetch(self, name: str, to: Path) -> None:
            super().fetch(name, to)
            if name.endswith(".safetensors"):
                pull(FolderPlace(folder), mine, model="named-b")

    assert {manifest.model for manifest in pull(Crowded(folder), mine, model="named-a")} == {"a"}
    assert len(stored_covariances(mine)) == 3
    assert not list(mine.glob(".incoming*"))


def test_push_makes_one_commit(store: Path, tmp_path: Path) -> None:
    api = FolderApi(tmp_path / "place")
    push(HubPlace("someone/covariances", api=api, private=True), stored_covariances(store), store)
    assert (api.commits, api.private) == (1, True)


def test_hub_error_is_in_the_message(tmp_path: Path, store: Path) -> None:
    class Refusing(FolderApi):
        def list_repo_files(self, repo_id: str, *, repo_type: str) -> list[str]:
            raise OSError("401 Unauthorized\nmore")

    with pytest.raises(CovarianceError, match=r"can't read .* someone/covariances: 401 Unauthorized; .*hf auth login"):
        pull(HubPlace("someone/covariances", api=Refusing(tmp_path)), tmp_path)


def test_open_place_by_name(tmp_path: Path) -> None:
    assert open_place(f"file://{tmp_path}/a%20b") == FolderPlace(tmp_path / "a b")
    assert open_place("./here") == FolderPlace(Path("here"))
    hub = open_place("hf:someone/covariances")
    assert isinstance(hub, HubPlace)
    assert hub.name == "someone/covariances"
    for wrong in ("here", "a/b/c", "a/", ""):
        with pytest.raises(ConfigError, match="neither a hub repository OWNER/NAME nor a folder"):
            open_place(wrong)
