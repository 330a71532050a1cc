"""What a person waits for between a trained candidate and its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import Pair, row, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS_JUDGED = 100_000
DAYS = 28


@row("evaluation.report_100k", against="Evidently's classification report", at_most=20.0, repeats=3)
def report_100k() -> Iterator[Pair]:
    """Evaluate a candidate beside a champion on 100,000 rows of 28 days, with all that a report looks at."""
    from datetime import timedelta

    from mlops_pipelines.evaluation import evaluate
    from mlops_pipelines.monitoring.evidently_page import classification
    from mlops_pipelines.spec import Decision, Gates, Training
    from mlops_pipelines.training import Incumbent, fit_candidate
    from tests.synthetic_examples import FEATURES, examples

    table = examples(days=4 * DAYS, rows_per_day=ROWS_JUDGED // DAYS + 1)
    training = Training(holdout=timedelta(days=DAYS), min_rows=100, threads=2, params={"n_estimators": 150})
    candidate = fit_candidate(table, FEATURES, training)
    champion = Incumbent(candidate.twin, candidate.twin, "1")
    gates = Gates.model_validate(
        {"champion": {}, "slices": {"by": ["carrier"]}, "fairness": {"by": ["carrier"]}}
    )
    decision = Decision.model_validate({"at_least": 0.4, "cost": {}})

    def ours() -> None:
        evaluate(candidate, champion, gates=gates, decision=decision)

    def theirs() -> None:
        scores = candidate.twin.predict(candidate.holdout)
        classification(candidate.holdout["label"].to_pylist(), scores.tolist(), 0.4)

    yield Pair(seconds(ours), seconds(theirs))
