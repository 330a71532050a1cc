"""What acting on the scores of a binary label would mean: who is flagged, how rightly, at what cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_pipelines.evaluation_report import Decided, Threshold
from mlops_pipelines.metrics import Estimate, estimate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlops_pipelines.scored import Scored
    from mlops_pipelines.spec import Cost, Decision

    Floats = NDArray[np.float64]

THRESHOLDS = tuple(step / 10 for step in range(1, 10))


def decided(scored: Scored, decision: Decision, draws: Floats) -> Decided:
    """At the pipeline's own threshold, with 95 % intervals. draws: of `metrics.resampled_days`."""
    import numpy as np

    counts = _Counts.of(scored, decision.at_least, np.vstack([np.ones(draws.shape[1]), draws]))

    def told(figures: Floats) -> Estimate | None:
        return estimate(figures, len(scored.days))

    flagged, precision, recall, false_positive_rate = map(told, counts.shares)
    cost = None if decision.cost is None else told(counts.cost(decision.cost))
    return Decided(decision.at_least, flagged, precision, recall, false_positive_rate, cost)


def thresholds(scored: Scored) -> tuple[Threshold, ...]:
    """At each tenth."""
    import numpy as np

    ones = np.ones((1, len(scored.days)))
    found = []
    for score in THRESHOLDS:
        flagged, *shares = (float(one[0]) for one in _Counts.of(scored, score, ones).shares)
        found.append(Threshold(score, flagged, *(None if np.isnan(share) else share for share in shares)))
    return tuple(found)


@dataclass(frozen=True)
class _Counts:
    """Rows decided rightly and wrongly, under each weighting of the days, shape (weightings,) each."""

    hits: Floats
    alarms: Floats
    misses: Floats
    rest: Floats

    @property
    def rows(self) -> Floats:
        return self.hits + self.alarms + self.misses + self.rest

    @classmethod
    def of(cls, scored: Scored, at_least: float, weights: Floats) -> _Counts:
        import numpy as np

        flagged, positive = scored.scores >= at_least, scored.labels == 1

        def summed(rows: NDArray[np.bool_]) -> Floats:
            by_day = np.bincount(scored.day_of_row[rows], minlength=weights.shape[1])
            sums: Floats = weights @ by_day.astype(np.float64)
            return sums

        return cls(
            summed(flagged & positive),
            summed(flagged & ~positive),
            summed(~flagged & positive),
            summed(~flagged & ~positive),
        )

    @property
    def shares(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Flagged, precision, recall and false positive rate; NaN where there is nothing to divide by."""
        return (
            _share(self.hits + self.alarms, self.rows),
            _share(self.hits, self.hits + self.alarms),
            _share(self.hits, self.hits + self.misses),
            _share(self.alarms, self.alarms + self.rest),
        )

    def cost(self, declared: Cost) -> Floats:
        """Of a decision, on average."""
        total = (
            declared.true_positive * self.hits
            + declared.false_positive * self.alarms
            + declared.false_negative * self.misses
            + declared.true_negative * self.rest
        )
        return _share(total, self.rows)


def _share(of: Floats, among: Floats) -> Floats:
    import numpy as np

    shares: Floats = of / np.where(among > 0, among, np.nan)
    return shares
