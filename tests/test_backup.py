"""A backup is a home as of one moment, and what is restored of it goes on from there."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mlops_pipelines import freeing
from mlops_pipelines.backup import MANIFEST, _Copy, back_up, restore
from mlops_pipelines.cli import main
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.experiments import verified
from mlops_pipelines.features.parity import parity
from mlops_pipelines.home import Home
from mlops_pipelines.ingest import taking
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.retraining import model_of
from mlops_pipelines.spec import Gates
from mlops_pipelines.status import status_of
from tests.ingest.full_disk import size
from tests.loop import advance, at, check_reproduced, copy_of, land, move, retrain, serve, small_home, varied
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Lake


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion that has scored a day."""
    home = tmp_path_factory.mktemp("lived") / "home"
    place = small_home(home)
    advance(place, at(7))
    retrain(place, "first")
    advance(place, at(8))
    return home


@pytest.fixture(scope="module")
def backed_up(lived: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    return back_up(Home.open(lived), tmp_path_factory.mktemp("backups") / "backup").path


def place_at(home: Path) -> PipelineHome:
    return Home.open(home).pipeline(loaded())


def check_whole(place: PipelineHome) -> None:
    """Vectors are made again bit by bit, training sets are what was signed, models load."""
    assert parity(place).holds
    assert [one.problem for one in verified(place) if one.problem] == []
    for promotion in place.ledger.promotions(place.name):
        assert model_of(place, promotion).model_hash == promotion.model_hash
    check_reproduced(place)


def test_a_restored_home_is_whole_without_the_one_it_was_made_of(lived: Path, tmp_path: Path) -> None:
    place = copy_of(lived, tmp_path / "before")
    told = status_of(place)
    back_up(place.home, tmp_path / "backup")
    (tmp_path / "before").rename(tmp_path / "gone")
    lived.rename(lived.with_name("away"))
    try:
        restore(tmp_path / "backup", tmp_path / "after")
        restored = place_at(tmp_path / "after")
        assert status_of(restored) == told
        assert taking.register_landed(restored) == 0
        check_whole(restored)
        keys = (tmp_path / "after" / "keys" / "signing.pem").stat()
        assert oct(keys.st_mode & 0o777) == "0o600"
        advance(restored, at(9))
        assert restored.lake.days("predictions") == ["2013-01-07", "2013-01-08"]
        retrain(restored, "second")
        check_whole(restored)
        freeing.free(restored)
        check_whole(restored)
    finally:
        lived.with_name("away").rename(lived)


def test_what_comes_while_tables_are_copied_is_not_in_the_backup(
    lived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = varied(copy_of(lived, tmp_path / "home"), gates=Gates())
    before, copy_table = place.home.datasets.versions(place.name), _Copy.table

    def promoting_meanwhile(self: _Copy, lake: Lake, table: str, version: int) -> None:
        if len(place.ledger.promotions(place.name)) == 1:
            assert retrain(place, "meanwhile").promotion
        copy_table(self, lake, table, version)

    monkeypatch.setattr(_Copy, "table", promoting_meanwhile)
    back_up(place.home, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "after")
    after = varied(place_at(tmp_path / "after"), gates=Gates())
    assert len(place.home.datasets.versions(place.name)) == 2
    assert after.home.datasets.versions(after.name) == before
    assert after.home.registry.alias(after.name, "champion") == "1"
    check_whole(after)
    # The retrain that the backup does not know is made again, with the training set it was given then.
    assert retrain(after, "again").promotion
    assert after.home.datasets.versions(after.name) == place.home.datasets.versions(place.name)
    check_whole(after)


def test_a_backup_of_a_restored_home_is_the_same(backed_up: Path, tmp_path: Path) -> None:
    first = restore(backed_up, tmp_path / "home")
    again = back_up(Home.open(tmp_path / "home"), tmp_path / "again")
    databases = {name for name in first.files if name.endswith(".db")}
    assert again.files.keys() == first.files.keys()
    assert again.tables == first.tables
    differ = {name for name in first.files if first.files[name].sha256 != again.files[name].sha256}
    assert differ <= databases


@pytest.mark.proof
def test_what_is_backed_up_while_runs_go_on_is_as_of_one_moment(
    lived: Path, tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    place = copy_of(lived, tmp_path / "home")
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=keep_committing, args=(place.home.path, stop))
    process.start()
    backups = 12 if full else 3
    try:
        before = place.lake.version("predictions")
        while place.lake.version("predictions") == before and process.is_alive():
            time.sleep(0.05)
        for number in range(backups):
            back_up(place.home, tmp_path / f"backup-{number}")
            time.sleep(0.3)
        assert process.is_alive()
    finally:
        stop.set()
        process.join()
    assert process.exitcode == 0
    for number in range(backups):
        backup = restore(tmp_path / f"backup-{number}", tmp_path / f"home-{number}")
        restored = place_at(tmp_path / f"home-{number}")
        names_only_what_is_there(restored)
        serve(restored)
        check_whole(restored)
        assert restored.ledger.pending_files(restored.name) == []
        assert backup.tables.keys() == {f"{place.name}:{table}" for table in restored.lake.tables()}
    sample_size("backups", backups)


def names_only_what_is_there(place: PipelineHome) -> None:
    """Whatever a table or the ledger names of a table is in the backup too."""
    lake = place.lake
    newest = {table: lake.version(table) or 0 for table in lake.tables()}
    examples = place.features.examples
    for made_of in lake.read(examples, columns=["made_of"])["made_of"].unique().to_pylist():
        named = {table: version for table, version in json.loads(made_of).items() if version is not None}
        assert [table for table, version in named.items() if version > newest[table]] == []
    for version in lake.read("predictions")["examples_version"].unique().to_pylist():
        assert version <= newest[examples]
    for table in newest:
        if table.startswith("feature_tiles/"):
            for commit in lake.commits(table):
                sources = {name: at for name, at in commit.provenance.items() if isinstance(at, int)}
                assert [name for name, version in sources.items() if version > newest[name]] == []
    promoted = {one.model_hash for one in place.ledger.promotions(place.name)}
    assert {*lake.read("predictions")["model_hash"].to_pylist()} <= promoted
    taken = {
        digest
        for digest, status in place.ledger.registered_files(place.name, "events").values()
        if status == "taken"
    }
    assert taken <= {*lake.read("events")["file_digest"].to_pylist()}
    for table in newest:
        lake.read(table)


def keep_committing(home: Path, stop: object) -> None:
    """An hour after the other lands, is taken in and scored."""
    place, now = place_at(home), at(8)
    while not stop.is_set():  # type: ignore[attr-defined]
        since, now = now, now + timedelta(hours=1)
        for stream in place.streams:
            # Of an hour without flights there is no file.
            if (rows := Flights().rows(stream, since, now)).num_rows:
                land(place, stream, f"{since:%d%H}", rows)
        move(place, now)
        serve(place)


def test_what_is_missing_or_changed_is_named_and_nothing_is_restored(backed_up: Path, tmp_path: Path) -> None:
    altered = shutil.copytree(backed_up, tmp_path / "altered")
    tables = altered / "home" / "pipelines" / "small_flights" / "lake"
    [missing, changed, *_] = sorted(tables.glob("events/day=*/*.parquet"))
    missing.unlink()
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    with pytest.raises(TerminalError) as told:
        restore(altered, tmp_path / "home")
    assert f"{missing.relative_to(altered / 'home')} is missing" in str(told.value)
    assert f"{changed.relative_to(altered / 'home')} was changed" in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["altered"]


def test_only_a_finished_backup_is_restored_and_only_into_an_empty_folder(
    backed_up: Path, lived: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no empty folder"):
        restore(backed_up, lived)
    with pytest.raises(UserError, match="no empty folder"):
        back_up(Home.open(lived), backed_up)
    with pytest.raises(UserError, match="lies in the home"):
        back_up(Home.open(lived), lived / "backup")
    with pytest.raises(UserError, match="no finished backup"):
        restore(backed_up / "home", tmp_path / "home")
    (tmp_path / "bad").mkdir()
    told = json.loads((backed_up / MANIFEST).read_text())
    told["files"]["../outside"] = next(iter(told["files"].values()))
    (tmp_path / "bad" / MANIFEST).write_text(json.dumps(told))
    with pytest.raises(UserError, match="outside of a home"):
        restore(tmp_path / "bad", tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("left", [2_000, 60_000, 300_000])
def test_a_full_disk_leaves_neither_half_a_backup_nor_half_a_home(
    lived: Path, backed_up: Path, tmp_path: Path, left: int
) -> None:
    home = Home.open(lived)
    with size(tmp_path, left), pytest.raises(TerminalError, match=r"The backup .* cannot be written: "):
        back_up(home, tmp_path / "backup")
    with size(tmp_path, left), pytest.raises(TerminalError, match=r"The home .* cannot be written: "):
        restore(backed_up, tmp_path / "home")
    assert [*tmp_path.iterdir()] == []
    back_up(home, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "home")


def test_nothing_is_freed_while_a_backup_is_made(empty: Path, tmp_path: Path) -> None:
    with (
        Home.open(empty).keeping("mlops gc --apply", alone=True),
        pytest.raises(UserError, match="held by `mlops gc"),
    ):
        back_up(Home.open(empty), tmp_path / "backup")
    assert [*tmp_path.iterdir()] == []


def test_who_counts_on_what_is_kept_does_so_beside_others_but_not_beside_who_frees(empty: Path) -> None:
    home = Home.open(empty)
    with home.keeping("mlops train"), home.keeping("mlops backup"):
        told = CliRunner().invoke(main, ["gc", "flight_delays", "--apply", "--home", str(empty)])
    assert told.exit_code == 2
    assert "is held by `mlops backup`" in told.stderr


def test_the_commands_say_what_they_did(empty: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["backup", str(tmp_path / "b"), "--home", str(empty), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert (told["path"], told["home"]) == (str(tmp_path / "b"), str(empty))
    done = CliRunner().invoke(main, ["restore", str(tmp_path / "b"), "--home", str(tmp_path / "home")])
    assert done.exit_code == 0, done.output
    assert f"Restored {told['files']} files" in done.output
    assert Home.is_at(tmp_path / "home")
