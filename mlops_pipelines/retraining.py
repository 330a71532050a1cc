"""One retrain, from the reasons for it to its outcome; each step can be repeated.

The decisions are pure and live elsewhere (`policy`, `gates`, `monitoring`); here they are given what they
ask for, and what they say is recorded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_pipelines import markdown, promoting, trainers
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.in_use import known_set, set_of
from mlops_pipelines.features.sets import set_version
from mlops_pipelines.ingest.taking import sensitive_columns
from mlops_pipelines.lake import STATIC_DAY
from mlops_pipelines.outcomes import most_likely
from mlops_pipelines.policy import format_moment
from mlops_pipelines.provenance import code_commit, lock_hash, platform
from mlops_pipelines.registry import PAGE
from mlops_pipelines.spec_loading import hash_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.datasets import DatasetVersion
    from mlops_pipelines.evaluation_report import EvaluationReport, TrainedOn
    from mlops_pipelines.features.views import FeatureColumn
    from mlops_pipelines.gates import GivenVerdict
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import Promotion, PromotionConflictError, Retrain
    from mlops_pipelines.monitoring.reference import Reference
    from mlops_pipelines.registry import LoadedModel, Registered
    from mlops_pipelines.spec import Gates, Training
    from mlops_pipelines.training import Candidate, Incumbent
    from mlops_pipelines.tuning import Tuned

EXPERIMENT = "experiment"
REFERENCE_FILE = "drift_reference.json"


# What there is to learn from


def matured_through(place: PipelineHome, now: datetime) -> date:
    """The last day whose every label is known or past due at `now`."""
    return (now - place.spec.labels.matures_after).astimezone(UTC).date() - timedelta(days=1)


def matured_rows(place: PipelineHome, now: datetime, after: date | None = None) -> int:
    """Labels of matured days of the training window, or of those later than `after`.

    Read from the table's statistics, not from its rows: a correction counts as a row of its own.
    """
    return sum(_matured_days(place, now, after).values())


def matured_events(place: PipelineHome, now: datetime) -> int:
    """Events of the window's matured days that have a label."""
    import pyarrow.compute as pc

    days = list(_matured_days(place, now))
    if not days:
        return 0
    return int(pc.count_distinct(place.lake.read("labels", columns=["event_id"], days=days)[0]).as_py())


def _matured_days(place: PipelineHome, now: datetime, after: date | None = None) -> dict[str, int]:
    """Rows of the labels table by matured day of the training window, or of those later than `after`."""
    last = matured_through(place, now).isoformat()
    window = (now - place.spec.training.window).date() - timedelta(days=1)
    first = max(window, after or window).isoformat()
    return {day: n for day, n in place.lake.row_counts("labels").items() if first < day <= last}


# Admitting


@dataclass(frozen=True)
class Admission:
    """What the first step of a run got. retrain: None if it was held."""

    retrain: Retrain | None
    sentence: str

    @property
    def tags(self) -> dict[str, str]:
        return {
            "mlops/retrain": self.retrain.id if self.retrain else "none",
            "mlops/decision": self.sentence[:200],
        }


def admit(place: PipelineHome, *, run_id: str) -> Admission:
    """Decide again, in one transaction, and admit this run or hold it."""
    from mlops_pipelines.ledger import Admitted

    now = place.clock.now()
    if sentence := held_for_vectors(place, now):
        return Admission(None, sentence)
    got = place.ledger.admit(
        place.name, now=now, policy=place.spec.policy, run_id=run_id, data_mark=data_mark(place, now)
    )
    return Admission(got.retrain if isinstance(got, Admitted) else None, got.sentence)


def held_for_vectors(place: PipelineHome, now: datetime) -> str:
    """Why nothing can be learned yet: matured days of the window whose vectors by the features of the YAML
    are still to be made; empty if there are none, or a retrain goes on that has its training set. From the
    tables' statistics."""
    begun = place.ledger.in_flight(place.name)
    if begun is not None and (begun.status == "running" or begun.dataset_version is not None):
        return ""
    last = matured_through(place, now).isoformat()
    first = (now - place.spec.training.window).date().isoformat()
    made = place.lake.row_counts(place.features.examples)
    events = place.lake.row_counts("events")
    days = [day for day, rows in events.items() if first <= day <= last and made.get(day, 0) < rows]
    if not days:
        return ""
    return (
        f"held: events of {len(days)} {'day' if len(days) == 1 else 'days'} of the window, such as "
        f"{max(days)}, have no vector yet by the "
        "features of the YAML; the next runs make them"
    )


def data_mark(place: PipelineHome, now: datetime) -> str:
    """Names the training set that a retrain admitted now would see and, after a colon, the rules by which it
    would learn and be judged: with the same mark it would end the same."""
    spec = place.spec
    through, features = matured_through(place, now).isoformat(), place.features.version
    data = hash_of([through, matured_rows(place, now), features, spec.training.model_dump(mode="json")])
    trainer = trainers.source_hash(spec.training.trainer) if spec.training.trainer else None
    rules = hash_of([spec.gates, spec.decision, trainer])
    return f"{data[:16]}:{rules[:8]}"


def run_in_flight(place: PipelineHome) -> str | None:
    """Id of the run that holds the retrain in flight, or None."""
    retrain = place.ledger.in_flight(place.name)
    return retrain.run_id if retrain and retrain.status == "running" else None


def take_back(place: PipelineHome, run_id: str, now: datetime) -> str:
    """Record that a run ended without concluding its retrain; a sentence about what follows."""
    retrain = place.ledger.mark_lost(run_id, now)
    if retrain is None:
        return f"Run {run_id} ended; its retrain had been concluded."
    if retrain.status == "lost":
        return f"Run {run_id} of retrain {retrain.id} was lost ({retrain.losses}); a new run takes it up."
    return f"Retrain {retrain.id} ended as {retrain.status}: {retrain.outcome}."


# The steps of an admitted run


@dataclass(frozen=True)
class TrainingSet:
    """A version of the training set. version: of the dataset registry; days: YYYY-MM-DD."""

    version: str
    rows: int
    days: tuple[str, ...]
    datasheet: str


@dataclass(frozen=True)
class Fitted:
    """A registered candidate. authority: the retrain it serves, or `experiment`. run_id: MLflow's.

    reproducible: whether its trainer gave the same model twice. tuning: how the search for its parameters
    went; empty where there was none.
    """

    version: str
    run_id: str
    link: str
    model_hash: str
    rows: int
    authority: str
    importance: Sequence[Mapping[str, Any]]
    reproducible: bool
    tuning: str = ""


@dataclass(frozen=True)
class Judged:
    """The evaluation of a candidate and the verdicts of its gates.

    model_card: of a retrain's candidate. page: where MLflow's pages show the whole report.
    """

    figures: Mapping[str, Any]
    markdown: str
    verdicts: Sequence[GivenVerdict]
    data_version: str
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    model_card: str = ""
    page: str = ""


@dataclass(frozen=True)
class Outcome:
    """How the retrain ended. waits: for people."""

    promotion: Promotion | None
    sentence: str
    model_card: str = ""
    waits: bool = False


def declared_gates(gates: Gates) -> list[str]:
    """Names of the gates a pipeline declares, in the order of the YAML's schema."""
    return [name for name in type(gates).model_fields if getattr(gates, name) is not None]


def training_rows(place: PipelineHome, watermark: datetime, versions: Mapping[str, int]) -> pa.Table:
    """Examples of the window's matured days with their labels as of `watermark`, one row an event.

    By the features of the YAML. versions: of the tables of their examples and of labels. Columns as in
    the examples without `made_of`, `label` and `label_known_at`: when its first version became known.
    Unlabelled events have no row. Raises TerminalError if no day has both.
    """
    last = matured_through(place, watermark).isoformat()
    first = (watermark - place.spec.training.window).date().isoformat()
    table = place.features.examples
    held = place.lake.days(table, version=versions[table]) if table in versions else []
    days = [day for day in held if first <= day <= last]
    if not days or "labels" not in versions:
        raise TerminalError(
            f"No day of {place.name} from {first} to {last} has examples and labels to learn from.",
            remedy=f"mlops status {place.name}",
        )
    examples = place.lake.read(table, days=days, version=versions[table])
    return with_labels(place, examples, watermark, versions["labels"])


def with_labels(place: PipelineHome, examples: pa.Table, as_of: datetime, version: int) -> pa.Table:
    """The examples whose label was known, without `made_of`, with `label` and `label_known_at`.

    version: of the labels. as_of: UTC.
    """
    from mlops_pipelines.monitoring.performance import scored_labels

    days = examples["day"].unique().to_pylist()
    columns = ["event_id", "label", "known_at", "label_time"]
    labels = place.lake.read("labels", columns=columns, days=days, version=version)
    return scored_labels(examples.drop_columns(["made_of"]), labels, as_of)


def assemble(place: PipelineHome, retrain: Retrain) -> TrainingSet:
    """Commit the training set as of the retrain's watermark; the same data gives the same version.

    A retrain that is taken up keeps the one it began with, whatever has arrived since.
    Raises StaleTokenError if another run carries the retrain now.
    """
    from mlops_pipelines.datasheet import datasheet

    if retrain.dataset_version is not None:
        place.ledger.check_token(retrain.id, retrain.token)
        version = place.home.datasets.version(place.name, retrain.dataset_version)
    else:
        version = _commit_training_set(place, retrain)
        place.ledger.record_training_set(
            retrain.id, retrain.token, dataset_version=version.version,
            feature_set=set_version(version.manifest["views"]), matured_rows=version.rows,
        )  # fmt: skip
    return TrainingSet(version.version, version.rows, tuple(version.days), datasheet(version.manifest))


def _commit_training_set(place: PipelineHome, retrain: Retrain) -> DatasetVersion:
    from mlops_pipelines.datasets import ManifestFacts
    from mlops_pipelines.datasheet import figures

    # Pinned before they are read: what arrives meanwhile is not in the set that names these versions.
    tables = ("events", "labels", place.features.examples)
    versions = {name: v for name in tables if (v := place.lake.version(name)) is not None}
    rows = training_rows(place, retrain.watermark, versions)
    start, matured = retrain.watermark - place.spec.training.window, matured_through(place, retrain.watermark)
    days = (start.date().isoformat(), matured.isoformat())
    return place.home.datasets.commit(
        place.name,
        parts_by_day(rows.drop_columns(["label_known_at"])),
        ManifestFacts(
            tables=versions,
            view_versions=place.features.view_versions,
            window=(start, retrain.watermark),
            matured_through=matured,
            contracts=contracts_passed(place, days, place.streams),
            about=figures(place, rows, days=days, versions=versions),
        ),
        created_at=retrain.watermark,
    )


def contracts_passed(
    place: PipelineHome, days: tuple[str, str], streams: Sequence[str]
) -> dict[str, set[str]]:
    """By stream the versions of the contract that the rows of these days, first to last, have passed."""
    first, last = days
    passed: dict[str, set[str]] = {}
    for table in streams:
        if place.lake.exists(table):
            held = [day for day in place.lake.days(table) if first <= day <= last or day == STATIC_DAY]
            commits = place.lake.written_by(table, held).values()
            passed[table] = {str(commit.provenance["contract"]) for commit in commits}
    return passed


def parts_by_day(rows: pa.Table) -> dict[str, pa.Table]:
    """The rows of each day. rows: sorted by day."""
    import numpy as np

    days = rows["day"].combine_chunks().dictionary_encode()
    starts = np.flatnonzero(np.diff(days.indices.to_numpy(), prepend=-1))
    ends = [*starts[1:], rows.num_rows]
    return {
        rows["day"][int(start)].as_py(): rows.slice(int(start), int(end - start))
        for start, end in zip(starts, ends, strict=True)
    }


@dataclass(frozen=True)
class Learned:
    """What a training set taught. training: with the parameters that a search chose, where there was one.

    weights: importance by feature, the greatest first. reference: what drift is measured from.
    """

    candidate: Candidate
    training: Training
    tuned: Tuned | None
    weights: Mapping[str, float]
    reference: Reference


def learn(
    table: pa.Table,
    features: Sequence[FeatureColumn],
    training: Training,
    *,
    told: Callable[[str], None] = lambda what: None,
) -> Learned:
    """A candidate of the table's rows, and what its champion would be watched by.

    Raises what `fit_candidate` raises.
    """
    from mlops_pipelines.evaluation import importance
    from mlops_pipelines.monitoring.reference import build_reference
    from mlops_pipelines.training import fit_candidate
    from mlops_pipelines.tuning import tune

    tuned = tune(table, features, training, told=told) if training.tune else None
    if tuned is not None:
        training = tuned.training
    candidate = fit_candidate(table, features, training)
    weights = importance(candidate.refit, table)
    scores = candidate.refit.predict(table)
    if candidate.refit.outcome.shape:
        scores = most_likely(candidate.refit.outcome, scores)
    return Learned(candidate, training, tuned, weights, build_reference(table, features, scores, weights))


def fit(
    place: PipelineHome,
    *,
    run_id: str,
    dataset_version: str | None = None,
    told: Callable[[str], None] = lambda what: None,
) -> Fitted:
    """Train a candidate and register it; without authority over a retrain, as an experiment.

    dataset_version: what an experiment learns from, by default the latest; a retrain has its own.
    told: is called with how a search for parameters goes.
    """
    from mlops_pipelines.training import train_again

    retrain = carried_by(place, run_id)
    version = _dataset_version(place, retrain, dataset_version)
    table = place.home.datasets.read(place.name, version)
    # Those of the training set: the YAML may say otherwise by now.
    made_by = set_version(place.home.datasets.version(place.name, version).manifest["views"])
    learned = learn(table, known_set(place, made_by).columns, place.spec.training, told=told)
    candidate, training, tuned = learned.candidate, learned.training, learned.tuned
    # LightGBM is told to be repeatable; of another trainer nothing is known but what it does.
    own = training.trainer is not None
    reproducible = not own or train_again(table, candidate.refit).hash == candidate.refit.hash
    made = place.home.registry.log_candidate(
        place.name,
        retrain.id if retrain else f"{EXPERIMENT}-{run_id}",
        candidate,
        version,
        {
            "dataset_version": version,
            "retrain": retrain.id if retrain else EXPERIMENT,
            "platform": {**platform(), "threads": training.threads},
            "commit": asdict(code_commit()),
            "lock": lock_hash(),
            "training": training.model_dump(mode="json"),
            "tuning": tuned and tuned.sentence,
            "reproducible": reproducible,
            "trainer_source": trainers.source_hash(training.trainer) if training.trainer else None,
        },
        files={REFERENCE_FILE: learned.reference.to_json()},
        tags={
            "authority": retrain.id if retrain else EXPERIMENT,
            "reproducible": str(reproducible).lower(),
        },
        trials=tuned.trials if tuned else (),
    )
    if retrain is not None:
        place.ledger.record_candidate(
            retrain.id,
            retrain.token,
            dataset_version=version,
            matured_rows=table.num_rows,
            model_hash=made.model_hash,
            mlflow_version=made.version,
            mlflow_run_id=made.run_id,
            cutoff=candidate.refit.cutoff,
        )
        place.home.registry.set_alias(place.name, "candidate", made.version)
    return Fitted(
        made.version,
        made.run_id,
        made.link,
        made.model_hash,
        table.num_rows,
        retrain.id if retrain else EXPERIMENT,
        [
            {"feature": name, candidate.refit.importance_unit: f"{value:.4f}"}
            for name, value in list(learned.weights.items())[:15]
        ],
        reproducible,
        tuned.sentence if tuned else "",
    )


def evaluate(place: PipelineHome, *, run_id: str, measure_again: bool = False) -> Judged:
    """Judge the candidate of this run on its holdout and record the verdicts.

    What a retrain's gates have judged stands. measure_again: whether what the clock measured is to be
    measured once more; else it is kept as it was first.
    """
    from mlops_pipelines.evaluation_page import as_markdown, pictures
    from mlops_pipelines.gates import judge

    retrain = carried_by(place, run_id)
    registered = _registered(place, retrain, run_id)
    registry, ledger = place.home.registry, place.ledger
    kept = registry.evaluation(registered.run_id)
    judged = retrain is not None and ledger.judged(retrain.id)
    report, candidate = kept, None
    if report is None or not judged or measure_again:
        candidate = _candidate(place, registered.version)
        report = _measured(place, registered, candidate, kept, judged=judged, measure_again=measure_again)
    drawn = pictures(report)
    verdicts: Sequence[GivenVerdict] = judge(report, place.spec.gates)
    if candidate is not None:
        said = ledger.verdicts(retrain.id) if retrain and judged else verdicts
        page = _evaluation_page(place, registered, candidate, report=report, verdicts=said, drawn=drawn)
        # Before the verdicts: what was judged has a report.
        registry.log_evaluation(registered.run_id, report, drawn, page)
    card = ""
    if retrain is not None:
        given = [vars(verdict) for verdict in verdicts]
        ledger.record_verdicts(retrain.id, retrain.token, given, place.clock.now())
        # A gate's first verdict stands, also beside a bound that was changed since.
        verdicts = ledger.verdicts(retrain.id)
        card = _card(place, retrain)
        registry.log_card(place.name, registered.version, card)
    figures = {name: one.value for name, one in report.metrics.items() if one is not None}
    return Judged(
        {
            **figures,
            "rows": report.rows,
            "days": report.days,
            **({} if report.prevalence is None else {"prevalence": report.prevalence}),
        },
        as_markdown(report),
        verdicts,
        report.content_hash,
        drawn,
        card,
        f"{registered.link}/artifacts/evaluation/{PAGE}",
    )


def _measured(
    place: PipelineHome,
    registered: Registered,
    candidate: Candidate,
    kept: EvaluationReport | None,
    *,
    judged: bool,
    measure_again: bool,
) -> EvaluationReport:
    """The candidate on its holdout, beside the champion.

    kept: the report of before. Of it stays what the clock measured, unless that is asked for once more, and
    where the gates have judged it all the rest: they compared it with the champion of then.
    """
    from mlops_pipelines.evaluation import latency

    if kept is not None and judged:
        return replace(kept, latency=latency(candidate.refit, candidate.holdout))
    data = _trained_on(place, registered.version, candidate)
    made = measure(place, candidate, _incumbent(place, candidate.holdout), data)
    return made if kept is None or measure_again else replace(made, latency=kept.latency)


def measure(
    place: PipelineHome, candidate: Candidate, incumbent: Incumbent | None, data: TrainedOn
) -> EvaluationReport:
    """The candidate on its holdout beside the incumbent, by what the pipeline declares."""
    from mlops_pipelines.evaluation import evaluate as figures_of

    return figures_of(
        candidate,
        incumbent,
        gates=place.spec.gates,
        slicing=_slicing(place, candidate.holdout_days),
        decision=place.spec.decision,
        sensitive=_sensitive(place),
        data=data,
        seed=place.spec.training.seed,
    )


def _evaluation_page(
    place: PipelineHome,
    registered: Registered,
    candidate: Candidate,
    *,
    report: EvaluationReport,
    verdicts: Sequence[GivenVerdict],
    drawn: Mapping[str, bytes],
) -> str:
    """All of an evaluation on one page, with Evidently's view of the same rows."""
    from mlops_pipelines.document import page
    from mlops_pipelines.evaluation_page import as_markdown
    from mlops_pipelines.monitoring.evidently_page import SHOWN_ROWS, of_scores

    title = f"Evaluation of {place.name}, version {registered.version}"
    given = [[one.gate, one.outcome.replace("_", " "), one.sentence] for one in verdicts]
    table = markdown.table(["gate", "verdict", "why"], given) if given else "No gate is declared."
    model = place.home.registry.load(place.name, registered.version)
    text = (
        f"# {title}\n\n{place.spec.description}\n\n{_summary(verdicts)}\n\nModel `{model.model_hash}`, of "
        f"training set `{model.facts['dataset_version']}`.\n\n## Gates\n\nA gate looks at the figure itself; "
        f"`champion` at the bound of its interval.\n\n{table}\n\n{as_markdown(report)}"
    )
    holdout, twin = candidate.holdout, candidate.twin
    name, theirs = of_scores(
        holdout["label"].to_pylist(), twin.predict(holdout), twin.outcome, place.spec.decision.at_least
    )
    of = "" if holdout.num_rows <= SHOWN_ROWS else f", of {SHOWN_ROWS:,} rows drawn from {holdout.num_rows:,}"
    return page(title, text, drawn, {f"Evidently's {name} report{of}": theirs})


def _summary(verdicts: Sequence[GivenVerdict]) -> str:
    """What the gates say, in a sentence of Markdown."""
    stopped = [one.gate for one in verdicts if one.outcome == "fail"]
    doubtful = [one.gate for one in verdicts if one.outcome == "warn"]
    doubts = f" Too little to judge by: {', '.join(doubtful)}." if doubtful else ""
    if stopped:
        return f"**Stopped by {', '.join(stopped)}.**{doubts}"
    return f"**No gate stands against it.**{doubts}"


def conclude(place: PipelineHome, *, run_id: str) -> Outcome:
    """Promote the candidate if no gate stands against it, and end the retrain.

    Where people have to agree it waits for them. Without authority over a retrain, only the registry is
    healed to the ledger.
    """
    from mlops_pipelines.ledger import PromotionConflictError

    retrain = carried_by(place, run_id)
    now = place.clock.now()
    if retrain is None:
        promoting.heal(place.home, place.name)
        return Outcome(
            None, "This run carries no retrain: the registry's aliases now say what the ledger says."
        )
    if retrain.model_hash is None or retrain.mlflow_version is None:
        raise TerminalError(f"Retrain {retrain.id} has no candidate to promote.")
    facts = promoting.about(place, retrain.mlflow_version, report_of(place, retrain))
    failed = [verdict for verdict in place.ledger.verdicts(retrain.id) if verdict.outcome == "fail"]
    if failed:
        sentence = "rejected: " + " ".join(verdict.sentence for verdict in failed)
        place.ledger.finish_retrain(
            retrain.id, retrain.token, status="rejected", reason=sentence, at=now, about=facts
        )
        promoting.heal(place.home, place.name)
        return Outcome(None, sentence)
    try:
        # A run that takes over after the promotion only ends what was begun.
        if (waits_for := _waits_for(place)) and not place.ledger.has_promoted(retrain.id):
            return _ask_for_approval(place, retrain, waits_for, now, facts)
        promotion = place.ledger.promote(
            place.name,
            retrain_id=retrain.id,
            token=retrain.token,
            expected_sequence=_compared_with(place, retrain),
            model_hash=retrain.model_hash,
            mlflow_version=retrain.mlflow_version,
            at=now,
            about=facts,
        )
    except PromotionConflictError as error:
        return _overtaken(place, retrain, error, now, facts)
    promoting.heal(place.home, place.name)
    sentence = f"version {promotion.mlflow_version} is champion number {promotion.sequence}"
    place.ledger.finish_retrain(retrain.id, retrain.token, status="promoted", reason=sentence, at=now)
    card = place.home.registry.card(place.name, promotion.mlflow_version)
    return Outcome(promotion, sentence, card or "")


def _overtaken(
    place: PipelineHome,
    retrain: Retrain,
    error: PromotionConflictError,
    now: datetime,
    facts: Mapping[str, Any],
) -> Outcome:
    """End a retrain whose candidate was compared with another champion than that of now."""
    sentence = (
        f"version {retrain.mlflow_version} passed its gates, but was compared with another champion. "
        f"{error.message} `mlops registry adopt {place.name} {retrain.mlflow_version} --reason WHY` lets it "
        "serve all the same"
    )
    place.ledger.finish_retrain(
        retrain.id, retrain.token, status="expired", reason=sentence, at=now, about=facts
    )
    promoting.heal(place.home, place.name)
    return Outcome(None, sentence)


def _waits_for(place: PipelineHome) -> str | None:
    """Why a candidate that passed its gates has to wait for people; None if it has not."""
    if frozen := place.ledger.frozen(place.name):
        return f"the champion is frozen by {frozen}"
    asked = place.spec.promotion
    if asked.approval == "automatic":
        return None
    return f"{'two people have' if asked.four_eyes else 'a person has'} to approve it"


def _ask_for_approval(
    place: PipelineHome, retrain: Retrain, why: str, now: datetime, facts: Mapping[str, Any]
) -> Outcome:
    asked = place.spec.promotion
    version = str(retrain.mlflow_version)
    place.ledger.ask_for_approval(
        place.name,
        retrain_id=retrain.id,
        token=retrain.token,
        expected_sequence=_compared_with(place, retrain),
        model_hash=str(retrain.model_hash),
        mlflow_version=version,
        needed=2 if asked.four_eyes else 1,
        reason=why,
        at=now,
        expires_at=now + asked.expires,
        about=facts,
    )
    promoting.heal(place.home, place.name)
    sentence = (
        f"version {version} passed its gates and waits until {format_moment(now + asked.expires)}: "
        f"{why}. `mlops approve {place.name} {version} --reason WHY` lets it serve, `mlops reject` does not."
    )
    return Outcome(None, sentence, waits=True)


def carried_by(place: PipelineHome, run_id: str) -> Retrain | None:
    """The retrain in flight if this very run was admitted to carry it; None for any other run."""
    retrain = place.ledger.in_flight(place.name)
    return retrain if retrain and (retrain.run_id, retrain.status) == (run_id, "running") else None


def _dataset_version(place: PipelineHome, retrain: Retrain | None, asked: str | None) -> str:
    """The training set of this retrain; for a run that carries none the one asked for, or the latest."""
    version = retrain.dataset_version if retrain else asked or place.home.datasets.latest(place.name)
    if version is None:
        raise TerminalError(
            f"{place.name} has no training set.",
            remedy=f"materialize {place.name}/training_set first, in one run with its model",
        )
    return version


def _registered(place: PipelineHome, retrain: Retrain | None, run_id: str) -> Registered:
    """The registered candidate of this run."""
    found = place.home.registry.find(place.name, retrain.id if retrain else f"{EXPERIMENT}-{run_id}")
    if found is None:
        raise TerminalError(
            f"This run has no candidate of {place.name} to evaluate.",
            remedy=f"materialize {place.name}/model in the same run",
        )
    return found


def _candidate(place: PipelineHome, version: str) -> Candidate:
    """The registered candidate with its holdout."""
    from mlops_pipelines.spec import Training
    from mlops_pipelines.training import candidate_of

    model = place.home.registry.load(place.name, version)
    dataset = model.facts["dataset_version"]
    table = place.home.datasets.read(place.name, dataset)
    # As it was trained: the YAML may say otherwise by now.
    training = Training.model_validate(model.facts["training"])
    return candidate_of(model.refit, model.twin, table, training)


def _incumbent(place: PipelineHome, holdout: pa.Table) -> Incumbent | None:
    """The champion of the ledger, which a candidate has to stand against, and the holdout as it is fed it."""
    champion = place.ledger.champion(place.name)
    if champion is None:
        return None
    incumbent = model_of(place, champion).incumbent
    if incumbent.refit.is_fed_by(holdout):
        return incumbent
    days = sorted(holdout["day"].unique().to_pylist())
    return replace(incumbent, vectors=place.lake.read(set_of(place, champion).examples, days=days))


def model_of(place: PipelineHome, promotion: Promotion) -> LoadedModel:
    """The model of a promotion, checked against the hash it was promoted with."""
    return place.home.registry.load(place.name, promotion.mlflow_version, model_hash=promotion.model_hash)


def champion_features(place: PipelineHome) -> tuple[str, set[str]]:
    """Version of the champion and the features it sees; no version and none without a champion."""
    champion = place.ledger.champion(place.name)
    if champion is None:
        return "", set()
    return champion.mlflow_version, {feature.name for feature in model_of(place, champion).refit.features}


def _slicing(place: PipelineHome, days: Sequence[str]) -> pa.Table | None:
    """The columns that cut the holdout, of its events."""
    from mlops_pipelines.evaluation import sliced_by

    columns = sliced_by(place.spec.gates, _sensitive(place))
    return place.lake.read("events", days=days, columns=["event_id", *columns]) if columns else None


def _sensitive(place: PipelineHome) -> list[str]:
    """Columns of the events that the contract marks as sensitive, as the table of events names them."""
    return sorted(sensitive_columns(place.loaded, "events") - {"event_id"})


def _trained_on(place: PipelineHome, version: str, candidate: Candidate) -> TrainedOn:
    """What the candidate learned from, and whether that is still what was signed."""
    from mlops_pipelines.evaluation_report import TrainedOn

    name = place.home.registry.load(place.name, version).facts["dataset_version"]
    made = place.home.datasets.version(place.name, name)
    events = made.manifest["about"].get("events")
    return TrainedOn(
        version=name,
        fault=place.home.datasets.altered(place.name, name),
        matured_through=made.manifest["matured_through"],
        last_day=candidate.refit.last_day,
        labelled=made.rows / events if events else None,
    )


def report_of(place: PipelineHome, retrain: Retrain) -> EvaluationReport:
    """The evaluation that a retrain's candidate was judged on. Raises TerminalError if there is none."""
    report = place.home.registry.evaluation(str(retrain.mlflow_run_id))
    if report is None:
        raise TerminalError(f"The candidate of retrain {retrain.id} has no evaluation report.")
    return report


def _compared_with(place: PipelineHome, retrain: Retrain) -> int:
    """Sequence of the champion that the candidate stood against; 0 if there was none.

    The latest one: a version that came back by a rollback has several.
    """
    comparison = report_of(place, retrain).comparison
    if comparison is None:
        return 0
    stood = place.ledger.promotion_of(place.name, version=comparison.version)
    if stood is None:
        raise TerminalError(
            f"Retrain {retrain.id} was compared with version {comparison.version}, which never was champion."
        )
    return stood.sequence


def _card(place: PipelineHome, retrain: Retrain) -> str:
    """The model card of a retrain's candidate."""
    from mlops_pipelines.model_card import model_card

    rules = place.contract.events.columns
    model = place.home.registry.load(
        place.name, str(retrain.mlflow_version), model_hash=str(retrain.model_hash)
    )
    return model_card(
        place.spec,
        report_of(place, retrain),
        place.ledger.verdicts(retrain.id),
        version=str(retrain.mlflow_version),
        dataset_version=str(retrain.dataset_version),
        facts={"Retrain": f"{retrain.id}, {retrain.reason}", "Commit": model.facts["commit"]["sha"]},
        sensitive=[name for name, rule in rules.items() if rule.sensitive],
        params=model.refit.params,
        trainer=model.refit.trainer,
        reproducible=model.facts.get("reproducible", True),
    )
