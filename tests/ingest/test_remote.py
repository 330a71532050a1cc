"""Landing folders that are URLs, on real file systems of fsspec: in memory, and this machine's through it."""

from __future__ import annotations

import gzip
import json
import os
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from mlops_pipelines.errors import UserError
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import rejects, taking
from mlops_pipelines.ingest.landing import (
    MisplacedFileError,
    UnreadableFileError,
    list_files,
    read_landed,
    rows_said,
)
from mlops_pipelines.ingest.remote import MOST_DAYS_ASKED, RemotePath
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.replay import replay
from mlops_pipelines.spec_loading import LoadedSpec
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FIRST = datetime(2013, 1, 1, tzinfo=UTC)
SECOND = datetime(2013, 1, 2, tzinfo=UTC)
THIRD = datetime(2013, 1, 3, tzinfo=UTC)
ROOT = "memory://bucket/flights"
EVENTS = f"{ROOT}/events"
FOLDER = RemotePath(EVENTS)


@pytest.fixture(autouse=True)
def bucket() -> Iterator[MemoryFileSystem]:
    """The file system of `memory://`, which is the process's own, empty before and after."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield fsspec.filesystem("memory")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@contextmanager
def memory_is(kind: type[MemoryFileSystem]) -> Iterator[None]:
    """`memory://` is a file system that is another in one regard."""
    fsspec.register_implementation("memory", kind, clobber=True)
    try:
        yield
    finally:
        fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


def at_urls(pipeline: LoadedSpec) -> LoadedSpec:
    """The pipeline with every landing folder in the bucket."""
    spec = pipeline.spec
    references = {
        name: one.model_copy(update={"landing": f"{ROOT}/{name}"}) for name, one in spec.references.items()
    }
    changes = {
        "events": spec.events.model_copy(update={"landing": EVENTS}),
        "labels": spec.labels.model_copy(update={"landing": f"{ROOT}/labels"}),
        "references": references,
    }
    return LoadedSpec(spec.model_copy(update=changes), pipeline.contract, pipeline.path)


@pytest.fixture
def place(tmp_path: Path) -> PipelineHome:
    place = Home.create(tmp_path / "home").pipeline(at_urls(loaded()))
    place.prepare()
    clock_at(place, THIRD)
    return place


def clock_at(place: PipelineHome, moment: datetime) -> None:
    place.ledger.begin_advance(moment)
    place.ledger.finish_advance()


def put(name: str, content: bytes = b"x", stream: str = "events") -> None:
    """One put of a whole object."""
    fsspec.filesystem("memory").pipe_file(f"{ROOT}/{stream}/{name}", content)


def parquet(rows: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(rows, sink)
    return sink.getvalue()


def as_csv(rows: pa.Table) -> bytes:
    sink = BytesIO()
    pyarrow.csv.write_csv(texts(rows), sink)
    return sink.getvalue()


def as_jsonl(rows: pa.Table) -> bytes:
    return "\n".join(json.dumps(row) for row in texts(rows).to_pylist()).encode()


def texts(rows: pa.Table) -> pa.Table:
    """Moments as a producer of text writes them."""
    for index, column in enumerate(rows.schema):
        if pa.types.is_timestamp(column.type):
            text = pc.strftime(rows[column.name], "%Y-%m-%dT%H:%M:%SZ")
            rows = rows.set_column(index, column.name, text)
    return rows


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def some_events(rows: int = 10) -> pa.Table:
    return Flights().rows("events", FIRST, SECOND).slice(0, rows)


def far(rows: pa.Table) -> pa.Table:
    """The rows, of which the first breaks the contract."""
    index = rows.schema.get_field_index("distance")
    values = pa.array([-1, *rows["distance"].to_pylist()[1:]], rows.schema.field("distance").type)
    return rows.set_column(index, "distance", values)


def waiting(place: PipelineHome) -> list[str]:
    return [file.path for file in place.ledger.pending_files(place.name, ["events"])]


# --- taking in -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.parquet", parquet),
        ("a.csv", as_csv),
        ("a.csv.gz", lambda rows: gzip.compress(as_csv(rows))),
        ("a.csv.zst", lambda rows: zstd(as_csv(rows))),
        ("a.jsonl", as_jsonl),
        ("a.jsonl.gz", lambda rows: gzip.compress(as_jsonl(rows))),
        ("a.jsonl.zst", lambda rows: zstd(as_jsonl(rows))),
    ],
)
def test_a_file_at_a_url_gives_the_rows_that_it_gives_in_a_folder(
    place: PipelineHome, tmp_path: Path, name: str, pack: Callable[[pa.Table], bytes]
) -> None:
    content = pack(some_events())
    put(f"2013-01-02/{name}", content)
    local = Home.create(tmp_path / "local").pipeline(loaded())
    local.prepare()
    folder = local.path / "landing" / "events" / "2013-01-02"
    folder.mkdir()
    (folder / name).write_bytes(content)
    for home in (place, local):
        assert taking.register_landed(home) == 1
        taken = taking.take_events(home, [])
        assert (taken.accepted, taken.rows, taken.refused) == (10, 10, ())
    there, here = (home.lake.hashes("events", sort_by=["event_id"]) for home in (place, local))
    assert there == here
    assert taking.register_landed(place, everything=True) == 0


def test_every_stream_is_taken_in_from_its_url(place: PipelineHome) -> None:
    for stream in place.streams:
        put("2013-01-02/a.parquet", parquet(Flights().rows(stream, FIRST, SECOND)), stream)
    assert taking.register_landed(place) == 4
    taken = [
        taking.take_events(place, []),
        taking.take_labels(place, []),
        *(taking.take_reference(place, name, []) for name in place.spec.references),
    ]
    assert all(one.accepted == one.rows > 0 for one in taken)


def test_a_row_at_a_url_that_breaks_the_contract_is_kept_and_can_be_judged_again(place: PipelineHome) -> None:
    put("2013-01-02/a.parquet", parquet(far(some_events())))
    taking.register_landed(place)
    taken = taking.take_events(place, [])
    assert (taken.accepted, taken.quarantined) == (9, 1)
    again = rejects.replay(place, rejects.waiting_rows(place))
    assert (again.accepted, again.rejected) == (0, 1)


def test_what_cannot_be_taken_in_is_refused_by_its_url_and_the_rest_goes_on(place: PipelineHome) -> None:
    put("2013-01-02/good.parquet", parquet(some_events()))
    put("2013-01-02/bad.parquet", b"PAR1 but no more")
    put("2013-01-02/bad.xlsx")
    put("january/stray.csv")
    assert taking.register_landed(place) == 4
    taken = taking.take_events(place, [])
    assert taken.accepted == 10
    assert [text.split(":", 2)[1].split(" ")[0] for text in sorted(taken.refused)] == [
        "//bucket/flights/events/2013-01-02/bad.parquet",
        "//bucket/flights/events/2013-01-02/bad.xlsx",
        "//bucket/flights/events/january/stray.csv",
    ]
    assert taking.register_landed(place, everything=True) == 0


def test_an_object_that_is_gone_is_refused(place: PipelineHome, bucket: MemoryFileSystem) -> None:
    put("2013-01-02/a.parquet", parquet(some_events()))
    taking.register_landed(place)
    bucket.rm(f"{EVENTS}/2013-01-02/a.parquet")
    assert taking.backlog(place, THIRD).due
    assert f"a.parquet has vanished from {EVENTS}" in taking.take_events(place, []).refused[0]


def test_an_object_that_was_put_anew_is_another_file(place: PipelineHome) -> None:
    put("2013-01-02/a.parquet", parquet(some_events(10)))
    taking.register_landed(place)
    taking.take_events(place, [])
    put("2013-01-02/a.parquet", parquet(some_events(20)))
    assert taking.register_landed(place) == 1
    taken = taking.take_events(place, [])
    assert (taken.accepted, taken.duplicates) == (10, 10)


def test_an_object_that_was_put_anew_after_it_was_listed_is_refused() -> None:
    put("2013-01-02/a.csv", b"a\n1\n")
    (fact,) = list_files(FOLDER)
    assert read_landed(FOLDER, fact).rows == 1
    put("2013-01-02/a.csv", b"a\n2\n")
    with pytest.raises(UnreadableFileError, match=r"memory://.*/a.csv cannot be read: it has changed since"):
        read_landed(FOLDER, fact)


def test_an_object_that_is_too_large_is_not_fetched() -> None:
    class Unread(MemoryFileSystem):
        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            opened = super()._open(path, mode, **options)
            if mode == "rb":
                assert opened.tell() == 0
                opened.read = opened.readinto = None
            return opened

    put("2013-01-02/a.csv", b"a\n" + b"1\n" * 5_000)
    (fact,) = list_files(FOLDER)
    assert read_landed(FOLDER, fact, most_bytes=10_002).rows == 5_000
    with (
        memory_is(Unread),
        pytest.raises(UnreadableFileError, match="it has 10,002 bytes, and 10KB are allowed") as caught,
    ):
        read_landed(FOLDER, fact, most_bytes=10_000)
    assert caught.value.digest == ""


def test_the_backlog_counts_the_rows_that_parquet_says(place: PipelineHome) -> None:
    put("2013-01-02/a.parquet", parquet(some_events(7)))
    assert rows_said(FOLDER / "2013-01-02/a.parquet") == 7
    assert rows_said(FOLDER / "2013-01-02/gone.parquet") == 1
    assert rows_said(FOLDER / "2013-01-02/a.csv") == 1
    triggers = place.spec.triggers.model_copy(
        update={"backlog": place.spec.triggers.backlog.model_copy(update={"rows": 7})}
    )
    spec = place.spec.model_copy(update={"triggers": triggers})
    eager = PipelineHome(place.home, LoadedSpec(spec, place.contract, place.loaded.path))
    taking.register_landed(place)
    assert "7 rows or more wait" in taking.backlog(eager, SECOND).sentence


# --- listing ---------------------------------------------------------------------------------------


def test_a_fact_says_size_and_modification_time_and_the_day_of_its_folder(bucket: MemoryFileSystem) -> None:
    put("2013-01-02/part/a.csv", b"12345")
    (fact,) = list_files(FOLDER)
    assert (fact.path, fact.size, fact.arrival_day) == ("2013-01-02/part/a.csv", 5, "2013-01-02")
    assert fact.modified_at == bucket.modified(f"{EVENTS}/2013-01-02/part/a.csv")
    assert list_files(FOLDER, date(2013, 1, 1), date(2013, 1, 3)) == [fact]


def test_unfinished_names_are_left_out() -> None:
    for name in ("2013-01-01/.a.csv", "2013-01-01/_a.csv", "2013-01-01/_tmp/a.csv", "_tmp/a.csv", "_SUCCESS"):
        put(name)
    assert list_files(FOLDER) == []
    assert list_files(FOLDER, date(2013, 1, 1), date(2013, 1, 2)) == []


def test_where_nothing_has_landed_there_is_nothing() -> None:
    assert list_files(FOLDER) == []
    assert list_files(FOLDER, date(2013, 1, 1), date(2013, 1, 2)) == []


def test_only_days_since_until_the_last_are_listed() -> None:
    for day in range(1, 6):
        put(f"2013-01-0{day}/a.csv")
    found = list_files(FOLDER, date(2013, 1, 2), date(2013, 1, 4))
    assert [fact.arrival_day for fact in found] == ["2013-01-02", "2013-01-03", "2013-01-04"]


class Counting(MemoryFileSystem):
    """Notes what it is asked to list, and for how many files it is asked on their own."""

    listed: list[str] = []  # noqa: RUF012 - of all instances
    looked_at: list[str] = []  # noqa: RUF012

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self.listed.append(path)
        return super().ls(path, detail, **options)

    def find(self, path: str, *arguments: Any, **options: Any) -> Any:
        self.listed.append(path)
        return super().find(path, *arguments, **options)

    def modified(self, path: str) -> datetime:
        self.looked_at.append(path)
        return super().modified(path)


@contextmanager
def counting() -> Iterator[type[Counting]]:
    Counting.listed.clear()
    Counting.looked_at.clear()
    with memory_is(Counting):
        yield Counting


def test_a_tick_asks_for_as_much_after_300_days_as_after_3(place: PipelineHome) -> None:
    asked = []
    for first, days in ((0, 3), (3, 300)):
        for day in range(first, days):
            put(f"{date(2013, 12, 31) - timedelta(days=day)}/a.csv")
        clock_at(place, datetime(2013, 12, 31, 12, tzinfo=UTC))
        taking.register_landed(place, ["events"], everything=True)
        assert len(waiting(place)) == days
        with counting() as calls:
            assert taking.register_landed(place, ["events"]) == 0
        asked.append(list(calls.listed))
    assert asked[0] == asked[1]
    assert [path.rpartition("/")[2] for path in asked[1]] == [
        *("2013-12-28", "2013-12-29", "2013-12-30", "2013-12-31"),
        "2014-01-01",
    ]
    assert len(Counting.looked_at) == 4  # memory's listings do not say when a file was modified


def test_a_stream_that_was_quiet_for_long_is_asked_which_folders_there_are(place: PipelineHome) -> None:
    for day in range(300):
        put(f"{date(2013, 12, 31) - timedelta(days=day)}/a.csv")
    for quiet in (MOST_DAYS_ASKED - 6, 100, 1000):
        clock_at(place, datetime(2013, 12, 31, tzinfo=UTC) + timedelta(days=quiet))
        taking.register_landed(place, ["events"])
        with counting() as calls:
            assert taking.register_landed(place, ["events"]) == 0
        assert len(calls.listed) == (MOST_DAYS_ASKED - 1 if quiet < MOST_DAYS_ASKED else 5)


def test_a_file_in_an_older_folder_is_found_by_the_full_listing(place: PipelineHome) -> None:
    clock_at(place, datetime(2013, 1, 11, tzinfo=UTC))
    put("2013-01-10/new.csv")
    assert taking.register_landed(place) == 1
    put("2013-01-07/late.csv")
    put("2013-01-12/early.csv")
    assert taking.register_landed(place) == 2
    for name in ("2013-01-02/very late.csv", "2099-01-01/mistyped.csv", "stray.csv"):
        put(name)
    assert taking.register_landed(place) == 0
    with counting() as calls:
        assert taking.register_landed(place, ["events"], everything=True) == 3
    assert calls.listed == ["/bucket/flights/events"]


def test_an_object_in_the_place_of_a_folder_is_no_file(bucket: MemoryFileSystem) -> None:
    class Console(MemoryFileSystem):
        def find(self, path: str, *arguments: Any, **options: Any) -> Any:
            name = f"{self._strip_protocol(path)}/"
            marker = {"name": name, "size": 0, "type": "file", "mtime": 1_357_000_000.0}
            return {name: marker, **super().find(path, *arguments, **options)}

    put("2013-01-02/a.csv")
    with memory_is(Console):
        assert [fact.path for fact in list_files(FOLDER)] == ["2013-01-02/a.csv"]
        recent = list_files(FOLDER, date(2013, 1, 1), date(2013, 1, 3))
        assert [fact.path for fact in recent] == ["2013-01-02/a.csv"]


def test_what_a_file_system_listed_before_is_not_believed() -> None:
    class Remembering(MemoryFileSystem):
        def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
            path = self._strip_protocol(path)
            if path not in self.dircache:
                self.dircache[path] = super().ls(path, True, **options)
            return self.dircache[path]

        def find(self, path: str, *arguments: Any, **options: Any) -> Any:
            key = f"find {path}"
            if key not in self.dircache:
                self.dircache[key] = list(super().find(path, *arguments, **options).values())
            return {entry["name"]: entry for entry in self.dircache[key]}

        def info(self, path: str, **options: Any) -> Any:
            key = f"info {path}"
            if key not in self.dircache:
                self.dircache[key] = [super().info(path, **options)]
            return self.dircache[key][0]

        def invalidate_cache(self, path: str | None = None) -> None:
            self.dircache.clear()

    since = (date(2013, 1, 1), date(2013, 1, 3))
    with memory_is(Remembering):
        put("2013-01-02/a.csv", b"a\n1\n")
        assert len(list_files(FOLDER)) == len(list_files(FOLDER, *since)) == 1
        put("2013-01-02/b.csv", b"a\n1\n")
        assert len(list_files(FOLDER, *since)) == len(list_files(FOLDER)) == 2
        fact = list_files(FOLDER)[0]
        assert read_landed(FOLDER, fact).rows == 1
        put("2013-01-02/a.csv", b"a\n1\n2\n")
        with pytest.raises(UnreadableFileError, match="has changed"):
            read_landed(FOLDER, fact)


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        ({"LastModified": datetime(2013, 1, 2, 3, tzinfo=UTC)}, datetime(2013, 1, 2, 3, tzinfo=UTC)),
        ({"mtime": 1_357_000_000.123456}, datetime(2013, 1, 1, 0, 26, 40, 123456, tzinfo=UTC)),
        ({"updated": "2013-01-02T03:00:00.5Z"}, datetime(2013, 1, 2, 3, 0, 0, 500_000, tzinfo=UTC)),
        (
            {"last_modified": datetime.fromisoformat("2013-01-02T03:00+02:00")},
            datetime(2013, 1, 2, 1, tzinfo=UTC),
        ),
        ({"modified": datetime(2013, 1, 2, 3)}, None),  # noqa: DTZ001 - what a file system may say
        ({"mtime": "yesterday"}, None),
        ({}, None),
    ],
)
def test_a_modification_time_is_what_the_file_system_says_or_nothing(
    said: dict[str, Any], moment: datetime | None
) -> None:
    class Saying(MemoryFileSystem):
        def find(self, path: str, *arguments: Any, **options: Any) -> Any:
            found = super().find(path, *arguments, **options)
            return {name: {**entry, **said} for name, entry in found.items()}

        def modified(self, path: str) -> datetime:
            raise NotImplementedError

    put("2013-01-02/a.csv")
    with memory_is(Saying):
        if moment is None:
            with pytest.raises(UserError, match=r"does not say how large 2013-01-02/a.csv is, or when, UTC"):
                list_files(FOLDER)
        else:
            assert [fact.modified_at for fact in list_files(FOLDER)] == [moment]


# --- what may not be, or is not there --------------------------------------------------------------


class Guarded(MemoryFileSystem):
    """May not be read below names of these texts."""

    closed: tuple[str, ...] = ()

    def _guard(self, path: str) -> None:
        if any(text in path for text in self.closed):
            raise PermissionError("Access Denied")

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._guard(path)
        return super().ls(path, detail, **options)

    def find(self, path: str, *arguments: Any, **options: Any) -> Any:
        self._guard(path)
        return super().find(path, *arguments, **options)

    def info(self, path: str, **options: Any) -> Any:
        self._guard(path)
        return super().info(path, **options)


def test_an_object_that_may_not_be_read_is_refused_and_the_others_go_on(place: PipelineHome) -> None:
    class OneObject(Guarded):
        closed = ("secret.parquet",)

    put("2013-01-02/a.parquet", parquet(some_events()))
    put("2013-01-02/secret.parquet", parquet(some_events(20)))
    taking.register_landed(place)
    with memory_is(OneObject):
        taken = taking.take_events(place, [])
    assert taken.accepted == 10
    assert "secret.parquet cannot be read: this user may not read it" in taken.refused[0]


def test_credentials_that_ran_out_refuse_no_file(place: PipelineHome) -> None:
    class Everything(Guarded):
        closed = ("",)

    put("2013-01-02/a.parquet", parquet(some_events()))
    taking.register_landed(place)
    with memory_is(Everything):
        for listing in (False, True):
            with pytest.raises(
                UserError, match=r"events may not be listed: Access Denied\nExpected: credent"
            ):
                taking.register_landed(place, ["events"], everything=listing)
        with pytest.raises(UserError, match="events may not be listed: Access Denied"):
            taking.take_events(place, [])
    assert waiting(place) == ["2013-01-02/a.parquet"]
    assert taking.take_events(place, []).accepted == 10


def test_options_come_from_the_configuration_of_fsspec_and_are_not_told(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    class Optioned(Guarded):
        closed = ("",)

        def _guard(self, path: str) -> None:
            seen.append(self.storage_options["key"])
            super()._guard(path)

    monkeypatch.setitem(fsspec.config.conf, "memory", {"key": "hidden"})
    caplog.set_level("DEBUG")
    with memory_is(Optioned), pytest.raises(UserError, match="may not be listed") as caught:
        taking.register_landed(place, ["events"])
    assert seen == ["hidden"]
    assert "hidden" not in f"{caught.value} {FOLDER!r} {caplog.text}"


def test_a_bucket_that_is_not_there_is_named(place: PipelineHome) -> None:
    class NoBucket(MemoryFileSystem):
        def find(self, path: str, *arguments: Any, **options: Any) -> Any:
            raise FileNotFoundError("The specified bucket does not exist")

    with memory_is(NoBucket), pytest.raises(UserError, match=f"There is no landing folder {EVENTS}"):
        taking.register_landed(place, ["events"])


@pytest.mark.parametrize(("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("abfs", "adlfs")])
def test_a_driver_that_is_not_installed_is_named(place: PipelineHome, protocol: str, package: str) -> None:
    url = f"{protocol}://bucket/events"
    spec = place.spec.model_copy(update={"events": place.spec.events.model_copy(update={"landing": url})})
    there = PipelineHome(place.home, LoadedSpec(spec, place.contract, place.loaded.path))
    for use in (there.prepare, lambda: taking.register_landed(there)):
        with pytest.raises(UserError, match=rf"driver for {protocol}:// is not installed") as caught:
            use()
        assert caught.value.remedy == f"pip install {package}"


def test_a_replay_does_not_land_at_a_url(tmp_path: Path) -> None:
    class Silent:
        def moved(self, place: PipelineHome, watermark: datetime) -> None: ...

        def started(self, what: str) -> None: ...

    with pytest.raises(UserError, match=rf"lands in {EVENTS}: a replay cannot land there"):
        replay(at_urls(loaded()), tmp_path, date(2013, 1, 2), timedelta(days=1), progress=Silent())


# --- this machine's files, through fsspec ----------------------------------------------------------


def landed(folder: Path, name: str, content: bytes = b"x") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_file_url_lists_what_its_folder_does(tmp_path: Path) -> None:
    for name in ("2013-01-01/a.csv", "2013-01-02/part/b.csv", "2013-01-02/.c.csv", "stray.csv", "_x/a.csv"):
        os.utime(landed(tmp_path, name), ns=(0, 1_357_000_000_123_456_000))
    there = RemotePath(f"file://{tmp_path}")
    assert list_files(there) == list_files(tmp_path) != []
    recent = list_files(there, date(2013, 1, 2), date(2013, 1, 3))
    assert [fact.path for fact in recent] == ["2013-01-02/part/b.csv"]
    assert list_files(there, date(2012, 1, 1), date(2013, 1, 1)) == list_files(tmp_path)[:1]
    assert read_landed(there, recent[0]).digest == read_landed(tmp_path, recent[0]).digest


def test_links_and_pipes_at_a_file_url_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    secret = landed(tmp_path, "secret/a.csv", b"a\n1\n")
    zone = tmp_path / "events"
    landed(zone, "2013-01-01/a.csv", b"a\n1\n")
    (zone / "2013-01-01" / "link.csv").symlink_to(secret)
    (zone / "2013-01-01" / "round").symlink_to(zone)
    os.mkfifo(zone / "2013-01-01" / "pipe.csv")
    there = RemotePath(f"file://{zone}")
    good, *others = list_files(there)
    assert read_landed(there, good).rows == 1
    assert [fact.path.rpartition("/")[2] for fact in others] == ["link.csv", "pipe.csv", "round"]
    for fact in others:
        with pytest.raises(MisplacedFileError, match="is no file"):
            read_landed(there, fact)


def test_a_folder_that_is_not_there_is_named_where_there_are_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"There is no landing folder file://{tmp_path}/events"):
        list_files(RemotePath(f"file://{tmp_path}/events"))


def test_a_folder_that_may_not_be_listed_is_not_left_out_in_silence(tmp_path: Path) -> None:
    class Closed(LocalFileSystem):
        def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
            if str(path).endswith("2013-01-02"):
                raise PermissionError(13, "Permission denied")  # the superuser would be let in
            return super().ls(path, detail, **options)

    for day in (1, 2):
        landed(tmp_path, f"2013-01-0{day}/a.csv")
    fsspec.register_implementation("file", Closed, clobber=True)
    try:
        with pytest.raises(UserError, match="may not be listed"):
            list_files(RemotePath(f"file://{tmp_path}"))
    finally:
        fsspec.register_implementation("file", LocalFileSystem, clobber=True)
