"""Code location of the small pipeline with three more sensors, which ask for retrains all the time."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from datetime import timedelta
from functools import cache

import dagster as dg

from mlops_pipelines.component import build_definitions
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec import Breaker, Budget
from mlops_pipelines.spec_loading import LoadedSpec
from tests.small_flights import loaded

KINDS = ("labels", "performance", "drift")
AT_ONCE = 2
ASKED = "asked"


@cache
def pipeline() -> LoadedSpec:
    """The small pipeline, whose policy holds nothing back but a second retrain and one on the same data."""
    small = loaded()
    policy = small.spec.policy.model_copy(
        update={
            "cooldown": timedelta(0),
            "budget": Budget(retrains=10_000, per=timedelta(days=1)),
            "breaker": Breaker(after=10_000, backoff=timedelta(hours=1)),
        }
    )
    return LoadedSpec(small.spec.model_copy(update={"policy": policy}), small.contract, small.path)


def _sensor(kind: str, most: int) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"asks_for_{kind}",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=1,
    )
    def asks(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SkipReason:
        place = home.pipeline(pipeline())
        first = int(context.cursor or 0)
        asked = range(first, min(first + AT_ONCE, most))
        for n in asked:
            place.ledger.append_trigger(
                place.name, kind, f"{ASKED}:{kind}:{n}", {ASKED: n}, place.clock.now()
            )
        context.update_cursor(str(first + len(asked)))
        return dg.SkipReason(f"Asked {len(asked)} times.")

    return asks


def definitions(most: int) -> dg.Definitions:
    """most: how often each of the three sensors asks."""
    extra = dg.Definitions(sensors=[_sensor(kind, most) for kind in KINDS])
    return dg.Definitions.merge(build_definitions(pipeline()), extra)
