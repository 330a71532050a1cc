"""How labels come to exist: whether what is learned from still looks like what is decided on.

A model that is believed shapes its own labels. Where only what it flags is looked into, only that gets an
outcome; the next model learns from it, sees less, and its figures on labelled rows look better than ever. So
what is audited is not the quality but the labels: how many rows got one, by score and by slice; how much of
the feature space they cover; how evenly scores are spread. Rows that are labelled at random (`exploration`)
are the remedy, and are counted apart.

Each matured day adds counts, which are summed over days; the verdict is a function of the sums.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.monitoring.reference import Bins, Reference

Part = Literal["score", "slice", "feature", "exploration"]
Verdict = Literal["open", "explored", "selective", "collapsing", "too few"]

# Verdicts after which nobody has to act.
SOUND: tuple[Verdict, ...] = ("open", "explored", "too few")
# Rows of a slice from which its rate is told.
LEAST_ROWS = 50
# Rows over all days without which there is no verdict.
LEAST_ALL = 500
# Where some scores get a label less than half as often as others, the labels are selected.
SELECTIVE = 0.5
# Chance that a rate lies beyond its bound: of both bounds of ten bins, on each day of a year, below 1 %.
_CHANCE = 1e-6
# Share of the feature space, as decided on, below which labelled rows no longer cover it.
COVERED = 0.8
# Spread of the scores, as a share of the training set's, below which they collapse.
SPREAD = 0.5
# Rows labelled at random, among scores that get few labels, that make up for those. Where a simulated
# collapse keeps 83 % of the recall in its worst week, it keeps 91 % with 350 of them in four weeks, 93 % with
# 700, 96 % with 2,800 (tests/monitoring/test_feedback_collapse.py): from 500 on less than half is lost.
LEAST_EXPLORED = 500
_HASH_RANGE = 2**64


@dataclass(frozen=True)
class Counted:
    """Rows of one bucket, matured, and how many of these have a label.

    part: what is counted: the score's bin, a slice, a feature's bin, or rows of the exploration by score's
    bin. name: of the feature or the slice's column; empty of scores. bucket: the bin's number or the value.
    """

    part: Part
    name: str
    bucket: str
    rows: int
    labelled: int

    @property
    def rate(self) -> float:
        """Share that has a label."""
        return self.labelled / self.rows if self.rows else math.nan

    @property
    def at_least(self) -> float:
        """Share that gets a label at least, but for chance (Clopper and Pearson)."""
        from scipy.special import betaincinv

        if not self.labelled:
            return 0.0
        return float(betaincinv(self.labelled, self.rows - self.labelled + 1, _CHANCE))

    @property
    def at_most(self) -> float:
        """Share that gets a label at most, but for chance."""
        from scipy.special import betaincinv

        if self.labelled == self.rows:
            return 1.0
        return float(betaincinv(self.labelled + 1, self.rows - self.labelled, 1 - _CHANCE))


@dataclass(frozen=True)
class Audit:
    """How the labels of some days came to exist.

    rows, labelled: matured rows. lowest, highest: the score's bins that surely get the fewest and the most
    labels, None without rows. coverage: overlap of labelled rows with all rows over the reference's bins,
    weighted by importance, 0 to 1. spread: entropy of the scores over the training set's bins as a share of
    the training set's own. explored: rows of the exploration with a label. slices: by value, those labelled
    least first.
    """

    verdict: Verdict
    sentence: str
    rows: int
    labelled: int
    lowest: Counted | None
    highest: Counted | None
    coverage: float | None
    spread: float | None
    explored: int
    slices: tuple[Counted, ...] = field(default=())


def is_explored(event_ids: Iterable[str], share: float, salt: str) -> list[bool]:
    """Whether each event belongs to the random share that is labelled whatever its score.

    It depends on the event's id alone, so that whoever asks gets the same answer. salt: the pipeline's name,
    so that pipelines over the same events explore others.
    """
    bound = int(share * _HASH_RANGE)
    key = salt.encode()
    return [
        int.from_bytes(hashlib.blake2b(event.encode(), digest_size=8, key=key).digest(), "big") < bound
        for event in event_ids
    ]


def count(
    rows: pa.Table,
    labelled: NDArray[np.bool_],
    reference: Reference,
    *,
    scores: str,
    slices: Sequence[str],
    features: Sequence[str],
    explored: NDArray[np.bool_] | None = None,
) -> list[Counted]:
    """What a day's matured rows add.

    rows: with the columns of `scores`, `slices` and `features`. labelled, explored: shape (rows,).
    """
    import numpy as np

    bins = reference.score.bins.numbers_of(rows[scores])
    found = _by_bin("score", "", bins, labelled, reference.score.bins.size)
    if explored is not None:
        found += _by_bin("exploration", "", bins[explored], labelled[explored], reference.score.bins.size)
    known = {one.name: one for one in reference.features}
    for name in features:
        numbers = known[name].bins.numbers_of(rows[name])
        found += _by_bin("feature", name, numbers, labelled, known[name].bins.size)
    for name in slices:
        encoded = rows[name].combine_chunks().dictionary_encode()
        codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
        values = [*(str(value) for value in encoded.dictionary.to_pylist()), "–"]
        all_rows = np.bincount(codes, minlength=len(values))
        with_label = np.bincount(codes[labelled], minlength=len(values))
        found += [
            Counted("slice", name, value, int(all_rows[n]), int(with_label[n]))
            for n, value in enumerate(values)
            if all_rows[n]
        ]
    # A value that reads as another one, or as none, is one with it.
    return summed(found)


def _by_bin(
    part: Part, name: str, numbers: NDArray[np.int64], labelled: NDArray[np.bool_], size: int
) -> list[Counted]:
    import numpy as np

    rows = np.bincount(numbers, minlength=size)
    with_label = np.bincount(numbers[labelled], minlength=size)
    return [Counted(part, name, str(n), int(rows[n]), int(with_label[n])) for n in range(size) if rows[n]]


def summed(counted: Iterable[Counted]) -> list[Counted]:
    """Buckets of several days as one."""
    sums: dict[tuple[Part, str, str], tuple[int, int]] = {}
    for one in counted:
        key = (one.part, one.name, one.bucket)
        rows, labelled = sums.get(key, (0, 0))
        sums[key] = (rows + one.rows, labelled + one.labelled)
    return [Counted(*key, *sums[key]) for key in sorted(sums)]


def audit(counted: Iterable[Counted], reference: Reference, others: Iterable[Counted] = ()) -> Audit:
    """The verdict on days of one champion, and the figure behind it.

    `open`: labels do not depend on the score. `selective`: some scores get a label less than half as often as
    others. `collapsing`: so do they, and what is labelled no longer covers what is decided on; or the scores
    of all rows fall together. `explored`: labels are selected, and those at random make up for it.

    counted: of `count`, of any days. reference: the champion's, by whose bins they were counted. others: of
    other champions; a model learns from their explored rows, too, which are counted whatever their bin: it
    is of another reference.
    """
    buckets = summed(counted)
    of_scores = [one for one in buckets if one.part == "score"]
    explored = [one for one in buckets if one.part == "exploration"]
    before = _together(one for one in others if one.part == "exploration")
    slices = sorted((one for one in buckets if one.part == "slice" and one.rows >= LEAST_ROWS), key=_by_rate)
    found = Audit(
        "too few",
        "",
        sum(one.rows for one in of_scores),
        sum(one.labelled for one in of_scores),
        min(of_scores, key=lambda one: one.at_most, default=None),
        max(of_scores, key=lambda one: one.at_least, default=None),
        _coverage(buckets, reference),
        _spread(of_scores, reference),
        sum(one.labelled for one in (*explored, before)),
        tuple(slices),
    )
    verdict, sentence = _verdict(found, of_scores, explored, before, reference.score.bins)
    return replace(found, verdict=verdict, sentence=sentence)


def newest_audit(
    counted: Sequence[Sequence[Counted]], reference: Callable[[int], Reference]
) -> tuple[int, Audit] | None:
    """The audit of the newest champion that has rows enough for a verdict, with its place in `counted`.

    Where labels mature slowly and champions follow each other fast, that is not the one that serves. Where
    none has enough, of the newest with any; None where none has.

    counted: of each champion over the same days, the newest first. reference: of the champion at a place.
    """
    found = None
    for place, mine in enumerate(counted):
        if not mine:
            continue
        others = [one for other, theirs in enumerate(counted) if other != place for one in theirs]
        made = audit(mine, reference(place), others)
        if made.verdict != "too few":
            return place, made
        found = found or (place, made)
    return found


def _by_rate(one: Counted) -> tuple[float, str, str]:
    return one.rate, one.name, one.bucket


def _verdict(
    found: Audit, of_scores: Sequence[Counted], explored: Sequence[Counted], before: Counted, bins: Bins
) -> tuple[Verdict, str]:
    lowest, highest = found.lowest, found.highest
    if found.rows < LEAST_ALL or lowest is None or highest is None:
        return "too few", f"{found.rows} matured rows; a verdict takes {LEAST_ALL}"
    if not found.labelled:
        return "too few", f"none of {found.rows} matured rows has a label"
    rates = f"{_told(lowest, bins)}, {_told(highest, bins)}"
    narrow = found.spread is not None and found.spread < SPREAD
    spread = f"scores spread {found.spread or 0:.0%} as widely as over the training set; {rates}"
    short = {one.bucket for one in of_scores if one.at_most < SELECTIVE * highest.at_least}
    if not short:
        return ("collapsing", spread) if narrow else ("open", rates)
    # Where the marks of explored rows are left alone, those with a label were selected like all others.
    at_random = [_together(one for one in explored if one.bucket in short), before]
    labelled = sum(one.labelled for one in at_random if one.at_most >= SELECTIVE)
    if labelled >= LEAST_EXPLORED and at_random[0].at_most >= SELECTIVE:
        return "explored", f"{rates}; {labelled} rows labelled at random make up for it"
    if found.coverage is not None and found.coverage < COVERED:
        return "collapsing", f"labelled rows cover {found.coverage:.0%} of what is decided on; {rates}"
    return ("collapsing", spread) if narrow else ("selective", rates)


def _together(explored: Iterable[Counted]) -> Counted:
    """Buckets of explored rows as one."""
    found = list(explored)
    return Counted("exploration", "", "", sum(one.rows for one in found), sum(one.labelled for one in found))


def _told(one: Counted, bins: Bins) -> str:
    """How often the rows of a score's bin get a label, in words."""
    number = int(one.bucket)
    if number == bins.size - 1:
        which = "without a score"
    elif bins.kind == "category":
        which = f"scored {bins.categories[number]}" if number < len(bins.categories) else "of other classes"
    elif number < len(bins.edges):
        which = f"with scores up to {bins.edges[number]:.3g}"
    else:
        which = f"with scores above {bins.edges[-1]:.3g}" if bins.edges else "with a score"
    return f"{one.rate:.0%} of the rows {which} got a label"


def _coverage(buckets: Sequence[Counted], reference: Reference) -> float | None:
    """Overlap of labelled rows and all rows over the bins, weighted by the features' importance."""
    total = weight = 0.0
    for feature in reference.features:
        mine = [one for one in buckets if one.part == "feature" and one.name == feature.name]
        rows, labelled = sum(one.rows for one in mine), sum(one.labelled for one in mine)
        if not rows:
            continue
        overlap = sum(min(one.rows / rows, one.labelled / labelled) for one in mine) if labelled else 0.0
        total += feature.importance * overlap
        weight += feature.importance
    return total / weight if weight else None


def _spread(of_scores: Sequence[Counted], reference: Reference) -> float | None:
    """Entropy of the scores over the training set's bins, as a share of the training set's own."""
    own = entropy(reference.score.counts)
    return entropy([one.rows for one in of_scores]) / own if own else None


def entropy(counts: Sequence[int]) -> float:
    """Entropy of a histogram, nats."""
    total = sum(counts)
    return -sum(n / total * math.log(n / total) for n in counts if n) if total else 0.0


def reference_entropy(reference: Reference) -> float:
    """How evenly a training set's rows are spread over the feature space: the entropy of its features over
    their bins as a share of the most they could have, weighted by importance; 0 to 1."""
    found = 0.0
    for feature in reference.features:
        most = math.log(feature.bins.size - 1) if feature.bins.size > 2 else 0.0
        found += feature.importance * (entropy(feature.counts[:-1]) / most if most else 0.0)
    return found


def by_value(audit: Audit) -> Mapping[str, float]:
    """Label rates by slice, those labelled least first; for a picture."""
    return {f"{one.name} {one.bucket}": one.rate for one in audit.slices}
