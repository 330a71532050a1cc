"""What a pipeline's YAML may say of a label of each kind: the rest is refused, with what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mlops_pipelines.errors import UserError
from mlops_pipelines.features.views import compile_views
from mlops_pipelines.ingest.taking import label_columns
from mlops_pipelines.outcomes import COLUMN_TYPES
from mlops_pipelines.scoring import prediction_columns
from mlops_pipelines.spec_loading import load_spec
from tests.parcels import VALUES, attributes, written

if TYPE_CHECKING:
    from pathlib import Path

FAIR = {"fairness": {"by": ["carrier"]}}


def problems(root: Path, kind: str, **changes: Any) -> str:
    with pytest.raises(UserError) as refused:
        load_spec(written(root, kind, **changes) / "defs.yaml")
    return str(refused.value)


@pytest.mark.parametrize("kind", VALUES)
def test_a_pipeline_of_each_kind_is_taken(kind: str, tmp_path: Path) -> None:
    loaded = load_spec(written(tmp_path, kind) / "defs.yaml")
    assert loaded.spec.labels.kind == kind
    assert label_columns(loaded)["label"] == COLUMN_TYPES[loaded.spec.labels.kind]
    assert ("decision" in prediction_columns(loaded)) == (kind == "binary")
    assert ("probabilities" in prediction_columns(loaded)) == (kind == "category")


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("binary", "minutes", "minutes is a float, and labels.kind is binary (allowed: bool, or int with "
         "one_of: [0, 1]; or labels.kind: number)"),
        ("binary", "left_at", "left_at is a string, and labels.kind is binary (allowed: bool, or int with "
         "one_of: [0, 1]; or labels.kind: category)"),
        ("number", "late", "late is a bool, and labels.kind is number (allowed: float, int; or labels.kind: "
         "binary)"),
        ("category", "minutes", "minutes is a float, and labels.kind is category (allowed: string; or "
         "labels.kind: number)"),
    ],
)  # fmt: skip
def test_a_label_of_another_type_names_the_kind_that_would_do(
    kind: str, value: str, said: str, tmp_path: Path
) -> None:
    labels = {**attributes(kind)["labels"], "value": value}
    found = problems(tmp_path, kind, labels=labels, features={"from_event": {"weight": "weight"}})
    assert said in found


def test_a_number_has_no_concept_drift_to_detect(tmp_path: Path) -> None:
    triggers = {**attributes("number")["triggers"], "concept_drift": {}}
    said = problems(tmp_path, "number", triggers=triggers)
    assert "attributes.triggers.concept_drift: scores that are no probabilities do not say" in said
    for kind in ("binary", "category"):
        load_spec(
            written(tmp_path / kind, kind, triggers=attributes(kind)["triggers"] | {"concept_drift": {}})
            / "defs.yaml"
        )


def test_predictions_say_what_is_explored_where_it_is_declared(tmp_path: Path) -> None:
    for name, changes in (("yes", {"exploration": {"share": 0.01}}), ("no", {})):
        loaded = load_spec(written(tmp_path / name, "number", **changes) / "defs.yaml")
        assert ("explored" in prediction_columns(loaded)) == (name == "yes")


def test_an_unknown_kind_names_those_that_there_are(tmp_path: Path) -> None:
    labels = {**attributes("number")["labels"], "kind": "ordinal"}
    found = problems(tmp_path, "number", labels=labels)
    assert "'ordinal' is not allowed (allowed: binary, number, category)" in found


@pytest.mark.parametrize(
    ("kind", "changes", "path", "said"),
    [
        ("number", {"gates": {"skill": {}}}, "gates.skill.metric",
         "log_loss_skill is no figure of a label that is a number (allowed: r2)"),
        ("number", {"slos": {"quality": {}}}, "slos.quality.metric",
         "log_loss_skill is no figure of a label that is a number (allowed: r2)"),
        ("number", {"slos": {"freshness": {}}, "features": {"from_event": {"weight": "weight"}}},
         "slos.freshness", "there is no view that could be too old: only views of events, labels or a"),
        ("number", {"gates": {"champion": {"not_worse_by": 1.0}}}, "gates.champion.metric",
         "log_loss is no figure of a label that is a number (allowed: mse, mae)"),
        ("number", {"gates": {"champion": {"metric": "mae"}}}, "gates.champion.not_worse_by",
         "is missing: how much worse a candidate may be is a matter of the unit of minutes"),
        ("number", {"gates": {"slices": {"by": ["carrier"]}}}, "gates.slices.metric",
         "roc_auc is no figure of a label that is a number (allowed: r2)"),
        ("number", {"gates": {"calibration": {}}}, "gates.calibration",
         "a number that is predicted is no probability, and has no calibration error"),
        ("number", {"gates": FAIR}, "gates.fairness",
         "it compares decisions, and a label that is a number has none"),
        ("category", {"gates": FAIR}, "gates.fairness",
         "it compares decisions, and a label that is a category has none"),
        ("number", {"decision": {"at_least": 0.4}}, "decision",
         "a label that is a number has nothing to decide"),
        ("category", {"decision": {}}, "decision", "a label that is a category has nothing to decide"),
        ("number", {"triggers": {"performance": {"drop": 0.1}}}, "triggers.performance.metric",
         "log_loss_skill is no figure of a label that is a number (allowed: r2)"),
        ("number", {"promotion": {"watch": {}}}, "promotion.watch.metric",
         "log_loss is no figure of a label that is a number (allowed: mse, mae)"),
        ("category", {"gates": {"skill": {"metric": "r2"}}}, "gates.skill.metric",
         "r2 is no figure of a label that is a category (allowed: log_loss_skill, brier_skill)"),
        ("category", {"gates": {"slices": {"by": ["carrier"], "metric": "average_precision"}}},
         "gates.slices.metric", "average_precision is no figure of a label that is a category"),
        ("binary", {"gates": {"champion": {"metric": "mse"}}}, "gates.champion.metric",
         "mse is no figure of a label that is true or false (allowed: log_loss, brier)"),
        ("binary", {"gates": {"slices": {"by": ["carrier"], "metric": "accuracy"}}}, "gates.slices.metric",
         "accuracy is no figure of a label that is true or false"),
    ],
)  # fmt: skip
def test_what_says_nothing_of_a_kind_is_refused_with_its_place(
    kind: str, changes: dict[str, Any], path: str, said: str, tmp_path: Path
) -> None:
    found = problems(tmp_path, kind, **changes)
    assert f"attributes.{path}: {said}" in found
    assert "defs.yaml:" in found


def test_saying_the_default_kind_changes_no_view(tmp_path: Path) -> None:
    said = load_spec(written(tmp_path, "binary") / "defs.yaml")
    labels = {name: value for name, value in attributes("binary")["labels"].items() if name != "kind"}
    silent = load_spec(written(tmp_path, "binary", labels=labels) / "defs.yaml")
    assert compile_views(said.spec, said.contract) == compile_views(silent.spec, silent.contract)
    assert "kind" not in yaml.safe_load((tmp_path / "parcels/defs.yaml").read_text())["attributes"]["labels"]


def test_views_of_numbers_sum_and_of_categories_count(tmp_path: Path) -> None:
    def view(kind: str, aggregate: str) -> dict[str, Any]:
        return {
            "views": [
                {"name": "v", "key": "carrier", "of": "labels", "aggregate": {VALUES[kind]: [aggregate]},
                 "windows": ["1d"]}
            ]
        }  # fmt: skip

    assert load_spec(written(tmp_path, "number", features=view("number", "mean")) / "defs.yaml")
    assert load_spec(written(tmp_path, "category", features=view("category", "distinct")) / "defs.yaml")
    assert "left_at is a string" in problems(tmp_path, "category", features=view("category", "mean"))
