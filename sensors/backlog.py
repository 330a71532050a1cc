"""Events piled up: take them in and score them, as one run over just the days concerned."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import AwareDatetime, BaseModel, ValidationError

from mlops_pipelines import scoring
from mlops_pipelines.home import PipelineHome
from mlops_pipelines.ingest import taking
from mlops_pipelines.ingest.lookout import lands_soon
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from sensors.requests import days_text, register, request

MINUTE = timedelta(minutes=1)
# Of the 5 seconds from one tick to the next; meanwhile it takes a thread, and next to no processor.
WATCHES = timedelta(seconds=2)
PUBLISH_EVERY = timedelta(minutes=5)


class Published(BaseModel):
    """What the sensor published last, and when: its cursor."""

    files: dict[str, int]
    at: AwareDatetime


def build(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{loaded.spec.name}_backlog",
        jobs=[jobs["ingest"], jobs["score"]],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=1,  # the daemon looks every 5 seconds; at 5, every other time
        description="Rows, bytes or age of what has landed beyond a bound start one ingest run; days that "
        "late data, or a run that died, left behind start one that scores them.",
    )
    def backlog(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SensorResult:
        place = home.pipeline(loaded)
        now = place.clock.now()
        problem = register(context, place)
        waiting = taking.backlog(place, now)
        if not waiting.queues and lands_soon(place, WATCHES):
            problem, now = register(context, place), place.clock.now()
            waiting = taking.backlog(place, now)
        if waiting.due:
            asked = request(context.instance, loaded, "ingest", waiting.days, waiting.sentence)
        elif left := scoring.reopened_days(place):
            # A vector is made once: what has landed is taken in before it.
            job = "ingest" if waiting.queues else "score"
            days = sorted({*left, *waiting.days})
            asked = request(context.instance, loaded, job, days, f"To be scored: {days_text(left)}.")
        else:
            asked = dg.SkipReason(waiting.sentence)
        if isinstance(asked, dg.SkipReason) and problem:
            raise problem
        cursor, figures = _figures(place, waiting.queues, now, context.cursor)
        return dg.SensorResult(
            run_requests=None if isinstance(asked, dg.SkipReason) else [asked],
            skip_reason=asked if isinstance(asked, dg.SkipReason) else None,
            cursor=cursor,
            asset_events=figures,
        )

    return backlog


def _figures(
    place: PipelineHome, queues: Mapping[str, taking.Queue], now: datetime, cursor: str | None
) -> tuple[str | None, list[dg.AssetObservation]]:
    """How much waits in each landing zone and for how long, and how far the events lie behind.

    Published when it is another number of files, and every few minutes while there are some. cursor: what
    was published last, and when.
    """
    last = _published(cursor)
    files = {stream: queue.files for stream, queue in sorted(queues.items())}
    if files == last.files and not (files and now - last.at >= PUBLISH_EVERY):
        return cursor, []
    nothing = taking.Queue(0, 0, timedelta(0))
    found = [
        dg.AssetObservation(
            dg.AssetKey([place.name, f"landing_{stream}"]),
            metadata={
                "queue_files": queue.files,
                "queue_bytes": queue.bytes,
                "queue_oldest_minutes": queue.oldest / MINUTE,
            },
        )
        for stream, queue in {**dict.fromkeys(last.files, nothing), **queues}.items()
    ]
    lag = taking.event_lag(place, now)
    if lag is not None:
        lagging = {"event_lag_minutes": lag / MINUTE}
        found.append(dg.AssetObservation(dg.AssetKey([place.name, "events"]), metadata=lagging))
    return Published(files=files, at=now).model_dump_json(), found


def _published(cursor: str | None) -> Published:
    """A cursor that another version left, or nobody: nothing was published."""
    try:
        return Published.model_validate_json(cursor or "")
    except ValidationError:
        return Published(files={}, at=datetime.min.replace(tzinfo=UTC))
