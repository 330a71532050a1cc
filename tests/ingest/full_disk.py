"""Taking in on a disk that the kernel fills up at one point after the other, in a process of its own.

`python -m tests.ingest.full_disk FOLDER room|size STEP`: with `room`, FOLDER is a disk of its own that a
ballast fills; with `size`, the kernel refuses files beyond a size, on any disk. Prints what was refused how
often.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
from collections import Counter
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import taking
from tests.ingest.files import written
from tests.ingest.test_bad_input import PIPELINE, ids_in, land, new_home, rows, take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

# So long that the table's files, where it is their size that is refused, are larger than the ledger's.
RANDOM = random.Random(7)  # noqa: S311 - no secret
ROWS = {n: {"note": RANDOM.randbytes(10_000).hex()} for n in range(12)}
BAD = ROWS | {6: {"n": "x"}, 7: {"kind": "c"}}
ORDERS = {"events": ["event_id"], "quarantine": ["file_digest", "file_row"]}


def main(folder: Path, how: str, step: int) -> Counter[str]:
    """How often what was refused, from no room at all to enough of it."""
    folder.mkdir(exist_ok=True)
    limit = {"room": room, "size": size}[how]
    refused: Counter[str] = Counter()
    for start in ("new", "older"):
        home = folder / start
        place = new_home(home)
        if start == "older":
            land(place, "older.csv", written("older.csv", rows("older", BAD)))
            take(place)
        land(place, "newer.csv", written("newer.csv", rows("newer", BAD)))
        taking.register_landed(place)
        place.home.ledger.close()
        whole = at(shutil.copytree(home, folder / f"whole-{start}"))
        take(whole)
        whole.home.ledger.close()
        for left in count(0, step):
            copy = shutil.copytree(home, folder / f"{start}-{left}")
            what = take_in(at(copy), limit(folder, left), whole)
            shutil.rmtree(copy)
            refused[what] += 1
            if what == "nothing":
                break
        shutil.rmtree(home)
        shutil.rmtree(folder / f"whole-{start}")
    return refused


def take_in(place: PipelineHome, limited: AbstractContextManager[None], whole: PipelineHome) -> str:
    """What was refused, such as `The table events`. In the end all is as if the disk had had room."""
    what, before = "nothing", contents(place)
    with limited:
        try:
            taking.take_events(place, [])
        except TerminalError as refusal:
            what, said, _ = refusal.message.partition(" cannot be written: ")
            helps = (refusal.remedy or "").startswith("make room")
        assert what == "nothing" or (said and helps)
        now = contents(place)
        assert before.keys() <= now.keys()
        if "events" in before:
            assert {f"older{n}" for n in range(12)} - ids_in(place, "older") == {"older6", "older7"}
    place.home.ledger.close()
    take(place)
    assert contents(place) == contents(whole)
    assert place.ledger.file_counts(place.name) == whole.ledger.file_counts(place.name)
    assert files_of(place) == files_of(whole), "what was written in vain is still there"
    place.home.ledger.close()
    return what


def at(home: Path) -> PipelineHome:
    return Home.open(home).pipeline(PIPELINE)


def contents(place: PipelineHome) -> dict[str, dict[str, str]]:
    """Content hash by table and day."""
    lake = place.lake
    return {name: lake.hashes(name, sort_by=order) for name, order in ORDERS.items() if lake.exists(name)}


def files_of(place: PipelineHome) -> int:
    return len([*place.lake.root.rglob("*.parquet")])


@contextmanager
def room(disk: Path, left: int) -> Iterator[None]:
    """So many bytes are left on the disk."""
    facts = os.statvfs(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, facts.f_bavail * facts.f_frsize - left))
    yield
    ballast.unlink()


@contextmanager
def size(_: Path, left: int) -> Iterator[None]:
    """No file may grow beyond so many bytes. Python ignores the signal, so the write fails."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, most[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
