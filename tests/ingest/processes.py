"""Intakes in processes of their own, counted step by step, killed or stopped at a step, or at work at once.

A step is what survives a kill: a transaction of the ledger that changed something, a Parquet file, a commit
of a table; each counts twice, before and after it.

The processes are forked by a server that has imported what all of them need. Not by that of
`multiprocessing`, of which there is one for all tests: it has imported what replays need.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_pipelines import lake
from mlops_pipelines.home import Home
from tests.ingest import landings
from tests.ingest.landings import STREAMS, WAVES
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from mlops_pipelines.home import PipelineHome

KILLED = -signal.SIGKILL
# Imported once by the server that intakes are forked from: seconds that every intake would pay.
HEAVY = ["deltalake.transaction", "great_expectations", "mlops_pipelines.ingest.intake",
         "mlops_pipelines.ingest.judging", "mlops_pipelines.ingest.landing",
         "mlops_pipelines.ingest.quarantine", "multiprocessing.synchronize", "pyarrow.acero",
         "pyarrow.dataset"]  # fmt: skip


@dataclass(frozen=True)
class Intake:
    """What one process does: see `landings.intake`.

    at: the step, from 1, at which it gets a signal. by: SIGKILL, or SIGSTOP to let another one overtake it.
    steps: file for the names of all steps.
    """

    home: str
    waves: str
    which: Sequence[int] = WAVES
    streams: Sequence[str] = STREAMS
    at: int | None = None
    by: int = signal.SIGKILL
    steps: str | None = None


class Processes:
    """The server. `with Processes(errors) as processes:`; errors: file for what the processes write."""

    def __init__(self, errors: Path):
        self._errors = errors

    def __enter__(self) -> Processes:
        with self._errors.open("w") as errors:
            self._server = subprocess.Popen(
                [sys.executable, "-c", "from tests.ingest.processes import serve; serve()"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                cwd=Path(__file__).parents[2],
            )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def run(self, *intakes: Intake) -> list[int]:
        """Let them begin at the same moment; their exit codes when all have ended, `KILLED` if killed."""
        return self._ask("at once", intakes)

    def overtake(self, slow: Intake, fast: Intake) -> None:
        """Let one stop at its step, the other run to its end, and the first one go on; both end well."""
        codes = self._ask("overtake", [replace(slow, by=signal.SIGSTOP), fast])
        assert codes == [0, 0], self._errors.read_text()

    def _ask(self, how: str, intakes: Sequence[Intake]) -> list[int]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps([how, [asdict(intake) for intake in intakes]]), file=self._server.stdin, flush=True)
        codes: list[int] = json.loads(self._server.stdout.readline())
        return codes

    def finish(self, *intakes: Intake) -> None:
        """Let them begin at the same moment, and all end well."""
        codes = self.run(*intakes)
        assert codes == [0] * len(codes), self._errors.read_text()


def serve() -> None:
    """Run what is asked for, a line each time, until nobody asks any more."""
    for heavy in HEAVY:
        import_module(heavy)
    loaded()
    for line in sys.stdin:
        how, asked = json.loads(line)
        intakes = [Intake(**intake) for intake in asked]
        codes = _at_once(intakes) if how == "at once" else _overtaken(*intakes)
        print(json.dumps(codes), flush=True)


def _at_once(intakes: Sequence[Intake]) -> list[int]:
    wait, go = os.pipe()
    children = [_fork(intake, wait, go) for intake in intakes]
    os.close(wait)
    os.close(go)
    return [_ended(child) for child in children]


def _overtaken(slow: Intake, fast: Intake) -> list[int]:
    wait, go = os.pipe()
    child = _fork(slow, wait, go)
    os.close(wait)
    os.close(go)
    _, status = os.waitpid(child, os.WUNTRACED)
    codes = _at_once([fast])
    if not os.WIFSTOPPED(status):
        return [os.waitstatus_to_exitcode(status), *codes]
    os.kill(child, signal.SIGCONT)
    return [_ended(child), *codes]


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _fork(intake: Intake, wait: int, go: int) -> int:
    """A process that begins when nobody holds `go` any more."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.close(go)
        os.read(wait, 1)
        _take_in(intake)
        code = 0
    except BaseException:  # whatever it is, the test that waits for this process has to hear of it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _take_in(intake: Intake) -> None:
    place = Home.open(Path(intake.home)).pipeline(loaded())
    steps = Steps(intake.at, intake.by)
    steps.watch(place)
    landings.intake(place, Path(intake.waves), intake.which, intake.streams)
    if intake.steps is not None:
        Path(intake.steps).write_text(json.dumps(steps.names))


class Steps:
    """Counts durable steps, and sends this process a signal at one of them."""

    def __init__(self, at: int | None = None, by: int = signal.SIGKILL):
        self.names: list[str] = []
        self._at = at
        self._by = by

    def watch(self, place: PipelineHome) -> None:
        self._wrap(lake, "_write_file")
        self._wrap(lake, "_create")
        self._wrap(lake._Table, "commit")
        dialect = place.ledger._engine.dialect
        commit: Callable[[Any], None] = dialect.do_commit
        before: dict[int, int] = {}

        def do_commit(connection: Any) -> None:
            changes = connection.driver_connection.total_changes
            if before.get(id(connection.driver_connection), 0) == changes:
                commit(connection)
                return
            before[id(connection.driver_connection)] = changes
            self._step("before transaction")
            commit(connection)
            self._step("after transaction")

        dialect.do_commit = do_commit  # type: ignore[method-assign]

    def _wrap(self, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._step(f"before {name.strip('_')}")
            result = function(*args, **kwargs)
            self._step(f"after {name.strip('_')}")
            return result

        setattr(owner, name, counted)

    def _step(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self._at:
            os.kill(os.getpid(), self._by)
