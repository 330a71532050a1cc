"""Whether events have come to mean something else: losses beyond what the scores themselves expect.

*Surprise* is the loss of a score less the loss it expects of itself (`estimates.expected_losses`). Its mean
is zero while scores mean what they say, however often the outcome comes about: a season that moves the base
rate, and the scores with it, is none. Row by row it is noise; so the stream that is watched is its mean over
blocks of rows in the order of decision.

Whole days differ, too: a storm surprises every score of an afternoon. A changed meaning surprises at all
hours. So a day is judged by its *calm part*, the blocks with the least surprise: what moves that is no storm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mlops_pipelines.spec import Detector

    Floats = NDArray[np.float64]

BLOCK_ROWS = 50
# Share of a day's blocks that are its calm part.
CALM = 0.6
# Days that a day is compared with: at least, and the last so many.
LEAST_DAYS = 20
MOST_DAYS = 60
# Days that are looked at together, and by how many standard deviations of a day their mean has to be off.
TOGETHER = 3
LIMIT = 1.8
# Median absolute deviation of a normal distribution, in standard deviations.
_MAD = 0.6744897501960817
_SEED = 17


@dataclass(frozen=True)
class JudgedDay:
    """A matured day (YYYY-MM-DD), by the model that scored it. calm, blocks: mean surprises, nats."""

    day: str
    model_hash: str
    calm: float
    blocks: Sequence[float]


@dataclass(frozen=True)
class Detection:
    """A change of what events mean. day: that gave the alarm."""

    detector: Detector
    day: str

    @property
    def sentence(self) -> str:
        """The finding in words."""
        if self.detector == "process_control":
            return (
                f"by {self.day} the calm parts of {TOGETHER} days surprised the scores by over {LIMIT:g} "
                f"standard deviations of a day"
            )
        return f"{self.detector} found on {self.day} that losses surprise the scores otherwise than before"


def detections(
    days: Sequence[JudgedDay], champion: str, since: str, detectors: Sequence[Detector]
) -> list[Detection]:
    """What the detectors find on days from `since` on, by day, each detector's first alone.

    days: one row a day, oldest first. champion: model hash. The process control compares with the days
    before, whichever model scored them; the others watch the champion's own days.
    """
    found = []
    for detector in detectors:
        if detector == "process_control":
            places, marks = [one.calm for one in days], [one.day for one in days]
        else:
            mine = [one for one in days if one.model_hash == champion]
            places = [block for one in mine for block in one.blocks]
            marks = [one.day for one in mine for _ in one.blocks]
        alarmed = next((marks[at] for at in alarms(detector, places) if marks[at] >= since), None)
        if alarmed:
            found.append(Detection(detector, alarmed))
    return sorted(found, key=lambda one: one.day)


def ongoing(days: Sequence[JudgedDay], detectors: Sequence[Detector]) -> tuple[list[Detection], list[str]]:
    """What the detectors find on the last days there are, and the days that carry it.

    As `detections`, of the model that scored the last day. A detector of river has found it where its alarm
    is one of that model's last three days; the process control where it is out of control on the last.
    """
    found, carried = [], set[str]()
    if not days:
        return [], []
    model = days[-1].model_hash
    lately = [one.day for one in days if one.model_hash == model][-TOGETHER:]
    for detector in detectors:
        if detector == "process_control":
            out = standing_out([one.calm for one in days])
            ones = [Detection(detector, days[-1].day)] if out else []
            carried |= {days[at].day for at in out}
        else:
            ones = detections(days, model, lately[0], [detector])
            carried |= {one.day for one in ones}
        found += ones
    return found, sorted(carried)


def block_means(surprises: Floats) -> list[float]:
    """Mean surprise of blocks of about `BLOCK_ROWS` rows.

    surprises: of a day's rows in the order of decision, nats, shape (rows,).
    """
    import numpy as np

    if not len(surprises):
        return []
    blocks = np.array_split(surprises, max(1, round(len(surprises) / BLOCK_ROWS)))
    return [float(block.mean()) for block in blocks]


def calm_surprise(blocks: Sequence[float]) -> float:
    """Mean surprise of a day's calm part, nats. blocks: of `block_means`, at least one."""
    kept = sorted(blocks)[: max(1, int(CALM * len(blocks)))]
    return sum(kept) / len(kept)


def out_of_control(calm: Sequence[float]) -> list[int]:
    """Days, as indices, on which the process is out of control: its calm part surprises too much.

    calm: `calm_surprise` of matured days, oldest first. A day is out where the mean of the last three lies
    more than 1.8 standard deviations of a day above the days before them: of the last 60, by median and
    median absolute deviation, which a few bad days do not move. The first 20 days tell nothing.
    """
    return [day for day in range(len(calm)) if standing_out(calm[: day + 1])]


def standing_out(calm: Sequence[float]) -> list[int]:
    """Days, as indices, that carry an alarm on the last day; none where the process is in control then."""
    first = len(calm) - TOGETHER
    distances = _distances(calm)
    if not distances or sum(distances) / TOGETHER <= LIMIT:
        return []
    return [first + place for place, distance in enumerate(distances) if distance > LIMIT]


def _distances(calm: Sequence[float]) -> list[float]:
    """How far the last days lie above those before them, standard deviations of a day; [] of too few days."""
    import numpy as np

    before, last = np.array(calm[:-TOGETHER][-MOST_DAYS:]), np.array(calm[-TOGETHER:])
    if len(before) < LEAST_DAYS:
        return []
    middle = float(np.median(before))
    spread = float(np.median(np.abs(before - middle))) / _MAD
    return ((last - middle) / spread).tolist() if spread else []


def alarms(detector: Detector, stream: Sequence[float]) -> list[int]:
    """Indices of a stream at which a detector gives an alarm; it begins anew after each, as river's do.

    stream: of `process_control` the calm parts of days, of the others mean surprises of blocks, oldest first.
    """
    if detector == "process_control":
        return out_of_control(stream)
    watcher = _watcher(detector)
    found = []
    for place, value in enumerate(stream):
        watcher.update(value)
        if watcher.drift_detected:
            found.append(place)
    return found


def _watcher(detector: Detector) -> Any:
    """River's detector, with river's own settings but where these are made for streams of another scale."""
    from river import drift

    if detector == "adwin":
        return drift.ADWIN()  # type: ignore[no-untyped-call]
    if detector == "kswin":
        return drift.KSWIN(seed=_SEED)
    # Surprises have a tenth of the scale that river's threshold of 50 is made for.
    return drift.PageHinkley(threshold=5.0, mode="up")
