"""Training sets in real git and DVC repositories."""

from __future__ import annotations

import json
import multiprocessing
import os
import pty
import random
import shutil
import stat
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from mlops_pipelines import datasets as datasets_module
from mlops_pipelines.datasets import DatasetRegistry, DatasetVersion, ManifestFacts
from mlops_pipelines.datasheet import datasheet
from mlops_pipelines.errors import TerminalError, TransientError, UserError
from tests.ingest.full_disk import size

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "flights"
A, B, C = "2013-01-01", "2013-01-02", "2013-01-03"
CREATED = datetime(2013, 2, 1, tzinfo=UTC)
FACTS = ManifestFacts(
    tables={"examples": 4, "labels": 9},
    view_versions={"carrier": "aa11", "weather": "bb22"},
    window=(datetime(2012, 2, 2, tzinfo=UTC), CREATED),
    matured_through=date(2013, 1, 30),
)


@pytest.fixture
def registry(tmp_path: Path) -> DatasetRegistry:
    return DatasetRegistry(tmp_path / "a home ü" / "datasets")


def part(day: str, labels: list[int], **columns: list[Any]) -> pa.Table:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    times = [start + timedelta(hours=i) for i in range(len(labels))]
    return pa.table(
        {
            "day": [day] * len(labels),
            "event_id": [f"{day}/{i}" for i in range(len(labels))],
            "decision_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "distance": pa.array([float(i) for i in range(len(labels))]),
            "label": pa.array(labels, pa.int8()),
            **columns,
        }
    )


def commit(
    registry: DatasetRegistry,
    parts: dict[str, pa.Table],
    *,
    pipeline: str = NAME,
    facts: ManifestFacts = FACTS,
    at: datetime = CREATED,
) -> DatasetVersion:
    return registry.commit(pipeline, parts, facts, created_at=at)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def dvc_hash(version: DatasetVersion) -> str:
    return version.path.with_suffix(".dvc").read_text(encoding="utf-8")


ONE = {A: part(A, [0, 1]), B: part(B, [1])}


# --- versions


def test_a_version_reads_back_as_it_was_committed(registry: DatasetRegistry) -> None:
    made = commit(registry, ONE)
    assert (made.rows, made.days) == (3, (A, B))
    read = registry.read(NAME, made.version)
    assert read["event_id"].to_pylist() == [f"{A}/0", f"{A}/1", f"{B}/0"]
    assert read["label"].to_pylist() == [0, 1, 1]
    assert read.schema.field("label").type == pa.int8()
    assert read.schema.field("decision_time").type == pa.timestamp("us", tz="UTC")
    assert registry.latest(NAME) == made.version
    assert registry.version(NAME, made.version) == made


def test_the_same_content_is_the_same_version_with_its_first_manifest(registry: DatasetRegistry) -> None:
    made = commit(registry, ONE)
    shuffled = {B: ONE[B], A: ONE[A].take([1, 0]).select(ONE[A].column_names[::-1])}
    later = ManifestFacts({"examples": 99}, FACTS.view_versions, FACTS.window, FACTS.matured_through)
    assert commit(registry, shuffled, facts=later, at=CREATED + timedelta(days=3)) == made
    assert len(git(registry.root, "log", "--format=%H", "--", NAME).splitlines()) == 1


def test_provenance_and_order_do_not_reach_what_dvc_hashes(tmp_path: Path) -> None:
    shuffled = {A: ONE[A].take([1, 0]).select(ONE[A].column_names[::-1]), B: ONE[B]}
    other_facts = ManifestFacts({"examples": 99}, FACTS.view_versions, FACTS.window, date(2013, 1, 20))
    one = commit(DatasetRegistry(tmp_path / "one"), ONE)
    other = commit(
        DatasetRegistry(tmp_path / "other"), shuffled, facts=other_facts, at=CREATED + timedelta(9)
    )
    assert one.version == other.version
    assert dvc_hash(one) == dvc_hash(other)
    assert one.manifest["parts"] == other.manifest["parts"]
    assert one.manifest["created_at"] != other.manifest["created_at"]


@pytest.mark.parametrize(
    "parts",
    [
        {A: part(A, [0, 0]), B: ONE[B]},
        {A: ONE[A]},
        {A: ONE[A], C: part(C, [1])},
        {A: part(A, [0, 1], extra=[1.0, 2.0]), B: ONE[B]},
    ],
)
def test_other_content_is_another_version(registry: DatasetRegistry, parts: dict[str, pa.Table]) -> None:
    assert commit(registry, ONE).version != commit(registry, parts).version


def test_another_version_of_a_view_is_another_version(registry: DatasetRegistry) -> None:
    made = commit(registry, ONE)
    newer = ManifestFacts(
        FACTS.tables, {**FACTS.view_versions, "carrier": "cc33"}, FACTS.window, date(2013, 1, 30)
    )
    again = commit(registry, ONE, facts=newer)
    assert again.version != made.version
    assert registry.latest(NAME) == again.version
    assert dvc_hash(again) == dvc_hash(made)


def test_a_version_stays_readable_when_the_workspace_has_moved_on(registry: DatasetRegistry) -> None:
    first = commit(registry, ONE)
    second = commit(registry, {B: part(B, [0]), C: part(C, [1])})
    assert sorted(p.name for p in second.path.iterdir()) == [f"{B}.parquet", f"{C}.parquet"]
    assert registry.read(NAME, first.version)["label"].to_pylist() == [0, 1, 1]
    assert registry.read(NAME, second.version)["label"].to_pylist() == [0, 1]
    assert first.manifest == registry.version(NAME, first.version).manifest


def test_only_new_and_changed_days_are_written(registry: DatasetRegistry) -> None:
    path = commit(registry, ONE).path
    before = {p.stem: p.stat().st_ino for p in path.iterdir()}
    commit(registry, {A: ONE[A], B: part(B, [0]), C: part(C, [1])})
    after = {p.stem: p.stat().st_ino for p in path.iterdir()}
    assert after[A] == before[A]
    assert after[B] != before[B]


def test_a_column_that_is_new_or_null_on_some_days_reads_as_null(registry: DatasetRegistry) -> None:
    wide = part(B, [1], extra=[2.0])
    assert registry.read(NAME, commit(registry, {A: ONE[A], B: wide}).version)["extra"].to_pylist() == [
        None,
        None,
        2.0,
    ]


def test_the_manifest_says_where_the_parts_come_from(registry: DatasetRegistry) -> None:
    manifest = commit(registry, ONE).manifest
    assert manifest["tables"] == {"examples": 4, "labels": 9}
    assert manifest["views"] == {"carrier": "aa11", "weather": "bb22"}
    assert manifest["window"] == ["2012-02-02T00:00:00+00:00", "2013-02-01T00:00:00+00:00"]
    assert manifest["created_at"] == "2013-02-01T00:00:00+00:00"
    assert [(p["day"], p["rows"], len(p["hash"])) for p in manifest["parts"]] == [(A, 2, 64), (B, 1, 64)]
    assert set(manifest["commit"]) == {"sha", "dirty"}
    sheet = datasheet(manifest)
    assert "3 labelled examples of 2 days, 2013-01-01 to 2013-01-02" in sheet
    assert "| table examples | 4 |" in sheet
    assert "| view carrier | aa11 |" in sheet


def test_commits_carry_the_time_of_the_home(registry: DatasetRegistry) -> None:
    commit(registry, ONE)
    assert git(registry.root, "log", "-1", "--format=%aI %cI %an") == (
        "2013-02-01T00:00:00+00:00 2013-02-01T00:00:00+00:00 mlops_pipelines"
    )


def test_pipelines_share_the_repository_and_nothing_else(registry: DatasetRegistry) -> None:
    flights = commit(registry, ONE)
    taxis = commit(registry, {C: part(C, [1])}, pipeline="taxis")
    assert registry.latest("taxis") == taxis.version
    assert registry.latest(NAME) == flights.version
    assert registry.read(NAME, flights.version).num_rows == 3
    with pytest.raises(TerminalError, match="no training set"):
        registry.read("taxis", flights.version)


def test_before_the_first_commit_there_is_nothing(registry: DatasetRegistry) -> None:
    assert registry.latest(NAME) is None
    with pytest.raises(TerminalError, match="no training set abc of flights"):
        registry.version(NAME, "abc")
    commit(registry, ONE, pipeline="taxis")
    assert registry.latest(NAME) is None


@pytest.mark.parametrize(
    ("pipeline", "parts"),
    [("../x", ONE), ("--force", ONE), (NAME, {"../x": ONE[A]}), (NAME, {}), (NAME, {A: ONE[A].slice(0, 0)})],
)
def test_what_could_not_be_a_version_is_refused(
    registry: DatasetRegistry, pipeline: str, parts: dict[str, pa.Table]
) -> None:
    with pytest.raises(TerminalError):
        commit(registry, parts, pipeline=pipeline)
    assert not registry.root.exists()


# --- damage


def cached_file(registry: DatasetRegistry, content: bytes) -> Path:
    [found] = [
        p
        for p in (registry.root / ".dvc/cache/files").rglob("*")
        if p.is_file() and p.read_bytes() == content
    ]
    return found


def test_a_part_is_on_the_disk_once_and_guarded_against_writing(registry: DatasetRegistry) -> None:
    for path in commit(registry, ONE).path.iterdir():
        assert (path.stat().st_nlink, stat.S_IMODE(path.stat().st_mode)) == (2, 0o444)


def test_a_removed_part_is_read_from_the_cache_and_written_again(registry: DatasetRegistry) -> None:
    made = commit(registry, ONE)
    path = made.path / f"{A}.parquet"
    whole = path.read_bytes()
    path.unlink()
    assert registry.read(NAME, made.version).num_rows == 3
    newer = commit(registry, {**ONE, C: part(C, [1])})
    assert path.read_bytes() == whole
    assert registry.read(NAME, newer.version).num_rows == 4


def test_a_changed_part_is_named_and_mended_by_the_next_version_that_has_it(
    registry: DatasetRegistry,
) -> None:
    made = commit(registry, ONE)
    path = made.path / f"{A}.parquet"
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-20] + b"x" * 20)
    with pytest.raises(TerminalError, match=f"part {A} of training set {made.version}"):
        registry.read(NAME, made.version)
    newer = commit(registry, {**ONE, C: part(C, [1])})
    assert path.read_bytes() == whole
    assert registry.read(NAME, newer.version).num_rows == 4
    assert registry.read(NAME, made.version).num_rows == 3


# --- signatures


def altered(registry: DatasetRegistry, made: DatasetVersion, old: str, new: str) -> None:
    """Commits the manifest with other words in it, under the version's own tag."""
    path = registry.root / NAME / "manifest.json"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    git(registry.root, "commit", "--quiet", "--all", "--message", "altered")
    git(registry.root, "tag", "--force", f"{NAME}/{made.version}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rows": 2', '"rows": 3'),
        ('"labels": 9', '"labels": 8'),
        ('"value": "', '"value": "A'),
        ("+00", "+01"),
    ],
)
def test_a_manifest_that_was_altered_is_refused(registry: DatasetRegistry, old: str, new: str) -> None:
    made = commit(registry, ONE)
    altered(registry, made, old, new)
    with pytest.raises(TerminalError, match=f"manifest of training set {made.version} .* was changed since"):
        registry.read(NAME, made.version)


def test_a_manifest_without_a_known_signature_is_refused(registry: DatasetRegistry) -> None:
    made = commit(registry, ONE)
    [key] = registry.keys.public()
    altered(registry, made, f'"key": "{key}"', '"key": "00"')
    with pytest.raises(TerminalError, match=r"signed with the key 00, which is not known here"):
        registry.version(NAME, made.version)
    altered(registry, made, '"signature"', '"signatures"')
    with pytest.raises(TerminalError, match="is not signed"):
        registry.version(NAME, made.version)


def test_a_manifest_of_another_version_is_refused(registry: DatasetRegistry) -> None:
    made = commit(registry, ONE)
    other = commit(registry, {A: ONE[A]})
    git(registry.root, "tag", "--force", f"{NAME}/{made.version}", f"{NAME}/{other.version}")
    with pytest.raises(TerminalError, match=f"is that of {NAME} {other.version}"):
        registry.version(NAME, made.version)


def test_a_manifest_that_was_changed_in_the_workspace_alone_is_told(registry: DatasetRegistry) -> None:
    made = commit(registry, ONE)
    path = registry.root / NAME / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"rows": 2', '"rows": 3'), encoding="utf-8")
    with pytest.raises(TerminalError, match="is another than the one that was committed"):
        registry.read(NAME, made.version)


# --- a remote


@pytest.fixture
def beside(registry: DatasetRegistry) -> DatasetRegistry:
    """The same repository with a folder as its remote."""
    return DatasetRegistry(registry.root, registry.keys, str(registry.root.parent / "mounted" / "remote"))


def test_a_version_is_read_and_checked_where_nothing_can_be_written(
    registry: DatasetRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = commit(registry, ONE)
    shutil.rmtree(made.path)  # so that DVC is asked
    shutil.rmtree(registry.root / ".dvc" / "tmp" / "site")
    (registry.root / ".dvc" / "tmp" / "site").write_bytes(b"")  # no folder could be made there either
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert registry.read(NAME, made.version).num_rows == 3
    assert registry.altered(NAME, made.version) is None


def test_where_dvc_cannot_keep_its_index_that_is_said(registry: DatasetRegistry) -> None:
    made = commit(registry, ONE)
    shutil.rmtree(registry.root / ".dvc" / "tmp")
    (registry.root / ".dvc" / "tmp").write_bytes(b"")  # a file where the folder of the index should be
    with pytest.raises(UserError, match=r"index of .* cannot be opened or written"):
        registry.altered(NAME, made.version)


def test_a_part_that_was_changed_comes_from_the_remote(beside: DatasetRegistry) -> None:
    made = commit(beside, ONE)
    for path in made.path.iterdir():
        path.chmod(0o644)
        path.write_bytes(b"other")
    assert beside.read(NAME, made.version).num_rows == 3


def test_a_part_that_the_remote_lacks_too_is_named(beside: DatasetRegistry) -> None:
    made = commit(beside, ONE)
    shutil.rmtree(beside.root.parent / "mounted")
    path = made.path / f"{B}.parquet"
    path.chmod(0o644)
    path.write_bytes(b"other")
    with pytest.raises(TerminalError, match=f"part {B} of training set {made.version}"):
        beside.read(NAME, made.version)


def test_while_the_remote_is_away_there_is_no_version_and_then_the_whole(beside: DatasetRegistry) -> None:
    remote = beside.root.parent / "mounted"
    remote.parent.mkdir()
    remote.write_bytes(b"")  # a file where the folder should be
    with pytest.raises(TransientError, match=r"remote .* cannot be reached"):
        commit(beside, ONE)
    assert beside.versions(NAME) == []
    remote.unlink()
    made = commit(beside, ONE)
    assert beside.versions(NAME) == [made.version]
    assert len([path for path in remote.rglob("*") if path.is_file()]) == 3


def test_what_a_driver_raises_of_its_own_is_an_error_of_the_remote(
    registry: DatasetRegistry, beside: DatasetRegistry
) -> None:
    from redis.exceptions import ConnectionError as Away  # as little an OSError as those of S3's driver

    with pytest.raises(TransientError, match=r"remote .* cannot be reached: no answer"), beside._reached():
        raise Away("no answer")
    for mine in (registry, beside):
        with pytest.raises(TypeError), mine._reached():
            raise TypeError("of the program")
    with pytest.raises(Away), registry._reached():
        raise Away("there is no remote")


def test_a_remote_that_breaks_off_in_the_middle_of_a_push_gets_the_rest_later(
    registry: DatasetRegistry, beside: DatasetRegistry
) -> None:
    large = part(B, [1], note=[random.Random(7).randbytes(1_500_000).hex()])  # noqa: S311 - no secret
    commit(registry, {B: large})  # so that only the push has to write it
    remote = beside.root.parent / "mounted" / "remote"
    wanted = {A: ONE[A], B: large, C: part(C, [0])}

    def arrived() -> int:
        return len([path for path in remote.glob("files/md5/??/*") if len(path.name) >= 30])

    with size(remote, 1_000_000), pytest.raises(TransientError, match=r"remote .* cannot be reached"):
        commit(beside, wanted)
    assert 0 < arrived() < 4
    assert len(beside.versions(NAME)) == 1
    made = commit(beside, wanted)
    assert (beside.latest(NAME), arrived()) == (made.version, 4)
    shutil.rmtree(beside.root / ".dvc" / "cache")
    shutil.rmtree(made.path)
    assert beside.read(NAME, made.version).num_rows == 4


def test_versions_from_before_there_was_a_remote_are_pushed(
    registry: DatasetRegistry, beside: DatasetRegistry
) -> None:
    made = commit(registry, ONE)
    commit(registry, {B: part(B, [0]), C: part(C, [1])})
    with pytest.raises(UserError, match="no remote"):
        registry.push(NAME)
    assert beside.push(NAME) == 2
    shutil.rmtree(registry.root / ".dvc" / "cache")
    shutil.rmtree(made.path)
    assert beside.read(NAME, made.version).num_rows == 3


@pytest.mark.parametrize("remote", ["s3://key:secret@bucket/x", "s3://bucket/a b"])
def test_a_remote_with_a_secret_in_it_is_refused(tmp_path: Path, remote: str) -> None:
    with pytest.raises(UserError, match="MLOPS_DATASETS_REMOTE") as told:
        DatasetRegistry(tmp_path, remote=remote)
    assert "secret" not in told.value.message


@pytest.mark.parametrize("remote", ["ftp://x/y", "s3://", "share/datasets", "./x"])
def test_a_remote_that_could_not_be_one_is_refused_before_anything_is_written(
    registry: DatasetRegistry, remote: str
) -> None:
    made = commit(registry, ONE)
    with pytest.raises(UserError, match="MLOPS_DATASETS_REMOTE"):
        DatasetRegistry(registry.root, registry.keys, remote)
    assert registry.altered(NAME, made.version) is None


def test_a_remote_without_a_driver_is_told(registry: DatasetRegistry) -> None:
    with pytest.raises(UserError, match="no driver for the remote s3://bucket") as told:
        commit(DatasetRegistry(registry.root, registry.keys, "s3://bucket/path"), ONE)
    assert "dvc-s3" in str(told.value)


def test_versions_are_listed_in_the_order_they_were_committed(registry: DatasetRegistry) -> None:
    made = [commit(registry, {day: part(day, [1])}).version for day in (C, A, B)]
    commit(registry, ONE, pipeline="taxis")
    assert registry.versions(NAME) == made


@pytest.mark.parametrize("removed", [False, True])
def test_a_part_that_is_lost_is_named(registry: DatasetRegistry, removed: bool) -> None:
    made = commit(registry, ONE)
    path = made.path / f"{B}.parquet"
    copy = cached_file(registry, path.read_bytes())
    path.unlink()
    copy.chmod(0o644)
    if removed:
        copy.unlink()
    else:
        copy.write_bytes(b"other")
    with pytest.raises(TerminalError, match=f"part {B} of training set {made.version}"):
        registry.read(NAME, made.version)


@pytest.mark.parametrize("gone", [True, False])
def test_a_list_of_parts_that_dvc_lost_is_named(registry: DatasetRegistry, gone: bool) -> None:
    made = commit(registry, ONE)
    assert registry.altered(NAME, made.version) is None
    [listed] = (registry.root / ".dvc" / "cache").rglob("*.dir")
    listed.chmod(0o644)
    listed.unlink() if gone else listed.write_bytes(listed.read_bytes() + b" ")
    said = registry.altered(NAME, made.version)
    assert said == f"the list of its parts in DVC's cache {'is gone' if gone else 'was changed'}"


# --- interruptions


@pytest.mark.parametrize("left", [600, 3_000, 20_000])
@pytest.mark.parametrize("first", [True, False])
def test_a_full_disk_leaves_no_half_version(registry: DatasetRegistry, first: bool, left: int) -> None:
    wanted = {A: ONE[A], B: part(B, [0])}
    before = [] if first else [commit(registry, ONE).version]
    with size(registry.root, left), pytest.raises(TerminalError, match=r"cannot be written: |git \w+ failed"):
        commit(registry, wanted)
    assert registry.versions(NAME) == before
    made = commit(registry, wanted)
    assert registry.versions(NAME) == [*before, made.version]
    assert registry.read(NAME, made.version).num_rows == 3
    assert git(registry.root, "status", "--short") == ""


STEPS = 15  # calls of git and DVC in a first commit, up to its tag
READS = 3  # calls of git after the tag, to give the version back


class _Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs in the commit."""


@pytest.mark.proof
def test_a_commit_interrupted_before_any_step_is_repaired_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool, sample_size: Any
) -> None:
    wanted = {A: ONE[A], B: part(B, [0]), C: part(C, [1])}
    undisturbed = DatasetRegistry(tmp_path / "undisturbed")
    commit(undisturbed, ONE)
    expected = commit(undisturbed, wanted)

    steps = {"_run_git": DatasetRegistry._run_git, "_add_to_dvc": DatasetRegistry._add_to_dvc}
    left = 0

    def dying(name: str) -> Any:
        def run(self: DatasetRegistry, *arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise _Killed
            return steps[name](self, *arguments, **more)

        return run

    def interrupted(registry: DatasetRegistry, step: int) -> bool:
        nonlocal left
        left = step
        with monkeypatch.context() as patch:
            for name in steps:
                patch.setattr(DatasetRegistry, name, dying(name))
            try:
                commit(registry, {A: part(A, [1, 1]), C: part(C, [0])})
            except _Killed:
                return True
        return False

    chosen = range(1, STEPS + 1) if full else (1, 6, STEPS - 3, STEPS - 1, STEPS)
    sample_size("steps before which a commit was interrupted", len(chosen))
    for step in chosen:
        registry = DatasetRegistry(tmp_path / str(step))
        assert interrupted(registry, step)
        commit(registry, ONE)
        again = commit(registry, wanted)
        assert again.manifest == expected.manifest
        assert dvc_hash(again) == dvc_hash(expected)
        assert registry.read(NAME, again.version)["label"].to_pylist() == [0, 1, 0, 1]
    assert not interrupted(DatasetRegistry(tmp_path / "whole"), STEPS + 100)
    assert left == 100 - READS, "the number of steps has changed"


def test_what_a_killed_commit_leaves_behind_is_no_obstacle(registry: DatasetRegistry) -> None:
    made = commit(registry, ONE)
    commit(registry, ONE, pipeline="taxis")
    for name in ("index.lock", "HEAD.lock", "refs/heads/main.lock"):
        (registry.root / ".git" / name).touch()
    (registry.root / NAME / "parts.dvc").write_text("outs:\n- md5: 12", encoding="utf-8")
    (registry.root / NAME / "manifest.json").write_text("{", encoding="utf-8")
    (registry.root / "trains").mkdir()
    (registry.root / "trains" / "parts.dvc").write_text("outs: [", encoding="utf-8")
    (registry.root / ".dvc/tmp/rwlock").write_text("{", encoding="utf-8")
    (made.path / f"{C}.tmp").write_bytes(b"half")
    newer = commit(registry, {**ONE, C: part(C, [1])})
    assert registry.read(NAME, newer.version).num_rows == 4
    assert len(list(newer.path.iterdir())) == 3


def _commit_in_a_process(root: str, pipeline: str, number: int, gate: Any) -> None:
    registry = DatasetRegistry(Path(root))
    gate.wait()
    commit(registry, {A: ONE[A], B: part(B, [0] * (number + 1))}, pipeline=pipeline)


@pytest.mark.proof
def test_processes_that_commit_at_once_all_succeed(
    registry: DatasetRegistry, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    count = 8 if full else 3
    spawn = multiprocessing.get_context("spawn")
    gate = spawn.Barrier(count)
    processes = [
        spawn.Process(
            target=_commit_in_a_process,
            args=(str(registry.root), "taxis" if number == 1 else NAME, number, gate),
        )
        for number in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    sample_size("processes", count)
    assert len(registry.versions("taxis")) == 1
    versions = registry.versions(NAME)
    assert len(versions) == count - 1
    rows = {version: registry.read(NAME, version).num_rows for version in versions}
    assert sorted(rows.values()) == [3 + number for number in range(count) if number != 1]
    git(registry.root, "fsck", "--full", "--strict")
    assert git(registry.root, "status", "--porcelain") == ""
    for version in versions:
        git(registry.root, "checkout", "--quiet", f"{NAME}/{version}")
        said = dvc(registry.root, "checkout", f"{NAME}/parts.dvc") + dvc(registry.root, "status")
        assert "up to date" in said
        assert (
            sum(pq.read_metadata(path).num_rows for path in (registry.root / NAME / "parts").iterdir())
            == rows[version]
        )


def a_day_like_a_real_one(day: str) -> pa.Table:
    """900 examples of 30 features whose numbers do not repeat."""
    random = np.random.default_rng(int(day.replace("-", "")))
    columns = {f"x{n}": random.normal(size=900).tolist() for n in range(30)}
    return part(day, random.integers(0, 2, 900).tolist(), **columns)


def bytes_on_disk(folder: Path) -> int:
    """Of each file once, however many names it has."""
    found = {
        (at.st_dev, at.st_ino): at.st_size
        for path in folder.rglob("*")
        if stat.S_ISREG((at := path.lstat()).st_mode)
    }
    return sum(found.values())


@pytest.mark.proof
def test_the_twelfth_version_of_a_growing_year_takes_little_more_than_its_new_days(
    registry: DatasetRegistry, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    start = date(2013, 1, 1)
    days = [(start + timedelta(days=n)).isoformat() for n in range(360 if full else 72)]
    size = len(days) // 12
    parts: dict[str, pa.Table] = {}
    sizes = [0]
    for month in range(12):
        new = days[month * size : (month + 1) * size]
        parts |= {day: a_day_like_a_real_one(day) for day in new}
        made = commit(registry, parts)
        sizes.append(bytes_on_disk(registry.root))
    of_new_days = sum(entry["bytes"] for entry in made.manifest["parts"] if entry["day"] in new)
    sample_size("days", len(days))
    assert sizes[-1] - sizes[-2] <= 1.2 * of_new_days


def test_the_versions_are_usable_with_the_commands_of_dvc(registry: DatasetRegistry, tmp_path: Path) -> None:
    first = commit(registry, ONE)
    second = commit(registry, {B: part(B, [0]), C: part(C, [1])})
    out = tmp_path / "out"
    dvc(
        tmp_path,
        "get",
        str(registry.root),
        f"{NAME}/parts",
        "--rev",
        f"{NAME}/{first.version}",
        "-o",
        str(out),
    )
    assert sorted(path.name for path in out.iterdir()) == [f"{A}.parquet", f"{B}.parquet"]
    differences = dvc(registry.root, "diff", "--json", f"{NAME}/{first.version}", f"{NAME}/{second.version}")
    found = json.loads(differences)
    assert [one["path"] for one in found["added"]] == [f"{NAME}/parts/{C}.parquet"]
    assert [one["path"] for one in found["deleted"]] == [f"{NAME}/parts/{A}.parquet"]


def test_a_repository_that_stays_held_is_a_transient_error(
    registry: DatasetRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets_module, "_LOCK_TIMEOUT", 0.0)
    registry.root.mkdir(parents=True)
    with FileLock(registry.root / ".lock"), pytest.raises(TransientError, match="Another process"):
        commit(registry, ONE)


# --- surroundings


def test_a_repository_around_the_home_is_not_touched(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "--allow-empty", "-qm", "outer")
    (tmp_path / ".gitignore").write_text("/data/*\n", encoding="utf-8")
    before = git(tmp_path, "status", "--porcelain"), git(tmp_path, "rev-parse", "HEAD")
    root = tmp_path / "data" / "datasets"
    (root / ".git").mkdir(parents=True)  # as far as an interrupted `git init` may get
    registry = DatasetRegistry(root)
    assert registry.latest(NAME) is None
    made = commit(registry, ONE)
    assert registry.read(NAME, made.version).num_rows == 3
    assert (git(tmp_path, "status", "--porcelain"), git(tmp_path, "rev-parse", "HEAD")) == before
    assert git(tmp_path, "tag") == ""
    assert git(root, "tag") == f"{NAME}/{made.version}"


def test_settings_of_the_user_do_not_change_what_is_committed(
    registry: DatasetRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ignored").write_text("*.json\n*.dvc\n", encoding="utf-8")
    settings = tmp_path / "gitconfig"
    settings.write_text(
        f"[core]\n excludesFile = {tmp_path / 'ignored'}\n hooksPath = {tmp_path / 'nowhere'}\n"
        "[commit]\n gpgSign = true\n[tag]\n gpgSign = true\n[init]\n defaultBranch = trunk\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("HOME", str(tmp_path))  # no identity there
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    made = commit(registry, ONE)
    (made.path / f"{A}.parquet").unlink()
    assert registry.read(NAME, made.version).num_rows == 3
    assert sorted(p.name for p in registry.root.iterdir()) == [
        ".dvc", ".dvcignore", ".git", ".gitignore", ".lock", NAME
    ]  # fmt: skip


def test_without_git_the_error_says_so(registry: DatasetRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="no git"):
        commit(registry, ONE)


def test_the_workspace_is_clean_for_whoever_uses_git_and_dvc_by_hand(registry: DatasetRegistry) -> None:
    from dvc.config import Config
    from dvc.repo import Repo

    commit(registry, ONE)
    commit(registry, {**ONE, C: part(C, [1])})
    assert git(registry.root, "status", "--porcelain") == ""
    with datasets_module._silent_dvc(), Repo(str(registry.root), config=registry._dvc_settings) as repo:
        assert repo.status() == {}
    core = Config(str(registry.root / ".dvc"), validate=True)["core"]
    assert (core["analytics"], core["check_update"]) == (False, False)


TALK = """
import os, sys
makedirs = os.makedirs
def inside(name, *args, **more):
    assert "/home/" in str(name), name
    makedirs(name, *args, **more)
os.makedirs = inside
from pathlib import Path
from tests.test_datasets import C, CREATED, NAME, ONE, commit, part
from mlops_pipelines.datasets import DatasetRegistry
registry = DatasetRegistry(Path(sys.argv[1]))
first = commit(registry, ONE)
commit(registry, {C: part(C, [1])})
registry.read(NAME, first.version)
"""


def test_nothing_is_written_to_a_terminal_or_outside_the_home(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    (tmp_path / "user").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "user"), "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TALK, str(tmp_path / "home" / "datasets")],
        stdin=theirs, stdout=theirs, stderr=theirs, check=False, env=environment, timeout=60,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    os.write(theirs, b"END")
    said = b""
    while not said.endswith(b"END"):
        said += os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)
    # colorama, which DVC loads, resets the colours of a terminal when Python ends.
    assert (done.returncode, said.replace(b"\x1b[0m", b"")) == (0, b"END")
    assert list((tmp_path / "user").rglob("*")) == []


def test_the_registry_loads_no_heavy_library() -> None:
    code = (
        "import sys, mlops_pipelines.datasets\n"
        "print([m for m in ('dvc', 'pyarrow', 'git', 'filelock') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_manifest_is_readable_json_in_git(registry: DatasetRegistry) -> None:
    made = commit(registry, ONE)
    stored = json.loads(git(registry.root, "show", f"{NAME}/{made.version}:{NAME}/manifest.json"))
    assert stored == made.manifest
    assert stored["format"] == 2
