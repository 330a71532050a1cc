"""What people decide on models, at the command line, on real stores."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import jwt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from assets import monitoring
from assets.stage import Stage
from mlops_pipelines import dagster_events, retraining
from mlops_pipelines.clock import WallClock
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.identity import AUDIENCE, who_acts
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.settings import settings
from mlops_pipelines.spec import Gates, Promotion
from tests.loop import advance, at, copy_of, mlops, move, retrain, small_home, varied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

    from mlops_pipelines.home import PipelineHome

SAID = ("--reason", "I looked at it")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two champions, one after the other."""
    home = tmp_path_factory.mktemp("lived")
    place = varied(small_home(home), gates=Gates())
    for day in (8, 10):
        advance(place, at(day))
        assert retrain(place, f"until-{day}").promotion
    advance(place, at(12))
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return varied(copy_of(lived, tmp_path / "home"), gates=Gates())


@pytest.fixture
def waiting(place: PipelineHome) -> PipelineHome:
    """The home with a third version, which waits for two people."""
    asking = varied(place, promotion=Promotion(approval="human", four_eyes=True))
    outcome = retrain(asking, "third")
    assert outcome.waits
    assert "waits until 2013-01-26" in outcome.sentence
    return asking


def told(done: Result) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def champion(place: PipelineHome) -> tuple[str, str | None]:
    """By the ledger, and by the registry."""
    promotion = place.ledger.champion(place.name)
    assert promotion
    return promotion.mlflow_version, place.home.registry.alias(place.name, "champion")


def test_the_record_is_listed_exported_and_verified(place: PipelineHome) -> None:
    shown = mlops(place, "promotions", place.name, "--verify")
    assert shown.exit_code == 0, shown.output
    assert "v2    champion number 2" in shown.output
    assert "Verified: 2 records" in shown.output
    found = told(mlops(place, "promotions", place.name, "--verify", "--json"))
    assert found["verified"]
    first = found["records"][0]
    assert (first["kind"], first["sequence"], first["mlflow_version"]) == ("promotion", 1, "1")
    assert set(first["metrics"]) >= {"log_loss", "roc_auc"}
    assert first["commit"]["sha"]
    assert first["dataset_version"] == place.ledger.retrains(place.name)[0].dataset_version
    rows = [*csv.DictReader(io.StringIO(mlops(place, "promotions", place.name, "--export", "csv").output))]
    assert [(row["number"], row["hash"]) for row in rows] == [
        ("1", first["hash"]),
        ("2", found["records"][1]["hash"]),
    ]


def test_a_rollback_takes_effect_in_ledger_registry_and_dagster(place: PipelineHome) -> None:
    done = told(mlops(place, "rollback", place.name, *SAID, "--json"))
    assert (done["version"], done["sequence"], done["replaced"]) == ("1", 3, "2")
    assert "of the operating system" in done["by"]
    assert champion(place) == ("1", "1")
    assert place.home.registry.alias(place.name, "previous") == "2"
    heads = dagster_events.heads(place.home, place.name)
    assert [(head.number, head.hash) for head in heads if head.number == 3] == [
        (3, place.ledger.records(place.name)[2].hash)
    ]
    assert told(mlops(place, "promotions", place.name, "--verify", "--json"))["verified"]
    refused = mlops(place, "rollback", place.name, "--to", "9", *SAID)
    assert refused.exit_code == 2
    assert "never was champion" in refused.output


def test_what_is_scored_after_a_rollback_is_scored_by_who_came_back(place: PipelineHome) -> None:
    mlops(place, "rollback", place.name, *SAID)
    advance(place, at(13))
    scored = place.lake.read("predictions", days=["2013-01-12"])
    # A model serves decisions after the moment it became champion.
    after = pc.greater(scored["decided_at"], pa.scalar(at(12), pa.timestamp("us", tz="UTC")))
    assert scored.filter(after)["model_version"].unique().to_pylist() == ["1"]
    assert scored.filter(pc.invert(after))["model_version"].unique().to_pylist() == ["2"]


def test_after_a_rollback_the_next_candidate_can_serve(place: PipelineHome) -> None:
    mlops(place, "rollback", place.name, *SAID)
    move(place, place.clock.now() + place.spec.policy.cooldown)
    outcome = retrain(place, "third")
    assert outcome.promotion, outcome.sentence
    assert (champion(place), outcome.promotion.previous) == (("3", "3"), "1")


def test_a_run_that_takes_over_after_the_promotion_only_ends_what_was_begun(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(place.ledger), "finish_retrain", killed)
        with pytest.raises(KeyboardInterrupt):
            retrain(place, "third")
    assert champion(place) == ("3", "3")
    place.ledger.freeze(place.name, True, by="ann", reason="season", at=place.clock.now())
    again = retraining.conclude(place, run_id="third")
    assert (again.waits, place.ledger.waiting(place.name)) == (False, [])
    ended = place.ledger.retrains(place.name)[-1]
    assert (ended.mlflow_version, ended.status) == ("3", "promoted")


def test_two_people_let_a_candidate_serve(waiting: PipelineHome, bearer: Callable[[str], None]) -> None:
    place = waiting
    assert champion(place) == ("2", "2")
    assert (
        "Version 3 waits until 2013-01-26 00:00 UTC, approved by 0 of 2"
        in mlops(place, "promotions", place.name).output
    )
    bearer("ann")
    first = told(mlops(place, "approve", place.name, "3", *SAID, "--json"))
    assert (first["champion"], first["approvals"], first["needed"]) == (False, 1, 2)
    again = mlops(place, "approve", place.name, "3", *SAID)
    assert "ann (token by corp) has approved version 3 already" in again.output
    bearer("bob")
    second = told(mlops(place, "approve", place.name, "3", *SAID, "--json"))
    assert (second["champion"], second["by"]) == (True, "ann (token by corp), bob (token by corp)")
    assert champion(place) == ("3", "3")
    found = told(mlops(place, "promotions", place.name, "--verify", "--json"))
    assert found["verified"]
    on_it = [one for one in found["records"] if one["mlflow_version"] == "3"]
    assert [one["kind"] for one in on_it] == ["wait", "approval", "approval", "promotion"]
    assert all(one["metrics"] == on_it[0]["metrics"] != {} for one in on_it)
    rows = [*csv.DictReader(io.StringIO(mlops(place, "promotions", place.name, "--export", "csv").output))]
    assert [row["commit"] for row in rows] == [one["commit"]["sha"] for one in found["records"]]


def test_a_candidate_is_rejected_by_a_person(waiting: PipelineHome) -> None:
    done = mlops(waiting, "reject", waiting.name, "3", *SAID)
    assert done.exit_code == 0, done.output
    assert champion(waiting) == ("2", "2")
    late = mlops(waiting, "approve", waiting.name, "3", *SAID)
    assert "was rejected" in late.output


def test_an_altered_candidate_is_not_approved(waiting: PipelineHome) -> None:
    [stored] = [
        path
        for path in (waiting.home.path / "mlflow" / "artifacts").rglob("model.lgb")
        if waiting.home.registry.load(waiting.name, "3").refit.text == path.read_text()
    ]
    stored.write_text(stored.read_text().replace("leaf_value=", "leaf_value=1"))
    done = mlops(waiting, "approve", waiting.name, "3", *SAID)
    assert done.exit_code == 1
    assert "was altered since it was registered" in done.output
    assert champion(waiting) == ("2", "2")


def test_while_frozen_a_candidate_waits(place: PipelineHome) -> None:
    assert "is frozen" in mlops(place, "freeze", place.name, *SAID).output
    again = told(mlops(place, "freeze", place.name, *SAID, "--json"))
    assert again == {"pipeline": place.name, "frozen": True, "changed": False}
    outcome = retrain(place, "third")
    assert "the champion is frozen by" in outcome.sentence
    refused = mlops(place, "approve", place.name, "3", *SAID)
    assert "is frozen by" in refused.output
    assert "is not frozen" in mlops(place, "unfreeze", place.name, *SAID).output
    assert mlops(place, "approve", place.name, "3", *SAID).exit_code == 0
    assert champion(place) == ("3", "3")


def test_an_alias_that_was_moved_by_hand_is_moved_back(place: PipelineHome) -> None:
    place.home.registry.set_alias(place.name, "champion", "1")
    assert "version 2" in mlops(place, "registry", "heal", place.name).output
    assert champion(place) == ("2", "2")
    assert mlops(place, "registry", "adopt", place.name, "1", *SAID).exit_code == 0
    assert champion(place) == ("1", "1")


def test_an_alias_that_was_moved_by_hand_is_moved_back_when_performance_is_reported(
    place: PipelineHome,
) -> None:
    place.home.registry.set_alias(place.name, "champion", "1")
    stage = Stage(place.loaded)
    reporting = [one for one in monitoring.build(stage) if one.key.path[-1] == "performance_report"]
    resources = {"home": HomeResource(path=str(place.home.path))}
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(reporting, instance=instance, resources=resources, partition_key="2013-01-10")
    assert done.success
    assert champion(place) == ("2", "2")


def test_what_was_altered_is_named_with_exit_code_1(place: PipelineHome) -> None:
    import sqlite3

    connection = sqlite3.connect(place.home.path / "ledger.db")
    connection.execute("UPDATE records SET body = replace(body, 'its gates', 'my boss') WHERE number = 2")
    connection.execute("UPDATE promotions SET by = 'my boss' WHERE sequence = 2")
    connection.commit()
    connection.close()
    done = mlops(place, "promotions", place.name, "--verify")
    assert done.exit_code == 1
    assert "Altered: record 2 is not what its hash says." in done.output


def test_the_command_that_helps_is_one_on_the_home_that_was_named(place: PipelineHome) -> None:
    told = mlops(place, "approve", place.name, "9", *SAID)
    assert f"Try: mlops promotions {place.name}\nWith: --home {place.home.path}\n" in told.output


def test_the_registry_that_crashed_in_between_is_healed(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise TerminalError("MLflow is away.")

    with monkeypatch.context() as patched:
        patched.setattr(type(place.home.registry), "set_alias", away)
        done = mlops(place, "rollback", place.name, *SAID)
    assert "MLflow is away" in done.output
    assert champion(place) == ("1", "2")
    # Who is told last is what the next tick goes by.
    assert dagster_events.heads(place.home, place.name) == []
    mlops(place, "registry", "heal", place.name)
    assert champion(place) == ("1", "1")
    assert {head.number for head in dagster_events.heads(place.home, place.name)} == {1, 2, 3}


def test_a_reason_that_says_nothing_is_refused(place: PipelineHome) -> None:
    done = mlops(place, "rollback", place.name, "--reason", "  ")
    assert "The reason is empty" in done.output
    assert champion(place) == ("2", "2")


def test_a_run_that_asked_and_is_started_again_asks_once(waiting: PipelineHome) -> None:
    again = retraining.conclude(waiting, run_id="third")
    assert (again.promotion, again.waits) == (None, False)
    assert len(waiting.ledger.waiting(waiting.name)) == 1
    assert champion(waiting) == ("2", "2")


# --- who acts


@pytest.fixture
def provider() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def identities(tmp_path: Path, provider: Ed25519PrivateKey) -> Path:
    """A folder with the provider's public key, and somebody else's."""
    folder = tmp_path / "identities"
    folder.mkdir()
    for name, key in (("another", Ed25519PrivateKey.generate()), ("corp", provider)):
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pem").write_bytes(pem)
    return folder


def token(key: Any, *, algorithm: str = "EdDSA", lasts: float = 60, **claims: object) -> str:
    until = WallClock().now().timestamp() + lasts
    said = {"sub": "ann", "exp": until, "aud": AUDIENCE, **claims}
    return jwt.encode({name: value for name, value in said.items() if value}, key, algorithm=algorithm)


@pytest.fixture
def bearer(
    identities: Path, provider: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Lets the next command be a person's."""

    def is_now(name: str) -> None:
        monkeypatch.setenv("MLOPS_IDENTITY_TOKEN", token(provider, sub=name))
        monkeypatch.setenv("MLOPS_IDENTITY_KEYS", str(identities))
        settings.cache_clear()

    yield is_now
    settings.cache_clear()


def test_the_user_is_the_one_of_the_operating_system(
    identities: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import getpass
    import os
    import pwd

    name = pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setenv("LOGNAME", "the_boss")
    assert getpass.getuser() == "the_boss"
    assert who_acts(identities, None) == f"{name} (user {os.getuid()} of the operating system)"


def test_a_token_says_who_acts(identities: Path, provider: Ed25519PrivateKey) -> None:
    assert who_acts(identities, token(provider)) == "ann (token by corp)"


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"lasts": -60}, "expired"),
        ({"aud": "others"}, "Audience"),
        ({"aud": None}, "aud"),
        ({"sub": None}, "sub"),
        ({"exp": None}, "exp"),
    ],
)
def test_a_token_that_is_not_valid_here_is_refused(
    identities: Path, provider: Ed25519PrivateKey, claims: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=f"not valid: .*{said}"):
        who_acts(identities, token(provider, **claims))


def test_a_token_that_nobody_known_signed_is_refused(identities: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"signed by nobody who is known here[\s\S]*another, corp"):
        who_acts(identities, token(Ed25519PrivateKey.generate()))
    with pytest.raises(UserError, match="nobody"):
        who_acts(tmp_path, token(Ed25519PrivateKey.generate()))


@pytest.mark.parametrize(
    "forged", ["x", "a.b.c", token("s" * 32, algorithm="HS256"), token(None, algorithm="none")]
)
def test_a_token_of_another_kind_is_refused(identities: Path, forged: str) -> None:
    with pytest.raises(UserError, match="token"):
        who_acts(identities, forged)
