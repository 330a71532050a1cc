"""Candidates in a ledger of their own: made, judged, promoted, without a model behind them; or with a small
one in a registry, for what looks at its files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ledger import Admitted, Ledger
from mlops_pipelines.signing import Keys
from mlops_pipelines.spec import Policy
from mlops_pipelines.training import fit_candidate
from tests.loop import move
from tests.small_flights import loaded
from tests.synthetic_examples import FEATURES, examples, training

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.ledger import Promotion, Retrain

P = "flights"
START = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
# What a record says of a candidate besides what the ledger knows.
ABOUT = {
    "commit": {"sha": "abc", "dirty": False},
    "report": "3f2a",
    "metrics": {"log_loss": {"value": 0.4, "interval": [0.3, 0.5]}},
}
FREE = Policy.model_validate({"cooldown": "0s", "budget": {"retrains": 1000}, "breaker": {"after": 1000}})


def new_ledger(folder: Path, url: str | None = None) -> Ledger:
    """A ledger, by default in a file of the folder, that signs with a key of the folder's own."""
    return Ledger(url or f"sqlite:///{folder / 'ledger.db'}", keys=Keys(folder / "keys"))


def at(day: int) -> datetime:
    return START + day * DAY


def home_of_models(path: Path, versions: int) -> PipelineHome:
    """A place whose registry has so many versions, each a model of its own that the ledger does not know."""
    home = Home.create(path)
    table = examples(days=12, rows_per_day=60)
    for trees in range(1, versions + 1):
        candidate = fit_candidate(table, FEATURES, training(params={"n_estimators": trees}))
        home.registry.log_candidate(P, f"r-{trees}", candidate, "3f2a", {"commit": None})
    place = PipelineHome(home, loaded(P))
    place.prepare()
    move(place, START)
    return place


def hash_in(place: PipelineHome, version: str) -> str:
    """The hash of a version's model, as the registry has it."""
    return str((place.home.registry.tags_of(P, version) or {})["model_hash"])


def judged(
    ledger: Ledger,
    version: str,
    *,
    outcome: str = "pass",
    day: int | None = None,
    model_hash: str | None = None,
    interval: tuple[float, float] | None = None,
    mark: str | None = None,
) -> Retrain:
    """The retrain of a candidate that was judged on its number of a day.

    model_hash: `hash-VERSION`, and mark (of its data): `dVERSION`, unless they are given.
    """
    now = at(int(version) if day is None else day)
    ledger.append_trigger(P, "labels", f"k{version}", {}, now)
    answer = ledger.admit(P, now=now, policy=FREE, run_id=f"run-{version}", data_mark=mark or f"d{version}")
    assert isinstance(answer, Admitted)
    retrain = answer.retrain
    ledger.record_candidate(
        retrain.id,
        retrain.token,
        dataset_version=f"data-{version}",
        model_hash=model_hash or f"hash-{version}",
        mlflow_version=version,
        mlflow_run_id=f"mlflow-{version}",
        cutoff=now - DAY,
        matured_rows=1000,
    )
    verdict = {
        "gate": "skill", "outcome": outcome, "figure": 0.1, "bound": 0.02, "interval": interval,
        "sentence": f"skill: {outcome}",
    }  # fmt: skip
    ledger.record_verdicts(retrain.id, retrain.token, [verdict], now)
    return ledger.retrain(retrain.id)


def rejected(ledger: Ledger, version: str, *, mark: str | None = None) -> None:
    """A candidate that a gate stopped, and the end of its retrain."""
    retrain = judged(ledger, version, outcome="fail", mark=mark)
    ledger.finish_retrain(
        retrain.id, retrain.token, status="rejected", reason="skill: fail", at=retrain.watermark
    )


def promoted(
    ledger: Ledger, version: str, *, model_hash: str | None = None, mark: str | None = None
) -> Promotion:
    """A candidate that its gates let through, and the end of its retrain."""
    retrain = judged(ledger, version, model_hash=model_hash, mark=mark)
    promotion = ledger.promote(
        P,
        retrain_id=retrain.id,
        token=retrain.token,
        expected_sequence=len(ledger.promotions(P)),
        model_hash=str(retrain.model_hash),
        mlflow_version=version,
        at=retrain.watermark,
        about=ABOUT,
    )
    ledger.finish_retrain(
        retrain.id, retrain.token, status="promoted", reason="it passed", at=retrain.watermark
    )
    return promotion


def asked(
    ledger: Ledger,
    version: str,
    *,
    needed: int = 1,
    outcome: str = "pass",
    model_hash: str | None = None,
    interval: tuple[float, float] | None = None,
) -> Retrain:
    """A candidate that waits for approval for a week."""
    retrain = judged(ledger, version, outcome=outcome, model_hash=model_hash, interval=interval)
    ledger.ask_for_approval(
        P,
        retrain_id=retrain.id,
        token=retrain.token,
        expected_sequence=len(ledger.promotions(P)),
        model_hash=str(retrain.model_hash),
        mlflow_version=version,
        needed=needed,
        reason="a person has to approve it",
        at=retrain.watermark,
        expires_at=retrain.watermark + 7 * DAY,
        about=ABOUT,
    )
    return ledger.retrain(retrain.id)
