"""What taking in costs: time and memory for a million events, and a tick over a long history.

The events have the columns of `flight_delays` and three more, made up: 30 days, a file a day. One in a
thousand breaks the contract, and one in a thousand is landed twice.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import Measure, Pair, row, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.spec_loading import LoadedSpec

ROOT = Path(__file__).resolve().parent.parent
FIRST_DAY = date(2013, 1, 1)
DAYS = 30
EVENTS = 1_000_000
RECENT_FILES = 200
ALL_FILES = 200_000


@row(
    "ingest.events_1m",
    against="read the Parquet, Great Expectations on the frame, write the Parquet",
    bound=1.5,
)
def events_1m() -> Iterator[Pair]:
    """From files in the landing zone to a committed table, a quarantine and a finished ledger.

    The floor asks Great Expectations by its public interface for what the contract asks, with the rows that
    break it: without them nothing could be set aside. It merges nothing, keeps nothing apart, and writes
    one file of the landed columns. Each of ours has a home of its own, made outside the measurement.
    """
    with TemporaryDirectory() as folder:
        files = write_events(Path(folder) / "files", EVENTS)
        suite, batches = great_expectations()

        def ours() -> float:
            with home_with(files) as place:
                return seconds(lambda: take_in(place, EVENTS))()

        yield Pair(ours, seconds(lambda: judge_only(files, suite, batches, Path(folder) / "written")))


@row("ingest.memory", against="the same events as a pandas frame", unit="MB", bound=3.0, repeats=3)
def memory() -> Iterator[Pair]:
    """The peak of what a process holds while it takes a million events in, above what it held before.

    A process of its own takes in 1,000 events first, so that every import is done. The peak is the kernel's
    high-water mark of resident memory (VmHWM), so nothing between two samples is missed; what imports held
    for a moment can only make it higher. The frame's size is what pandas says, its texts included.
    """
    with TemporaryDirectory() as folder:
        warm_up = write_events(Path(folder) / "some", 1000)
        files = write_events(Path(folder) / "files", EVENTS)
        code = "import sys; from benchmarks import ingest; print(ingest.peak_of_taking_in(*sys.argv[1:]))"
        command = [sys.executable, "-c", code, str(warm_up), str(files)]

        def ours() -> float:
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            return float(done.stdout)

        yield Pair(ours, lambda: float(frame_of(files).memory_usage(deep=True).sum()) / 1e6)


@row(
    "ingest.tick_history",
    against="the same over 200 files, both less an empty landing zone's",
    unit="ms",
    bound=1.2,
    repeats=9,
)
def tick_history() -> Iterator[Pair]:
    """A tick of the backlog sensor that finds nothing new, over 200,000 files that were taken in.

    The 200 are those of the newest four days, which a tick lists; the other files lie in the rest of a year.
    Of a day long past a tick meets the folder's name alone, so it is days that cost, not files: about 0.6 us
    each. One measurement is the fastest of 100 ticks less that of 100 on an empty landing zone, by turns:
    they take milliseconds, and whatever else the machine does can only make one slower.
    """
    newest = FIRST_DAY + timedelta(days=364)
    recent = [newest - timedelta(days=ago) for ago in range(4)]
    older = [FIRST_DAY + timedelta(days=day) for day in range(361)]
    with (
        history([], newest, 0) as empty,
        history(recent, newest, RECENT_FILES) as short,
        history([*recent, *older], newest, RECENT_FILES, ALL_FILES) as long,
    ):
        yield Pair(beyond(long, empty), beyond(short, empty))


# --- events ----------------------------------------------------------------------------------------


def pipeline() -> LoadedSpec:
    """The `flight_delays` pipeline with three columns more in its events."""
    from mlops_pipelines.ingest.contract import ColumnRule
    from mlops_pipelines.spec_loading import LoadedSpec, load_pipeline

    real = load_pipeline("flight_delays")
    columns = {
        **real.contract.events.columns,
        "fare": ColumnRule.model_validate({"type": "float", "min": 0, "max": 10_000}),
        "load_factor": ColumnRule.model_validate({"type": "float", "min": 0, "max": 1}),
        "fuel": ColumnRule.model_validate({"type": "float", "nullable": True, "min": 0, "max": 200_000}),
    }
    events = real.contract.events.model_copy(update={"columns": columns})
    return LoadedSpec(real.spec, real.contract.model_copy(update={"events": events}), real.path)


def write_events(folder: Path, rows: int) -> Path:
    """So many events as landed files, one a day. Returns the folder."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(17)
    for day in range(DAYS):
        here = rows * (day + 1) // DAYS - rows * day // DAYS
        repeated = here // 1000
        events = events_of(FIRST_DAY + timedelta(days=day), here - repeated, random)
        target = folder / f"{FIRST_DAY + timedelta(days=day)}" / "events.parquet"
        target.parent.mkdir(parents=True)
        pq.write_table(pa.concat_tables([events, events.slice(0, repeated)]), target)
    return folder


def events_of(day: date, rows: int, random: Any) -> pa.Table:
    """The events of a UTC day; every thousandth has an impossible distance. random: a numpy generator."""
    import numpy as np
    import pyarrow as pa

    def texts(choices: Sequence[str]) -> Any:
        return np.array(choices)[random.integers(0, len(choices), rows)]

    number = np.arange(rows)
    carrier = np.array(["UA", "AA", "B6", "DL", "EV", "MQ", "US", "9E", "WN", "VX"])[number % 10]
    origin = np.array(["EWR", "JFK", "LGA"])[number // 10 % 3]
    flight = number // 30 + 1
    minutes = random.integers(60, 400, rows)
    distance = random.integers(80, 5000, rows)
    distance[::1000] = 0
    departure = np.datetime64(day, "us") + random.integers(0, 86_400, rows).astype("timedelta64[s]")
    departure.sort()

    def times(values: Any) -> pa.Array:
        return pa.array(values).cast(pa.timestamp("us", tz="UTC"))

    ids = [f"{day}_{one}{two}_{three}" for one, two, three in zip(carrier, flight, origin, strict=True)]
    return pa.table(
        {
            "event_id": ids,
            "scheduled_departure": times(departure),
            "scheduled_arrival": times(departure + minutes.astype("timedelta64[m]")),
            "scheduled_minutes": minutes,
            "carrier": carrier,
            "flight": flight,
            "tailnum": pa.array(
                texts([f"N{one}UA" for one in range(10_000, 14_000)]), mask=random.random(rows) < 0.01
            ),
            "origin": origin,
            "dest": texts([f"{a}{b}{c}" for a in "ABCDE" for b in "LMNOP" for c in "UVWX"]),
            "distance": distance,
            "arrived_at": times(departure),
            "fare": random.gamma(2.0, 150.0, rows).round(2),
            "load_factor": random.random(rows),
            "fuel": pa.array(random.normal(9000.0, 1000.0, rows), mask=random.random(rows) < 0.02),
        }
    )


def frame_of(files: Path) -> pd.DataFrame:
    """The landed events as one frame."""
    import pandas as pd

    return pd.concat([pd.read_parquet(file) for file in sorted(files.rglob("*.parquet"))], ignore_index=True)


@contextmanager
def home_with(files: Path | None) -> Iterator[PipelineHome]:
    """A home of its own in whose landing zone the events lie."""
    from mlops_pipelines.home import Home

    with TemporaryDirectory() as folder:
        place = Home.create(Path(folder)).pipeline(pipeline())
        place.prepare()
        if files is not None:
            shutil.copytree(files, place.landing_root / "events", dirs_exist_ok=True)
        yield place
        place.ledger.close()


def take_in(place: PipelineHome, rows: int) -> None:
    """What an ingest run does with landed events."""
    from mlops_pipelines.ingest import taking

    taking.register_landed(place)
    taken = taking.take_events(place, [])
    assert taken.adds_up, taken.sum_sentence
    assert taken.rows == rows
    assert 0 < taken.quarantined < 0.1 * rows, taken.sum_sentence
    assert taken.duplicates or rows < 1000 * DAYS


def judge_only(files: Path, suite: Any, batches: Any, target: Path) -> None:
    """The least that judging landed events by their contract takes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables(pq.ParquetFile(file).read() for file in sorted(files.rglob("*.parquet")))
    judged = sorted({expectation.column for expectation in suite.expectations})
    batch = batches.get_batch(batch_parameters={"dataframe": table.select(judged).to_pandas()})
    assert not batch.validate(suite, result_format="COMPLETE").success
    pq.write_table(table, target, compression="zstd")


def great_expectations() -> tuple[Any, Any]:
    """The contract's rules of events as a suite, and what makes a batch of a frame.

    That values are not missing is left out: none is, where one has to be.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    context.enable_analytics(False)
    asset = context.data_sources.add_pandas("events").add_dataframe_asset("events")
    asked: list[tuple[str, dict[str, Any]]] = []
    for name, rule in pipeline().contract.events.columns.items():
        if rule.min is not None or rule.max is not None:
            asked.append(("be_between", {"column": name, "min_value": rule.min, "max_value": rule.max}))
        if rule.one_of:
            asked.append(("be_in_set", {"column": name, "value_set": [*rule.one_of]}))
        if rule.pattern:
            asked.append(("match_regex", {"column": name, "regex": rf"^(?:{rule.pattern})\Z"}))
    expectations = [
        ExpectationConfiguration(type=f"expect_column_values_to_{kind}", kwargs=of).to_domain_obj()
        for kind, of in asked
    ]
    suite = gx.ExpectationSuite(name="events", expectations=expectations)
    return suite, asset.add_batch_definition_whole_dataframe("events")


# --- memory ----------------------------------------------------------------------------------------


def resident(figure: str) -> float:
    """A figure of this process's memory, such as VmRSS, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{figure}:"))


def peak_of_taking_in(warm_up: str, files: str) -> float:
    """How far taking in raises this process's resident memory at most, MB."""
    with home_with(Path(warm_up)) as place:
        take_in(place, 1000)
    with home_with(Path(files)) as place:
        before = resident("VmRSS")
        take_in(place, EVENTS)
        return resident("VmHWM") - before


# --- ticks -----------------------------------------------------------------------------------------


@contextmanager
def history(days: Sequence[date], newest: date, recent: int, total: int = 0) -> Iterator[PipelineHome]:
    """A home that has taken in empty files: `recent` on the first four days, the rest on the others."""
    from mlops_pipelines.ingest import taking
    from mlops_pipelines.ledger.landing import FinishedFile

    with home_with(None) as place:
        moment = datetime.combine(newest, datetime.min.time(), UTC)
        place.ledger.begin_advance(moment)
        place.ledger.finish_advance()
        for index, day in enumerate(days):
            folder = place.landing_root / "events" / day.isoformat()
            folder.mkdir()
            older = len(days) - 4
            many = recent // 4 if index < 4 else spread(total - recent, older, index - 4)
            for number in range(many):
                (folder / f"{number}.parquet").touch()
        assert taking.register_landed(place, everything=True) == max(total, recent)
        waiting = place.ledger.pending_files(place.name)
        done = [FinishedFile(file.id, "taken", f"{file.id:064x}") for file in waiting]
        place.ledger.finish_files(done, moment)
        yield place


def spread(many: int, over: int, index: int) -> int:
    """How many of `many` things the one at `index` of `over` places gets."""
    return many * (index + 1) // over - many * index // over


def beyond(place: PipelineHome, empty: PipelineHome) -> Measure:
    """Time of a tick less that of one on an empty landing zone, ms."""

    def timed(one: PipelineHome) -> float:
        return seconds(lambda: tick(one))()

    def measure() -> float:
        mine, least = zip(*((timed(place), timed(empty)) for _ in range(100)), strict=True)
        return float(1000 * (min(mine) - min(least)))

    return measure


def tick(place: PipelineHome) -> None:
    """What the backlog sensor does at every tick."""
    from mlops_pipelines.ingest import taking

    assert taking.register_landed(place) == 0
    assert not taking.backlog(place, place.clock.now()).due
