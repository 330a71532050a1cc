"""Taking in ends the same wherever it was killed, and whoever else takes in at the same time."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tests.ingest.landings import TABLES, WAVES, copy_of, new_home, outcome, write_waves
from tests.ingest.processes import KILLED, Intake, Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from pathlib import Path

pytestmark = pytest.mark.proof

Found = dict[str, Any]
AT_ONCE = 2
# Which file is said to have brought what another one said as well depends on which came first.
CREDIT = {"credit", *(f"origins: {table}" for table in TABLES)}


class Landed:
    """Homes in which nothing has landed yet, the waves that will, and what comes of them undisturbed."""

    def __init__(self, folder: Path, processes: Processes):
        self._folder = folder
        self._homes = count()
        self.processes = processes
        new_home(folder / "new")
        write_waves(folder / "waves")
        self.expected, self.steps = self.undisturbed()

    def home(self) -> Path:
        """A home of its own, with nothing landed."""
        return copy_of(self._folder / "new", self._folder / f"home-{next(self._homes)}")

    def intake(self, home: Path, **how: Any) -> Intake:
        return Intake(str(home), str(self._folder / "waves"), **how)

    def undisturbed(self, **how: Any) -> tuple[Found, list[str]]:
        """What comes of one process alone, and its steps."""
        home, steps = self.home(), self._folder / "steps.json"
        self.processes.finish(self.intake(home, **how, steps=str(steps)))
        return came_of(home), json.loads(steps.read_text())

    def wrong_in(self, home: Path, but: Container[str] = ()) -> list[str]:
        """What came out otherwise than undisturbed; the home is gone afterwards."""
        return differing(came_of(home), self.expected, but)


def came_of(home: Path) -> Found:
    """What came of it; the home is gone afterwards."""
    found = outcome(home)
    shutil.rmtree(home)
    return found


def differing(found: Found, expected: Found, but: Container[str] = ()) -> list[str]:
    names = sorted({*found, *expected})
    return [name for name in names if name not in but and found.get(name) != expected.get(name)]


def chosen(steps: list[str], full: bool, some: int) -> dict[int, str]:
    """All steps by number, each with what it is, or in the fast suite some: evenly from among them."""
    every = range(len(steps)) if full else (len(steps) * (2 * n + 1) // (2 * some) for n in range(some))
    return {place + 1: f"{steps[place]}, step {place + 1} of {len(steps)}" for place in every}


def outside_transactions(steps: dict[int, str]) -> dict[int, str]:
    """Steps at which the ledger is not held: who overtakes there would wait for ever."""
    return {number: name for number, name in steps.items() if not name.startswith("before transaction")}


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Landed]:
    folder = tmp_path_factory.mktemp("landed")
    with Processes(folder / "errors.txt") as processes:
        yield Landed(folder, processes)


def test_what_lands_is_worth_being_killed_for(landed: Landed) -> None:
    finished, credit = landed.expected["finished"], landed.expected["credit"]
    kinds = Counter((stream, status) for stream, _, status, *_ in finished)
    assert kinds["events", "rejected"] == 3
    for stream in ("events", "labels", "weather", "planes"):
        assert kinds[stream, "taken"] >= 2
        assert all(
            sum(became) > 0 for became in zip(*(n for name, _, *n in credit if name == stream), strict=True)
        )
    assert [rows for *_, rows in finished] == [sum(became) for _, _, *became in credit]
    assert all(landed.expected[table] for table in TABLES)
    assert len(landed.expected["events"]) == 3
    assert {step.partition(" ")[2] for step in landed.steps} == {
        "commit", "create", "transaction", "write_file"
    }  # fmt: skip


def test_killed_at_any_step_and_started_again_it_ends_the_same(
    landed: Landed, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    kills = chosen(landed.steps, full, some=8)
    wrong = {}
    for start in range(0, len(kills), AT_ONCE):
        homes = {step: landed.home() for step in list(kills)[start : start + AT_ONCE]}
        codes = landed.processes.run(*(landed.intake(home, at=step) for step, home in homes.items()))
        assert codes == [KILLED] * len(homes)
        landed.processes.finish(*(landed.intake(home) for home in homes.values()))
        wrong |= {kills[step]: landed.wrong_in(home) for step, home in homes.items()}
    assert {step: what for step, what in wrong.items() if what} == {}
    sample_size("steps", len(landed.steps))
    sample_size("kills", len(kills))


def test_killed_twice_it_ends_the_same(
    landed: Landed, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    draw = random.Random(17)  # noqa: S311 - where it is killed, not a secret
    pairs = [(draw.randint(1, len(landed.steps)), draw.randint(1, 40)) for _ in range(24 if full else 1)]
    wrong = {}
    for first, second in pairs:
        home = landed.home()
        assert landed.processes.run(landed.intake(home, at=first)) == [KILLED]
        assert landed.processes.run(landed.intake(home, at=second))[0] in (0, KILLED)  # it may end before
        landed.processes.finish(landed.intake(home))
        wrong[first, second] = landed.wrong_in(home)
    assert {steps: what for steps, what in wrong.items() if what} == {}
    sample_size("pairs of kills", len(pairs))


def test_two_processes_at_once_make_what_one_makes(
    landed: Landed, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    rounds = 60 if full else 2
    wrong = {}
    for number in range(rounds):
        home = landed.home()
        for wave in WAVES:
            landed.processes.finish(*[landed.intake(home, which=[wave]) for _ in range(AT_ONCE)])
        wrong[number] = landed.wrong_in(home)
    assert {number: what for number, what in wrong.items() if what} == {}
    sample_size("rounds", rounds)


def test_two_processes_at_once_of_which_one_is_killed_make_what_one_makes(
    landed: Landed, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    kills = chosen(landed.steps, full, some=2)
    wrong = {}
    killed = 0
    for step in kills:
        home = landed.home()
        codes = landed.processes.run(landed.intake(home, at=step), landed.intake(home))
        assert codes in ([KILLED, 0], [0, 0])  # what the other one did before it is no step of its own
        killed += codes[0] == KILLED
        wrong[step] = landed.wrong_in(home, but=CREDIT)
    assert {step: what for step, what in wrong.items() if what} == {}
    sample_size("kills", killed)


def test_a_process_overtaken_by_another_at_any_step_makes_what_one_makes(
    landed: Landed, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    stops = outside_transactions(chosen(landed.steps, full, some=4))
    wrong = {}
    for step, name in stops.items():
        home = landed.home()
        landed.processes.overtake(landed.intake(home, at=step), landed.intake(home))
        wrong[name] = landed.wrong_in(home)
    assert {step: what for step, what in wrong.items() if what} == {}
    sample_size("steps overtaken at", len(stops))


def test_a_process_overtaken_by_one_that_has_more_files_of_the_same_days_loses_none(
    landed: Landed, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    expected, _ = landed.undisturbed(which=[1, 2])
    _, steps = landed.undisturbed(which=[1])
    stops = outside_transactions(chosen(steps, full, some=2))
    wrong = {}
    for step, name in stops.items():
        home = landed.home()
        landed.processes.overtake(landed.intake(home, which=[1], at=step), landed.intake(home, which=[2]))
        wrong[name] = differing(came_of(home), expected, but=CREDIT)
    assert {step: what for step, what in wrong.items() if what} == {}
    sample_size("steps overtaken at", len(stops))


@pytest.mark.parametrize(
    ("streams", "which"),
    [(("events", "labels"), (1, 2)), (("labels", "events"), (1, 2)), (("labels", "events"), (1,))],
    ids=["events by labels", "labels by events", "the first labels by the first events"],
)
def test_streams_that_overtake_each_other_make_what_one_process_makes(
    landed: Landed,
    full: bool,
    sample_size: Callable[[str, int], None],
    streams: tuple[str, str],
    which: tuple[int, ...],
) -> None:
    slow, fast = streams
    expected, _ = landed.undisturbed(streams=["events", "labels"], which=which)
    _, steps = landed.undisturbed(streams=[slow], which=which)
    stops = outside_transactions(chosen(steps, full, some=3))
    wrong = {}
    for step, name in stops.items():
        home = landed.home()
        overtaken = landed.intake(home, streams=[slow], which=which, at=step)
        landed.processes.overtake(overtaken, landed.intake(home, streams=[fast], which=which))
        # What has been reopened is looked at, as a sensor asks for it.
        landed.processes.finish(landed.intake(home, streams=["labels"], which=which))
        wrong[name] = differing(came_of(home), expected)
    assert {step: what for step, what in wrong.items() if what} == {}
    sample_size("steps overtaken at", len(stops))


def test_a_day_that_somebody_looked_at_too_early_is_looked_at_again(
    landed: Landed, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    """Whoever works on reopened days may do so at any step: it closes them with what it has seen."""
    _, steps = landed.undisturbed(streams=["events"])
    stops = outside_transactions(chosen(steps, full, some=5))
    missed = {}
    for step, name in stops.items():
        home = landed.home()
        overtaken = landed.intake(home, streams=["events"], at=step)
        landed.processes.overtake(overtaken, landed.intake(home, which=[0], streams=["tiles"]))
        found = came_of(home)
        closed = set(found["events"]) - set(found["reopened: tiles"])
        missed[name] = {day for day in closed if found["looked at"].get(day) != found["events"][day]}
    assert {step: days for step, days in missed.items() if days} == {}
    sample_size("steps looked at", len(stops))
