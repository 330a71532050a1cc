"""Retrains: admitted once, carried through by the holder of the live token, finished once."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from mlops_pipelines import policy as policies
from mlops_pipelines.audit import GATES, NOBODY
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.records import Records
from mlops_pipelines.ledger.store import lock
from mlops_pipelines.ledger.tables import pipelines, promotions, retrains, triggers
from mlops_pipelines.ledger.triggers import pending_of
from mlops_pipelines.ledger.verdicts import candidate_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from mlops_pipelines.audit import Kind
    from mlops_pipelines.ledger.store import AnyRow
    from mlops_pipelines.policy import Admit, Hold, Pending, State
    from mlops_pipelines.spec import Policy

    Decide = Callable[[Pending | None, State, Policy, datetime], Admit | Hold]

RetrainStatus = Literal[
    "running", "lost", "waiting", "promoted", "rejected", "failed", "nothing", "expired", "rolled_back",
]  # fmt: skip
RETRAIN_STATUSES: tuple[RetrainStatus, ...] = (
    "running", "lost", "waiting", "promoted", "rejected", "failed", "nothing", "expired", "rolled_back",
)  # fmt: skip
Ending = Literal["promoted", "rejected", "failed", "nothing", "expired"]

UNFINISHED = ("running", "lost")
# Kinds of a promotion by which a candidate becomes champion for the first time.
FIRST = ("gates", "approval")
# Count towards the breaker.
FAILURES = ("failed", "rejected", "rolled_back")
# Proved something about the data they were admitted on.
TRIED = ("promoted", "rejected", "nothing", "waiting", "expired", "rolled_back")
# Endings by which a candidate does not become champion, and the kind of their record.
_RECORDED: Mapping[str, Kind] = {"rejected": "rejection", "expired": "expiry"}
# A run that is lost three times over is more likely the cause than the victim.
MAX_LOSSES = 3


class StaleTokenError(TerminalError):
    """Another attempt carries the retrain on, or it has ended: this one has no authority left."""


@dataclass(frozen=True)
class Retrain:
    """A retrain from its admission to its end.

    seq: its number in the pipeline, from 1. status: running, lost (its run died; the next run takes it
    up), or its ending; waiting: its run has ended, and people decide on its candidate. watermark: the
    home's clock at admission, UTC; what it may look at.
    token: authority of the attempt that runs now, or ran last. started_at: the home's clock when that
    attempt began. losses: attempts whose run was lost and not interrupted. data_mark: names the data it was
    admitted on.
    reason: why it was admitted, a sentence. trigger_kinds: kinds of what it answers, that of the served one
    first. dataset_version ... mlflow_run_id: the candidate, None until there is one; cutoff: UTC;
    feature_set: version of the set that made its rows.
    outcome, finished_at: how and when it ended.
    """

    id: str
    pipeline: str
    seq: int
    status: RetrainStatus
    watermark: datetime
    token: str
    run_id: str
    started_at: datetime
    losses: int
    data_mark: str
    reason: str
    trigger_kinds: tuple[str, ...]
    dataset_version: str | None
    feature_set: str | None
    matured_rows: int | None
    cutoff: datetime | None
    model_hash: str | None
    mlflow_version: str | None
    mlflow_run_id: str | None
    outcome: str | None
    finished_at: datetime | None


@dataclass(frozen=True)
class Admitted:
    """The run may go on with this retrain. taken_up: an earlier run began it and was lost."""

    retrain: Retrain
    taken_up: bool
    sentence: str


@dataclass(frozen=True)
class Held:
    """The run ends at once as a success that did nothing."""

    hold: Hold

    @property
    def sentence(self) -> str:
        return self.hold.sentence


class Retrains(Records):
    """Admission, fencing, loss and end of retrains."""

    def state(self, pipeline: str, *, data_mark: str | None = None) -> State:
        """What the policy asks about a pipeline, in a fixed number of statements.

        data_mark: names the data a retrain admitted now would see; None leaves `tried_by` empty.
        """
        with self._reading() as connection:
            return _state(connection, pipeline, data_mark)

    def decision(
        self,
        pipeline: str,
        *,
        now: datetime,
        policy: Policy,
        data_mark: str,
        decide: Decide = policies.decide,
    ) -> Admit | Hold:
        """What `admit` would decide now; nothing is written."""
        with self._reading() as connection:
            state = _state(connection, pipeline, data_mark)
            return decide(pending_of(connection, pipeline), state, policy, now)

    def admit(
        self,
        pipeline: str,
        *,
        now: datetime,
        policy: Policy,
        run_id: str,
        data_mark: str,
        decide: Decide = policies.decide,
    ) -> Admitted | Held:
        """Admit a retrain for this run, or say what holds it. One transaction.

        A lost retrain is taken up again: same id and watermark, new token, no new charge to the budget.
        The run that already carries the retrain in flight gets it again.
        now: the home's clock, UTC. data_mark: names the data the retrain would see.
        """
        with self._writing() as connection:
            lock(connection, pipeline)
            unfinished = _unfinished(connection, pipeline)
            if unfinished is not None and (unfinished.status, unfinished.run_id) == ("running", run_id):
                taken_up = unfinished.losses > 0
                return Admitted(_retrain(connection, unfinished.id), taken_up, unfinished.reason)
            state = _state(connection, pipeline, data_mark)
            decision = decide(pending_of(connection, pipeline), state, policy, now)
            if isinstance(decision, policies.Hold):
                return Held(decision)
            if decision.takes_up is not None:
                _take_up(connection, decision.takes_up, run_id, now)
                return Admitted(_retrain(connection, decision.takes_up), True, decision.sentence)
            retrain_id = _begin(connection, pipeline, decision, run_id=run_id, data_mark=data_mark, now=now)
            bucket = policies.charge(state.bucket, policy.budget, now)
            connection.execute(
                pipelines.update()
                .where(pipelines.c.name == pipeline)
                .values(budget_spent=str(bucket.spent), budget_as_of=bucket.as_of)
            )
            return Admitted(_retrain(connection, retrain_id), False, decision.sentence)

    def check_token(self, retrain_id: str, token: str) -> None:
        """Raises StaleTokenError unless `token` is the retrain's live one."""
        with self._reading() as connection:
            _check(row_of(connection, retrain_id), token)

    def mark_lost(self, run_id: str, at: datetime, *, charged: bool = True) -> Retrain | None:
        """Record that a run is gone. The retrain it carried, or None if it carried none any more.

        The third loss that is charged ends the retrain: as failed, or as promoted where its promotion stands.
        at: the home's clock, UTC. charged: False where the run was interrupted from outside.
        """
        with self._writing() as connection:
            row = connection.execute(
                sa.select(retrains.c.id, retrains.c.pipeline).where(
                    retrains.c.run_id == run_id, retrains.c.status == "running"
                )
            ).one_or_none()
            if row is None:
                return None
            lock(connection, row.pipeline)
            retrain = row_of(connection, row.id)
            if (retrain.run_id, retrain.status) != (run_id, "running"):
                return None
            _lose(connection, retrain, at, charged=charged)
            return _retrain(connection, retrain.id)

    def record_training_set(
        self, retrain_id: str, token: str, *, dataset_version: str, feature_set: str, matured_rows: int
    ) -> None:
        """Record what a retrain learns from, before it has a candidate. Raises StaleTokenError.

        feature_set: version of the set its rows were made by.
        """
        with self._writing() as connection:
            authority(connection, retrain_id, token)
            connection.execute(
                retrains.update()
                .where(retrains.c.id == retrain_id)
                .values(dataset_version=dataset_version, feature_set=feature_set, matured_rows=matured_rows)
            )

    def record_candidate(
        self,
        retrain_id: str,
        token: str,
        *,
        dataset_version: str,
        model_hash: str,
        mlflow_version: str,
        mlflow_run_id: str,
        cutoff: datetime,
        matured_rows: int,
    ) -> None:
        """Record the candidate a retrain made. A later attempt's candidate takes its place.

        cutoff: moment of the last training row, UTC. matured_rows: labelled rows the window held.
        Raises StaleTokenError; TerminalError if another model was already promoted for this retrain.
        """
        with self._writing() as connection:
            authority(connection, retrain_id, token)
            promoted = promoted_hash(connection, retrain_id)
            if promoted not in (None, model_hash):
                raise TerminalError(
                    f"Retrain {retrain_id} has promoted the model {promoted} and made another, {model_hash}.",
                    expected="the same data and seed to give the same model",
                )
            connection.execute(
                retrains.update()
                .where(retrains.c.id == retrain_id)
                .values(
                    dataset_version=dataset_version,
                    model_hash=model_hash,
                    mlflow_version=mlflow_version,
                    mlflow_run_id=mlflow_run_id,
                    cutoff=cutoff,
                    matured_rows=matured_rows,
                )
            )

    def finish_retrain(
        self,
        retrain_id: str,
        token: str,
        *,
        status: Ending,
        reason: str,
        at: datetime,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """End a retrain. Its last attempt may repeat the call with the same status.

        reason: a sentence. at: the home's clock, UTC. about: what the record of a rejection or an expiry says
        of the candidate, besides what the ledger knows. expired: another model became champion meanwhile.
        Raises StaleTokenError; TerminalError unless `promoted` goes with a promotion, and only that.
        """
        with self._writing() as connection:
            row = locked_row(connection, retrain_id)
            if (row.token, row.status) == (token, status):
                return
            _check(row, token)
            if (status == "promoted") != (promoted_hash(connection, retrain_id) is not None):
                has = "has no promotion" if status == "promoted" else "has been promoted"
                raise TerminalError(f"Retrain {retrain_id} {has} and cannot end as {status}.")
            if status in _RECORDED:
                facts = {**candidate_facts(connection, row), **(about or {})}
                kind = _RECORDED[status]
                by = GATES if status == "rejected" else NOBODY
                self._append(connection, row.pipeline, kind, facts, by=by, why=reason, at=at)
            end(connection, retrain_id, status, reason, at)

    def in_flight(self, pipeline: str) -> Retrain | None:
        """The retrain that is running or lost; None if there is none."""
        with self._reading() as connection:
            row = _unfinished(connection, pipeline)
            return None if row is None else _retrain(connection, row.id)

    def last_candidate(self, pipeline: str) -> Retrain | None:
        """The latest retrain that got as far as a candidate; None if none did."""
        query = (
            sa.select(retrains)
            .where(retrains.c.pipeline == pipeline, retrains.c.model_hash.is_not(None))
            .order_by(retrains.c.seq.desc())
            .limit(1)
        )
        with self._reading() as connection:
            return next(iter(_retrains(connection, query)), None)

    def retrain(self, retrain_id: str) -> Retrain:
        """The retrain with this id. Raises TerminalError if there is none."""
        with self._reading() as connection:
            return _retrain(connection, retrain_id)

    def retrains(self, pipeline: str, limit: int | None = None) -> list[Retrain]:
        """Retrains in the order of their admission; with `limit` the latest ones."""
        query = (
            sa.select(retrains)
            .where(retrains.c.pipeline == pipeline)
            .order_by(retrains.c.seq.desc())
            .limit(limit)
        )
        with self._reading() as connection:
            return _retrains(connection, query)[::-1]

    def pause(self, pipeline: str, on: bool, *, by: str, reason: str, at: datetime) -> bool:
        """Hold all retrains of a pipeline back, or let them go on. Whether that changed anything."""
        with self._writing() as connection:
            lock(connection, pipeline)
            paused = connection.execute(sa.select(pipelines.c.paused).where(pipelines.c.name == pipeline))
            if (paused.scalar_one() is not None) == on:
                return False
            connection.execute(
                pipelines.update()
                .where(pipelines.c.name == pipeline)
                .values(paused=f"{by}: {reason}" if on else None)
            )
            kind: Kind = "pause" if on else "resume"
            self._append(connection, pipeline, kind, {}, by=by, why=reason, at=at)
            return True


def _state(connection: Connection, pipeline: str, data_mark: str | None) -> policies.State:
    columns = retrains.c
    mine = columns.pipeline == pipeline
    handles = connection.execute(sa.select(pipelines).where(pipelines.c.name == pipeline)).one_or_none()
    unfinished = _unfinished(connection, pipeline)
    finished = connection.execute(
        sa.select(columns.id, columns.finished_at)
        .where(mine, columns.finished_at.is_not(None))
        .order_by(columns.finished_at.desc(), columns.seq.desc())
        .limit(1)
    ).one_or_none()
    failure = _last_failure(connection, pipeline)
    return policies.State(
        paused=None if handles is None else handles.paused,
        in_flight=unfinished.id if unfinished is not None and unfinished.status == "running" else None,
        lost=unfinished.id if unfinished is not None and unfinished.status == "lost" else None,
        last_retrain=None if finished is None else finished.id,
        last_finished_at=None if finished is None else finished.finished_at,
        bucket=policies.Bucket()
        if handles is None
        else policies.Bucket(Fraction(handles.budget_spent), handles.budget_as_of),
        failures=0 if failure is None else failure.failures,
        last_failed=None if failure is None else failure.id,
        last_failed_at=None if failure is None else failure.finished_at,
        tried_by=None if data_mark is None else _tried_by(connection, pipeline, data_mark),
    )


def _last_failure(connection: Connection, pipeline: str) -> AnyRow | None:
    """Of the failed, rejected or rolled-back retrains since the last promoted one the one that ended so
    last, and how many such `failures` there are.

    A retrain that ended with nothing to do is neither good nor bad.
    """
    columns = retrains.c
    last_promoted = (
        sa.select(sa.func.coalesce(sa.func.max(columns.seq), 0))
        .where(columns.pipeline == pipeline, columns.status == "promoted")
        .scalar_subquery()
    )
    query = (
        sa.select(columns.id, columns.finished_at, sa.func.count().over().label("failures"))
        .where(
            columns.pipeline == pipeline,
            columns.status.in_(FAILURES),
            columns.seq > last_promoted,
        )
        .order_by(columns.finished_at.desc(), columns.seq.desc())
        .limit(1)
    )
    return connection.execute(query).one_or_none()


def _tried_by(connection: Connection, pipeline: str, data_mark: str) -> str | None:
    """The latest retrain carried through on this data by these rules.

    A failed one does not count: it proved nothing about the data, and the breaker paces what follows. One
    that was rolled back counts by whatever rules, and so does one of before the mark named them: other gates
    do not make the model another.
    """
    columns = retrains.c
    data = data_mark.partition(":")[0]
    query = (
        sa.select(columns.id)
        .where(
            columns.pipeline == pipeline,
            sa.or_(
                columns.data_mark.in_([data_mark, data]),
                sa.and_(columns.status == "rolled_back", columns.data_mark.startswith(data, autoescape=True)),
            ),
            columns.status.in_(TRIED),
        )
        .order_by(columns.seq.desc())
        .limit(1)
    )
    tried_by: str | None = connection.execute(query).scalar_one_or_none()
    return tried_by


def _unfinished(connection: Connection, pipeline: str) -> AnyRow | None:
    return connection.execute(
        sa.select(retrains).where(retrains.c.pipeline == pipeline, retrains.c.status.in_(UNFINISHED))
    ).one_or_none()


def latest_of(connection: Connection, pipeline: str, version: str) -> AnyRow | None:
    """The retrain whose candidate has this version; the latest, where MLflow gave a number twice."""
    return connection.execute(
        sa.select(retrains)
        .where(retrains.c.pipeline == pipeline, retrains.c.mlflow_version == version)
        .order_by(retrains.c.seq.desc())
        .limit(1)
    ).one_or_none()


def _begin(
    connection: Connection, pipeline: str, decision: Admit, *, run_id: str, data_mark: str, now: datetime
) -> str:
    """Insert the admitted retrain and end its triggers: one is served, all others that wait fold. Its id."""
    last = sa.select(sa.func.coalesce(sa.func.max(retrains.c.seq), 0)).where(retrains.c.pipeline == pipeline)
    seq = connection.execute(last).scalar_one() + 1
    # Numbered, not random: a replay that is killed and repeated gives the same ids.
    retrain_id = f"{pipeline}-{seq:05d}"
    connection.execute(
        retrains.insert().values(
            id=retrain_id,
            pipeline=pipeline,
            seq=seq,
            status="running",
            watermark=now,
            token=secrets.token_hex(16),
            run_id=run_id,
            started_at=now,
            data_mark=data_mark,
            reason=decision.sentence,
        )
    )
    for which, status, reason in (
        (triggers.c.id == decision.serves, "served", f"served by retrain {retrain_id}"),
        (sa.true(), "folded", f"folded into retrain {retrain_id}"),
    ):
        connection.execute(
            triggers.update()
            .where(triggers.c.pipeline == pipeline, triggers.c.status == "pending", which)
            .values(status=status, reason=reason, retrain_id=retrain_id, ended_at=now)
        )
    return retrain_id


def _take_up(connection: Connection, retrain_id: str, run_id: str, now: datetime) -> None:
    connection.execute(
        retrains.update()
        .where(retrains.c.id == retrain_id)
        .values(status="running", token=secrets.token_hex(16), run_id=run_id, started_at=now)
    )


def _lose(connection: Connection, row: AnyRow, at: datetime, *, charged: bool) -> None:
    losses = row.losses + charged
    connection.execute(retrains.update().where(retrains.c.id == row.id).values(status="lost", losses=losses))
    if losses < MAX_LOSSES:
        return
    if promoted_hash(connection, row.id) is not None:
        outcome = f"promoted; its run was lost {losses} times before it could end the retrain itself"
        end(connection, row.id, "promoted", outcome, at)
    else:
        end(connection, row.id, "failed", f"its run was lost {losses} times, the last {row.run_id}", at)


def end(
    connection: Connection,
    retrain_id: str,
    status: RetrainStatus,
    outcome: str,
    at: datetime,
    *,
    anew: bool = True,
) -> None:
    """A retrain's status and outcome, and when it came to it. at: the home's clock, UTC.

    anew: False where the moment of an end that it had already stays.
    """
    column = retrains.c.finished_at
    now = sa.bindparam("at", at, column.type)
    connection.execute(
        retrains.update()
        .where(retrains.c.id == retrain_id)
        .values(status=status, outcome=outcome, finished_at=now if anew else sa.func.coalesce(column, now))
    )


def authority(connection: Connection, retrain_id: str, token: str) -> AnyRow:
    """The retrain's row, locked, if `token` is its live one; StaleTokenError otherwise."""
    row = locked_row(connection, retrain_id)
    _check(row, token)
    return row


def locked_row(connection: Connection, retrain_id: str) -> AnyRow:
    lock(connection, row_of(connection, retrain_id).pipeline)
    return row_of(connection, retrain_id)


def _check(row: AnyRow, token: str) -> None:
    if (row.status, row.token) == ("running", token):
        return
    now = f"is {row.status}" if row.status != "running" else f"is carried on by run {row.run_id}"
    raise StaleTokenError(
        f"This attempt has lost its authority over retrain {row.id}, which {now}.",
        remedy="let this run end; `mlops status` shows what became of the retrain",
    )


def row_of(connection: Connection, retrain_id: str) -> AnyRow:
    """The retrain's row. Raises TerminalError if there is none."""
    row = connection.execute(sa.select(retrains).where(retrains.c.id == retrain_id)).one_or_none()
    if row is None:
        raise TerminalError(f"The ledger knows no retrain {retrain_id}.")
    return row


def promoted_hash(connection: Connection, retrain_id: str) -> str | None:
    """Hash of the model that a retrain has made champion by itself; None if it has not."""
    query = sa.select(promotions.c.model_hash).where(
        promotions.c.retrain_id == retrain_id, promotions.c.kind.in_(FIRST)
    )
    model_hash: str | None = connection.execute(query).scalar_one_or_none()
    return model_hash


def _retrain(connection: Connection, retrain_id: str) -> Retrain:
    found = _retrains(connection, sa.select(retrains).where(retrains.c.id == retrain_id))
    if not found:
        raise TerminalError(f"The ledger knows no retrain {retrain_id}.")
    return found[0]


def _retrains(connection: Connection, query: sa.Select[tuple[object, ...]]) -> list[Retrain]:
    rows = connection.execute(query).all()
    answered: dict[str, list[str]] = {row.id: [] for row in rows}
    # Served before folded, and each kind once, however many there were.
    folded = sa.func.min(sa.case((triggers.c.status == "folded", 1), else_=0))
    for kind, retrain_id in connection.execute(
        sa.select(triggers.c.kind, triggers.c.retrain_id)
        .where(triggers.c.retrain_id.in_(answered))
        .group_by(triggers.c.retrain_id, triggers.c.kind)
        .order_by(folded, triggers.c.kind)
    ):
        answered[retrain_id].append(kind)
    return [
        Retrain(
            id=row.id,
            pipeline=row.pipeline,
            seq=row.seq,
            status=row.status,
            watermark=row.watermark,
            token=row.token,
            run_id=row.run_id,
            started_at=row.started_at,
            losses=row.losses,
            data_mark=row.data_mark,
            reason=row.reason,
            trigger_kinds=tuple(answered[row.id]),
            dataset_version=row.dataset_version,
            feature_set=row.feature_set,
            matured_rows=row.matured_rows,
            cutoff=row.cutoff,
            model_hash=row.model_hash,
            mlflow_version=row.mlflow_version,
            mlflow_run_id=row.mlflow_run_id,
            outcome=row.outcome,
            finished_at=row.finished_at,
        )
        for row in rows
    ]
