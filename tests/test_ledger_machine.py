"""The ledger and the policy together, move by move, against a plain model of both."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import event

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger import Admitted, Held, Ledger, PromotionConflictError, StaleTokenError
from mlops_pipelines.signing import Keys
from mlops_pipelines.spec import Policy
from tests.policy_model import START, Model, ModelRetrain, P, at

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_pipelines.ledger import Promotion, Retrain, Trigger
    from mlops_pipelines.policy import Admit, Hold

pytestmark = pytest.mark.proof

HOUR = 3600
POLICIES = [
    {"cooldown": "0s", "budget": {"retrains": 2, "per": "7h"}, "breaker": {"after": 1, "backoff": "1h"}},
    {"cooldown": "2h", "budget": {"retrains": 3, "per": "1d"}, "breaker": {"after": 2, "backoff": "3h"}},
    {"cooldown": "1h", "budget": {"retrains": 50, "per": "1d"}, "breaker": {"after": 2, "backoff": "1h"}},
    {"cooldown": "1h", "budget": {"retrains": 9, "per": "1d"}, "quiet_hours": "20:00-06:30"},
    {"cooldown": "0s", "budget": {"retrains": 9, "per": "1d"}, "quiet_hours": "02:00-03:00"},
    {"mode": "observe"},
    {},
]


class BrokenOffError(Exception):
    """Stands for whatever ends a process inside a transaction."""


class LedgerMachine(RuleBasedStateMachine):
    """Sensors that append, runs that ask, die, come back as zombies, promote; a clock that moves."""

    # How often each thing happened, over all examples of a session: what the test really saw.
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-machine-"))
        self.ledger = self.opened()
        self.model = Model(Policy())
        self.runs = 0
        self.waiting_for: int | None = None

    def opened(self) -> Ledger:
        ledger = Ledger(f"sqlite:///{self.folder / 'ledger.db'}", keys=Keys(self.folder / "keys"))
        # No power is cut here, and waiting for the disk is most of the time.
        event.listen(ledger._engine, "connect", lambda c, _: c.execute("PRAGMA synchronous = OFF"))
        return ledger

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    @property
    def running(self) -> ModelRetrain:
        retrain = self.model.open
        assert retrain is not None
        return retrain

    def is_running(self) -> bool:
        retrain = self.model.open
        return retrain is not None and retrain.state == "running"

    def rows(self) -> list[list[tuple[Any, ...]]]:
        connection = sqlite3.connect(self.folder / "ledger.db")
        tables = ("pipelines", "triggers", "retrains", "verdicts", "promotions")
        rows = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]  # noqa: S608
        connection.close()
        return rows

    def ask(self, run: str, **more: Any) -> Admitted | Held:
        model = self.model
        return self.ledger.admit(
            P, now=at(model.now), policy=model.rules, run_id=run, data_mark=str(model.mark), **more
        )

    # --- the world moves

    @initialize(rules=st.sampled_from(POLICIES))
    def choose_policy(self, rules: dict[str, Any]) -> None:
        self.model.rules = Policy.model_validate(rules)

    @rule(seconds=st.sampled_from([1, 1800, HOUR, 2 * HOUR, 5 * HOUR, 24 * HOUR, 4 * 24 * HOUR]))
    def time_passes(self, seconds: int) -> None:
        self.model.now += seconds

    @precondition(lambda self: self.model.now)
    @rule(seconds=st.sampled_from([1, HOUR, 30 * HOUR]))
    def the_clock_is_set_back(self, seconds: int) -> None:
        self.model.now = max(0, self.model.now - seconds)

    @precondition(lambda self: self.waiting_for is not None)
    @rule(early=st.booleans())
    def time_passes_to_the_end_of_a_hold(self, early: bool) -> None:
        assert self.waiting_for is not None
        self.model.now = max(self.model.now, self.waiting_for - early)

    @rule()
    def data_arrives(self) -> None:
        self.model.mark += 1

    @rule(on=st.booleans())
    def a_person_pauses_or_resumes(self, on: bool) -> None:
        self.ledger.pause(P, on, by="ann", reason="as it pleases her", at=at(self.model.now))
        self.model.paused = on

    @rule()
    def the_process_is_replaced(self) -> None:
        self.ledger.close()
        self.ledger = self.opened()

    # --- triggers

    @rule(
        number=st.integers(0, 9),
        kind=st.sampled_from(["drift", "labels"]),
        urgent=st.booleans(),
        looked=st.sampled_from(["now", "now", "before the latest retrain", "before the champion"]),
    )
    def a_sensor_appends(self, number: int, kind: str, urgent: bool, looked: str) -> None:
        key, seen, retrains = f"{kind} {number}", self.ledger.stands(P), self.model.retrains
        if looked == "before the latest retrain" and retrains:
            seen = replace(seen, retrain=retrains[-2].id if len(retrains) > 1 else "first")
        if looked == "before the champion" and self.model.promotions:
            seen = replace(seen, champion=seen.champion - 1)
        outdated = seen != self.ledger.stands(P)
        new = key not in self.model.pending and key not in self.model.ended and not outdated
        now = at(self.model.now)
        assert self.ledger.append_trigger(P, kind, key, {}, now, urgent=urgent, seen=seen) == new
        self.seen["appended on outdated evidence"] += outdated
        if new:
            self.model.pending[key] = urgent

    def its_champion_changed(self) -> None:
        """What was asked for because of the one before asks no more."""
        for key in [key for key in self.model.pending if key.startswith("drift")]:
            self.seen["expired"] += 1
            del self.model.pending[key]
            self.model.ended[key] = "expired"

    # --- runs

    def a_run_asks(self) -> None:
        self.runs += 1
        run = f"run-{self.runs}"
        expected = self.model.verdict()
        before = self.rows()
        decision = self.ledger.decision(
            P, now=at(self.model.now), policy=self.model.rules, data_mark=str(self.model.mark)
        )
        answer = self.ask(run)
        assert answer.sentence == decision.sentence
        if isinstance(answer, Held):
            self.seen[f"held: {answer.hold.reason}"] += 1
            assert answer.hold.reason in expected
            # The pipeline's own row may be new.
            assert self.rows()[1:] == before[1:]
            self.remember_end(answer.hold)
        elif answer.taken_up:
            self.seen["taken up"] += 1
            assert expected == {"take up"}
            retrain = self.running
            assert (answer.retrain.id, answer.retrain.watermark) == (retrain.id, at(retrain.admitted))
            assert answer.retrain.token not in (retrain.token, *retrain.old_tokens)
            assert self.rows()[0] == before[0]
            retrain.old_tokens.append(retrain.token)
            retrain.token, retrain.run, retrain.state = answer.retrain.token, run, "running"
        else:
            self.seen["admitted"] += 1
            assert expected == {"admit"}
            self.remember_admission(answer, run)

    def remember_end(self, hold: Hold) -> None:
        if hold.until is not None:
            assert hold.until > at(self.model.now)
        # A breaker that doubled often is open for longer than the calendar has years.
        if hold.until is not None and hold.until < at(self.model.now) + timedelta(days=365):
            seconds = (hold.until - START) / timedelta(seconds=1)
            self.waiting_for = -int(-seconds // 1)

    def remember_admission(self, answer: Admitted, run: str) -> None:
        model = self.model
        retrain = ModelRetrain(
            number=len(model.retrains) + 1,
            run=run,
            token=answer.retrain.token,
            mark=str(model.mark),
            admitted=model.now,
            triggers=set(model.pending),
        )
        assert (answer.retrain.id, answer.retrain.watermark) == (retrain.id, at(model.now))
        assert len(self.ledger.triggers_of(retrain.id)) == len(retrain.triggers)
        model.retrains.append(retrain)
        model.ended.update(dict.fromkeys(model.pending, retrain.id))
        model.pending.clear()

    @precondition(is_running)
    @rule()
    def the_same_run_asks_again(self) -> None:
        before = self.rows()
        answer = self.ask(self.running.run)
        assert isinstance(answer, Admitted)
        assert answer.retrain.token == self.running.token
        assert self.rows() == before

    @rule(mark=st.booleans())
    def a_run_dies_while_it_is_admitted(self, mark: bool) -> None:
        self.model.mark += mark

        def broken_off(*_: Any) -> Admit | Hold:
            raise BrokenOffError

        before = self.rows()
        with pytest.raises(BrokenOffError):
            self.ask("a run that dies", decide=broken_off)
        assert self.rows()[1:] == before[1:]

    @precondition(is_running)
    @rule(times=st.integers(1, 2))
    def the_run_is_lost(self, times: int) -> None:
        """It failed, or was deleted while it held the token; whoever looks twice marks it twice."""
        retrain = self.running
        for _ in range(times):
            self.ledger.mark_lost(retrain.run, at(self.model.now))
        retrain.losses += 1
        retrain.state = "lost"
        if retrain.losses == 3:
            self.seen["lost for good"] += 1
            retrain.state = "promoted" if retrain.promoted_model else "failed"
            retrain.ended = self.model.now

    @precondition(is_running)
    @rule()
    def the_run_is_ended_from_outside(self) -> None:
        """With the daemon, say: that is not charged to the retrain."""
        retrain = self.running
        self.ledger.mark_lost(retrain.run, at(self.model.now), charged=False)
        retrain.state = "lost"

    # --- effects

    @precondition(is_running)
    @rule(model=st.sampled_from(["m1", "m2"]))
    def a_candidate_is_made(self, model: str) -> None:
        retrain = self.running
        if retrain.promoted_model not in (None, model):
            with pytest.raises(TerminalError, match="made another"):
                self.record(retrain, retrain.token, model)
            return
        self.record(retrain, retrain.token, model)
        retrain.model = model

    @precondition(lambda self: self.is_running() and self.running.model is not None)
    @rule(
        outcomes=st.dictionaries(
            st.sampled_from(["skill", "champion", "latency"]),
            st.sampled_from(["pass", "pass", "pass", "not_applicable", "fail"]),
        )
    )
    def it_is_judged(self, outcomes: dict[str, str]) -> None:
        retrain = self.running
        assert retrain.model is not None
        if retrain.promoted_model and not set(outcomes) <= set(retrain.judged[retrain.promoted_model]):
            with pytest.raises(TerminalError, match="none can be added"):
                self.judge(retrain, retrain.token, outcomes)
            return
        self.judge(retrain, retrain.token, outcomes)
        standing = retrain.judged.setdefault(retrain.model, {})
        for gate, outcome in outcomes.items():
            standing.setdefault(gate, outcome)
        # Only the model judged last counts as judged: what comes before another one is made again.
        retrain.judged = {retrain.model: standing} | retrain.judged

    @precondition(lambda self: self.is_running() and self.running.model is not None)
    @rule(model=st.sampled_from(["m1", "m2", "own"]), off_by=st.sampled_from([0, 0, 0, -1, 1]))
    def it_is_promoted(self, model: str, off_by: int) -> None:
        retrain, promotions = self.running, self.model.promotions
        model = retrain.model if model == "own" and retrain.model else model
        expected = len(promotions) + off_by
        before = self.rows()
        if retrain.promoted_model == model:
            assert self.promote(retrain, retrain.token, model, expected).model_hash == model
            assert self.rows() == before
            return
        judged = self.ledger.retrain(retrain.id).model_hash == model and model in retrain.judged
        proven = judged and "fail" not in retrain.judged[model].values()
        # A clock that was set back would change who served in between.
        due = proven and (not promotions or self.model.now >= promotions[-1][2])
        if retrain.promoted_model is None and due and self.last_judged(retrain) == model and not off_by:
            promotion = self.promote(retrain, retrain.token, model, expected)
            self.seen["promoted"] += 1
            assert promotion.sequence == len(promotions) + 1
            retrain.promoted_model = model
            promotions.append((retrain.id, model, self.model.now))
            self.its_champion_changed()
            return
        self.seen["promotion refused"] += 1
        with pytest.raises(TerminalError) as refusal:
            self.promote(retrain, retrain.token, model, expected)
        if isinstance(refusal.value, PromotionConflictError):
            assert off_by
        assert self.rows() == before

    def last_judged(self, retrain: ModelRetrain) -> str | None:
        return next(iter(retrain.judged), None)

    @precondition(is_running)
    @rule(status=st.sampled_from(["promoted", "rejected", "rejected", "failed", "nothing"]))
    def it_ends(self, status: str) -> None:
        retrain = self.running
        if (status == "promoted") != (retrain.promoted_model is not None):
            with pytest.raises(TerminalError, match="cannot end as"):
                self.finish(retrain, retrain.token, status)
            return
        for _ in range(2):
            self.finish(retrain, retrain.token, status)
        self.seen[f"ended: {status}"] += 1
        retrain.state, retrain.ended = status, self.model.now

    @precondition(lambda self: self.model.retrains)
    @rule(data=st.data())
    def a_zombie_tries(self, data: st.DataObject) -> None:
        retrain = data.draw(st.sampled_from(self.model.retrains))
        stale = [*retrain.old_tokens, "made up"]
        if retrain.state == "lost":
            stale.append(retrain.token)
        token = data.draw(st.sampled_from(stale))
        effects: list[Callable[[], object]] = [
            lambda: self.ledger.check_token(retrain.id, token),
            lambda: self.record(retrain, token, "m1"),
            lambda: self.judge(retrain, token, {"skill": "pass"}),
            lambda: self.promote(retrain, token, "m1", len(self.model.promotions)),
            lambda: self.finish(retrain, token, "rejected"),
        ]
        self.refused(effects)

    def refused(self, effects: list[Callable[[], object]]) -> None:
        """Each effect is refused for its token, and none leaves a trace."""
        before = self.rows()
        for effect in effects:
            self.seen["stale token refused"] += 1
            with pytest.raises(StaleTokenError):
                effect()
        assert self.rows() == before

    @precondition(lambda self: any(r.ended is not None for r in self.model.retrains))
    @rule(data=st.data())
    def an_ended_attempt_tries(self, data: st.DataObject) -> None:
        retrain = data.draw(st.sampled_from([r for r in self.model.retrains if r.ended is not None]))
        status = data.draw(st.sampled_from(["promoted", "rejected", "failed", "nothing"]))
        effects: list[Callable[[], object]] = [
            lambda: self.ledger.check_token(retrain.id, retrain.token),
            lambda: self.record(retrain, retrain.token, "m1"),
            lambda: self.judge(retrain, retrain.token, {"skill": "pass"}),
        ]
        if status != retrain.state:
            effects.append(lambda: self.finish(retrain, retrain.token, status))
        self.refused(effects)

    def record(self, retrain: ModelRetrain, token: str, model: str) -> None:
        self.ledger.record_candidate(
            retrain.id,
            token,
            dataset_version="d",
            model_hash=model,
            mlflow_version="1",
            mlflow_run_id="r",
            cutoff=START,
            matured_rows=1,
        )

    def judge(self, retrain: ModelRetrain, token: str, outcomes: dict[str, str]) -> None:
        plain = {"figure": 0.1, "bound": 0.1, "interval": None, "sentence": "so it is"}
        given = [{"gate": gate, "outcome": outcome, **plain} for gate, outcome in outcomes.items()]
        self.ledger.record_verdicts(retrain.id, token, given, at(self.model.now))

    def promote(self, retrain: ModelRetrain, token: str, model: str, expected: int) -> Any:
        return self.ledger.promote(
            P,
            retrain_id=retrain.id,
            token=token,
            expected_sequence=expected,
            model_hash=model,
            mlflow_version="1",
            at=at(self.model.now),
        )

    def finish(self, retrain: ModelRetrain, token: str, status: Any) -> None:
        self.ledger.finish_retrain(
            retrain.id, token, status=status, reason="so it ended", at=at(self.model.now)
        )

    # --- whole stories, so that few moves reach far

    # Without arguments and first by name: Hypothesis fills up with it when its choices run out.
    @rule()
    def a_new_trigger_finds_a_run(self) -> None:
        """What is in flight ends; a trigger, and a run that asks when the hold it knows of is over."""
        if self.is_running() and self.runs % 4 == 0:
            self.the_run_is_lost(1)
        elif self.is_running():
            self.the_run_goes_on("fail" if self.runs % 4 == 1 else "pass", 4)
        self.data_arrives()
        self.a_sensor_appends(100 + self.runs, "labels", False, "now")
        self.model.now = max(self.model.now, self.waiting_for or 0)
        self.a_run_asks()
        if self.is_running():
            self.a_candidate_is_made("m1")

    @rule(
        wait=st.sampled_from([0, HOUR, 24 * HOUR, 4 * 24 * HOUR]),
        outcome=st.sampled_from(["pass", "fail"]),
        moves=st.integers(1, 4),
    )
    def a_run_asks_and_goes_on(self, wait: int, outcome: str, moves: int) -> None:
        """A run that asks after a while, and the first of its moves."""
        self.time_passes(wait)
        self.a_run_asks()
        self.the_run_goes_on(outcome, moves)

    @precondition(is_running)
    @rule(outcome=st.sampled_from(["pass", "fail"]), moves=st.integers(1, 4))
    def the_run_goes_on(self, outcome: str, moves: int) -> None:
        path: list[Callable[[], None]] = [
            lambda: self.a_candidate_is_made("m1"),
            lambda: self.it_is_judged({"skill": outcome, "latency": "pass"}),
            lambda: self.it_is_promoted("m1", 0),
            lambda: self.it_ends("promoted" if self.running.promoted_model else "rejected"),
        ]
        for move in path[:moves]:
            if self.is_running():
                move()

    # --- what always holds

    @invariant()
    def the_ledger_is_the_model(self) -> None:
        retrains = self.ledger.retrains(P)
        self.check_never_two_in_flight(retrains)
        self.check_budget_in_every_window([r.watermark for r in retrains])
        self.check_triggers(self.ledger.triggers(P))
        self.check_promotions(self.ledger.promotions(P))
        assert [(r.id, r.status, r.token, r.losses, r.model_hash, r.finished_at) for r in retrains] == [
            (r.id, r.state, r.token, r.losses, r.model, None if r.ended is None else at(r.ended))
            for r in self.model.retrains
        ]

    def check_never_two_in_flight(self, retrains: list[Retrain]) -> None:
        assert sum(r.status in ("running", "lost") for r in retrains) <= 1

    def check_budget_in_every_window(self, admitted: list[datetime]) -> None:
        budget = self.model.rules.budget
        per = int(budget.per.total_seconds())
        moments = [*accumulate(admitted, max)]  # while a clock is set back nothing flows in
        for i, start in enumerate(moments):
            for count, end in enumerate(moments[i:], start=1):
                window = Fraction((end - start) // timedelta(seconds=1))
                assert count <= budget.retrains + budget.retrains * window / per

    def check_triggers(self, triggers: list[Trigger]) -> None:
        assert {t.key for t in triggers if t.status == "pending"} == set(self.model.pending)
        ended = {t.key: t.retrain_id or t.status for t in triggers if t.status != "pending"}
        assert ended == self.model.ended
        for retrain in self.model.retrains:
            statuses = sorted(t.status for t in triggers if t.retrain_id == retrain.id)
            assert statuses == ["folded"] * (len(retrain.triggers) - 1) + ["served"]

    def check_promotions(self, promotions: list[Promotion]) -> None:
        assert [(p.retrain_id, p.model_hash, p.at) for p in promotions] == [
            (retrain, model, at(seconds)) for retrain, model, seconds in self.model.promotions
        ]
        assert [p.sequence for p in promotions] == list(range(1, len(promotions) + 1))
        promoted = {r.id for r in self.model.retrains if r.promoted_model}
        assert {p.retrain_id for p in promotions} == promoted
        assert {r.id for r in self.model.retrains if r.state == "promoted"} <= promoted
        for retrain in self.model.retrains:
            if retrain.promoted_model:
                assert "fail" not in retrain.judged[retrain.promoted_model].values()


def test_ledger_and_policy_agree_with_a_plain_model(
    full: bool, sample_size: Callable[[str, int], None]
) -> None:
    LedgerMachine.seen.clear()
    run_machine(
        LedgerMachine,
        settings=settings(
            max_examples=300 if full else 15,
            stateful_step_count=60 if full else 40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    for what, n in sorted(LedgerMachine.seen.items()):
        sample_size(what, n)
