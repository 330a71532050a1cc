"""What scores are worth before their labels are known: an estimate, with the interval it has earned.

A probability says how large its own loss will be on average: its entropy. Over a day's scores that is the log
loss to expect, if they mean what they say (confidence-based performance estimation). How far days were from
it is known once their labels have matured, and makes the interval: it holds the weather of whole days, which
no number of rows averages out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_pipelines.outcomes import LOGGED_IN, from_log
from mlops_pipelines.scored import Scored, days_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.spec import Kind

    Floats = NDArray[np.float64]

CONFIDENCE = 0.95
# Matured days that an interval rests on: at least, and the last so many.
LEAST_DAYS = 10
MOST_DAYS = 60
_SMALLEST = 1e-15


@dataclass(frozen=True)
class Estimate:
    """The mean log loss (nats) that a day's labels will show.

    low, high: between them a day's loss lies in 95 of 100 cases, by the `days` matured days that it rests on;
    None where these are fewer than ten.
    """

    value: float
    low: float | None
    high: float | None
    days: int

    def covers(self, truth: float) -> bool | None:
        """Whether the truth lies in the interval; None without one."""
        return None if self.low is None or self.high is None else self.low <= truth <= self.high


@dataclass(frozen=True)
class Expected:
    """What a day's scores expect of themselves.

    loss: their mean log loss, nats. rate: how often what they are of comes about: the positive outcome, or
    the most likely class.
    """

    loss: float
    rate: float


def expected_by_day(predictions: pa.Table, kind: Kind) -> dict[str, Expected]:
    """What the scores of each day expect; {} of numbers, which say nothing of their own error.

    predictions: day and the log's column of scores.
    """
    import numpy as np

    if kind == "number" or not predictions.num_rows:
        return {}
    days, numbers = days_of(predictions)
    _, scores = from_log(kind, predictions[LOGGED_IN[kind]])
    rows = np.bincount(numbers)
    losses = np.bincount(numbers, weights=expected_losses(scores)) / rows
    rates = np.bincount(numbers, weights=scores if scores.ndim == 1 else scores.max(axis=1)) / rows
    return {day: Expected(float(losses[n]), float(rates[n])) for n, day in enumerate(days)}


@dataclass(frozen=True)
class Outcomes:
    """What became of a day's scores, a row each in the order of decision, shape (rows,).

    surprises: log loss less what the score expects, nats. came: 1 where what the score is of came about: the
    positive outcome, or the most likely class; else 0. shares: how likely the score said that was.
    """

    surprises: Floats
    came: Floats
    shares: Floats


def outcomes_by_day(scored: pa.Table, kind: Kind) -> dict[str, Outcomes]:
    """What became of each day's scores.

    scored: day, event_id, decided_at, label and the log's column of scores. {} of numbers.
    """
    if kind == "number" or not scored.num_rows:
        return {}
    rows = scored.sort_by([("decided_at", "ascending"), ("event_id", "ascending")])
    outcome, scores = from_log(kind, rows[LOGGED_IN[kind]])
    found = Scored.at_once(rows["label"], scores, outcome)
    surprises = found.losses["log_loss"] - expected_losses(found.scores)
    came, shares = found.as_binary
    days, numbers = days_of(rows)
    by_day = {}
    for n, day in enumerate(days):
        mine = numbers == n
        by_day[day] = Outcomes(surprises[mine], came[mine].astype(float), shares[mine])
    return by_day


def expected_losses(probabilities: Floats) -> Floats:
    """Log loss that each score is to have on average if it means what it says, in nats, shape (rows,).

    probabilities: of the positive outcome, shape (rows,), or of each class, shape (rows, classes).
    """
    import numpy as np

    shares = np.clip(probabilities, _SMALLEST, 1.0)
    if shares.ndim == 2:
        losses: Floats = -(shares * np.log(shares)).sum(axis=1)
        return losses
    others = np.clip(1 - probabilities, _SMALLEST, 1.0)
    entropy: Floats = -(shares * np.log(shares) + others * np.log(others))
    return entropy


def estimate(expected: float, gaps: Sequence[float]) -> Estimate:
    """The log loss of a day whose scores expect this much.

    expected: mean of `expected_losses`. gaps: of matured days before, oldest first, by how much their loss
    was more than expected. The mean gap is what the scores keep missing, and is added; the interval is that
    of one more such day (Student's t).
    """
    import numpy as np
    from scipy.special import stdtrit

    known = np.array(gaps[-MOST_DAYS:], dtype=np.float64)
    days = len(known)
    if days < LEAST_DAYS:
        return Estimate(expected, None, None, days)
    value = max(0.0, expected + float(known.mean()))
    spread = float(known.std(ddof=1)) * (1 + 1 / days) ** 0.5
    reach = float(stdtrit(days - 1, (1 + CONFIDENCE) / 2)) * spread
    return Estimate(value, max(0.0, value - reach), value + reach, days)
