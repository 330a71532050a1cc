"""A home whose ledger is on a PostgreSQL server, by one setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from mlops_pipelines.backup import back_up
from mlops_pipelines.errors import TransientError, UserError
from mlops_pipelines.home import LEDGER, Home, PipelineHome
from mlops_pipelines.settings import settings
from tests.candidates import START, P, promoted
from tests.loop import move
from tests.postgres_server import new_database
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import URL


@pytest.fixture
def on_server(postgres: URL, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The setting, with an empty database."""
    url = new_database(postgres)
    monkeypatch.setenv("MLOPS_LEDGER_URL", url)
    settings.cache_clear()
    yield url
    settings.cache_clear()


@pytest.fixture
def place(on_server: str, tmp_path: Path) -> Iterator[PipelineHome]:
    place = PipelineHome(Home.create(tmp_path / "home"), loaded(P))
    move(place, START)
    yield place
    place.ledger.close()


def test_a_home_keeps_its_ledger_on_the_server(place: PipelineHome) -> None:
    made = promoted(place.ledger, "1")
    assert not (place.home.path / LEDGER).exists()
    again = Home.open(place.home.path)
    assert again.ledger.champion(P) == made
    assert [one.content["kind"] for one in again.ledger.records(P)] == ["promotion"]
    again.ledger.close()


def test_another_home_is_refused(place: PipelineHome, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is that of another home"):
        Home.create(tmp_path / "other")


def test_a_home_is_not_parted_from_its_ledger(
    place: PipelineHome, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"is its own file ledger.db; MLOPS_LEDGER_URL names another"):
        Home.open(empty).ledger.records(P)
    monkeypatch.delenv("MLOPS_LEDGER_URL")
    settings.cache_clear()
    with pytest.raises(UserError, match="on a server, and nothing says on which"):
        Home.open(place.home.path).ledger.records(P)


def test_a_server_that_is_away_is_worth_another_try(
    place: PipelineHome, on_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = make_url(on_server).update_query_dict({"host": str(tmp_path)})
    monkeypatch.setenv("MLOPS_LEDGER_URL", nowhere.render_as_string(hide_password=False))
    settings.cache_clear()
    with pytest.raises(TransientError, match="The ledger is busy or away"):
        Home.open(place.home.path).ledger.records(P)


def test_a_backup_says_that_it_would_not_hold_the_ledger(place: PipelineHome, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="on a server, which a backup of the home does not hold"):
        back_up(place.home, tmp_path / "backup")
