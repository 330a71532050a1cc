"""Processes promote, approve, reject, roll back, adopt, freeze and heal at once, and are killed at it."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mlops_pipelines import promoting
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ledger import Admitted, Ledger
from tests.candidates import DAY, FREE, P
from tests.candidates import START as NOW
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

pytestmark = pytest.mark.proof


def passes(version: str) -> bool:
    """Whether the gates let a version through: three of four."""
    return int(version) % 4 != 0


def place_at(folder: Path, url: str) -> PipelineHome:
    """The place, with its ledger at a URL."""
    home = Home(folder)
    home.__dict__["ledger"] = Ledger(url, keys=home.keys)
    return PipelineHome(home, loaded(P))


class Actor:
    """One process's part: it does one thing after another, as chance has it."""

    def __init__(self, place: PipelineHome, name: str, registered: Any) -> None:
        self.place, self.ledger, self.name, self.registered = place, place.ledger, name, registered
        self.chance = random.Random(name)  # noqa: S311 - no secret
        self.n = 0

    def act(self) -> None:
        self.n += 1
        deeds = [
            self.carries, self.carries, self.carries, self.approves, self.approves, self.rejects,
            self.rolls_back, self.adopts, self.freezes, self.expires, self.loses,
        ]  # fmt: skip
        self.chance.choice(deeds)()

    def carries(self) -> None:
        """A retrain, to whatever end."""
        ledger, run_id = self.ledger, f"{self.name} {self.n}"
        if sum(one.seq for one in ledger.retrains(P, limit=1)) + 20 > self.registered.value:
            return
        ledger.append_trigger(P, "labels", run_id, {}, NOW)
        answer = ledger.admit(P, now=NOW, policy=FREE, run_id=run_id, data_mark=run_id)
        if not isinstance(answer, Admitted):
            return
        retrain = answer.retrain
        authority = {"retrain_id": retrain.id, "token": retrain.token}
        version = str(retrain.seq)
        made = {"model_hash": f"hash-{version}", "mlflow_version": version}
        ledger.record_candidate(
            **authority, **made, dataset_version="d", mlflow_run_id="r", cutoff=NOW, matured_rows=1
        )
        verdict = {
            "gate": "skill", "outcome": "pass" if passes(version) else "fail", "figure": 1.0, "bound": 0.0,
            "interval": None, "sentence": "skill",
        }  # fmt: skip
        ledger.record_verdicts(**authority, given=[verdict], at=NOW)
        champion = ledger.champion(P)
        compared_with = champion.sequence if champion else 0
        # Sometimes although its gates failed: a fault of ours is what the ledger has to withstand.
        if not passes(version) and self.chance.random() < 0.7:
            ledger.finish_retrain(**authority, status="rejected", reason="skill", at=NOW)
        elif self.chance.random() < 0.5:
            ledger.ask_for_approval(
                P, **authority, **made, expected_sequence=compared_with, needed=self.chance.choice([1, 1, 2]),
                reason="asked", at=NOW, expires_at=NOW + self.chance.choice([timedelta(0), DAY, DAY, DAY]),
            )  # fmt: skip
        else:
            ledger.promote(P, **authority, **made, expected_sequence=compared_with, at=NOW)
            ledger.finish_retrain(**authority, status="promoted", reason="passed", at=NOW)

    def _waiting(self) -> str | None:
        waiting = self.ledger.waiting(P)
        return self.chance.choice(waiting).mlflow_version if waiting else None

    def approves(self) -> None:
        if version := self._waiting():
            by, model_hash = self.chance.choice(["ann", "bob"]), f"hash-{version}"
            self.ledger.approve(P, version, model_hash=model_hash, by=by, reason="fine", at=NOW)

    def rejects(self) -> None:
        if version := self._waiting():
            self.ledger.reject(P, version, by="ann", reason="no", at=NOW)

    def rolls_back(self) -> None:
        champion = self.ledger.champion(P)
        sequence = champion.sequence if champion else 0
        self.ledger.roll_back(P, expected_sequence=sequence, by=self.name, reason="worse", at=NOW)

    def adopts(self) -> None:
        made = [one.mlflow_version for one in self.ledger.retrains(P, limit=9) if one.mlflow_version]
        champion = self.ledger.champion(P)
        if made and champion:
            version = self.chance.choice(made)
            self.ledger.adopt(
                P, expected_sequence=champion.sequence, version=version, model_hash=f"hash-{version}",
                by=self.name, reason="right", at=NOW,
            )  # fmt: skip

    def freezes(self) -> None:
        if self.chance.random() < 0.3:
            self.ledger.freeze(P, True, by=self.name, reason="season", at=NOW)
        self.ledger.freeze(P, False, by=self.name, reason="over", at=NOW)

    def expires(self) -> None:
        self.ledger.expire_waits(P, NOW)

    def loses(self) -> None:
        """Declares another's run lost, which goes on as a zombie."""
        other = self.ledger.in_flight(P)
        if other is not None:
            self.ledger.mark_lost(other.run_id, NOW)

    def heals(self) -> None:
        promoting.heal(self.place.home, P)


def work(folder: Path, url: str, name: str, *counters: Any) -> None:
    """Acts until it is killed. Its counters outlive it: versions so far, acts, refused ones."""
    registered, done, refused = counters
    actor = Actor(place_at(folder, url), name, registered)
    while True:
        try:
            actor.heals() if name.startswith("healer") else actor.act()
        except TerminalError:
            refused.value += 1
        done.value += 1


class Race:
    """Processes that act until enough was decided; now and then one is killed and begins anew."""

    def __init__(self, place: PipelineHome, url: str, processes: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.test_promotion_race", "mlflow"])
        self._place, self._url = place, url
        self._chance = random.Random(7)  # noqa: S311 - no secret
        self._registered = self._context.RawValue("Q", 0)
        self._counters = [[self._context.RawValue("Q", 0) for _ in range(2)] for _ in range(processes)]
        self._processes: list[BaseProcess] = []
        self.kills = 0

    def _begun(self, number: int) -> BaseProcess:
        name = f"{'healer' if number == 0 else 'actor'} {number} of {self.kills}"
        process = self._context.Process(
            target=work,
            args=(self._place.home.path, self._url, name, self._registered, *self._counters[number]),
        )
        process.start()
        return process

    @property
    def rounds(self) -> int:
        return sum(done.value for done, _ in self._counters)

    @property
    def refused(self) -> int:
        return sum(refused.value for _, refused in self._counters)

    def run(self, decisions: int, most: timedelta, pause: float) -> None:
        """Until so many records, or so long; `pause` seconds from one kill to the next."""
        client = self._place.home.registry._client
        client.create_registered_model(P)
        self._processes = [self._begun(number) for number in range(len(self._counters))]
        until = time.monotonic() + most.total_seconds()
        try:
            while self._decided() < decisions and time.monotonic() < until:
                next_kill = time.monotonic() + pause
                while time.monotonic() < next_kill:
                    # What a retrain registers: here, so that those who are killed begin at once.
                    latest = sum(one.seq for one in self._place.ledger.retrains(P, limit=1))
                    if latest + 40 > self._registered.value:
                        version = self._registered.value + 1
                        tags = {"model_hash": f"hash-{version}"}
                        client.create_model_version(P, str(self._place.home.path), tags=tags)
                        self._registered.value = version
                    else:
                        time.sleep(0.02)
                assert all(process.is_alive() for process in self._processes)
                # The healer seldom: it needs a while to get to work.
                number = self._chance.randrange(self._chance.random() > 0.2, len(self._processes))
                self._kill(number)
                self._processes[number] = self._begun(number)
        finally:
            for number in range(len(self._processes)):
                self._kill(number)

    def _decided(self) -> int:
        last = self._place.ledger.last_record(P)
        return last.number if last else 0

    def _kill(self, number: int) -> None:
        process = self._processes[number]
        if process.pid and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            self.kills += 1
        process.join()


def test_whoever_acts_at_once_and_is_killed_nothing_serves_that_did_not_pass(
    ledger_url: str, tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    processes = 8 if full else 4
    place = place_at(tmp_path, ledger_url)
    race = Race(place, ledger_url, processes)
    race.run(2000 if full else 60, timedelta(minutes=3), pause=0.5)
    check(place)
    sample_size("processes", processes)
    sample_size("acts", race.rounds)
    sample_size("records", len(place.ledger.records(P)))
    sample_size("refused", race.refused)
    sample_size("kills", race.kills)
    for kind, n in sorted(Counter(one.kind for one in place.ledger.promotions(P)).items()):
        sample_size(f"champions by {kind}", n)
    place.ledger.close()


def check(place: PipelineHome) -> None:
    ledger, registry = place.ledger, place.home.registry
    promotions = ledger.promotions(P)
    assert promotions
    # Never a hole, never two of one number, each in the place of the one before it.
    assert [one.sequence for one in promotions] == list(range(1, len(promotions) + 1))
    assert [one.previous for one in promotions] == [None, *(one.mlflow_version for one in promotions[:-1])]
    assert [one.mlflow_version for one in promotions if not passes(one.mlflow_version)] == []
    by_themselves = [one.retrain_id for one in promotions if one.kind in ("gates", "approval")]
    assert len(by_themselves) == len(set(by_themselves))
    promoting.heal(place.home, P)
    assert registry.alias(P, "champion") == promotions[-1].mlflow_version
    assert promoting.verify(place.home, P) == []
    remembered = {head.number for head in promoting.heads_in_mlflow(place.home, P)}
    assert remembered == {one.number for one in ledger.records(P)}
    # Whoever waits ends once, or waits.
    asked, ended = Counter[str](), Counter[str]()
    for one in ledger.records(P):
        told = one.content
        if told["kind"] == "wait":
            asked[told["retrain_id"]] += 1
        elif told["kind"] in ("expiry", "rejection") or told.get("authority") == "approval":
            ended[told["retrain_id"]] += 1
    assert set(asked.values()) <= {1}
    waiting = {one.retrain_id for one in ledger.waiting(P)}
    assert {name: ended[name] for name in asked} == {name: int(name not in waiting) for name in asked}
