"""What a run notices of its images: transparency and rotations, in the ledger, the manifest and the report."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distributions import Ledger, ShardRecord
from extractors import ExtractorError, Preprocess, build
from pipeline.catalogue.writer import Store
from pipeline.cli.catalogue import main
from pipeline.cli.report import noticed
from pipeline.config.networks import named_extractor
from pipeline.data.decode import decode
from pipeline.data.discovery import find
from pipeline.data.plan import network_spec
from pipeline.data.shards import Task
from pipeline.errors import DamagedError
from pipeline.extraction.worker import Job, Worker
from pipeline.measure.make import make_vdna
from tests.helpers.commands import TINY, command, context
from tests.helpers.image_files import MEAN, NOTICED, mixed, numbers, saved
from tests.helpers.runs import do, manifest


def test_what_differs_from_the_default_is_part_of_the_id() -> None:
    plain = Preprocess(224, MEAN, MEAN)
    assert plain.id == "clean.2-224-none-mean0.5,0.5,0.5-std0.5,0.5,0.5"
    assert Preprocess(224, MEAN, MEAN, alpha="drop", exif="ignore").id == plain.id
    ids = {
        Preprocess(224, MEAN, MEAN, alpha=alpha, exif=turn).id
        for alpha, turn in product(("drop", "white", "black"), ("ignore", "apply"))
    }
    assert len(ids) == 6
    assert all(name.startswith(plain.id) for name in ids)


@pytest.mark.parametrize(("key", "value"), [("alpha", "grey"), ("alpha", True), ("exif", "yes"), ("alhpa", "white")])
def test_what_is_not_allowed_is_named(key: str, value: Any) -> None:
    with pytest.raises(ExtractorError, match=rf"extractor.preprocess.{key}.*allowed are"):
        build(named_extractor("test_vit", weights="random", preprocess={key: value}))


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision's
@pytest.mark.parametrize("resize", ["clean", "reduced", "device"])
@pytest.mark.parametrize("choice", [{}, {"alpha": "white"}, {"exif": "apply"}])
def test_a_worker_counts_what_it_notices(resize: str, choice: dict[str, str], tmp_path: Path) -> None:
    task = Task(0, tuple(find(str(mixed(tmp_path / "images")), 3)))
    config = named_extractor("test_vit", weights="random", preprocess={"resize": resize, **choice})
    spec = replace(network_spec(build(config)), distributions=("gaussian",))
    vdna = Worker(Job(config, spec, batch_size=4)).vdna(task)
    assert vdna.ledger.noticed == NOTICED
    assert vdna.ledger.counted == 11
    digest = vdna.digest()
    vdna.ledger.noticed = None
    assert vdna.digest() == digest


def test_make_vdna_takes_them(tmp_path: Path) -> None:
    folder = mixed(tmp_path / "images")
    options: dict[str, Any] = {"weights": "random", "distributions": ["gaussian"]}
    plain = make_vdna(folder, "test_vit", **options)
    white, turned = (
        make_vdna(folder, "test_vit", **options, preprocess=choice)
        for choice in ({"alpha": "white"}, {"exif": "apply"})
    )
    assert len({vdna.spec.id for vdna in (plain, white, turned)}) == 3
    means = [vdna.gaussian("norm").mean for vdna in (plain, white, turned)]
    assert not any(np.array_equal(a, b) for a, b in zip(means, [*means[1:], means[0]], strict=True))
    assert plain.spec.id == make_vdna(folder, "test_vit", **options, preprocess={"alpha": "drop"}).spec.id


def ledger(url: str, counts: dict[str, int] | None) -> Ledger:
    new_ledger = Ledger([ShardRecord(url, counted=9)])
    new_ledger.noticed = counts
    return new_ledger


def test_what_was_noticed_merges_as_the_images_do() -> None:
    a, b, c = ({"transparent": n, "rotated": 2 * n} for n in (1, 2, 3))
    for order in ((a, b, c), (c, a, b)):
        total = Ledger()
        for i, counts in enumerate(order):
            total.merge(ledger(f"{i}.tar", counts))
        total.merge(Ledger())
        assert total.noticed == {"transparent": 6, "rotated": 12}
    total.merge(ledger("of before", None))
    assert total.noticed is None
    total.merge(ledger("later", a))
    assert total.noticed is None


@pytest.fixture
def ran(in_process: None, tmp_path: Path) -> Any:
    where = ("dataset=images", "dataset.name=mine", f"dataset.url={mixed(tmp_path / 'images')}")
    few = ("distributions=[histogram-20,gaussian]", "images_per_shard=3", "max_bad_fraction=1", "actors=2", "threads=1")
    return context(*where, f"catalogue={tmp_path / 'c'}", *TINY, *few, "batch_size=4")


def test_a_run_counts_once_whatever_was_there_before(ran: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Partials of an ended run count, and none twice; without counts nothing is claimed; the digest is the same."""
    entry = manifest(do(ran))
    assert entry["noticed"] == NOTICED
    assert main(["show", "mine", "--catalogue", ran.settings.catalogue]) == 0
    assert json.loads(capsys.readouterr().out)["noticed"] == NOTICED
    store, spec = ran.store, ran.spec()
    ids = sorted(store.partials(spec.id))
    assert len(ids) == 4
    store.remove(f"partials/{spec.id}/{ids[0]}.zip")
    store.remove(f"vdnas/mine/{ran.settings.extractor.name}/{spec.id}.json")
    again = manifest(do(ran))
    assert (again["noticed"], again["digest"], again["group"]) == (NOTICED, entry["digest"], entry["group"])
    vdna, provenance = store.get_partial(spec, ids[1])
    vdna.ledger.noticed = None  # as a program of before has written it
    store.put_partial(vdna, ids[1], provenance)
    store.remove(f"vdnas/mine/{ran.settings.extractor.name}/{spec.id}.json")
    unknown = manifest(do(ran))
    assert "noticed" not in unknown
    assert (unknown["digest"], unknown["group"]) == (entry["digest"], entry["group"])


@pytest.mark.parametrize("counts", ["[]", "7", '{"rotated": -1}', '{"rotated": 1.5}', '{"rotated": 99}', "{", "null"])
def test_impossible_counts_are_damage(counts: str, tmp_path: Path) -> None:
    config = named_extractor("test_vit", weights="random")
    spec = replace(network_spec(build(config)), distributions=("gaussian",))
    task = Task(0, tuple(find(str(mixed(tmp_path / "images")))))
    store = Store(str(tmp_path / "c"))
    Worker(Job(config, spec)).run(task, store)
    path = f"partials/{spec.id}/{task.id}.zip"
    store.put_partial(store.get_partial(spec, task.id)[0], task.id, {})
    written = store.get(path)
    assert written is not None
    before = json.dumps(json.dumps(NOTICED | {}))[1:-1].encode()
    assert before in written
    changed = json.dumps(counts)[1:-1].encode()
    archive = tmp_path / "changed.zip"
    archive.write_bytes(written)
    store.put(path, rewritten(written, before, changed))
    with pytest.raises(DamagedError, match="was removed"):
        store.get_partial(spec, task.id)


def rewritten(archive: bytes, before: bytes, after: bytes) -> bytes:
    """A zip with other bytes in its members, whole as a zip."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(before, after))
    return buffer.getvalue()


@pytest.mark.usefixtures("shared_ray")
def test_a_run_says_so_at_its_end(tmp_path: Path) -> None:
    where = ("dataset=images", "dataset.name=mine", f"dataset.url={mixed(tmp_path / 'images')}")
    few = ("distributions=[gaussian]", "max_bad_fraction=1", "threads=1", "stages=[plan,extract,reduce]")
    common = (*where, f"catalogue={tmp_path / 'c'}", *TINY, *few)
    done = command(*common)
    assert done.returncode == 0, done.stderr
    assert (
        "mine: 5 with transparency (dropped; extractor.preprocess.alpha=white shows them on white), "
        "3 with an EXIF rotation (ignored; extractor.preprocess.exif=apply turns them)\n"
    ) in done.stdout
    done = command(*common, "extractor.preprocess.alpha=black", "extractor.preprocess.exif=apply")
    assert done.returncode == 0, done.stderr
    assert "mine: 5 with transparency (shown on black), 3 with an EXIF rotation (applied)\n" in done.stdout


def test_nothing_is_said_of_none() -> None:
    for counts in ({}, {"transparent": 0, "rotated": 0}):
        assert noticed(counts, {}) == ""
    assert noticed({"rotated": 1}, {"exif": "apply"}) == "1 with an EXIF rotation (applied)"


def test_inputs_differ_only_where_they_should() -> None:
    """A picture without alpha or EXIF is the same whatever is asked."""
    data = saved(Image.fromarray(numbers(255, channels=3).astype("u1")), "PNG")
    made = [
        preprocess(decode(data, **preprocess.decoding))
        for preprocess in (Preprocess(32, MEAN, MEAN), Preprocess(32, MEAN, MEAN, alpha="white", exif="apply"))
    ]
    assert torch.equal(*made)
