"""The figures of a home for Prometheus: as text, in a file, or served. What is missing is left out."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlops_pipelines.alerting.diagnosis import SEVERITIES
from mlops_pipelines.clock import WallClock, midnight
from mlops_pipelines.errors import MlopsError, UserError
from mlops_pipelines.health import health_of
from mlops_pipelines.monitoring.feature_health import TABLE as FEATURE_REPORT
from mlops_pipelines.monitoring.feature_health import WHOLE_VIEW
from mlops_pipelines.monitoring.reports import DRIFT, OVERALL, PERFORMANCE, main_rows, rows_of
from mlops_pipelines.outcomes import SKILLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from mlops_pipelines.health import LoopHealth
    from mlops_pipelines.home import PipelineHome

log = logging.getLogger(__name__)

# A page that was asked for so lately is given once more: whoever asks twice in a row gets one look.
KEPT = 5.0  # seconds
LEVELS = {"none": 0, "watch": 1, "alarm": 2}
# Told even where there were none yet: a rate begins at 0.
OUTCOMES = ("promoted", "rejected", "failed")
UNFINISHED = ("running", "lost", "waiting")


@dataclass(frozen=True)
class Named:
    """What a metric is called for, and the labels it has."""

    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ("pipeline",)


METRICS: Mapping[str, Named] = {
    "mlops_page_timestamp_seconds": Named("gauge", "When this page was made, by the machine's clock.", ()),
    "mlops_readable": Named("gauge", "1 where the pipeline could be looked at, else 0."),
    "mlops_healthy": Named("gauge", "1 where `mlops health` finds nothing late or critical, else 0."),
    "mlops_events_lag_seconds": Named("gauge", "How far the newest event lies behind the clock."),
    "mlops_prediction_lag_seconds": Named("gauge", "How far the newest scored decision lies behind."),
    "mlops_label_lag_seconds": Named("gauge", "How far the label that became known last lies behind."),
    "mlops_feature_lag_seconds": Named("gauge", "How far the oldest view, by its max_age, lies behind."),
    "mlops_files_waiting": Named("gauge", "Landed files of all streams that wait to be taken in."),
    "mlops_events_unscored": Named("gauge", "Events without a prediction: closed days of the last 28."),
    "mlops_drift_level": Named("gauge", "Drift of the last day measured: 0 none, 1 watch, 2 alarm."),
    "mlops_drift_psi_unexplained": Named(
        "gauge", "Unexplained population stability index of the last day measured, nats."
    ),
    "mlops_log_loss": Named("gauge", "Mean log loss of the last matured day, nats."),
    "mlops_log_loss_estimate": Named("gauge", "Log loss that the last scored day's labels will show."),
    "mlops_log_loss_estimate_low": Named(
        "gauge", "Lower end of the 95% interval of mlops_log_loss_estimate."
    ),
    "mlops_log_loss_estimate_high": Named(
        "gauge", "Upper end of the 95% interval of mlops_log_loss_estimate."
    ),
    "mlops_skill": Named(
        "gauge", "Skill of the last matured day; 0 is the base rate.", ("pipeline", "metric")
    ),
    "mlops_champion_version_info": Named("gauge", "1, with the champion's version.", ("pipeline", "version")),
    "mlops_champion_age_seconds": Named("gauge", "Since when the champion serves."),
    "mlops_retrains_total": Named(
        "counter", "Retrains that have ended, by outcome.", ("pipeline", "outcome")
    ),
    "mlops_triggers_pending": Named("gauge", "Reasons to retrain that wait."),
    "mlops_slo_budget_left_ratio": Named(
        "gauge", "Error budget that is left: 1 all of it, 0 none, below that overspent.", ("pipeline", "slo")
    ),
    "mlops_slo_burn_rate": Named(
        "gauge", "How many times too fast the last days spent the error budget.", ("pipeline", "slo", "span")
    ),
    "mlops_slo_alert": Named("gauge", "0 no alert, 1 warning, 2 critical.", ("pipeline", "slo")),
    "mlops_compute_seconds": Named(
        "gauge", "What runs of a job took that ended within 7 days.", ("pipeline", "job")
    ),
    "mlops_monitor_last_day_timestamp_seconds": Named(
        "gauge", "Beginning of the last day that a report is of.", ("pipeline", "report")
    ),
    "mlops_incidents_open": Named("gauge", "Incidents that are open.", ("pipeline", "severity")),
    "mlops_sinks_untold": Named(
        "gauge", "1 for a sink that did not get its last message, else none.", ("pipeline", "sink")
    ),
    "mlops_predictions": Named("gauge", "Predictions of the last day, by version.", ("pipeline", "version")),
    "mlops_feature_skew": Named("gauge", "Worst skew of a feature on the last day, standard deviations."),
    "mlops_view_stale_ratio": Named(
        "gauge", "Share of the last day's decisions that found the stalest view too old."
    ),
    "mlops_alerts_looked_timestamp_seconds": Named(
        "gauge", "When incidents were looked for last, by the machine's clock."
    ),
}
_SLO_ALERTS = {None: 0, "warning": 1, "critical": 2}

Sample = tuple[str, dict[str, str], float]


def figures(place: PipelineHome) -> Iterator[Sample]:
    """The figures of a pipeline: metric, labels, value; only those that are there and finite."""
    for name, labels, value in _figures(place):
        if value is not None and math.isfinite(value):
            yield name, {"pipeline": place.name, **labels}, float(value)


def page(places: Sequence[PipelineHome]) -> bytes:
    """The figures of some pipelines in the text format of Prometheus."""
    from prometheus_client import generate_latest

    return generate_latest(_registry(places))


def write(places: Sequence[PipelineHome], path: Path) -> None:
    """Write the page to a file, which is the old one or the new one at any time.

    Raises UserError if it cannot be written.
    """
    from prometheus_client import write_to_textfile

    try:
        write_to_textfile(str(path), _registry(places))
    except OSError as error:
        raise UserError(
            f"The file {path} cannot be written: {error.strerror}.",
            expected="a file in a folder that is there, and that this user may write",
            remedy="make the folder, or name another with --textfile",
        ) from error


def serve(places: Sequence[PipelineHome], host: str, port: int) -> threading.Thread:
    """Serve the page at an address, looked up anew for whoever asks; the thread that does.

    Raises UserError if the address cannot be listened on.
    """
    from prometheus_client import start_http_server

    try:
        _, thread = start_http_server(port, addr=host, registry=_registry(places))
    except OSError as error:
        raise UserError(
            f"{host}:{port} cannot be listened on: {error.strerror}.",
            expected="an address of this machine, and a port that nobody listens on",
            remedy=f"--port {port + 1}, or another --host",
        ) from error
    return thread


class Page:
    """What Prometheus asks for when it scrapes. Safe to use from several threads.

    timer: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        places: Sequence[PipelineHome],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self._timer = timer
        self._lock = threading.Lock()
        self._kept: tuple[float, list[Metric]] | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would look at the home to learn the names."""
        return []

    def collect(self) -> list[Metric]:
        """The page, looked up anew unless that was done within the last seconds."""
        with self._lock:
            if self._kept is None or self._timer() - self._kept[0] > KEPT:
                made = _families(self._samples())
                self._kept = self._timer(), made
            return self._kept[1]

    def _samples(self) -> Iterator[Sample]:
        for place in self._places:
            found: list[Sample] = []
            readable = 1.0
            try:
                found = [*figures(place)]
            except MlopsError as error:
                # The others are told; that this one is not is a figure too.
                log.warning("%s cannot be looked at: %s", place.name, error)
                readable = 0.0
            yield "mlops_readable", {"pipeline": place.name}, readable
            yield from found
        yield "mlops_page_timestamp_seconds", {}, WallClock().now().timestamp()


def _registry(places: Sequence[PipelineHome]) -> CollectorRegistry:
    """A registry of the page alone, without figures of this process."""
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(Page(places))
    return registry


def _families(samples: Iterable[Sample]) -> list[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    made = {
        name: (CounterMetricFamily if named.kind == "counter" else GaugeMetricFamily)(
            name, named.help, labels=named.labels
        )
        for name, named in METRICS.items()
    }
    for name, labels, value in samples:
        made[name].add_metric([labels[label] for label in METRICS[name].labels], value)
    return [family for family in made.values() if family.samples]


def _figures(place: PipelineHome) -> Iterator[tuple[str, dict[str, str], float | None]]:
    found = health_of(place)
    yield "mlops_healthy", {}, found.healthy
    for name, clock in (
        ("mlops_events_lag_seconds", "events"),
        ("mlops_prediction_lag_seconds", "predictions"),
        ("mlops_label_lag_seconds", "labels"),
        ("mlops_feature_lag_seconds", "features"),
        ("mlops_champion_age_seconds", "model"),
    ):
        behind = found.behind(clock)
        yield name, {}, None if behind is None else behind.total_seconds()
    yield "mlops_files_waiting", {}, found.files_waiting
    if found.champion:
        yield "mlops_events_unscored", {}, found.unscored
        yield "mlops_champion_version_info", {"version": found.champion.version}, 1
    for report, day in found.last_days.items():
        yield "mlops_monitor_last_day_timestamp_seconds", {"report": report}, midnight(day).timestamp()
    yield from _of_reports(place, found)
    yield from _of_features(place, found)
    yield "mlops_triggers_pending", {}, sum(found.pending.values())
    for outcome, count in place.ledger.counts(place.name).retrains.items():
        if outcome in OUTCOMES or (count and outcome not in UNFINISHED):
            yield "mlops_retrains_total", {"outcome": outcome}, count
    for one in found.slos:
        yield "mlops_slo_budget_left_ratio", {"slo": one.name}, one.budget_left
        yield "mlops_slo_alert", {"slo": one.name}, _SLO_ALERTS[one.alert] if one.total else None
        for span, rate in one.burn.items():
            yield "mlops_slo_burn_rate", {"slo": one.name, "span": span}, rate
    for job, seconds in found.cost.seconds.items() if found.cost else ():
        yield "mlops_compute_seconds", {"job": job}, seconds
    if looked := place.ledger.last_look(place.name):
        yield "mlops_alerts_looked_timestamp_seconds", {}, looked.wall_at.timestamp()
        severities = Counter(one.severity for one in found.incidents)
        for severity in SEVERITIES:
            yield "mlops_incidents_open", {"severity": severity}, severities[severity]
        for sink in found.untold:
            yield "mlops_sinks_untold", {"sink": sink}, 1


def _of_reports(place: PipelineHome, found: LoopHealth) -> Iterator[tuple[str, dict[str, str], float | None]]:
    """Drift of the last day measured, quality of the last that matured; of the last scored the estimate, and
    which versions scored it."""
    if day := found.last_days.get(DRIFT):
        for drift in rows_of(place, DRIFT, [day]):
            if drift["feature"] == OVERALL:
                yield "mlops_drift_level", {}, LEVELS.get(drift["level"])
                yield "mlops_drift_psi_unexplained", {}, drift["excess"]
    if day := found.last_days.get(PERFORMANCE):
        for row in main_rows(rows_of(place, PERFORMANCE, [day])):
            yield "mlops_log_loss", {}, row.get("log_loss")
            for metric in SKILLS[place.spec.labels.kind][:1]:
                yield "mlops_skill", {"metric": metric}, row.get(metric)
    lately = place.lake.days(PERFORMANCE)[-3:]
    rows = rows_of(place, PERFORMANCE, lately)
    estimated = [row for row in rows if row.get("estimate") is not None]
    for row in main_rows(estimated)[-1:]:
        for name in ("estimate", "estimate_low", "estimate_high"):
            yield f"mlops_log_loss_{name}", {}, row[name]
    for row in rows:
        if row["day"] == lately[-1] and row["predictions"]:
            yield "mlops_predictions", {"version": str(row["model_version"])}, row["predictions"]


def _of_features(
    place: PipelineHome, found: LoopHealth
) -> Iterator[tuple[str, dict[str, str], float | None]]:
    """How good the features of the last day were."""
    if day := found.last_days.get(FEATURE_REPORT):
        views = [row for row in rows_of(place, FEATURE_REPORT, [day]) if row["feature"] == WHOLE_VIEW]
        yield "mlops_feature_skew", {}, max((row["skew"] for row in views), default=None)
        stale = [row["stale"] for row in views if row["stale"] is not None]
        yield "mlops_view_stale_ratio", {}, max(stale, default=None)
