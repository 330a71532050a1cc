"""What the columns of the daily reports hold, in words for the UI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MODEL = {
    "model_version": "version of the model in the registry",
    "model_hash": "the same model, whatever its number",
}
# By report and column; a metric says what it is by its name.
DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "drift_report": {
        **_MODEL,
        "feature": "feature; `*` for the day as a whole",
        "rows": "rows of the day",
        "importance": "share of the champion's mean absolute contributions",
        "weight": "by how much the feature counts, 0 to 1",
        "psi": "population stability index against the training set, nats",
        "noise": "index that chance gives at this number of rows, nats",
        "ordinary": "index that 99 of 100 days of the training set stay below, nats",
        "excess": "index beyond what noise and ordinary days explain, nats; times weight it decides",
        "missing": "share of the rows without a value",
        "missing_before": "the same share over the training set",
        "test": "ks: Kolmogorov-Smirnov; chi2: chi-square",
        "effect": "greatest difference of the distribution functions, or Cramér's V, 0 to 1",
        "p": "p-value of the test",
        "p_adjusted": "the same, corrected for all features (Benjamini-Hochberg)",
        "strange": "share of the values out of the training set's range, or of none of its categories",
        "broken": "kinds of breaks: missing, range, category",
        "breaks": "the breaks in words",
        "level": "none, watch or alarm",
        "sentence": "the outcome in words",
    },
    "performance_report": {
        **_MODEL,
        "rows": "events of the day",
        "predictions": "those that this model scored",
        "labelled": "of these those with a label",
        "overdue": "events without a label that is past due",
        "matured": "whether all labels have had their time to come",
        "delay_median": "from an event to its label, hours, half of them",
        "delay_p90": "nine in ten of them",
        "delay_p99": "99 in 100 of them",
        "known_by": "events with a label by each age, JSON",
        "prevalence": "share of the positive outcome",
        "base_mse": "mean squared error of the mean that the model learned from",
        "counts": "rows by class, JSON",
        "reason": "why a figure is missing",
        "expected": "log loss that the scores expect of themselves, nats",
        "expected_rate": "how often they expect what they are of to come about",
        "surprise": "log loss less what is expected, nats",
        "calm": "the same of the day's calm hours",
        "slope_gap": "how much less than they say scores tell apart events of the same hour, standard errors",
        "blocks": "surprise of blocks of about 50 rows, JSON",
        "estimate": "log loss that the labels will show, said before they are known, nats",
        "estimate_low": "lower bound of 95 of 100 such days",
        "estimate_high": "upper bound of 95 of 100 such days",
        "estimate_days": "matured days that the bounds rest on",
        "estimate_note": "why the truth lies outside of them",
    },
    "feature_report": {
        "view": "view; `event` for what the event's own row says",
        "version": "version of the view",
        "feature": "feature; `*` for the view as a whole",
        "rows": "vectors of the day",
        "missing": "share of the values that are null",
        "skew": "mean distance from what a fresh store would have given, standard deviations",
        "differ": "share of the values that are not the fresh ones",
        "covered": "share of the vectors whose key had a fact in reach",
        "age_median": "age of the newest tile at a decision, hours",
        "age_worst": "the oldest of them",
        "stale": "share of the decisions that found the view older than its max_age",
    },
    "feedback_report": {
        **_MODEL,
        "part": "score, feature, slice or exploration",
        "name": "the feature, or the column of the slice",
        "bucket": "bin of the training set, or value of the slice",
        "rows": "scored rows",
        "labelled": "of these those with a label",
    },
}
