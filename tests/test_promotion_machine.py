"""Promotion, approval, rollback and adoption, move by move, against a plain model: whoever asks and whatever
crashes, nothing serves that failed a gate, and the registry heals to the ledger.

Many examples on the ledger alone, which decides; a few with a registry, which costs a hundred times as much.
"""

from __future__ import annotations

import copy
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import event

from mlops_pipelines import promoting
from mlops_pipelines.audit import faults
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ledger import MAX_LOSSES, Admitted, Ledger
from mlops_pipelines.signing import Keys
from tests.candidates import DAY, FREE, START, P, hash_in, home_of_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

pytestmark = pytest.mark.proof

VERSIONS = 8  # in the ledger
REGISTERED = 3  # in the registry
PEOPLE = st.sampled_from(["ann", "bob"])
ANY = st.integers(1, VERSIONS + 1).map(str)
# Before which durable step the process ends; often it does not.
CRASH = st.sampled_from([0, 0, 0, *range(1, 13)])
# Mostly what is asked for can be done; else it is any version, there or not.
WILD = st.sampled_from([False, False, True])
WEEK = 7


class CrashedError(BaseException):
    """The process ends here."""


class DyingClient:
    """The registry's client; whatever it writes is a durable step."""

    def __init__(self, client: Any, step: Callable[[], None]) -> None:
        self._client, self._step = client, step

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name.startswith(("set_", "delete_")):
                self._step()
            return getattr(self._client, name)(*args, **kwargs)

        return call


@dataclass
class Model:
    """The rules in plain words. day: of the clock. champions: versions, in order. state: by version.

    passed: by its gates. crowned: champions by themselves. ends: day its wait ends. losses: of its runs.
    """

    day: int = 0
    frozen: bool = False
    champions: list[str] = field(default_factory=list)
    came_from: dict[str, str | None] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    crowned: set[str] = field(default_factory=set)
    losses: Counter[str] = field(default_factory=Counter)
    ends: dict[str, int] = field(default_factory=dict)
    needed: dict[str, int] = field(default_factory=dict)
    votes: dict[str, set[str]] = field(default_factory=dict)

    @property
    def champion(self) -> str | None:
        return self.champions[-1] if self.champions else None

    @property
    def running(self) -> str | None:
        return next((version for version, state in self.state.items() if state == "running"), None)

    def crown(self, version: str, *, first: bool) -> None:
        if first:
            self.came_from.setdefault(version, self.champion)
        self.champions.append(version)
        for other, state in self.state.items():
            if state == "waiting" and other != version:
                self.state[other] = "expired"

    def expire(self) -> None:
        for version, state in self.state.items():
            if state == "waiting" and self.ends[version] <= self.day:
                self.state[version] = "expired"

    # Each says whether it is allowed, and does it.

    def promote(self, version: str, expected: int) -> bool:
        if version in self.crowned:
            return True
        if version not in self.passed or self.frozen or expected != len(self.champions):
            return False
        self.crown(version, first=True)
        self.crowned.add(version)
        return True

    def finish(self, version: str) -> bool:
        if self.state[version] == "running":
            self.state[version] = "promoted"
        return True

    def ask(self, version: str, expected: int, needed: int) -> bool:
        if version not in self.passed or version in self.crowned or expected != len(self.champions):
            return False
        self.state[version] = "waiting"
        self.needed[version], self.votes[version] = needed, set()
        self.ends[version] = self.day + WEEK
        return True

    def approve(self, version: str, by: str) -> bool:
        if self.state.get(version) != "waiting" or self.frozen or by in self.votes[version]:
            return False
        self.votes[version].add(by)
        if len(self.votes[version]) == self.needed[version]:
            self.crown(version, first=True)
            self.crowned.add(version)
            self.state[version] = "promoted"
        return True

    def reject(self, version: str) -> bool:
        if self.state.get(version) != "waiting":
            return False
        self.state[version] = "rejected"
        return True

    def roll_back(self, to: str | None) -> bool:
        if self.champion is None:
            return False
        to = to or self.came_from[self.champion]
        if to is None or to == self.champion or to not in self.champions:
            return False
        self.state[self.champion], self.state[to] = "rolled_back", "promoted"
        self.crown(to, first=False)
        return True

    def adopt(self, version: str) -> bool:
        if version not in self.passed or version == self.champion or self.frozen:
            return False
        if self.state[version] in ("running", "waiting"):
            return False
        self.crown(version, first=True)
        self.state[version] = "promoted"
        return True

    def freeze(self, on: bool) -> bool:
        self.frozen = on
        return True


class Promotions(RuleBasedStateMachine):
    """Retrains that end in every way, people who decide, and crashes, on a ledger in memory."""

    seen: ClassVar[Counter[str]] = Counter()
    keys: ClassVar[Keys]
    versions = VERSIONS
    # Durable steps of what takes most of them: two transactions.
    steps = 2

    def __init__(self) -> None:
        super().__init__()
        self.ledger = self.made()
        event.listen(self.ledger._engine, "commit", self.a_commit)
        # Durable steps until the process ends; never, while it is 0.
        self.left = 0
        self.model = Model()
        self.tokens: dict[str, tuple[str, str]] = {}
        self.old: dict[str, str] = {}
        self.move(0)

    def made(self) -> Ledger:
        return Ledger("sqlite://", keys=self.keys)

    def teardown(self) -> None:
        ledger = self.ledger
        assert faults(ledger.records(P), ledger.promotions(P), self.keys) == []
        ledger.close()

    def a_step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise CrashedError

    def a_commit(self, connection: Any) -> None:
        if "sqlite_begin" in connection.get_execution_options():
            self.a_step()

    def move(self, days: int) -> None:
        self.model.day += days

    def hash_of(self, version: str) -> str:
        return f"hash-{version}"

    # What people do; with a registry it is more.

    def approve(self, version: str, by: str) -> None:
        self.ledger.approve(P, version, model_hash=self.hash_of(version), by=by, reason="fine", at=self.now)

    def reject(self, version: str) -> None:
        self.ledger.reject(P, version, by="ann", reason="no", at=self.now)

    def roll_back(self, to: str | None) -> None:
        expected = len(self.model.champions)
        self.ledger.roll_back(P, expected_sequence=expected, to=to, by="ann", reason="worse", at=self.now)

    def adopt(self, version: str) -> None:
        self.ledger.adopt(
            P, expected_sequence=len(self.model.champions), version=version,
            model_hash=self.hash_of(version), by="ann", reason="right", at=self.now,
        )  # fmt: skip

    def freeze(self, on: bool) -> None:
        self.ledger.freeze(P, on, by="ann", reason="season", at=self.now)

    def heal(self) -> None:
        """Nothing, without a registry."""

    @property
    def now(self) -> datetime:
        return START + self.model.day * DAY

    def happened(self) -> tuple[Any, ...]:
        """What the ledger says, as the model would."""
        ledger = self.ledger
        state = {one.mlflow_version: one.status for one in ledger.retrains(P) if one.mlflow_version}
        return (
            [one.mlflow_version for one in ledger.promotions(P)],
            state,
            ledger.frozen(P) is not None,
            {one.mlflow_version: {given.by for given in one.given} for one in ledger.waiting(P)},
        )

    @staticmethod
    def said(model: Model) -> tuple[Any, ...]:
        waiting = {
            version: model.votes[version] for version, state in model.state.items() if state == "waiting"
        }
        return model.champions, model.state, model.frozen, waiting

    def do(
        self, name: str, act: Callable[[], object], *decide: Callable[[Model], bool], crash: int = 0
    ) -> None:
        """One or more decisions, which the model allows or not, cut short before a durable step, or not.

        Of what is cut short the first decisions have happened whole, and the others not at all.
        """
        stages = [copy.deepcopy(self.model)]
        if name in ("approve", "reject"):
            stages.append(copy.deepcopy(self.model))
            stages[-1].expire()
        allowed = True
        for step in decide:
            after = copy.deepcopy(stages[-1])
            allowed = allowed and step(after)
            if allowed:
                stages.append(after)
        self.left, cut = crash and 1 + crash % self.steps, False
        try:
            act()
            assert allowed, name
        except TerminalError:
            assert not allowed, name
        except CrashedError:
            cut = True
        finally:
            self.left = 0
        possible = stages if cut else stages[-1:]
        found = self.happened()
        assert found in [self.said(model) for model in possible], name
        self.model = next(model for model in possible if self.said(model) == found)
        how = f"cut short after {possible.index(self.model)}" if cut else "done" if allowed else "refused"
        self.seen[f"{name}: {how}"] += 1

    # --- retrains

    @precondition(lambda self: self.model.running is None and len(self.model.state) < self.versions)
    @rule(outcome=st.sampled_from(["pass", "pass", "pass", "fail"]))
    def a_candidate_is_judged(self, outcome: str) -> None:
        ledger, version = self.ledger, str(len(self.model.state) + 1)
        ledger.append_trigger(P, "labels", f"k{version}", {}, self.now)
        self._admitted(version)
        retrain_id, token = self.tokens[version]
        ledger.record_candidate(
            retrain_id, token, dataset_version="3f2a", model_hash=self.hash_of(version),
            mlflow_version=version, mlflow_run_id="x", cutoff=self.now - DAY, matured_rows=9,
        )  # fmt: skip
        verdict = {
            "gate": "skill", "outcome": outcome, "figure": 1.0, "bound": 0.0, "interval": None,
            "sentence": "it",
        }  # fmt: skip
        ledger.record_verdicts(retrain_id, token, [verdict], self.now)
        self.model.state[version] = "running"
        if outcome == "pass":
            self.model.passed.add(version)

    def _admitted(self, version: str) -> None:
        run_id = f"{version} for the {self.model.losses[version]}th time"
        answer = self.ledger.admit(P, now=self.now, policy=FREE, run_id=run_id, data_mark=version)
        assert isinstance(answer, Admitted)
        self.tokens[version] = answer.retrain.id, answer.retrain.token

    @precondition(lambda self: self.model.running)
    @rule(crash=st.sampled_from([0, 0, 0, 1]))
    def its_run_is_lost_and_another_takes_it_up(self, crash: int) -> None:
        version = str(self.model.running)
        retrain_id, token = self.tokens[version]
        run_id = self.ledger.retrain(retrain_id).run_id

        def act() -> None:
            self.ledger.mark_lost(run_id, self.now)
            if self.ledger.in_flight(P):
                self.old[version] = token
                self._admitted(version)

        # Where the loss was not recorded, the same run goes on.
        losses = self.model.losses[version]
        self.model.losses[version] += 1
        self.left = crash
        try:
            act()
        except CrashedError:
            self.model.losses[version] = losses
            self.seen["lose: cut short"] += 1
            return
        finally:
            self.left = 0
        if losses + 1 == MAX_LOSSES:
            self.model.state[version] = "promoted" if version in self.model.crowned else "failed"
        self.seen[f"lose: ended as {self.model.state[version]}"] += 1

    @precondition(lambda self: self.model.running)
    @rule(off_by=st.sampled_from([0, 0, 0, 0, -1, 1]), crash=CRASH)
    def its_gates_promote_it(self, off_by: int, crash: int) -> None:
        version, expected = str(self.model.running), len(self.model.champions) + off_by
        retrain_id, token = self.tokens[version]

        def act() -> None:
            self.ledger.promote(
                P, retrain_id=retrain_id, token=token, expected_sequence=expected,
                model_hash=self.hash_of(version), mlflow_version=version, at=self.now,
            )  # fmt: skip
            self.heal()
            self.ledger.finish_retrain(retrain_id, token, status="promoted", reason="it passed", at=self.now)

        self.do(
            "promote",
            act,
            lambda model: model.promote(version, expected),
            lambda model: model.finish(version),
            crash=crash,
        )

    @precondition(lambda self: self.model.running in self.old)
    @rule(ask=st.booleans())
    def a_zombie_promotes_it_or_asks(self, ask: bool) -> None:
        version, expected = str(self.model.running), len(self.model.champions)
        mine: dict[str, Any] = {
            "retrain_id": self.tokens[version][0], "token": self.old[version], "at": self.now,
            "expected_sequence": expected, "model_hash": self.hash_of(version), "mlflow_version": version,
        }  # fmt: skip
        act = lambda: (  # noqa: E731
            self.ledger.ask_for_approval(P, **mine, needed=1, reason="asked", expires_at=self.now + DAY)
            if ask
            else self.ledger.promote(P, **mine)
        )
        self.do("zombie", act, lambda _: False)

    @precondition(lambda self: self.model.running)
    @rule(needed=st.sampled_from([1, 1, 2]), off_by=st.sampled_from([0, 0, 0, 0, -1]), crash=CRASH)
    def it_asks_for_approval(self, needed: int, off_by: int, crash: int) -> None:
        version, expected = str(self.model.running), len(self.model.champions) + off_by
        retrain_id, token = self.tokens[version]

        def act() -> None:
            self.ledger.ask_for_approval(
                P, retrain_id=retrain_id, token=token, expected_sequence=expected,
                model_hash=self.hash_of(version), mlflow_version=version, needed=needed, reason="asked",
                at=self.now, expires_at=self.now + WEEK * DAY,
            )  # fmt: skip
            self.heal()

        self.do("ask", act, lambda model: model.ask(version, expected, needed), crash=crash)

    @precondition(lambda self: self.model.running and self.model.running not in self.model.crowned)
    @rule()
    def its_gates_reject_it(self) -> None:
        version = str(self.model.running)
        retrain_id, token = self.tokens[version]
        self.ledger.finish_retrain(retrain_id, token, status="rejected", reason="a gate failed", at=self.now)
        self.model.state[version] = "rejected"
        self.seen["reject by gates: done"] += 1

    # Without much to choose and first by name: what else happens needs champions.
    @rule(by_people=st.booleans())
    def a_candidate_passes_and_serves(self, by_people: bool) -> None:
        if self.model.running is None and len(self.model.state) < self.versions:
            self.a_candidate_is_judged("pass")
        if self.model.running and by_people:
            self.it_asks_for_approval(1, 0, 0)
            self.a_person_approves("1", False, "ann", 0)
        elif self.model.running:
            self.its_gates_promote_it(0, 0)

    # --- people

    def _among(self, wanted: Iterable[str], other: str, wild: bool) -> str:
        return next((one for one in wanted if not wild), other)

    def _in(self, *states: str) -> Iterator[str]:
        return (one for one, state in self.model.state.items() if state in states)

    @precondition(lambda self: self.model.state)
    @rule(other=ANY, wild=WILD, by=PEOPLE, crash=CRASH)
    def a_person_approves(self, other: str, wild: bool, by: str, crash: int) -> None:
        version = self._among(self._in("waiting"), other, wild)
        act = lambda: self.approve(version, by)  # noqa: E731
        self.do("approve", act, lambda model: model.approve(version, by), crash=crash)

    @precondition(lambda self: self.model.state)
    @rule(other=ANY, wild=WILD, crash=CRASH)
    def a_person_rejects(self, other: str, wild: bool, crash: int) -> None:
        version = self._among(self._in("waiting"), other, wild)
        self.do("reject", lambda: self.reject(version), lambda model: model.reject(version), crash=crash)

    @precondition(lambda self: self.model.champion)
    @rule(to=st.none() | ANY, crash=CRASH)
    def a_person_rolls_back(self, to: str | None, crash: int) -> None:
        self.do("roll back", lambda: self.roll_back(to), lambda model: model.roll_back(to), crash=crash)

    @precondition(lambda self: len(self.model.passed) > 1)
    @rule(other=ANY, wild=WILD, crash=CRASH)
    def a_person_adopts(self, other: str, wild: bool, crash: int) -> None:
        passed = self.model.passed - {self.model.champion}
        chosen = (one for one in self._in("rejected", "expired", "rolled_back", "promoted") if one in passed)
        version = self._among(chosen, other, wild)
        self.do("adopt", lambda: self.adopt(version), lambda model: model.adopt(version), crash=crash)

    @rule(on=st.sampled_from([True, False, False]), crash=CRASH)
    def a_person_freezes(self, on: bool, crash: int) -> None:
        name = "freeze" if on else "unfreeze"
        self.do(name, lambda: self.freeze(on), lambda model: model.freeze(on), crash=crash)

    # --- the world

    @rule(days=st.sampled_from([1, 3, WEEK]))
    def time_passes(self, days: int) -> None:
        self.move(days)

    @precondition(lambda self: "waiting" in self.model.state.values())
    @rule()
    def a_tick_ends_what_waited_too_long(self) -> None:
        late = any(self.model.ends[one] <= self.model.day for one in self._in("waiting"))
        self.ledger.expire_waits(P, self.now)
        self.model.expire()
        self.seen[f"expire: {'done' if late else 'nothing'}"] += 1

    @precondition(lambda self: len(self.model.champions) > 1)
    @rule()
    def two_promoters_ask_at_once(self) -> None:
        """Both looked at the same champion; the second comes too late."""
        expected = len(self.model.champions)
        self.a_person_rolls_back(None, 0)
        if len(self.model.champions) == expected:
            return
        with pytest.raises(TerminalError):
            self.ledger.roll_back(P, expected_sequence=expected, by="bob", reason="me too", at=self.now)
        self.seen["the second of two promoters: refused"] += 1

    # --- what always holds

    @invariant()
    def what_serves_has_passed(self) -> None:
        promotions = self.ledger.promotions(P)
        assert all(one.mlflow_version in self.model.passed for one in promotions)
        assert [one.sequence for one in promotions] == list(range(1, len(promotions) + 1))
        assert self.happened() == self.said(self.model)


class Registered(Promotions):
    """The same with a registry: crashes between what is written there, and hands in its aliases."""

    place_of_models: ClassVar[PipelineHome]
    versions = REGISTERED
    # And three aliases, twice where another wrote meanwhile, and a tag for each record.
    steps = 9

    def made(self) -> Ledger:
        home = self.place_of_models.home
        self.place = PipelineHome(Home(home.path), self.place_of_models.loaded)
        self.registry = self.place.home.__dict__["registry"] = home.registry
        ledger = self.place.home.__dict__["ledger"] = super().made()
        self.client = home.registry.__dict__["_client"]
        # As no example has been there before.
        with closing(sqlite3.connect(home.path / "mlflow" / "mlflow.db")) as database, database:
            for statement in (
                "DELETE FROM registered_model_aliases",
                "DELETE FROM registered_model_tags",
                "DELETE FROM model_version_tags WHERE key LIKE 'record.%'",
            ):
                database.execute(statement)
        return ledger

    def teardown(self) -> None:
        self.the_registry_heals_to_the_ledger()
        super().teardown()

    def do(self, *args: Any, **kwargs: Any) -> None:
        self.registry.__dict__["_client"] = DyingClient(self.client, self.a_step)
        try:
            super().do(*args, **kwargs)
        finally:
            self.registry.__dict__["_client"] = self.client

    def move(self, days: int) -> None:
        super().move(days)
        self.ledger.begin_advance(self.now)
        self.ledger.finish_advance()

    def hash_of(self, version: str) -> str:
        return hash_in(self.place_of_models, version)

    def approve(self, version: str, by: str) -> None:
        promoting.approve(self.place, version, by=by, reason="fine")

    def reject(self, version: str) -> None:
        promoting.reject(self.place, version, by="ann", reason="no")

    def roll_back(self, to: str | None) -> None:
        promoting.roll_back(self.place, to, by="ann", reason="worse")

    def adopt(self, version: str) -> None:
        promoting.adopt(self.place, version, by="ann", reason="right")

    def freeze(self, on: bool) -> None:
        promoting.freeze(self.place, on, by="ann", reason="season")

    def heal(self) -> None:
        promoting.heal(self.place.home, P)

    @rule(
        alias=st.sampled_from(["champion", "previous", "candidate"]),
        version=st.integers(1, REGISTERED).map(str),
    )
    def somebody_moves_an_alias(self, alias: str, version: str) -> None:
        self.registry.set_alias(P, alias, version)

    @rule()
    def the_registry_heals_to_the_ledger(self) -> None:
        self.heal()
        aliases = [self.registry.alias(P, name) for name in ("champion", "previous")]
        champions = self.model.champions
        assert aliases == [champions[-1] if champions else None, champions[-2] if champions[1:] else None]
        assert promoting.verify(self.place.home, P) == []
        remembered = {head.number for head in promoting.heads_in_mlflow(self.place.home, P)}
        assert remembered == {one.number for one in self.ledger.records(P)}


def run(machine: type[Promotions], sample_size: Callable[[str, int], None], **size: int) -> None:
    machine.seen = Counter()
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_machine(machine, settings=settings(deadline=None, suppress_health_check=checks, **size))
    for what, n in sorted(machine.seen.items()):
        sample_size(what, n)


def test_no_version_without_passed_gates_is_ever_champion(
    tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    Promotions.keys = Keys(tmp_path / "keys")
    # Long ones: what follows on a champion is what there is to see.
    run(Promotions, sample_size, stateful_step_count=50 if full else 40)


def test_the_registry_heals_to_the_ledger_wherever_a_process_ends(
    tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    Registered.place_of_models = place = home_of_models(tmp_path / "home", REGISTERED)
    Registered.keys = place.home.keys
    run(Registered, sample_size, max_examples=50 if full else 4, stateful_step_count=20 if full else 12)
    place.ledger.close()
