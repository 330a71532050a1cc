"""Real flights through the whole loop at a size that a test can wait for: small models, asked for often."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from pathlib import Path

from mlops_pipelines.spec import (
    AgreementGate,
    DriftTrigger,
    LabelsTrigger,
    LeakGate,
    PipelineSpec,
    RobustnessGate,
)
from mlops_pipelines.spec_loading import LoadedSpec, load_pipeline

NAME = "small_flights"


@cache
def loaded(name: str = NAME) -> LoadedSpec:
    """The flight_delays pipeline under another name, with thresholds reached within days."""
    real = load_pipeline("flight_delays")
    spec = real.spec
    changes = {
        "name": name,
        "training": spec.training.model_copy(
            update={
                "min_rows": 3000,
                "holdout": timedelta(days=3),
                "params": {**spec.training.params, "n_estimators": 20},
            }
        ),
        "gates": spec.gates.model_copy(
            update={
                "skill": spec.gates.skill and spec.gates.skill.model_copy(update={"at_least": -1.0}),
                "calibration": None,
                "slices": None,
                "latency": None,
                # Twenty trees on a few days lean on few features, and each on others.
                "leak": LeakGate(at_most=1.0),
                "robustness": RobustnessGate(drop=1.0),
                "agreement": AgreementGate(at_least=-1.0),
                "champion": spec.gates.champion
                and spec.gates.champion.model_copy(update={"not_worse_by": 1.0, "min_days": 1}),
            }
        ),
        "triggers": spec.triggers.model_copy(
            update={"labels": LabelsTrigger(at_least=3000), "drift": DriftTrigger(), "performance": None}
        ),
        "policy": spec.policy.model_copy(update={"cooldown": timedelta(days=1)}),
    }
    return LoadedSpec(
        spec=PipelineSpec.model_validate(spec.model_copy(update=changes)),
        contract=real.contract,
        path=real.path,
    )


PATH = Path(__file__).parent
