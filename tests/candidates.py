"""Candidates in a ledger of their own: made, judged, promoted, without a model behind them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops_pipelines.ledger import Admitted, Ledger
from mlops_pipelines.signing import Keys
from mlops_pipelines.spec import Policy

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.ledger import Promotion, Retrain

P = "flights"
START = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FREE = Policy.model_validate({"cooldown": "0s", "budget": {"retrains": 1000}, "breaker": {"after": 1000}})


def new_ledger(folder: Path) -> Ledger:
    """A ledger that signs with a key of the folder's own."""
    return Ledger(f"sqlite:///{folder / 'ledger.db'}", keys=Keys(folder / "keys"))


def at(day: int) -> datetime:
    return START + day * DAY


def judged(ledger: Ledger, version: str, *, outcome: str = "pass", day: int | None = None) -> Retrain:
    """The retrain of a candidate that was judged on its number of a day. Its hash is `hash-VERSION`."""
    now = at(int(version) if day is None else day)
    ledger.append_trigger(P, "labels", f"k{version}", {}, now)
    answer = ledger.admit(P, now=now, policy=FREE, run_id=f"run-{version}", data_mark=f"d{version}")
    assert isinstance(answer, Admitted)
    retrain = answer.retrain
    ledger.record_candidate(
        retrain.id,
        retrain.token,
        dataset_version=f"data-{version}",
        model_hash=f"hash-{version}",
        mlflow_version=version,
        mlflow_run_id=f"mlflow-{version}",
        cutoff=now - DAY,
        matured_rows=1000,
    )
    verdict = {
        "gate": "skill", "outcome": outcome, "figure": 0.1, "bound": 0.02, "interval": None,
        "sentence": f"skill: {outcome}",
    }  # fmt: skip
    ledger.record_verdicts(retrain.id, retrain.token, [verdict], now)
    return ledger.retrain(retrain.id)


def promoted(ledger: Ledger, version: str) -> Promotion:
    """A candidate that its gates let through, and the end of its retrain."""
    retrain = judged(ledger, version)
    promotion = ledger.promote(
        P,
        retrain_id=retrain.id,
        token=retrain.token,
        expected_sequence=len(ledger.promotions(P)),
        model_hash=f"hash-{version}",
        mlflow_version=version,
        at=retrain.watermark,
        about={"commit": {"sha": "abc", "dirty": False}, "metrics": {"log_loss": {"value": 0.4}}},
    )
    ledger.finish_retrain(
        retrain.id, retrain.token, status="promoted", reason="it passed", at=retrain.watermark
    )
    return promotion


def asked(ledger: Ledger, version: str, *, needed: int = 1, outcome: str = "pass") -> Retrain:
    """A candidate that waits for approval for a week."""
    retrain = judged(ledger, version, outcome=outcome)
    ledger.ask_for_approval(
        P,
        retrain_id=retrain.id,
        token=retrain.token,
        expected_sequence=len(ledger.promotions(P)),
        model_hash=f"hash-{version}",
        mlflow_version=version,
        needed=needed,
        reason="a person has to approve it",
        at=retrain.watermark,
        expires_at=retrain.watermark + 7 * DAY,
        about={"commit": {"sha": "abc", "dirty": False}},
    )
    return ledger.retrain(retrain.id)
