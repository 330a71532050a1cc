"""What it costs to look whether something is to be retrained, however much asks for it."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks import Pair, daemons, row, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MANY, FEW = 10_000, 10
TICKS = 15
SENSORS, DAYS = 5, 30


@row("triggers.tick_pending", against=f"the same with {FEW} pending triggers", bound=3.0, repeats=7)
def tick_pending() -> Iterator[Pair]:
    """What a tick of the sensor `retraining` costs with 10,000 pending triggers, beyond one with none.

    Raises RuntimeError where it makes more statements than with ten.
    """
    with ticking(0) as empty, ticking(FEW) as few, ticking(MANY) as many:
        if len(many.statements()) != len(few.statements()):
            raise RuntimeError(f"{len(many.statements())} statements, and {len(few.statements())} with {FEW}")

        def beyond(tick: Callable[[], None]) -> float:
            both = [(seconds(tick)(), seconds(empty.tick)()) for _ in range(TICKS)]
            return median(one for one, _ in both) - median(none for _, none in both)

        yield Pair(lambda: beyond(many.tick), lambda: beyond(few.tick))


@row(
    "triggers.landed_to_started",
    against="a bare project as Dagster installs it, 30 s interval",
    bound=0.25,
    repeats=7,
)
def landed_to_started() -> Iterator[Pair]:
    """From a landed file to the first step of the run that takes it in, under `dagster dev`."""
    with both() as (ours, bare):
        yield Pair(ours.landed_to_started, bare.landed_to_started)


@row("triggers.landed_equal_interval", against="the bare project, its sensor as often as ours", repeats=5)
def landed_equal_interval() -> Iterator[Pair]:
    """As `triggers.landed_to_started`: what is due to other things than the interval. To inform."""
    with both(eager=True) as (ours, bare):
        yield Pair(ours.landed_to_started, bare.landed_to_started)


@row("triggers.idle_cpu", against="the bare project, 30 s interval", unit="s in 30 s", repeats=2)
def idle_cpu() -> Iterator[Pair]:
    """Processor that the daemon, the UI and the code location take while nothing happens. To inform."""
    with both() as (ours, bare):
        yield Pair(lambda: ours.idle_cpu(30), lambda: bare.idle_cpu(30))


@contextmanager
def both(*, eager: bool = False) -> Iterator[tuple[daemons.Daemon, daemons.Daemon]]:
    """Our daemon and a bare one."""
    with (
        TemporaryDirectory() as folder,
        daemons.ours(Path(folder) / "ours") as ours,
        daemons.bare(Path(folder) / "bare", eager=eager) as bare,
    ):
        yield ours, bare


class Ticking:
    """The sensor `retraining` on a home with so many pending triggers."""

    def __init__(self, folder: Path, pending: int):
        import dagster as dg

        from benchmarks import sensors
        from mlops_pipelines.component import build_definitions
        from mlops_pipelines.ledger.tables import triggers
        from mlops_pipelines.resources import HomeResource

        self.place = sensors.home(folder)
        sensors.grow(self.place, SENSORS, DAYS)
        now = self.place.clock.now()
        rows = [
            {"pipeline": self.place.name, "kind": "labels", "key": f"labels:{n}", "evidence": {},
             "urgent": False, "created_at": now}
            for n in range(pending)
        ]  # fmt: skip
        with self.place.ledger._writing() as connection:
            if rows:
                connection.execute(triggers.insert(), rows)
        definitions = build_definitions(self.place.loaded, HomeResource(path=str(folder)))
        self._repository = definitions.get_repository_def()
        self._instance = dg.DagsterInstance.ephemeral()
        self.tick()

    def tick(self) -> None:
        import dagster as dg

        from mlops_pipelines.resources import HomeResource

        context = dg.build_sensor_context(
            instance=self._instance,
            repository_def=self._repository,
            resources={"home": HomeResource(path=str(self.place.home.path))},
        )
        self._repository.get_sensor_def(f"{self.place.name}_retraining").evaluate_tick(context)

    def statements(self) -> list[str]:
        """The SQL of a tick."""
        from sqlalchemy import event

        from mlops_pipelines.home import open_home

        found: list[str] = []
        engine = open_home(self.place.home.path).ledger._engine

        def heard(*given: object) -> None:
            found.append(str(given[2]))

        event.listen(engine, "before_cursor_execute", heard)
        self.tick()
        event.remove(engine, "before_cursor_execute", heard)
        return found


@contextmanager
def ticking(pending: int) -> Iterator[Ticking]:
    with TemporaryDirectory() as folder:
        yield Ticking(Path(folder) / "home", pending)
