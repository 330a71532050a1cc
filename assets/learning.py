"""Training set, model, evaluation report, champion: one retrain, from its admission to its outcome."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from assets.stage import Stage, library_errors, made, table_preview
from mlops_pipelines import dagster_events, retraining
from mlops_pipelines.outcomes import COLUMN_TYPES
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.scoring import feature_columns
from mlops_pipelines.settings import settings

TRAINING_SET_LOGIC = 1
MODEL_LOGIC = 1
REPORT_LOGIC = 1
CHAMPION_LOGIC = 1


class EvaluationConfig(dg.Config):
    """What a run may ask of its evaluation."""

    measure_again: bool = Field(
        default=False,
        description="Measure the latency and the load time of this candidate once more; by default they are "
        "kept as they were measured first.",
    )


def build(stage: Stage) -> list[dg.AssetsDefinition]:
    return [_training_set(stage), _model(stage), _evaluation_report(stage), _champion(stage)]


def _training_set(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    spec = stage.spec(
        "training_set",
        skippable=True,
        description="Manifest over the days of the window: examples with their matured labels, as a DVC "
        "version.",
        kinds={"dvc", "parquet"},
        group="learning",
        logic=TRAINING_SET_LOGIC,
        config=[loaded.spec.training.model_dump(mode="json"), loaded.spec.labels.model_dump(mode="json")],
        deps=[
            dg.AssetDep(stage.key(asset), partition_mapping=dg.AllPartitionMapping())
            for asset in ("examples", "labels")
        ],
        columns={**feature_columns(loaded), "label": COLUMN_TYPES[loaded.spec.labels.kind]},
        daily=False,
    )

    # Skippable: a run that is not admitted ends as a success that made nothing and says why.
    @made(stage, [spec], pool="datasets")
    def training_set(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        with library_errors():
            place = home.pipeline(loaded)
            admission = retraining.admit(place, run_id=context.run.run_id)
        context.log.info(admission.sentence)
        context.instance.add_run_tags(context.run.run_id, admission.tags)
        if admission.retrain is None:
            yield dg.AssetObservation(spec.key, metadata={"not_admitted": admission.sentence})
            return
        with library_errors():
            version = retraining.assemble(place, admission.retrain)
        yield dg.MaterializeResult(
            asset_key=spec.key,
            metadata={
                "retrain": admission.retrain.id,
                "why": admission.sentence,
                "dvc_version": version.version,
                "rows": version.rows,
                "days": len(version.days),
                "datasheet": dg.MetadataValue.md(version.datasheet),
                **stage.lineage("training_set"),
            },
            data_version=dg.DataVersion(version.version),
        )

    return training_set


def _model(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    own = loaded.spec.training.trainer is not None
    spec = stage.spec(
        "model",
        description="Candidate, registered in MLflow.",
        kinds={"python" if own else "lightgbm", "mlflow"},
        group="learning",
        logic=MODEL_LOGIC,
        config=loaded.spec.training.model_dump(mode="json"),
        deps=[stage.dep("training_set")],
        columns=feature_columns(loaded),
        daily=False,
    )
    # A trainer of the pipeline's own is tried twice; LightGBM is not, so nothing would be checked.
    check = dg.AssetCheckSpec(
        "reproducible", asset=spec.key, description="Trained twice on the same rows, it gives one model."
    )

    @made(stage, [spec], checks=[check] if own else [], pool="training")
    def model(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        with library_errors():
            made = retraining.fit(home.pipeline(loaded), run_id=context.run.run_id, told=context.log.info)
        yield dg.MaterializeResult(
            asset_key=spec.key,
            metadata={
                "mlflow_version": made.version,
                "mlflow_run": dg.MetadataValue.url(settings().registry_ui + made.link),
                "model_hash": made.model_hash,
                "rows": made.rows,
                "authority": made.authority,
                "importance": table_preview(made.importance),
                **({"tuning": made.tuning} if made.tuning else {}),
                **stage.lineage("model"),
            },
            data_version=dg.DataVersion(made.model_hash),
        )
        if own:
            yield dg.AssetCheckResult(
                check_name=check.name,
                asset_key=spec.key,
                passed=made.reproducible,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"trainer": str(loaded.spec.training.trainer)},
            )

    return model


def _evaluation_report(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    gates = loaded.spec.gates
    spec = stage.spec(
        "evaluation_report",
        description="Metrics with intervals on the time-ordered holdout, and the verdict of each gate.",
        kinds={"mlflow"},
        group="learning",
        logic=REPORT_LOGIC,
        config=gates.model_dump(mode="json"),
        deps=[stage.dep("model")],
        daily=False,
    )
    checks = [
        # Not blocking: a fail is an outcome, which `champion` reads in the ledger.
        dg.AssetCheckSpec(
            f"gate_{gate}",
            asset=spec.key,
            description=f"{type(gates).model_fields[gate].description} (gates.{gate} of the YAML)",
        )
        for gate in retraining.declared_gates(gates)
    ]

    @made(stage, [spec], checks=checks, pool="training")
    def evaluation_report(
        context: dg.AssetExecutionContext, config: EvaluationConfig, home: HomeResource
    ) -> Iterator[Any]:
        with library_errors():
            made = retraining.evaluate(
                home.pipeline(loaded), run_id=context.run.run_id, measure_again=config.measure_again
            )
        pictures = {}
        if made.pictures:
            from mlops_pipelines.figures import as_markdown

            pictures = {
                name: dg.MetadataValue.md(as_markdown(png, name)) for name, png in made.pictures.items()
            }
        yield dg.MaterializeResult(
            asset_key=spec.key,
            metadata={
                **made.figures,
                **pictures,
                "report": dg.MetadataValue.md(made.markdown),
                "page": dg.MetadataValue.url(settings().registry_ui + made.page),
                **({"model_card": dg.MetadataValue.md(made.model_card)} if made.model_card else {}),
            },
            data_version=dg.DataVersion(made.data_version),
        )
        for verdict in made.verdicts:
            yield dg.AssetCheckResult(
                check_name=f"gate_{verdict.gate}",
                asset_key=spec.key,
                passed=verdict.outcome not in ("fail", "warn"),
                severity=dg.AssetCheckSeverity.WARN
                if verdict.outcome == "warn"
                else dg.AssetCheckSeverity.ERROR,
                description=verdict.sentence,
                metadata={
                    "verdict": verdict.outcome,
                    "figure": str(verdict.figure),
                    "bound": str(verdict.bound),
                    "interval": str(verdict.interval),
                },
            )

    return evaluation_report


def _champion(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    spec = stage.spec(
        "champion",
        skippable=True,
        description="The model that serves: promoted only through its gates.",
        kinds={"mlflow"},
        group="learning",
        logic=CHAMPION_LOGIC,
        config=loaded.spec.promotion.model_dump(mode="json"),
        deps=[stage.dep("evaluation_report")],
        daily=False,
    )

    by_people = loaded.spec.promotion.approval == "human"
    check = dg.AssetCheckSpec(
        dagster_events.CHECK_APPROVED,
        asset=spec.key,
        description="No candidate that passed its gates waits for approval.",
    )

    # Skippable: a candidate that failed a gate, or waits, leaves the champion as it was.
    @made(stage, [spec], checks=[check] if by_people else [], pool="registry")
    def champion(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        with library_errors():
            place = home.pipeline(loaded)
            outcome = retraining.conclude(place, run_id=context.run.run_id)
            dagster_events.tell(place, context.instance)
        context.log.info(outcome.sentence)
        if by_people:
            yield dg.AssetCheckResult(
                check_name=check.name, asset_key=spec.key, **dagster_events.approved(place)
            )
        if outcome.promotion is None:
            yield dg.AssetObservation(spec.key, metadata={"not_promoted": outcome.sentence})
            return
        yield dg.MaterializeResult(
            asset_key=spec.key,
            metadata={
                "mlflow_version": outcome.promotion.mlflow_version,
                "sequence": outcome.promotion.sequence,
                "since": str(outcome.promotion.at),
                "sentence": outcome.sentence,
                "model_card": dg.MetadataValue.md(outcome.model_card),
            },
            data_version=dg.DataVersion(outcome.promotion.model_hash),
        )

    return champion
