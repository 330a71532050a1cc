"""A holdout that says nothing: a gate that cannot be computed fails, and its sentence says why."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlops_pipelines.evaluation import evaluate
from mlops_pipelines.gates import judge
from mlops_pipelines.spec import Gates
from mlops_pipelines.training import fit_candidate
from tests.synthetic_examples import FEATURES, examples, training

if TYPE_CHECKING:
    from mlops_pipelines.gates import Verdict
    from mlops_pipelines.training import Candidate


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    return fit_candidate(examples(days=16, rows_per_day=60), FEATURES, training())


def verdict(candidate: Candidate, **gates: Any) -> Verdict:
    declared = Gates.model_validate(gates)
    [found] = judge(evaluate(candidate, None, gates=declared), declared)
    return found


@pytest.mark.parametrize("label", [0, 1])
def test_a_holdout_of_one_class_fails_what_needs_two(candidate: Candidate, label: int) -> None:
    one_class = replace(
        candidate, holdout=candidate.holdout.filter(pc.equal(candidate.holdout["label"], label))
    )
    found = verdict(one_class, skill={"metric": "log_loss_skill", "at_least": 0.0})
    assert (found.outcome, found.figure) == ("fail", None)
    assert found.sentence == "The gate could not be computed: log_loss_skill is undefined on the holdout."


def test_a_slice_without_any_value_is_one_group_and_judged(candidate: Candidate) -> None:
    missing = pa.nulls(candidate.holdout.num_rows, pa.string())
    at = candidate.holdout.column_names.index("carrier")
    nothing = replace(candidate, holdout=candidate.holdout.set_column(at, "carrier", missing))
    gates = Gates.model_validate({"slices": {"by": ["carrier"], "min_rows": 10}})
    report = evaluate(nothing, None, gates=gates)
    assert report.slices
    assert [(one.value, one.rows) for one in report.slices.groups] == [("missing", nothing.holdout.num_rows)]
    [found] = judge(report, gates)
    assert found.figure is not None
    assert "carrier = missing" in found.sentence
    many = Gates.model_validate({"slices": {"by": ["carrier"], "min_rows": 100_000}})
    [found] = judge(evaluate(nothing, None, gates=many), many)
    assert found.outcome == "fail"
    assert "100% of the rows lie in groups by carrier of fewer than 100000 rows" in found.sentence
