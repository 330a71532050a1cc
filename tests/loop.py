"""The loop's steps on a home of its own, called as the runs call them, without Dagster."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mlops_pipelines import retraining, scoring, spec_loading
from mlops_pipelines.cli import main
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features import tiles
from mlops_pipelines.features.in_use import sets_in_use
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import taking
from mlops_pipelines.model_versions import relocate
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.reproduce import Reproducer
from mlops_pipelines.trace import find_prediction, trace
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from click.testing import Result

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.retraining import Outcome
    from mlops_pipelines.spec_loading import LoadedSpec

FIRST = datetime(2013, 1, 1, tzinfo=UTC)


def small_home(path: Path) -> PipelineHome:
    """The small pipeline's place in a new home whose clock stands at the first moment of the data."""
    place = Home.create(path).pipeline(loaded())
    place.prepare()
    move(place, FIRST)
    shutil.copytree(Path(_new_registry().name) / "mlflow", path / "mlflow", dirs_exist_ok=True)
    assert place.home.registry.alias(place.name, "champion") is None
    return place


def serving_home(path: Path) -> PipelineHome:
    """A small home whose champion was promoted on the 8th; it has served nothing yet."""
    return copy_of(Path(_served().name) / "home", path)


@cache
def _served() -> TemporaryDirectory[str]:
    """Its home, made once a process."""
    folder = TemporaryDirectory()
    place = small_home(Path(folder.name) / "home")
    advance(place, at(8))
    assert retrain(place, "first").promotion
    return folder


@cache
def _new_registry() -> TemporaryDirectory[str]:
    """A home with the tables of an empty registry, which take seconds to make: once a process."""
    folder = TemporaryDirectory()
    assert Home.create(Path(folder.name)).registry.alias("none", "champion") is None
    return folder


def copy_of(home: Path, to: Path, pipeline: LoadedSpec | None = None) -> PipelineHome:
    """The place of a pipeline in a copy of a home, whose models are its own as well; the small one's, unless
    another is given."""
    shutil.copytree(home, to, dirs_exist_ok=True)
    if (to / "mlflow" / "mlflow.db").is_file():
        relocate(to / "mlflow" / "mlflow.db", to / "mlflow" / "artifacts")
    return Home.open(to).pipeline(pipeline or loaded())


def varied(place: PipelineHome, **changes: object) -> PipelineHome:
    """The same pipeline on the same home with other parts of its specification."""
    spec = place.spec.model_copy(update=changes)
    return PipelineHome(place.home, replace(place.loaded, spec=spec))


def at(day: int) -> datetime:
    """The first moment of a day of January 2013."""
    return datetime(2013, 1, day, tzinfo=UTC)


def advance(
    place: PipelineHome,
    until: datetime,
    keep: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    of: str = "events",
) -> None:
    """Land what producers wrote by `until`, move the clock there, take all in and score it.

    keep: what lands of the rows of a stream, of the events unless another is named.
    """
    since = place.clock.now()
    for stream in place.streams:
        rows = Flights().rows(stream, since, until)
        land(place, stream, f"{since:%d%H}-{until:%d%H}", keep(rows) if stream == of else rows)
    move(place, until)
    serve(place)


def land(place: PipelineHome, stream: str, name: str, rows: pa.Table) -> None:
    """A file of rows in the folder of today."""
    import pyarrow.parquet as pq

    folder = place.landing(stream) / f"{place.clock.now():%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / f"{name}.parquet")


def take_all(place: PipelineHome) -> None:
    """Take in all that has landed."""
    taking.register_landed(place)
    taking.take_events(place, [])
    for reference in place.spec.references:
        taking.take_reference(place, reference, [])
    taking.take_labels(place, [])


def make_tiles(place: PipelineHome) -> None:
    """Tiles of the days that are reopened, in the lake alone."""
    reopened = place.ledger.reopened_days(place.name, "tiles")
    _, failed = scoring.write_tiles(place, sets_in_use(place), [*reopened])
    assert not failed
    place.ledger.close_days(place.name, reopened, "tiles")


def serve(place: PipelineHome) -> None:
    """What an ingest run and a labels run do, but for the reports."""
    take_all(place)
    scoring.make_tiles(place, [])
    scoring.make_examples(place, [])
    scoring.score(place, [])


def retrain(place: PipelineHome, run_id: str) -> Outcome:
    """What a retrain run does, for a trigger of its own. The run must be admitted."""
    ask(place, run_id)
    return carry_through(place, run_id)


def carry_through(place: PipelineHome, run_id: str) -> Outcome:
    """What a retrain run does, for the triggers that wait. The run must be admitted."""
    admission = retraining.admit(place, run_id=run_id)
    assert admission.retrain is not None, admission.sentence
    retraining.assemble(place, admission.retrain)
    return finish(place, run_id)


def ask(place: PipelineHome, why: str) -> None:
    """A trigger that waits."""
    place.ledger.append_trigger(place.name, "manual", f"manual:{why}", {"why": why}, place.clock.now())


def finish(place: PipelineHome, run_id: str) -> Outcome:
    """The steps after the training set."""
    retraining.fit(place, run_id=run_id)
    retraining.evaluate(place, run_id=run_id)
    return retraining.conclude(place, run_id=run_id)


def check_reproduced(place: PipelineHome) -> None:
    """A prediction of each day is traced, and made again from its facts."""
    again = Reproducer()
    for day in place.lake.days("predictions"):
        name = place.lake.read("predictions", columns=["prediction_id"], days=[day])[0][0].as_py()
        trace(find_prediction([place], name))
        links = list(again.links(find_prediction([place], name)))
        assert [link for link in links if not link.same] == []
        # A number that was predicted is all there is: nothing is decided by it.
        assert links[-1].name == ("score" if place.spec.labels.kind == "number" else "decision")


def mlops(place: PipelineHome, *arguments: str) -> Result:
    """The command on the home of `place`, whose pipeline has no folder that it could be loaded from."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spec_loading, "load_pipeline", lambda name: place.loaded)
        patch.setattr(spec_loading, "pipeline_names", lambda: [place.name])
        return CliRunner().invoke(main, [*arguments[:end], "--home", str(place.home.path), *arguments[end:]])


def move(place: PipelineHome, to: datetime) -> None:
    """Move the home's clock."""
    place.ledger.begin_advance(to)
    place.ledger.finish_advance()


def break_tiles_of(view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a value is too large to be summed."""
    aggregate = tiles._aggregate

    def failing(compiled: CompiledView, facts: pa.Table) -> pa.Table:
        if compiled.name == view:
            raise TerminalError("too large")
        return aggregate(compiled, facts)

    monkeypatch.setattr(tiles, "_aggregate", failing)
