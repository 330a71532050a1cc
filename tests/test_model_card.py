from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlops_pipelines.evaluation import evaluate
from mlops_pipelines.gates import judge
from mlops_pipelines.model_card import model_card, with_decisions
from mlops_pipelines.spec import Gates, PipelineSpec
from mlops_pipelines.training import fit_candidate
from tests.synthetic_examples import FEATURES, examples, training

if TYPE_CHECKING:
    from mlops_pipelines.evaluation_report import EvaluationReport

# Mitchell et al. 2019, figure 1.
SECTIONS = [
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Ethical considerations",
    "Caveats and recommendations",
]
SPEC = PipelineSpec.model_validate(
    {
        "name": "flights",
        "description": "Will it be late?",
        "owners": ["team:ops"],
        "partitions": {"start": "2024-01-01"},
        "events": {"landing": "landing/events", "time": "scheduled"},
        "labels": {"landing": "landing/labels", "value": "late", "time": "landed", "matures_after": "36h"},
        "features": {},
        "gates": {"skill": {}, "slices": {"by": ["carrier"], "min_rows": 65, "at_least": 0.99}},
    }
)


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    candidate = fit_candidate(examples(days=16, rows_per_day=60), FEATURES, training())
    return evaluate(candidate, None, gates=SPEC.gates)


def test_card_has_the_sections_of_the_paper_and_what_was_measured(report: EvaluationReport) -> None:
    verdicts = judge(report, SPEC.gates)
    card = model_card(
        SPEC, report, verdicts, version="7", dataset_version="abc123", facts={"Reason": "bootstrap"}
    )
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == SECTIONS
    for said in (
        "version 7",
        "abc123",
        report.model_hash,
        "Will it be late?",
        "team:ops",
        "Reason: bootstrap",
        "At the pipeline's threshold, 0.5,",
    ):
        assert said in card
    assert all(verdict.sentence in card for verdict in verdicts)
    assert "slices: **fail**" in card


def test_card_says_which_sensitive_columns_were_not_looked_at(report: EvaluationReport) -> None:
    card = model_card(SPEC, report, [], version="7", dataset_version="a", sensitive=["age", "carrier"])
    assert "not broken down by age, marked as sensitive" in card


def test_card_of_a_pipeline_without_gates_says_so(report: EvaluationReport) -> None:
    spec = SPEC.model_copy(update={"gates": Gates()})
    card = model_card(spec, report, [], version="7", dataset_version="a")
    assert "Promotion asks for: nothing" in card
    assert "No gate is declared" in card


def test_what_was_decided_stands_below_the_title_once() -> None:
    promoted = {
        "at": "2024-03-01T10:30:00+00:00",
        "kind": "promotion",
        "sequence": 3,
        "by": "its gates",
        "why": "x",
    }
    gone = {
        "at": "2024-03-02T00:00:00+00:00",
        "kind": "rollback",
        "sequence": None,
        "by": "ann",
        "why": "a | b",
    }
    card = "# flights, version 7\n\n## Model details\n\n- Owner: ann\n"
    once = with_decisions(card, [promoted])
    assert once.startswith(
        "# flights, version 7\n\n## Decisions\n\n| UTC | decision | by | why |\n| --- | --- | --- | --- |\n"
        "| 2024-03-01 10:30 | promotion, champion number 3 | its gates | x |\n\n## Model details\n"
    )
    twice = with_decisions(once, [promoted, gone])
    assert twice.count("## Decisions") == 1
    assert "| 2024-03-02 00:00 | rollback | ann | a \\| b |\n\n## Model details" in twice
    assert with_decisions(twice, [promoted]) == once
