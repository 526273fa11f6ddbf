"""Several programs at the same moment: what one of them writes is never taken away by another.

All of them are real processes, on a disk and on a real S3 server, and start each round together.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from distributions import VDNA
from pipeline.catalogue import index as published
from pipeline.catalogue.copies import LostVersionsError, copy, verify
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.targets import target
from pipeline.catalogue.writer import Store
from pipeline.formats.manifests import Manifests
from pipeline.storage.changes import CLAIMS, change
from pipeline.storage.folder import ObjectStore
from tests.helpers import object_store, synthetic
from tests.helpers.hub_server import hub_server
from tests.helpers.schedule import FULL

WRITERS = 3
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])
Where = tuple[str, dict[str, Any]]


class WithoutVersions(ObjectStore):
    """A bucket, as if its store did not know of versions."""

    refuses_other_versions = False


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object_store.ObjectStore]:
    with object_store.serve(tmp_path_factory.mktemp("s3")) as store:
        yield store


@pytest.fixture(params=["disk", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    if request.param == "disk":
        return str(tmp_path / "c"), {}
    store: object_store.ObjectStore = request.getfixturevalue("s3")
    options = {"key": store.key, "secret": store.secret, "endpoint_url": store.endpoint}
    return f"{store.bucket(tmp_path.name.replace('_', '-').lower())}/c", options


def together(job: Callable[..., Any], *arguments: Any) -> None:
    """Run a job in several processes, each with its number and a barrier; none of them may fail."""
    barrier = PROCESSES.Barrier(WRITERS)
    processes = [PROCESSES.Process(target=job, args=(number, barrier, *arguments)) for number in range(WRITERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * WRITERS


def add_tokens(number: int, barrier: Barrier, kind: type[ObjectStore], where: Where, rounds: int) -> None:
    folder = kind(*where)
    for turn in range(rounds):
        barrier.wait(60)
        change(folder, "list.json", lambda content, token=f"{number}:{turn}": with_token(content, token))


def with_token(content: bytes | None, token: str) -> bytes:
    return json.dumps([*json.loads(content or b"[]"), token]).encode()


@pytest.mark.parametrize("kind", [ObjectStore, WithoutVersions])
def test_no_change_of_an_object_is_lost(where: Where, kind: type[ObjectStore]) -> None:
    rounds = 40 if FULL else 15
    together(add_tokens, kind, where, rounds)
    tokens = json.loads(ObjectStore(*where).get("list.json") or b"")
    assert sorted(tokens) == sorted(f"{number}:{turn}" for number in range(WRITERS) for turn in range(rounds))


def test_s3_is_asked_for_versions_and_a_disk_for_numbers(where: Where) -> None:
    folder = ObjectStore(*where)
    assert folder.refuses_other_versions == where[0].startswith("s3")
    for token in ("a", "b"):
        change(folder, "list.json", lambda content, token=token: with_token(content, token))
    assert bool(folder.names(CLAIMS)) != folder.refuses_other_versions


def add_for_ever(number: int, where: Where) -> None:
    folder = ObjectStore(*where)
    turn = 0
    while True:
        token = f"{number}:{turn}"
        change(folder, "list.json", lambda content, token=token: with_token(content, token))
        folder.put(f"done/{number}-{turn}", b"")
        turn += 1


def test_writers_that_are_killed_stop_nobody_and_lose_nothing(where: Where) -> None:
    processes = [PROCESSES.Process(target=add_for_ever, args=(number, where)) for number in range(WRITERS)]
    for process in processes:
        process.start()
    folder = ObjectStore(*where)
    deadline = time.monotonic() + 120
    while len(folder.names("done")) < 5 * WRITERS:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.join()
    change(folder, "list.json", lambda content: with_token(content, "last"))
    tokens = json.loads(folder.get("list.json") or b"")
    assert tokens[-1] == "last"
    assert len(set(tokens)) == len(tokens)
    assert {name.replace("-", ":") for name in folder.names("done")} <= set(tokens)


def after(folder: ObjectStore, *tokens: str) -> list[str]:
    """What is there when these were added."""
    for token in tokens:
        change(folder, "list.json", lambda content, token=token: with_token(content, token))
    stored: list[str] = json.loads(folder.get("list.json") or b"")
    return stored


def age(folder: Path) -> None:
    """Let claims be of long ago."""
    for claim in (folder / CLAIMS / "list.json").iterdir():
        os.utime(claim, (0, 0))


@pytest.mark.parametrize("tokens", [(), ("a",), ("a", "b")])
def test_a_writer_that_died_between_its_number_and_the_object_is_completed(
    tmp_path: Path, tokens: tuple[str, ...]
) -> None:
    class Dying(ObjectStore):
        def put(self, path: str, data: bytes) -> None:
            raise OSError("the machine is gone")

    folder = ObjectStore(str(tmp_path))
    for token in tokens:
        after(folder, token)
    with pytest.raises(OSError, match="gone"):
        after(Dying(str(tmp_path)), "died")
    assert after(folder, "last") == [*tokens, "died", "last"]


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("stopped_at", ["object", "note"])
def test_a_writer_that_was_stopped_takes_nothing_away(tmp_path: Path, swept: bool, stopped_at: str) -> None:
    stopped, go_on = threading.Event(), threading.Event()

    class Slow(ObjectStore):
        def put(self, path: str, data: bytes) -> None:
            if path.startswith(CLAIMS) == (stopped_at == "note") and not stopped.is_set():
                stopped.set()
                go_on.wait(60)
            super().put(path, data)

    folder = ObjectStore(str(tmp_path))
    after(folder, "a")
    slow = threading.Thread(target=after, args=(Slow(str(tmp_path)), "slow"))
    slow.start()
    assert stopped.wait(60)
    assert after(folder, "b", "c") == ["a", "slow", "b", "c"]
    if swept:
        age(tmp_path)
        after(folder, "d")
    go_on.set()
    slow.join()
    assert after(folder) == ["a", "slow", "b", "c", *("d" for _ in range(swept))]
    assert after(folder, "last")[-1] == "last"


def test_what_other_programs_write_is_taken_as_it_lies_there(tmp_path: Path) -> None:
    folder = ObjectStore(str(tmp_path))
    after(folder, "a", "b")
    folder.put("list.json", b'["theirs"]')
    assert after(folder, "c") == ["theirs", "c"]


@pytest.mark.parametrize("aged", [False, True])
def test_a_state_of_before_may_be_restored(tmp_path: Path, aged: bool) -> None:
    folder = ObjectStore(str(tmp_path))
    after(folder, "a")
    backup = folder.get("list.json") or b""
    after(folder, "mistake")
    folder.put("list.json", backup)
    if aged:
        age(tmp_path)
    change(folder, "list.json", lambda content: content or b"")
    assert folder.get("list.json") == backup
    assert after(folder, "b") == ["a", "b"]
    folder.remove("list.json")
    assert after(folder, "a", "b") == ["a", "b"]


def test_a_number_half_written_is_waited_for_and_then_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.changes.PARTIAL_CLAIM_SECONDS", 0.3)
    folder = ObjectStore(str(tmp_path))
    after(folder, "a", "b")
    half = tmp_path / CLAIMS / "list.json" / "00000003"
    half.write_bytes(b"claimed 4567\n[")
    later = time.time() + 7200
    os.utime(half, (later, later))  # of a clock that is ahead
    assert after(folder, "c") == ["a", "b", "c"]


def test_old_numbers_are_swept(tmp_path: Path) -> None:
    folder = ObjectStore(str(tmp_path))
    after(folder, *"abcde")
    assert len(list((tmp_path / CLAIMS / "list.json").iterdir())) == 5
    age(tmp_path)
    after(folder, "last")
    assert [claim.name for claim in (tmp_path / CLAIMS / "list.json").iterdir()] == ["00000006"]


def measured(name: str) -> VDNA:
    return synthetic.filled(synthetic.spec_of(distributions=("gaussian",)), name, 0, 4)


def measure(number: int, barrier: Barrier, where: Where, rounds: int) -> None:
    """Runs of one dataset, of other data each time."""
    store = Store(*where)
    for turn in range(rounds):
        vdna = measured(f"{number}-{turn}")
        barrier.wait(60)
        manifest = store.put_vdna(vdna, "mine", {**synthetic.facts_of("mine", 0), "description": f"{number}-{turn}"})
        store.put_facts(manifest, {"thumbnails": [f"{number}-{turn}"]})


def test_two_runs_of_one_dataset_never_get_one_version_number(where: Where) -> None:
    rounds = 8
    together(measure, where, rounds)
    store = Store(*where)
    (manifest,) = store.manifests()
    versions = [*manifest["versions"], manifest]
    assert [entry["version"] for entry in versions] == list(range(1, WRITERS * rounds + 1))
    wanted = {measured(f"{number}-{turn}").digest() for number in range(WRITERS) for turn in range(rounds)}
    assert {entry["digest"] for entry in versions} == wanted
    assert manifest["thumbnails"] == [manifest["description"]]  # of its own pictures, not of another version's
    records = store.names(f"vdnas/mine/{manifest['extractor']}/versions", ".json")
    assert len(records) == WRITERS * rounds  # those of numbers that another run got are gone
    for version in manifest["versions"]:
        assert json.loads(store.get(version["manifest"]["path"]) or b"")["digest"] == version["digest"]


def test_runs_with_the_same_data_are_one_version(where: Where) -> None:
    together(measure_the_same, where)
    (manifest,) = Store(*where).manifests()
    assert (manifest["version"], manifest["versions"]) == (1, [])


def measure_the_same(number: int, barrier: Barrier, where: Where) -> None:
    store = Store(*where)
    for _ in range(5):
        barrier.wait(60)
        store.put_vdna(measured("same"), "mine", synthetic.facts_of("mine", 0))


def add_and_publish(number: int, barrier: Barrier, where: Where, rounds: int) -> None:
    """Runs of datasets of their own in one catalogue, each of which publishes it."""
    store = Store(*where)
    for turn in range(rounds):
        name = f"d-{number}-{turn}"
        barrier.wait(60)
        store.put_vdna(measured(name), name, synthetic.facts_of(name, 0))
        publish(store)


def test_of_two_publishes_none_takes_the_others_datasets_away(where: Where) -> None:
    rounds = 4
    together(add_and_publish, where, rounds)
    index = published.read(ObjectStore(*where)) or {"vdnas": []}
    names = {f"d-{number}-{turn}" for number in range(WRITERS) for turn in range(rounds)}
    assert {row["dataset"] for row in index["vdnas"]} == names
    assert verify(Manifests(*where))[2] == []


def publish_elsewhere(number: int, barrier: Barrier, sources: list[str], targets: list[Where], folder: str) -> None:
    """Copies of catalogues that know nothing of each other to one target, whose readers must not lose anything."""
    for turn, where in enumerate(targets):
        barrier.wait(60)
        try:
            copy(Manifests(sources[number]), target(*where), Manifests(*where))
        except LostVersionsError:
            continue
        (Path(folder) / f"{turn}-{number}").touch()


def test_of_catalogues_published_to_one_target_one_is_there_and_the_others_are_refused(
    where: Where, tmp_path: Path
) -> None:
    sources = [str(tmp_path / f"source-{number}") for number in range(WRITERS)]
    for number, source in enumerate(sources):
        store = Store(source)
        store.put_vdna(measured(str(number)), f"d-{number}", synthetic.facts_of(str(number), 0))
        publish(store)
    targets: list[Where] = [(f"{where[0]}/{turn}", where[1]) for turn in range(8)]
    (tmp_path / "said").mkdir()
    together(publish_elsewhere, sources, targets, str(tmp_path / "said"))
    for turn, target_ in enumerate(targets):
        (done,) = (tmp_path / "said").glob(f"{turn}-*")
        index = published.read(ObjectStore(*target_)) or {"vdnas": []}
        assert [row["dataset"] for row in index["vdnas"]] == [f"d-{done.name[-1]}"]
        assert verify(Manifests(*target_))[2] == []


def publish_as_it_grows(number: int, barrier: Barrier, source: str, where: Where, rounds: int) -> None:
    """One process adds to a catalogue, the others publish it to one target; what they see last is what is there."""
    store = Store(source)
    for turn in range(rounds):
        barrier.wait(60)
        if number == 0:
            name = f"d-{turn}"
            store.put_vdna(measured(name), name, synthetic.facts_of(name, 0))
            publish(store)
        copy(Manifests(source), target(*where), Manifests(*where))


def test_an_older_state_never_replaces_a_newer_one_at_a_target(where: Where, tmp_path: Path) -> None:
    source, rounds = str(tmp_path / "source"), 6
    store = Store(source)
    store.put_vdna(measured("first"), "first", synthetic.facts_of("first", 0))
    publish(store)
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(len((published.read(ObjectStore(*where)) or {"vdnas": []})["vdnas"]))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        together(publish_as_it_grows, source, where, rounds)
    finally:
        done.set()
        reader.join()
    assert seen[-1] <= rounds + 1
    if where[0].startswith("s3"):  # on a disk readers may see it as it was before, for a moment
        assert seen == sorted(seen)
    assert len((published.read(ObjectStore(*where)) or {"vdnas": []})["vdnas"]) == rounds + 1


def test_a_commit_of_another_upon_the_hub_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server(monkeypatch, tmp_path, []) as files:
        hub = target("hf:datasets/me/vdnas")
        ours = hub.change("list.json", lambda content: with_token(content, "a"))
        assert ours == files["datasets/me/vdnas/list.json"] == b'["a"]'
        asked: list[bytes | None] = []

        def make(content: bytes | None) -> bytes:
            asked.append(content)
            if len(asked) == 1:
                hub.put_all([("list.json", lambda: b'["theirs"]')])
            return with_token(content, "b")

        assert hub.change("list.json", make) == b'["theirs", "b"]'
        assert asked == [b'["a"]', b'["theirs"]']
