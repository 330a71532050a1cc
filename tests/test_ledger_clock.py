"""Whose the home's clock is, and what moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.ledger import MAX_LOSSES, Admitted, Ledger
from mlops_pipelines.spec import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield made
    made.close()


def advance(ledger: Ledger, to: datetime, pipeline: str) -> None:
    ledger.begin_advance(to, pipeline)
    ledger.finish_advance()


def test_the_clock_is_that_of_the_first_pipeline_replayed(ledger: Ledger) -> None:
    assert ledger.clock_owner() is None
    advance(ledger, NOW, "a")
    assert ledger.clock_owner() == "a"
    with pytest.raises(TerminalError, match="a's replay, not of b's"):
        ledger.begin_advance(NOW + DAY, "b")
    assert ledger.target() is None


def test_only_its_owner_raises_the_clock(ledger: Ledger) -> None:
    advance(ledger, NOW, "a")
    assert not ledger.raise_watermark(NOW + DAY, "b")
    assert ledger.raise_watermark(NOW + DAY, "a")
    assert ledger.raise_watermark(NOW + 2 * DAY)
    assert ledger.watermark() == NOW + 2 * DAY


def test_a_mistyped_year_does_not_hold_the_clock_in_the_future(ledger: Ledger) -> None:
    advance(ledger, NOW, "a")
    assert not ledger.raise_watermark(NOW.replace(year=9013), "a")
    assert ledger.watermark() == NOW


def test_an_interruption_from_outside_is_no_loss_of_the_retrain(ledger: Ledger) -> None:
    ledger.append_trigger("a", "manual", "k", {}, NOW)
    for attempt in range(MAX_LOSSES + 2):
        got = ledger.admit("a", now=NOW, policy=Policy(), run_id=f"run-{attempt}", data_mark="d")
        assert isinstance(got, Admitted)
        lost = ledger.mark_lost(f"run-{attempt}", NOW, charged=False)
        assert lost is not None
        assert (lost.status, lost.losses) == ("lost", 0)


def test_a_ledger_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with pytest.raises(UserError, match="cannot be opened or written"):
        ledger.watermark()


def test_a_ledger_opened_for_reading_only_is_the_users_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    made = Ledger(f"sqlite:///{path}")
    made.prepare()
    made.close()
    ledger = Ledger(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert ledger.watermark() is None
    with pytest.raises(UserError, match="readonly"):
        ledger.begin_advance(NOW)
    ledger.close()
