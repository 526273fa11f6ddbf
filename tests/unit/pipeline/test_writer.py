"""The store: round trips, whole objects, what others can open, and what is damaged is named."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numcodecs.blosc
import numpy as np
import pytest
import torch
import xarray as xr

from distributions import VDNA, HistogramAxes, ShardRecord, Spec
from pipeline.catalogue.writer import Store
from pipeline.data.plan import Plan
from pipeline.data.shards import Shard, Task
from pipeline.errors import DamagedError, UserError
from pipeline.formats.datasets import FORMAT, from_dataset, to_dataset
from pipeline.formats.groups import pack, unzip, zipped
from pipeline.formats.rows import hashes
from tests.helpers.material import ALL, FACTS, LAYERS, spec

TASK = Task(0, (Shard("tar", "shard-1", 10, "etag"),))


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A folder, and fsspec's memory file system as an object store without folders or renames."""
    return Store(str(tmp_path / "catalogue") if request.param == "disk" else f"memory://{tmp_path.name}")


@pytest.mark.parametrize("distributions", [ALL, *((name,) for name in ALL)])
def test_round_trip(filled: Callable[..., VDNA], distributions: tuple[str, ...]) -> None:
    vdna = filled(1, distributions=distributions)
    back = from_dataset(unzip(zipped(pack(to_dataset(vdna, {}), consolidated=False))), vdna.spec)
    assert back.digest() == vdna.digest()
    assert back.spec.id == vdna.spec.id
    assert back.ledger == vdna.ledger
    assert back.layers == LAYERS


def test_an_empty_ledger_and_names_in_any_script(ranges: HistogramAxes) -> None:
    vdna = VDNA(spec(ranges))
    assert from_dataset(unzip(zipped(pack(to_dataset(vdna, {}), consolidated=False)))).digest() == vdna.digest()
    vdna.ledger.add(ShardRecord("données/写真.tar", "0:5", 7, "é", counted=3, skipped={"corrupt": 1}, damage="ß"))
    assert from_dataset(unzip(zipped(pack(to_dataset(vdna, {}), consolidated=False)))).ledger == vdna.ledger


def test_the_same_vdna_is_the_same_bytes(filled: Callable[..., VDNA]) -> None:
    one, other = (zipped(pack(to_dataset(filled(1), {}), consolidated=False)) for _ in range(2))
    assert one == other


def test_partials(store: Store, filled: Callable[..., VDNA]) -> None:
    vdna = filled(1)
    store.put_partial(vdna, TASK.id, {"batch_size": 4})
    store.put_partial(vdna, TASK.id, {"batch_size": 4})  # a retry overwrites
    assert store.partials(vdna.spec.id) == {TASK.id}
    back, provenance = store.get_partial(vdna.spec, TASK.id)
    assert back.digest() == vdna.digest()
    assert provenance == {"batch_size": 4}
    assert not store.partials("other")


@pytest.mark.parametrize("place", [0.01, 0.2, 0.5, 0.8, 0.999])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_partial_is_refused_by_name(
    store: Store, filled: Callable[..., VDNA], damage: str, place: float
) -> None:
    vdna = filled(1)
    store.put_partial(vdna, TASK.id, {})
    path = f"partials/{vdna.spec.id}/{TASK.id}.zip"
    data = bytearray(store.get(path) or b"")
    at = int(len(data) * place)
    if damage == "cut":
        del data[at:]
    else:
        for i in range(at, min(at + 8, len(data))):
            data[i] ^= 0xFF
    store.put(path, bytes(data))
    assert _refused(store, vdna) or damage == "flipped"  # in bytes that hold nothing: a zip's clock, say


def _refused(store: Store, vdna: VDNA) -> bool:
    """Whether the partial is refused by its name; if it is not, its contents must be what they were."""
    try:
        back, _ = store.get_partial(vdna.spec, TASK.id)
    except DamagedError as error:
        return TASK.id in str(error)
    assert back.digest() == vdna.digest()
    return False


def test_a_partial_of_another_task_is_refused(store: Store, filled: Callable[..., VDNA]) -> None:
    vdna = filled(1)
    store.put_partial(vdna, TASK.id, {})
    path = f"partials/{vdna.spec.id}"
    store.put(f"{path}/other.zip", store.get(f"{path}/{TASK.id}.zip") or b"")
    with pytest.raises(DamagedError, match=r"other\.zip is damaged \(it is another task's\) and was removed"):
        store.get_partial(vdna.spec, "other")
    assert store.get_partial(vdna.spec, "other") is None
    assert store.get_partial(vdna.spec, TASK.id) is not None


def test_a_partial_of_another_spec_is_refused(store: Store, filled: Callable[..., VDNA], ranges: HistogramAxes) -> None:
    vdna = filled(1)
    store.put_partial(vdna, TASK.id, {})
    other = spec(ranges, weights="v")
    data = store.get(f"partials/{vdna.spec.id}/{TASK.id}.zip")
    store.put(f"partials/{other.id}/{TASK.id}.zip", data or b"")
    with pytest.raises(DamagedError, match="made with another network"):
        store.get_partial(other, TASK.id)


def test_vdnas(store: Store, filled: Callable[..., VDNA]) -> None:
    vdna = filled(1)
    manifest = store.put_vdna(vdna, "mine", FACTS)
    assert store.manifests() == [manifest]
    assert (manifest["images"], manifest["skipped"], manifest["layers"]) == (6, 1, LAYERS)
    back = store.get_vdna(manifest)
    assert back.digest() == vdna.digest() == manifest["digest"]
    newer = filled(2)
    store.put_vdna(newer, "mine", FACTS)
    assert [m["digest"] for m in store.manifests()] == [newer.digest()]
    assert store.get_vdna(manifest).digest() == vdna.digest()  # the old one stays where its manifest says


def test_readers_see_only_what_a_manifest_names(
    store: Store, filled: Callable[..., VDNA], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that dies before its manifest leaves the old version."""
    store.put_vdna(filled(1), "mine", FACTS)

    def dies(*arguments: object) -> bytes:
        raise OSError("the machine is gone")

    monkeypatch.setattr("pipeline.catalogue.writer.change", dies)
    with pytest.raises(OSError, match="gone"):
        store.put_vdna(filled(2), "mine", FACTS)
    assert [m["digest"] for m in store.manifests()] == [filled(1).digest()]


def test_an_interrupted_write_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.put("a/b", b"old")

    def dies(self: Path, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        store.put("a/b", b"new")
    assert store.get("a/b") == b"old"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_anyone_can_open_a_vdna_with_xarray(tmp_path: Path, filled: Callable[..., VDNA]) -> None:
    store, vdna = Store(str(tmp_path)), filled(1)
    manifest = store.put_vdna(vdna, "mine", FACTS)
    with xr.open_zarr(tmp_path / "vdnas" / "mine" / "net" / manifest["group"]) as opened:
        assert opened["histogram"].dims == ("neuron", "bin")
        assert opened["comoment"].dims == ("neuron", "other")
        assert opened["mean"].dims == opened["m2"].dims == opened["min"].dims == ("neuron",)
        assert opened["layer"].to_numpy().tolist() == ["first"] * 5 + ["second"] * 3
        second = opened.set_xindex("layer").sel(layer="second")
        np.testing.assert_array_equal(second["histogram"], vdna.histogram("second"))
        assert opened.attrs["fingerprint"] == "f"
        assert int(opened["shard_counted"].sum()) == vdna.images


def test_chunks_are_layers_or_whole_rows(ranges: HistogramAxes) -> None:
    def chunks(layers: dict[str, int]) -> list[int]:
        axes = HistogramAxes(layers, np.zeros(sum(layers.values())), np.ones(sum(layers.values())))
        base = spec(axes)
        vdna = VDNA(type(base)("n", "arch", "w", "p", "fp32", layers, ("histogram-1000",), axes))
        meta = json.loads(pack(to_dataset(vdna, {}), consolidated=False)["histogram/zarr.json"])
        return meta["chunk_grid"]["configuration"]["chunk_shape"]

    assert chunks({"a": 700, "b": 700}) == [700, 1000]
    assert chunks({"a": 30, "b": 700}) == [524, 1000]


def test_ranges(store: Store, ranges: HistogramAxes) -> None:
    assert store.get_ranges("network") is None
    store.put_ranges("network", ranges)
    other = HistogramAxes(LAYERS, ranges.minimum - 1, ranges.maximum)
    store.put_ranges("network", other)  # the first ones stay in use
    assert store.get_ranges("network").id == ranges.id
    assert store.get_ranges("network", other.id).id == other.id
    assert store.get_ranges("network", "0" * 16) is None


def test_a_newer_format_is_refused(store: Store, filled: Callable[..., VDNA]) -> None:
    manifest = store.put_vdna(filled(1), "mine", FACTS)
    store.put_json(f"vdnas/mine/net/{manifest['spec']}.json", {**manifest, "format": 99})
    with pytest.raises(UserError, match="newer version"):
        store.manifests()


def test_a_partial_of_a_newer_format_is_refused_and_stays(store: Store, filled: Callable[..., VDNA]) -> None:
    vdna = filled(1)
    newer = to_dataset(vdna, {"task": "t", "provenance": "{}"}).assign_attrs(format=FORMAT + 1)
    path = f"partials/{vdna.spec.id}/t.zip"
    store.put(path, zipped(pack(newer, consolidated=False)))
    with pytest.raises(UserError, match=r"t\.zip: written by a newer version of this program; update vdna-catalogue"):
        store.get_partial(vdna.spec, "t")
    assert store.get(path) is not None


def test_a_catalogue_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in (str(tmp_path / "file"), "/proc/catalogue"):
        with pytest.raises((UserError, FileNotFoundError), match="catalogue"):
            Store(url).put("a/b", b"")


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(UserError, match="catalogue=nosuch://x: cannot open"):
        Store("nosuch://x")


def test_strays_do_not_matter_and_damage_is_named(
    tmp_path: Path, filled: Callable[..., VDNA], caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path))
    manifest = store.put_vdna(filled(1), "mine", FACTS)
    (tmp_path / "vdnas" / ".DS_Store").write_text("")
    (tmp_path / "vdnas" / "mine" / "notes.txt").write_text("")
    assert len(store.manifests()) == 1
    group = tmp_path / "vdnas" / "mine" / "net" / manifest["group"]
    (group / "mean" / "c" / "0").unlink()
    with pytest.raises(DamagedError, match=manifest["group"]):
        store.get_vdna(manifest)
    (tmp_path / "vdnas" / "mine" / "net" / f"{manifest['spec']}.json").write_text("{")
    assert store.manifests() == []
    assert f"{manifest['spec']}.json is damaged" in caplog.text


def test_what_was_clamped_is_said(tmp_path: Path, filled: Callable[..., VDNA]) -> None:
    vdna = filled(1, scale=5.0)
    manifest = Store(str(tmp_path)).put_vdna(vdna, "mine", FACTS)
    state = vdna.state()
    clamped = state["histogram_below"].sum() + state["histogram_above"].sum()
    assert manifest["clamped_share"] == clamped / state["histogram"].sum() > 0
    assert manifest["not_finite"] == 0


def test_options_stay_out_of_everything_stored(tmp_path: Path, filled: Callable[..., VDNA]) -> None:
    store = Store(str(tmp_path), {"auto_mkdir": True})
    store.put_partial(filled(1), TASK.id, {})
    store.put_vdna(filled(1), "mine", FACTS)
    assert not any(b"auto_mkdir" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


class TestNothingLeavesItsFolder:
    """What a catalogue's own files say is checked before it becomes a path."""

    @pytest.mark.parametrize("change", [{"dataset": "other"}, {"group": "../../../etc"}, {"group": 3}, {"format": "1"}])
    def test_manifests(
        self,
        store: Store,
        filled: Callable[..., VDNA],
        change: dict[str, object],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        manifest = store.put_vdna(filled(1), "mine", FACTS)
        path = f"vdnas/mine/{manifest['extractor']}/{manifest['spec']}.json"
        store.put_json(path, {**manifest, **change})
        assert store.manifests() == []  # one that is damaged stops no other
        assert "is damaged" in caplog.text

    def test_names(self, store: Store, filled: Callable[..., VDNA]) -> None:
        for name in ("../x", "a/b", "", ".hidden", "<b>", "x" * 129):
            with pytest.raises(UserError, match="cannot be a name"):
                store.put_vdna(filled(1), name, FACTS)

    def test_ranges(self, store: Store, ranges: HistogramAxes) -> None:
        store.put_ranges("network", ranges)
        other = HistogramAxes(LAYERS, ranges.minimum - 1, ranges.maximum)
        store.put(f"ranges/network/{ranges.id}.json", other.to_json().encode())
        with pytest.raises(DamagedError, match="other ranges"):
            store.get_ranges("network")
        store.put("ranges/network/current", b"../../x")
        assert store.get_ranges("network") is None

    @pytest.mark.parametrize("line", [b"[" * 100_000, b"[[1]]", b'[["tar","x",1e999,"","",[],[]]]', b"7", b'{"a": 1}'])
    def test_plans(self, store: Store, line: bytes) -> None:
        head = Plan({"name": "x"}, spec(None, ("activation-ranges",)), ()).to_bytes()
        store.put("plans/x/net.json.gz", gzip.compress(gzip.decompress(head) + line))
        with pytest.raises(DamagedError, match=r"net\.json\.gz is damaged.*add plan to stages"):
            store.get_plan("x", "net", {})


class TestRows:
    """Parts of a VDNA, each object of which is checked on its own."""

    @pytest.fixture
    def wide(self) -> VDNA:
        """Layers of other widths than a chunk has rows, one of them without a count."""
        layers = {"a": 30, "b": 700, "c": 5}
        width = sum(layers.values())
        axes = HistogramAxes(layers, np.zeros(width), np.ones(width))
        names = ("histogram-1000", "gaussian", "layer-gaussian")
        vdna = VDNA(Spec("n", "arch", "w", "p", "fp32", layers, names, axes))
        generator = torch.Generator().manual_seed(0)
        for layer, neurons in layers.items():
            vdna.update(layer, torch.rand((3, 4, neurons), generator=generator))
        return vdna

    def test_are_what_the_whole_has(self, store: Store, wide: VDNA) -> None:
        rows, state = store.get_rows(store.put_vdna(wide, "mine", FACTS)), wide.state()
        for part in (slice(0, 735), slice(0, 30), slice(30, 730), slice(523, 525), slice(734, 735)):
            for name, array in state.items():
                fetched = {chunk: rows.fetch(chunk) for chunk in rows.objects(name, part)}
                values = rows.read(name, part, fetched)
                np.testing.assert_array_equal(values, array[part])
                assert values.dtype == array.dtype
        assert rows.objects("histogram", slice(523, 525)) == ["histogram/c/0/0", "histogram/c/1/0"]

    def test_what_is_not_as_it_was_written_is_named(self, store: Store, wide: VDNA) -> None:
        manifest = store.put_vdna(wide, "mine", FACTS)
        path, part = f"vdnas/mine/n/{manifest['group']}", slice(0, 10)
        rows = store.get_rows(manifest)
        for array, wrong in (("histogram", slice(0, 736)), ("histogram", slice(5, 5)), ("nothing", part)):
            with pytest.raises(DamagedError, match=rf"{manifest['group']} is damaged: its array {array}"):
                rows.objects(array, wrong)
        whole = store.get(f"{path}/mean/c/0") or b""
        for data in (whole[:-1], whole + b"x", b""):
            store.put(f"{path}/mean/c/0", data)
            with pytest.raises(DamagedError, match=rf"{manifest['group']} is damaged: its object mean/c/0 is not what"):
                rows.fetch("mean/c/0")
        store.remove(f"{path}/mean/c/0")
        with pytest.raises(DamagedError, match="mean/c/0 is not what was written"):
            rows.fetch("mean/c/0")
        assert len(rows.fetch("m2/c/0")) > 0  # the others are as good as before
        store.put(f"{path}/zarr.json", b"{}")
        with pytest.raises(DamagedError, match=r"zarr\.json is not what was written"):
            store.get_rows(manifest)

    def test_what_a_manifest_says_is_no_more_trusted_than_a_group(self, store: Store, wide: VDNA) -> None:
        """Hashes that agree with planted objects: no chunk of another size is unpacked, no shape believed."""
        manifest = store.put_vdna(wide, "mine", FACTS)
        path = f"vdnas/mine/n/{manifest['group']}"
        bomb = numcodecs.blosc.Blosc("zstd").encode(np.zeros(100 << 20, np.uint8))
        store.put(f"{path}/histogram/c/0/0", bomb)
        planted = {**manifest, "objects": {**manifest["objects"], **hashes({"histogram/c/0/0": bomb})}}
        rows = store.get_rows(planted)
        with pytest.raises(DamagedError, match="another size"):
            rows.read("histogram", slice(0, 9), {"histogram/c/0/0": rows.fetch("histogram/c/0/0")})
        for objects in ([], {"zarr.json": 5}, None, {}):
            with pytest.raises(DamagedError, match="is damaged"):
                store.get_rows({**manifest, "objects": objects})
        for metadata in (b"[]", b'{"consolidated_metadata": 5}', b"[" * 100_000, b"\xff"):
            store.put(f"{path}/zarr.json", metadata)
            with pytest.raises(DamagedError, match="is damaged"):
                store.get_rows({**manifest, "objects": hashes({"zarr.json": metadata})}).objects("mean", slice(0, 9))

    def test_a_catalogue_of_before_is_read_whole_first(self, store: Store, wide: VDNA) -> None:
        manifest = store.put_vdna(wide, "mine", FACTS)
        before = {key: value for key, value in manifest.items() if key != "objects"}
        rows = store.get_rows(before)
        assert rows.objects("histogram", slice(0, 9)) == ["histogram/c/0/0"]
        path = f"vdnas/mine/n/{manifest['group']}/histogram/c/0/0"
        store.put(path, (store.get(path) or b"")[:-1] + b"x")
        with pytest.raises(DamagedError, match="is damaged"):
            store.get_rows(before)


def test_tiles(store: Store) -> None:
    values = {"emd": (("layer", "row", "column"), np.arange(6.0).reshape(1, 2, 3))}
    store.put_tile("spec", "tile-1", xr.Dataset(values))
    np.testing.assert_array_equal(store.get_tile("spec", "tile-1")["emd"], values["emd"][1])
    assert store.get_tile("spec", "tile-2") is None
    data = store.get("partials/spec/tile-1.zip") or b""
    store.put("partials/spec/tile-2.zip", data)  # another's
    store.put("partials/spec/tile-3.zip", data[:-1])
    store.put("partials/spec/0123456789abcdef.zip", b"a partial")
    assert store.get_tile("spec", "tile-2") is None
    assert store.get_tile("spec", "tile-3") is None
    store.forget_tiles("spec", {"tile-1"})
    assert store.partials("spec") == {"tile-2", "tile-3", "0123456789abcdef"}  # young ones may be another run's


def test_a_relative_folder_is_the_same_one_for_an_actor_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pickled = pickle.dumps(Store("catalogue"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    pickle.loads(pickled).put("object", b"data")  # noqa: S301
    assert (tmp_path / "here" / "catalogue" / "object").read_bytes() == b"data"
