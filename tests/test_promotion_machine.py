"""Promotion, approval, rollback and adoption, move by move, against a plain model: whoever asks and whatever
crashes, nothing serves that failed a gate, and the registry heals to the ledger."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import event

from mlops_pipelines import promoting
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.registry import Registry
from mlops_pipelines.training import fit_candidate
from tests.candidates import DAY, FREE, START, P
from tests.small_flights import loaded
from tests.synthetic_examples import FEATURES, examples, training

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.proof

VERSIONS = 6
PEOPLE = st.sampled_from(["ann", "bob"])
ANY = st.integers(1, VERSIONS + 1).map(str)
WEEK = 7


class CrashedError(BaseException):
    """The process ends here."""


class DyingClient:
    """The registry's client; the process ends before its n-th call from now on."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.left = 0

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise CrashedError
            return getattr(self._client, name)(*args, **kwargs)

        return call


@dataclass
class Model:
    """The rules in plain words. day: of the clock. champions: versions, in order. state: by version.

    compared: how many champions there had been when it was judged. ends: day its wait ends.
    """

    day: int = 0
    frozen: bool = False
    champions: list[str] = field(default_factory=list)
    came_from: dict[str, str | None] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    compared: dict[str, int] = field(default_factory=dict)
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
        if version not in self.passed or self.frozen or expected != len(self.champions):
            return False
        self.crown(version, first=True)
        self.state[version] = "promoted"
        return True

    def ask(self, version: str, expected: int, needed: int) -> bool:
        if version not in self.passed or expected != len(self.champions):
            return False
        self.state[version] = "waiting"
        self.compared[version], self.needed[version], self.votes[version] = expected, needed, set()
        self.ends[version] = self.day + WEEK
        return True

    def approve(self, version: str, by: str) -> bool:
        if self.state.get(version) != "waiting" or self.frozen or by in self.votes[version]:
            return False
        self.votes[version].add(by)
        if len(self.votes[version]) == self.needed[version]:
            self.crown(version, first=True)
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
    """Retrains that end in every way, people who decide, hands in the registry, and crashes."""

    seen: ClassVar[Counter[str]] = Counter()
    registry: ClassVar[Registry]
    hashes: ClassVar[dict[str, str]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="promotions-"))
        home = Home.create(self.folder)
        home.__dict__["registry"] = self.registry
        for alias in ("champion", "previous", "candidate"):
            self.registry.remove_alias(P, alias)
        for version, tags in self.registry.tags(P).items():
            for name in tags:
                if name.startswith("record."):
                    self.registry._client.delete_model_version_tag(P, version, name)
        self.place = PipelineHome(home, loaded(P))
        self.client = DyingClient(self.registry._client)
        self.commits = 0
        engine = self.place.ledger._engine
        event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA synchronous = OFF"))
        event.listen(engine, "commit", self.a_commit)
        self.model = Model()
        self.tokens: dict[str, tuple[str, str]] = {}
        self.old: dict[str, str] = {}
        self.move(0)

    def teardown(self) -> None:
        self.place.ledger.close()
        shutil.rmtree(self.folder)

    def a_commit(self, _: object) -> None:
        self.commits -= 1
        if self.commits == 0:
            raise CrashedError

    def move(self, days: int) -> None:
        self.model.day += days
        self.place.ledger.begin_advance(START + self.model.day * DAY)
        self.place.ledger.finish_advance()

    @property
    def now(self) -> Any:
        return self.place.clock.now()

    def happened(self) -> tuple[Any, ...]:
        """What the ledger says, as the model would."""
        ledger = self.place.ledger
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

    def do(self, name: str, act: Callable[[], object], decide: Callable[[Model], bool], crash: int) -> None:
        """An act that the model allows or not, and that may be cut short before its n-th commit or call.

        Whatever is cut short happened whole or not at all.
        """
        before, expired, after = (copy.deepcopy(self.model) for _ in range(3))
        expired.expire()
        if name in ("approve", "reject"):
            after.expire()
        allowed = decide(after)
        places = {0: (0, 0), 1: (1, 0), 2: (2, 0)}.get(crash, (0, crash - 2))
        self.commits, self.client.left = places
        self.registry.__dict__["_client"] = self.client
        try:
            act()
            cut = False
            assert allowed, name
        except TerminalError:
            cut = False
            assert not allowed, name
        except CrashedError:
            cut = True
        finally:
            self.commits = self.client.left = 0
            self.registry.__dict__["_client"] = self.client._client
        possible = [after] if allowed and not cut else [before, expired, after] if cut else [before, expired]
        found = self.happened()
        assert found in [self.said(model) for model in possible], name
        self.model = next(model for model in possible if self.said(model) == found)
        self.seen[f"{name}: {'cut short' if cut else 'done' if allowed else 'refused'}"] += 1

    # --- retrains

    @precondition(lambda self: self.model.running is None and len(self.model.state) < VERSIONS)
    @rule(outcome=st.sampled_from(["pass", "pass", "pass", "fail"]), dies=st.booleans())
    def a_candidate_is_judged(self, outcome: str, dies: bool) -> None:
        ledger, version = self.place.ledger, str(len(self.model.state) + 1)
        ledger.append_trigger(P, "labels", f"k{version}", {}, self.now)
        for attempt in ("first", "second")[: 1 + dies]:
            answer = ledger.admit(
                P, now=self.now, policy=FREE, run_id=f"{attempt}-{version}", data_mark=version
            )
            retrain: Any = answer.retrain  # type: ignore[union-attr]
            if attempt == "first" and dies:
                ledger.mark_lost(f"first-{version}", self.now)
                self.old[version] = retrain.token
        ledger.record_candidate(
            retrain.id, retrain.token, dataset_version="3f2a", model_hash=self.hashes[version],
            mlflow_version=version, mlflow_run_id="x", cutoff=self.now - DAY, matured_rows=9,
        )  # fmt: skip
        verdict = {
            "gate": "skill", "outcome": outcome, "figure": 1.0, "bound": 0.0, "interval": None,
            "sentence": "it",
        }  # fmt: skip
        ledger.record_verdicts(retrain.id, retrain.token, [verdict], self.now)
        self.tokens[version] = retrain.id, retrain.token
        self.model.state[version] = "running"
        if outcome == "pass":
            self.model.passed.add(version)

    @precondition(lambda self: self.model.running)
    @rule(off_by=st.sampled_from([0, 0, 0, -1, 1]), zombie=st.booleans(), crash=st.integers(0, 12))
    def its_gates_promote_it(self, off_by: int, zombie: bool, crash: int) -> None:
        version = str(self.model.running)
        expected = len(self.model.champions) + off_by
        retrain_id, token = self.tokens[version]
        zombie = zombie and version in self.old

        def act() -> None:
            self.place.ledger.promote(
                P, retrain_id=retrain_id, token=self.old[version] if zombie else token,
                expected_sequence=expected, model_hash=self.hashes[version], mlflow_version=version,
                at=self.now,
            )  # fmt: skip
            self.place.ledger.finish_retrain(
                retrain_id, token, status="promoted", reason="it passed", at=self.now
            )
            promoting.heal(self.place.home, P)

        if crash in (1, 2):
            # Between the promotion and the end of the retrain a retrain runs on: not this model's concern.
            crash = 1
        self.do("promote", act, lambda model: not zombie and model.promote(version, expected), crash)

    @precondition(lambda self: self.model.running)
    @rule(needed=st.integers(1, 2), off_by=st.sampled_from([0, 0, 0, -1]), crash=st.integers(0, 12))
    def it_asks_for_approval(self, needed: int, off_by: int, crash: int) -> None:
        version = str(self.model.running)
        expected = len(self.model.champions) + off_by
        retrain_id, token = self.tokens[version]

        def act() -> None:
            self.place.ledger.ask_for_approval(
                P, retrain_id=retrain_id, token=token, expected_sequence=expected,
                model_hash=self.hashes[version], mlflow_version=version, needed=needed, reason="asked",
                at=self.now, expires_at=self.now + WEEK * DAY,
            )  # fmt: skip
            promoting.heal(self.place.home, P)

        self.do("ask", act, lambda model: model.ask(version, expected, needed), 1 if crash == 2 else crash)

    @precondition(lambda self: self.model.running)
    @rule()
    def its_gates_reject_it(self) -> None:
        version = str(self.model.running)
        retrain_id, token = self.tokens[version]
        self.place.ledger.finish_retrain(
            retrain_id, token, status="rejected", reason="a gate failed", at=self.now
        )
        self.model.state[version] = "rejected"

    # Without much to choose and first by name: what else happens needs champions.
    @rule(by_people=st.booleans())
    def a_candidate_passes_and_serves(self, by_people: bool) -> None:
        if self.model.running is None and len(self.model.state) < VERSIONS:
            self.a_candidate_is_judged("pass", False)
        if self.model.running and by_people:
            self.it_asks_for_approval(1, 0, 0)
            self.a_person_approves_what_waits("ann", 0)
        elif self.model.running:
            self.its_gates_promote_it(0, False, 0)

    # --- people

    @rule(version=ANY, by=PEOPLE, crash=st.integers(0, 12))
    def a_person_approves(self, version: str, by: str, crash: int) -> None:
        act = lambda: promoting.approve(self.place, version, by=by, reason="fine")  # noqa: E731
        self.do("approve", act, lambda model: model.approve(version, by), crash)

    @precondition(lambda self: "waiting" in self.model.state.values())
    @rule(by=PEOPLE, crash=st.sampled_from([0, 0, 0, 1, 2, 4, 6, 8]))
    def a_person_approves_what_waits(self, by: str, crash: int) -> None:
        version = next((one for one, state in self.model.state.items() if state == "waiting"), "1")
        self.a_person_approves(version, by, crash)

    @rule(version=ANY, crash=st.integers(0, 12))
    def a_person_rejects(self, version: str, crash: int) -> None:
        act = lambda: promoting.reject(self.place, version, by="ann", reason="no")  # noqa: E731
        self.do("reject", act, lambda model: model.reject(version), crash)

    @rule(to=st.none() | ANY, crash=st.integers(0, 12))
    def a_person_rolls_back(self, to: str | None, crash: int) -> None:
        act = lambda: promoting.roll_back(self.place, to, by="ann", reason="worse")  # noqa: E731
        self.do("roll back", act, lambda model: model.roll_back(to), 1 if crash == 2 else crash)

    @rule(version=ANY, crash=st.integers(0, 12))
    def a_person_adopts(self, version: str, crash: int) -> None:
        act = lambda: promoting.adopt(self.place, version, by="ann", reason="right")  # noqa: E731
        self.do("adopt", act, lambda model: model.adopt(version), 1 if crash == 2 else crash)

    @rule(on=st.booleans(), crash=st.sampled_from([0, 0, 1, 5]))
    def a_person_freezes(self, on: bool, crash: int) -> None:
        act = lambda: promoting.freeze(self.place, on, by="ann", reason="season")  # noqa: E731
        self.do("freeze", act, lambda model: model.freeze(on), crash)

    # --- the world

    @rule(days=st.sampled_from([1, 3, WEEK]))
    def time_passes(self, days: int) -> None:
        self.move(days)

    @rule(
        alias=st.sampled_from(["champion", "previous", "candidate"]),
        version=st.integers(1, VERSIONS).map(str),
    )
    def somebody_moves_an_alias(self, alias: str, version: str) -> None:
        self.registry.set_alias(P, alias, version)

    @rule()
    def two_promoters_ask_at_once(self) -> None:
        """Both looked at the same champion; the second comes too late."""
        expected = len(self.model.champions)
        before = copy.deepcopy(self.model)
        self.a_person_rolls_back(None, 0)
        if self.model.champions == before.champions:
            return
        with pytest.raises(TerminalError):
            self.place.ledger.roll_back(P, expected_sequence=expected, by="bob", reason="me too", at=self.now)
        self.seen["the second of two promoters: refused"] += 1

    # --- what always holds

    @invariant()
    def what_serves_has_passed_and_the_chain_verifies(self) -> None:
        ledger = self.place.ledger
        promotions = ledger.promotions(P)
        assert all(one.mlflow_version in self.model.passed for one in promotions)
        assert [one.sequence for one in promotions] == list(range(1, len(promotions) + 1))
        assert promoting.verify(self.place.home, P) == []
        assert self.happened() == self.said(self.model)

    @rule()
    def the_registry_heals_to_the_ledger(self) -> None:
        promoting.heal(self.place.home, P)
        aliases = [self.registry.alias(P, name) for name in ("champion", "previous")]
        champions = self.model.champions
        assert aliases == [champions[-1] if champions else None, champions[-2] if champions[1:] else None]
        remembered = {head.number for head in promoting.heads_in_mlflow(self.place.home, P)}
        about = [
            one.number
            for one in self.place.ledger.records(P)
            if one.content.get("mlflow_version") or champions
        ]
        assert set(about) <= remembered


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry with some versions, each a model of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    made = Registry(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    table = examples(days=12, rows_per_day=60)
    for trees in range(1, VERSIONS + 1):
        candidate = fit_candidate(table, FEATURES, training(params={"n_estimators": trees}))
        made.log_candidate(P, f"r-{trees}", candidate, "3f2a", {"commit": None})
    return made


def test_no_version_without_passed_gates_is_ever_champion(
    registry: Registry, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    Promotions.registry = registry
    Promotions.hashes = {
        version: registry.registered(P, version).model_hash for version in registry.versions(P)
    }
    Promotions.seen.clear()
    run_machine(
        Promotions,
        settings=settings(
            max_examples=25 if full else 6,
            stateful_step_count=30 if full else 25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    for what, n in sorted(Promotions.seen.items()):
        sample_size(what, n)
