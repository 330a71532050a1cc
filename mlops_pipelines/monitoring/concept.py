"""Whether events have come to mean something else: losses beyond what the scores themselves expect.

*Surprise* is the loss of a score less the loss it expects of itself (`estimates.expected_losses`). Its mean
is zero while scores mean what they say, however often the outcome comes about: a season that moves the base
rate, and the scores with it, is none. Row by row it is noise; so the stream that is watched is its mean over
blocks of rows in the order of decision.

Whole days differ, too: a storm surprises every score of an afternoon, and is no changed meaning. Two figures
of a day that storms leave alone are watched together. Its *calm part*, the blocks with the least surprise: a
changed meaning surprises at all hours. And its *slope gap*: how much less than the scores say outcomes follow
them within a block, whose events share their weather.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mlops_pipelines.monitoring.estimates import Outcomes
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
# What is known of a block's level before its outcomes are: as much as two events of even odds say.
_LEVEL_PRIOR = 0.5
_STEPS = 20
_SMALLEST = 1e-6


@dataclass(frozen=True)
class JudgedDay:
    """A matured day (YYYY-MM-DD), by the model that scored it.

    blocks, calm: mean surprises of its blocks, and of its calm part, nats. slope_gap: as of `slope_gap`.
    """

    day: str
    model_hash: str
    blocks: Sequence[float]
    calm: float
    slope_gap: float

    @property
    def watched(self) -> tuple[float, float]:
        """What the process control watches: the more, the worse."""
        return self.calm, self.slope_gap


def judged_day(day: str, model_hash: str, outcomes: Outcomes) -> JudgedDay:
    """A day by its outcomes, at least one."""
    blocks = block_means(outcomes.surprises)
    gap = slope_gap(outcomes.came, outcomes.shares)
    return JudgedDay(day, model_hash, blocks, calm_surprise(blocks), gap)


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
                f"by {self.day} outcomes of {TOGETHER} days surprised the scores even in calm hours, or "
                f"followed them less, by over {LIMIT:g} standard deviations of a day"
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
            alarmed_on = [days[at].day for at in out_of_control([one.watched for one in days])]
        else:
            blocks = [(one.day, block) for one in days if one.model_hash == champion for block in one.blocks]
            alarmed_on = [blocks[at][0] for at in alarms(detector, [block for _, block in blocks])]
        alarmed = next((day for day in alarmed_on if day >= since), None)
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
            out = standing_out([one.watched for one in days])
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
    return [float(block.mean()) for block in np.array_split(surprises, _blocks(len(surprises)))]


def calm_surprise(blocks: Sequence[float]) -> float:
    """Mean surprise of a day's calm part, nats. blocks: of `block_means`, at least one."""
    kept = sorted(blocks)[: max(1, int(CALM * len(blocks)))]
    return sum(kept) / len(kept)


def slope_gap(came: Floats, shares: Floats) -> float:
    """How much less than they say scores tell apart the events of a block, in standard errors.

    came: 0 or 1, a row each in the order of decision, shape (rows,). shares: how likely the scores said that
    was. It is the score test of the calibration slope with a level of its own for each block: near 0 while
    scores mean what they say, above it where outcomes follow them less. 0 where no score differs from its
    block's others.
    """
    import numpy as np
    from scipy.special import expit, logit

    logits = logit(np.clip(shares, _SMALLEST, 1 - _SMALLEST))
    count = _blocks(len(came))
    block = np.repeat(np.arange(count), [len(rows) for rows in np.array_split(came, count)])

    def summed(values: Floats) -> Floats:
        return np.bincount(block, weights=values, minlength=count).astype(np.float64)

    level = np.zeros(count)
    for _ in range(_STEPS):
        levelled = expit(logits + level[block])
        curvature = summed(levelled * (1 - levelled)) + _LEVEL_PRIOR
        # Newton's step, of one at most: so it cannot overshoot for ever.
        level += np.clip((summed(came - levelled) - _LEVEL_PRIOR * level) / curvature, -1, 1)
    levelled = expit(logits + level[block])
    weights = levelled * (1 - levelled)
    apart = logits - (summed(weights * logits) / np.maximum(summed(weights), _SMALLEST))[block]
    information = float((weights * apart**2).sum())
    return float(-(apart * (came - levelled)).sum() / information**0.5) if information > _SMALLEST else 0.0


def _blocks(rows: int) -> int:
    return max(1, round(rows / BLOCK_ROWS))


def out_of_control(watched: Sequence[Sequence[float]]) -> list[int]:
    """Days, as indices, on which the process is out of control: outcomes surprise the scores too much.

    watched: figures of matured days, the more the worse, oldest day first, shape (days, figures). Each is put
    in standard deviations of a day from the days before, and so is their sum: of the last 60, by median and
    median absolute deviation, which a few bad days do not move. A day is out where the mean sum of the last
    three days lies above 1.8. The first 20 days tell nothing.
    """
    return [day for day in range(len(watched)) if standing_out(watched[: day + 1])]


def standing_out(watched: Sequence[Sequence[float]]) -> list[int]:
    """Days, as indices, that carry an alarm on the last day; none where the process is in control then."""
    first = len(watched) - TOGETHER
    distances = _distances(watched)
    if not distances or sum(distances) / TOGETHER <= LIMIT:
        return []
    return [first + place for place, distance in enumerate(distances) if distance > LIMIT]


def _distances(watched: Sequence[Sequence[float]]) -> list[float]:
    """How far the last days lie above those before them, standard deviations of a day; [] of too few days."""
    import numpy as np

    known = np.array(watched[-MOST_DAYS - TOGETHER :], dtype=np.float64)
    if len(known) < LEAST_DAYS + TOGETHER:
        return []
    # Figures that are moved by the same chance are so together: their sum has a deviation of its own.
    together = _standard(_standard(known).sum(axis=1, keepdims=True))
    distances: list[float] = together[-TOGETHER:].sum(axis=1).tolist()
    return distances


def _standard(figures: Floats) -> Floats:
    """Figures in standard deviations from the days before the last ones, but for those that never differ.

    figures: shape (days, figures).
    """
    import numpy as np

    before = figures[:-TOGETHER]
    middle = np.median(before, axis=0)
    spread = np.median(np.abs(before - middle), axis=0) / _MAD
    differs = spread > 0
    standard: Floats = (figures - middle)[:, differs] / spread[differs]
    return standard


def alarms(detector: Detector, stream: Sequence[float]) -> list[int]:
    """Indices of a stream at which a detector gives an alarm; it begins anew after each, as river's do.

    detector: of river. stream: mean surprises of blocks, oldest first.
    """
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
