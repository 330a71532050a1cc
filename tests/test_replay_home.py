"""The home a replay finds: whose clock it has, what died in it, what lies in its landing zone."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

import dagster as dg
import pytest
from dagster._core.definitions.instigation_logger import InstigationLogger
from dagster._core.instance.ref import InstanceRef
from dagster._core.test_utils import create_run_for_test

from mlops_pipelines import settings
from mlops_pipelines.errors import UserError
from mlops_pipelines.home import Home
from mlops_pipelines.ledger import FileFact
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.replay import Replayed, _quiet_sensors, close_dead_runs
from mlops_pipelines.replay import replay as drive
from mlops_pipelines.spec import Policy
from tests.small_flights import NAME, loaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlops_pipelines.spec_loading import LoadedSpec

FIRST = datetime(2013, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NEW_YEAR = date(2013, 1, 1)
Status = dg.DagsterRunStatus


class Quiet:
    """A year in which producers write nothing; notes what it was asked for."""

    asked: ClassVar[list[tuple[datetime, datetime]]] = []

    def span(self) -> tuple[datetime, datetime]:
        return Flights().span()

    def write(self, landing: Path, since: datetime, until: datetime) -> dict[str, int]:
        self.asked.append((since, until))
        return {}


class Busy(Quiet):
    """Fifty flights on the first day, all of them delivered twice."""

    def write(self, landing: Path, since: datetime, until: datetime) -> dict[str, int]:
        import pyarrow.parquet as pq

        folder = landing / "events" / f"{since:%Y-%m-%d}"
        if since == FIRST:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("a", "b"):
                rows = Flights().rows("events", since, until).slice(0, 50)
                pq.write_table(rows, folder / f"{name}.parquet", row_group_size=10 if name == "a" else 50)
        return {}


class Late(Busy):
    """Fifty more flights of the first day, which arrive weeks later in the folder of that day."""

    def write(self, landing: Path, since: datetime, until: datetime) -> dict[str, int]:
        import pyarrow.parquet as pq

        if since > FIRST:
            rows = Flights().rows("events", FIRST, FIRST + DAY).slice(50, 50)
            pq.write_table(rows, landing / "events" / f"{FIRST:%Y-%m-%d}" / "late.parquet")
        return super().write(landing, since, until)


class Swept(Quiet):
    """Somebody removes a landing folder."""

    def write(self, landing: Path, since: datetime, until: datetime) -> dict[str, int]:
        (landing / "events").rmdir()
        return {}


class ByHand(Busy):
    """Meanwhile a run that somebody started on the same home fails."""

    def write(self, landing: Path, since: datetime, until: datetime) -> dict[str, int]:
        with instance_of(Home.open(landing.parents[2])) as instance:
            create_run_for_test(instance, job_name="by_hand", status=Status.FAILURE)
        return super().write(landing, since, until)


class Unwatched:
    def started(self, what: str) -> None:
        """Nobody looks."""

    def moved(self, place: object, watermark: datetime) -> None:
        """Nobody looks."""


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A replay makes its home that of the process."""
    monkeypatch.setenv("MLOPS_HOME", "none")
    Quiet.asked.clear()
    yield
    settings.settings.cache_clear()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.create(tmp_path)
    made.pipeline(loaded()).prepare()
    return made


def replay(
    home: Home, until: date = NEW_YEAR, source: type[Quiet] = Quiet, step: timedelta = DAY
) -> Replayed:
    return drive(
        with_source(source),
        home.path,
        until,
        step,
        progress=Unwatched(),
        module="tests.small_flights.definitions",
    )


def with_source(source: type[Quiet]) -> LoadedSpec:
    spec = loaded().spec
    assert spec.replay is not None
    named = spec.replay.model_copy(update={"source": f"{__name__}:{source.__name__}"})
    return replace(loaded(), spec=spec.model_copy(update={"replay": named}))


def instance_of(home: Home) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home.dagster)))


def test_a_clock_that_ingest_moved_into_a_day_goes_on_at_that_days_beginning(home: Home) -> None:
    home.ledger.begin_advance(FIRST, NAME)
    home.ledger.finish_advance()
    assert home.ledger.raise_watermark(FIRST + timedelta(hours=5, minutes=30), NAME)
    assert replay(home, NEW_YEAR + DAY).until == FIRST + 2 * DAY
    assert Quiet.asked == [(FIRST, FIRST + DAY), (FIRST + DAY, FIRST + 2 * DAY)]


def test_an_advance_to_a_moment_within_a_day_is_finished(home: Home) -> None:
    home.ledger.begin_advance(FIRST + timedelta(days=1, hours=5), NAME)
    assert replay(home, NEW_YEAR + DAY).until == FIRST + 2 * DAY
    assert Quiet.asked == [(FIRST, FIRST + DAY), (FIRST + DAY, FIRST + 2 * DAY)]


def test_a_home_that_keeps_the_time_of_another_pipelines_replay_is_refused(home: Home) -> None:
    home.ledger.begin_advance(FIRST + DAY, "other")
    home.ledger.finish_advance()
    with pytest.raises(UserError, match=rf"time of the replay of other.\n.*{NAME}.*\n.*--home DIR"):
        replay(home)
    assert (home.ledger.watermark(), home.ledger.clock_owner()) == (FIRST + DAY, "other")


def test_a_home_that_lives_by_the_wall_clock_is_not_set_back(home: Home) -> None:
    home.ledger.register_files("other", "events", [FileFact("f", 1, FIRST, "2013-01-01")])
    with pytest.raises(UserError, match=r"machine's time and has taken in data"):
        replay(home)
    assert (home.ledger.watermark(), home.ledger.target()) == (None, None)


@pytest.mark.parametrize("until", [date(2012, 12, 31), date(2014, 1, 2), date.max, date.min])
def test_a_day_outside_the_data_is_refused(home: Home, until: date) -> None:
    with pytest.raises(UserError, match="outside the data"):
        replay(home, until)


def test_what_is_the_users_to_mend_in_a_tick_is_said_to_be(home: Home) -> None:
    with pytest.raises(UserError, match=r"^A sensor or schedule failed: There is no landing folder"):
        replay(home, source=Swept)
    assert replay(home).until == FIRST + DAY


def test_a_run_that_a_replay_did_not_ask_for_may_fail_beside_it(home: Home) -> None:
    done = replay(home, NEW_YEAR + DAY, source=ByHand)
    assert (done.until, done.new_events) == (FIRST + 2 * DAY, 50)
    with instance_of(home) as instance:
        names = [run.job_name for run in instance.get_runs()]
    assert names.count("by_hand") == 2
    assert done.runs == len(names) - 2 > 0


def test_accepted_events_are_counted_and_a_refused_file_is_told_once(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = home.pipeline(loaded()).landing("events") / "2013-01-01" / "broken.parquet"
    broken.parent.mkdir()
    broken.write_text("no parquet")
    (broken.parent.parent / "notes.txt").write_text("no day")
    done = replay(home, source=Busy)
    assert done.new_events == 50
    assert [text.split()[0].rsplit("/")[-1] for text in done.refused] == ["broken.parquet", "notes.txt"]
    again = replay(home, NEW_YEAR + DAY, source=Busy)
    assert (again.new_events, again.refused) == (0, ())
    assert " - INFO - " not in capfd.readouterr().err


def test_what_lands_in_an_old_folder_is_taken_in_before_the_clock_moves_on(home: Home) -> None:
    replay(home, source=Late)
    three_weeks_on = NEW_YEAR + 20 * DAY
    assert replay(home, three_weeks_on, source=Late, step=20 * DAY).new_events == 50
    assert replay(home, three_weeks_on, source=Late).new_events == 0
    assert home.ledger.pending_files(NAME) == []


def test_sensors_tell_a_replay_their_warnings_only(capfd: pytest.CaptureFixture[str]) -> None:
    with _quiet_sensors():
        log = InstigationLogger(level=logging.INFO)
        log.info("all is well")
        log.warning("a run was lost")
    said = capfd.readouterr().err
    assert "a run was lost" in said
    assert "all is well" not in said


UNFINISHED = [Status.STARTING, Status.STARTED, Status.CANCELING, Status.NOT_STARTED]


def runs(home: Home, statuses: list[Status]) -> dict[Status, str]:
    """A run of each status, as a process that died left them."""
    with instance_of(home) as instance:
        return {
            one: create_run_for_test(instance, job_name=f"job_{one.value}", status=one).run_id
            for one in statuses
        }


def status_of(home: Home, run_id: str) -> Status:
    with instance_of(home) as instance:
        run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_runs_that_died_are_ended_and_those_that_wait_are_left_to_the_daemon(home: Home) -> None:
    left = runs(home, UNFINISHED)
    close_dead_runs(home)
    found = {before: status_of(home, run_id) for before, run_id in left.items()}
    assert found == {**dict.fromkeys(UNFINISHED, Status.FAILURE), Status.NOT_STARTED: Status.NOT_STARTED}


def test_a_replay_ends_every_run_that_it_finds_unfinished(home: Home) -> None:
    left = runs(home, UNFINISHED)
    replay(home)
    assert {status_of(home, run_id) for run_id in left.values()} == {Status.FAILURE}


def test_a_retrain_whose_run_died_waits_for_the_next_run_uncharged(home: Home) -> None:
    run_id = runs(home, [Status.STARTED])[Status.STARTED]
    home.ledger.append_trigger(NAME, "manual", "k", {}, FIRST)
    home.ledger.admit(NAME, now=FIRST, policy=Policy(), run_id=run_id, data_mark="d")
    close_dead_runs(home)
    [retrain] = home.ledger.retrains(NAME)
    assert (retrain.status, retrain.losses) == ("lost", 0)
