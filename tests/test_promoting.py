"""What is decided reaches ledger, registry and Dagster, wherever it is cut short; and where one of them is of
another moment, what serves is what the ledger says, and what one has lost the others name."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import sqlalchemy as sa

from mlops_pipelines import dagster_events, promoting, retraining
from mlops_pipelines.backup import back_up, restore
from mlops_pipelines.component import build_definitions
from mlops_pipelines.errors import MlopsError
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.registry import Registry
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec import Promotion
from tests import candidates
from tests.candidates import P, asked, hash_in, home_of_models, promoted
from tests.loop import copy_of, mlops, move, varied
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two champions, one after the other, and a third version that nobody has judged."""
    place = home_of_models(tmp_path_factory.mktemp("lived") / "home", 3)
    for version in ("1", "2"):
        move(place, candidates.at(int(version)))
        promoted(place.ledger, version, model_hash=hash_in(place, version))
        promoting.heal(place.home, P)
    dagster_events.tell(place)
    return place.home.path


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return copy_of(lived, tmp_path / "home", loaded(P))


def copied(source: Path, to: Path) -> Path:
    """A database's content put in the place of another's, whoever has that open."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(to)) as new:
        old.backup(new)
    return to


def roll_back(place: PipelineHome) -> None:
    done = mlops(place, "rollback", place.name, "--reason", "worse")
    assert done.exit_code == 0, done.output


def aliases(home: Home, name: str) -> dict[str, str | None]:
    return {alias: home.registry.alias(name, alias) for alias in ("champion", "previous")}


def heal(place: PipelineHome) -> None:
    assert mlops(place, "registry", "heal", place.name).exit_code == 0


def next_run(place: PipelineHome) -> None:
    assert retraining.conclude(place, run_id="carries no retrain").promotion is None


# --- one of them is older


@pytest.mark.parametrize("what_follows", [heal, next_run])
def test_a_registry_restored_from_an_older_backup_is_healed_to_the_ledger(
    place: PipelineHome, tmp_path: Path, what_follows: Callable[[PipelineHome], None]
) -> None:
    mlflow = place.home.path / "mlflow" / "mlflow.db"
    older = copied(mlflow, tmp_path / "older.db")
    roll_back(place)
    copied(older, mlflow)
    assert aliases(place.home, place.name) == {"champion": "2", "previous": "1"}
    what_follows(place)
    assert aliases(place.home, place.name) == {"champion": "1", "previous": "2"}
    remembered = {head.number for head in promoting.heads_in_mlflow(place.home, place.name)}
    assert remembered == {one.number for one in place.ledger.records(place.name)}
    assert mlops(place, "promotions", place.name, "--verify").exit_code == 0


def test_a_registry_older_than_the_champion_is_told_as_such_and_an_earlier_champion_can_serve(
    place: PipelineHome,
) -> None:
    place.home.registry._client.delete_model_version(place.name, "2")
    told = mlops(place, "registry", "heal", place.name)
    assert told.exit_code == 1
    assert "not have the model of version 2 of flights, which is champion number 2" in told.output
    assert "mlops rollback flights" in told.output
    roll_back(place)
    assert aliases(place.home, place.name) == {"champion": "1", "previous": None}
    # What the version remembered, the model remembers in its place.
    assert mlops(place, "promotions", place.name, "--verify").exit_code == 0


def swap(place: PipelineHome, one: str, other: str) -> None:
    """Two versions have each other's number, as where MLflow was put back and gave its numbers anew."""
    with closing(sqlite3.connect(place.home.path / "mlflow" / "mlflow.db")) as database, database:
        for was, now in ((one, "99"), (other, one), ("99", other)):
            database.execute("UPDATE model_versions SET version = ? WHERE version = ?", (now, was))
            database.execute("UPDATE model_version_tags SET version = ? WHERE version = ?", (now, was))


def test_a_model_that_got_the_number_of_the_champion_does_not_serve(place: PipelineHome) -> None:
    swap(place, "2", "3")
    place.home.registry.set_alias(place.name, "champion", "3")
    told = mlops(place, "registry", "heal", place.name)
    assert (told.exit_code, "does not have the model of version 2" in told.output) == (1, True)
    assert place.home.registry.alias(place.name, "champion") == "3"
    roll_back(place)
    assert aliases(place.home, place.name) == {"champion": "1", "previous": None}


def test_nobody_rolls_back_to_a_model_that_got_the_number_of_an_earlier_champion(place: PipelineHome) -> None:
    swap(place, "1", "3")
    before = place.ledger.records(place.name)
    told = mlops(place, "rollback", place.name, "--reason", "worse")
    assert (told.exit_code, "it is not the champion of then" in told.output) == (1, True)
    assert place.ledger.records(place.name) == before


def test_of_two_retrains_that_made_a_version_of_one_number_the_last_is_meant(place: PipelineHome) -> None:
    asked(place.ledger, "3", model_hash=hash_in(place, "3"))
    with closing(sqlite3.connect(place.home.path / "ledger.db")) as database, database:
        database.execute("UPDATE retrains SET mlflow_version = '3' WHERE seq = 1")
    assert mlops(place, "reject", P, "3", "--reason", "too soon").exit_code == 0
    again = mlops(place, "approve", P, "3", "--reason", "it is right")
    assert (again.exit_code, "does not wait for approval: it was rejected" in again.output) == (2, True)
    adopted = mlops(place, "registry", "adopt", P, "3", "--reason", "it is right")
    assert adopted.exit_code == 0, adopted.output
    assert aliases(place.home, P) == {"champion": "3", "previous": "2"}


def alter(place: PipelineHome, statement: str) -> None:
    with closing(sqlite3.connect(place.home.path / "ledger.db")) as database, database:
        database.execute(statement)


def test_a_champion_that_somebody_set_in_the_ledger_gets_no_alias(place: PipelineHome) -> None:
    alter(place, "UPDATE promotions SET mlflow_version = '3' WHERE sequence = 2")
    told = mlops(place, "registry", "heal", P)
    assert (told.exit_code, "in the ledger, is not that of the records" in told.output) == (1, True)
    assert place.home.registry.alias(P, "champion") == "2"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "UPDATE verdicts SET outcome = 'warn' WHERE retrain_id = 'flights-00001'",
            "of flights-00001 is not",
        ),
        (
            "UPDATE verdicts SET interval_low = 7, interval_high = 8",
            "of flights-00001 is not what record 1 says",
        ),
        ("UPDATE retrains SET dataset_version = 'other' WHERE seq = 1", "of flights-00001 is not"),
        ("UPDATE waits SET approvals = 0", "ledger's wait of version 3 is not the one of record 3"),
        (
            "INSERT INTO approvals (retrain_id, by, at, reason) "
            "VALUES ('flights-00003', 'ann', '2024-01-01 00:00:00', 'fine')",
            "approvals of version 3 in the ledger are not those of its records",
        ),
    ],
)
def test_what_refuses_a_command_is_found_by_verify_too(
    place: PipelineHome, statement: str, said: str
) -> None:
    asked(place.ledger, "3", model_hash=hash_in(place, "3"), interval=(0.05, 0.15))
    assert promoting.verify(place.home, P) == []
    alter(place, statement)
    told = mlops(place, "promotions", P, "--verify")
    assert (told.exit_code, said in told.output) == (1, True), told.output
    assert "Try: mlops restore" in told.output


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE promotions SET at = 'yesterday'",
        "UPDATE promotions SET at = 7",
        "UPDATE promotions SET at = x'ff'",
        "UPDATE promotions SET at = ''",
    ],
)
def test_a_moment_that_is_none_is_named(place: PipelineHome, statement: str) -> None:
    alter(place, statement)
    for command in (["promotions", P, "--verify"], ["registry", "heal", P]):
        told = mlops(place, *command)
        assert told.exit_code == 1
        assert "where a moment is" in told.output


def test_a_ledger_restored_from_an_older_backup_lacks_what_the_others_remember(
    place: PipelineHome, tmp_path: Path
) -> None:
    ledger = place.home.path / "ledger.db"
    older = copied(ledger, tmp_path / "older.db")
    roll_back(place)
    mlops(place, "freeze", place.name, "--reason", "season")
    place.ledger.close()
    copied(older, ledger)
    found = mlops(place, "promotions", place.name, "--verify")
    assert found.exit_code == 1
    lines = found.stderr.splitlines()
    assert [line.partition(" (event")[0] for line in lines if line.startswith("Altered: ")] == [
        "Altered: record 3 is missing: Dagster",
        "Altered: record 3 is missing: MLflow (version 1) remembers it.",
        "Altered: record 4 is missing: Dagster",
        "Altered: record 4 is missing: MLflow (the model) remembers it.",
    ]
    # Whoever goes on from there does not hide it, and is remembered as well.
    heal(place)
    assert aliases(place.home, place.name) == {"champion": "2", "previous": "1"}
    mlops(place, "freeze", place.name, "--reason", "another season")
    heads = dagster_events.heads(place.home, place.name)
    assert place.ledger.records(place.name)[2].hash in {head.hash for head in heads}
    found = mlops(place, "promotions", place.name, "--verify")
    assert "record 3 is not the one that MLflow (version 1) remembers" in found.stderr
    assert "record 4 is missing" in found.stderr


# --- a decision while the records are verified


@pytest.mark.parametrize("moment", ["heads", "tags", "tags_of", 1, 2, 3, 4, 5])
def test_what_is_decided_while_the_records_are_verified_is_no_alteration(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch, moment: str | int
) -> None:
    """After one of its looks at Dagster and MLflow, or after so many at the ledger."""
    decided: list[str | int] = []
    looks = 0

    def decide() -> None:
        if not decided:
            decided.append(moment)
            other = Home.open(place.home.path).pipeline(place.loaded)
            promoting.roll_back(other, None, by="ann", reason="worse")
            dagster_events.tell(other)

    def then_decide(owner: Any, name: str) -> None:
        read = getattr(owner, name)

        def reading(*args: Any) -> Any:
            found = read(*args)
            decide()
            return found

        monkeypatch.setattr(owner, name, reading)

    def looked(*of: Any) -> None:
        nonlocal looks
        looks += any(table in of[2] for table in ("FROM records", "FROM promotions"))
        if looks == moment:
            decide()

    sa.event.listen(sa.Engine, "after_cursor_execute", looked)
    try:
        if isinstance(moment, str):
            then_decide(dagster_events if moment == "heads" else Registry, moment)
        found = mlops(place, "promotions", P, "--verify")
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", looked)
    assert (found.exit_code, found.stderr) == (0, "")
    # There are two looks at the least.
    assert decided or moment in (3, 4, 5)
    assert len(place.ledger.records(P)) == 2 + len(decided)
    # What it says is of the records that it shows.
    shown = [line for line in found.stdout.splitlines() if line[:4].strip().isdecimal()]
    assert f"Verified: {len(shown)} records" in found.stdout


# --- a backup beside a promotion


def test_a_backup_between_any_two_steps_of_a_decision_is_as_of_one_moment(
    place: PipelineHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def before(owner: Any, name: str) -> None:
        """Back up before the first call of this step."""
        step = getattr(owner, name)

        def backed_up(*args: Any, **kwargs: Any) -> Any:
            if name not in made:
                made.append(name)
                back_up(place.home, tmp_path / name)
            return step(*args, **kwargs)

        monkeypatch.setattr(owner, name, backed_up)

    for owner, name in ((Registry, "set_alias"), (Registry, "tag"), (dagster_events, "tell")):
        before(owner, name)
    roll_back(place)
    assert made == ["set_alias", "tag", "tell"]
    for name in made:
        restore(tmp_path / name, tmp_path / f"home-{name}")
        check_one_moment(Home.open(tmp_path / f"home-{name}"), place.name, decisions=3)


def check_one_moment(home: Home, name: str, decisions: int | None = None) -> None:
    """The registry says what the ledger says, and none of them remembers what the ledger does not."""
    records = home.ledger.records(name)
    assert decisions in (None, len(records))
    champion = home.ledger.champion(name)
    assert champion
    assert aliases(home, name) == {"champion": champion.mlflow_version, "previous": champion.previous}
    assert promoting.verify(home, name, dagster_events.heads(home, name)) == []
    dagster_events.tell(PipelineHome(home, loaded(name)))
    assert {head.hash for head in dagster_events.heads(home, name)} == {one.hash for one in records}


@pytest.mark.proof
def test_backups_beside_decisions_are_each_as_of_one_moment(
    place: PipelineHome, tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=keep_deciding, args=(place.home.path, stop))
    process.start()
    backups = 25 if full else 2
    try:
        for number in range(backups):
            # Begun while the next decision is under way.
            while len(place.ledger.records(place.name)) <= 2 + number and process.is_alive():
                time.sleep(0.02)
            back_up(place.home, tmp_path / f"backup-{number}")
        assert process.is_alive()
    finally:
        stop.set()
        process.join()
    assert process.exitcode == 0
    for number in range(backups):
        restore(tmp_path / f"backup-{number}", tmp_path / f"home-{number}")
        check_one_moment(Home.open(tmp_path / f"home-{number}"), place.name)
    sample_size("backups", backups)
    sample_size("decisions beside them", len(place.ledger.records(place.name)) - 2)


def keep_deciding(home: Path, stop: Any) -> None:
    """Two versions take each other's place."""
    place = Home.open(home).pipeline(loaded(P))
    while not stop.is_set():
        champion = place.ledger.champion(place.name)
        assert champion
        promoting.roll_back(place, champion.previous, by="ann", reason="worse")
        dagster_events.tell(place)


# --- a wait that ends by itself


def by_people(place: PipelineHome) -> PipelineHome:
    return varied(place, promotion=Promotion(approval="human"))


def tick(place: PipelineHome, instance: dg.DagsterInstance) -> Any:
    """What the daemon does every few seconds."""
    repository = build_definitions(place.loaded).get_repository_def()
    context = dg.build_sensor_context(
        instance=instance,
        repository_def=repository,
        resources={"home": HomeResource(path=str(place.home.path))},
    )
    return repository.get_sensor_def(f"{place.name}_retraining").evaluate_tick(context)


def shown(place: PipelineHome, instance: dg.DagsterInstance) -> tuple[bool, str | None]:
    """What the check `approved` says in the UI."""
    key = dg.AssetCheckKey(dg.AssetKey([place.name, "champion"]), "approved")
    [latest] = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert latest.event
    evaluation = latest.event.asset_check_evaluation
    assert evaluation
    return evaluation.passed, evaluation.description


def test_a_wait_ends_by_itself_and_holds_nothing_up(place: PipelineHome) -> None:
    place = by_people(place)
    move(place, candidates.at(3))
    asked(place.ledger, "3", model_hash=hash_in(place, "3"))
    with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
        dagster_events.tell(place, instance)
        passed, said = shown(place, instance)
        assert not passed
        assert "Version 3 waits until 2013-03-11 00:00 UTC, approved by 0 of 1" in str(said)
        held_from = place.ledger.state(P).last_finished_at
        move(place, candidates.at(10) - candidates.DAY / 24)
        tick(place, instance)
        assert [one.mlflow_version for one in place.ledger.waiting(P)] == ["3"]
        move(place, candidates.at(10))
        tick(place, instance)
        assert place.ledger.waiting(P) == []
        assert shown(place, instance) == (True, "No candidate waits.")
        ended = place.ledger.records(P)[-1].content
        assert (ended["kind"], ended["mlflow_version"]) == ("expiry", "3")
        assert ended["why"] == "nobody decided until 2013-03-11 00:00 UTC"
        # The pace of what follows is that of the retrain's own end.
        assert place.ledger.state(P).last_finished_at == held_from == candidates.at(3)
        records = place.ledger.records(P)
        tick(place, instance)
        assert place.ledger.records(P) == records
    assert mlops(place, "promotions", P, "--verify").exit_code == 0


def test_what_a_person_decides_shows_in_the_check_at_once(place: PipelineHome) -> None:
    place = by_people(place)
    asked(place.ledger, "3", model_hash=hash_in(place, "3"))
    with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
        dagster_events.tell(place, instance)
        assert not shown(place, instance)[0]
        assert mlops(place, "reject", P, "3", "--reason", "odd holdout").exit_code == 0
        assert shown(place, instance) == (True, "No candidate waits.")


def decided(place: PipelineHome) -> None:
    """What a command leaves that is killed as soon as the ledger has decided."""
    place.ledger.roll_back(P, expected_sequence=2, by="ann", reason="worse", at=place.clock.now())


def test_a_command_that_was_killed_is_mended_by_the_next_tick(place: PipelineHome) -> None:
    decided(place)
    assert aliases(place.home, P) == {"champion": "2", "previous": "1"}
    with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
        tick(place, instance)
        assert aliases(place.home, P) == {"champion": "1", "previous": "2"}
        last = place.ledger.records(P)[-1]
        for heads in (dagster_events.heads(place.home, P), promoting.heads_in_mlflow(place.home, P)):
            assert (last.number, last.hash) in {(head.number, head.hash) for head in heads}


def test_a_tick_after_which_nothing_was_decided_leaves_the_registry_alone(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
        monkeypatch.setattr(promoting, "heal", None)
        tick(place, instance)


def test_a_tick_without_mlflow_goes_on_and_the_next_one_mends(place: PipelineHome) -> None:
    decided(place)
    with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
        with away(place, 0) as client:
            assert tick(place, instance).skip_message
            client.comes_back()
        assert aliases(place.home, P) == {"champion": "2", "previous": "1"}
        tick(place, instance)
    assert aliases(place.home, P) == {"champion": "1", "previous": "2"}


def test_what_is_decided_while_the_registry_is_healed_is_healed_as_well(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_alias, others = Registry.set_alias, [decided]

    def slowly(registry: Registry, pipeline: str, alias: str, version: str) -> None:
        while others:
            others.pop()(place)
        set_alias(registry, pipeline, alias, version)

    monkeypatch.setattr(Registry, "set_alias", slowly)
    promoting.heal(place.home, P)
    assert aliases(place.home, P) == {"champion": "1", "previous": "2"}


# --- MLflow is away


class Away:
    """The registry's client; before its n-th write, or at once, MLflow's database is none any more."""

    def __init__(self, place: PipelineHome, n: int) -> None:
        self._client, self._left = place.home.registry._client, n
        self._file = place.home.path / "mlflow" / "mlflow.db"
        self._content: bytes | None = None
        if n == 0:
            self._break()

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("set_", "delete_")):
            self._left -= 1
            if self._left == 0:
                self._break()
        return getattr(self._client, name)

    def _break(self) -> None:
        self._content = self._file.read_bytes()
        self._file.write_bytes(b"away" * (len(self._content) // 4))

    def comes_back(self) -> bool:
        """Whether it was away at all."""
        if self._content is None:
            return False
        self._file.write_bytes(self._content)
        return True


@contextmanager
def away(place: PipelineHome, n: int) -> Iterator[Away]:
    registry = place.home.registry
    client = Away(place, n)
    registry.__dict__["_client"] = client
    try:
        yield client
    finally:
        registry.__dict__["_client"] = client._client


def roll_back_or_on(place: PipelineHome) -> None:
    champion = place.ledger.champion(P)
    assert champion
    promoting.roll_back(place, champion.previous, by="ann", reason="worse")


def adopt_the_other(place: PipelineHome) -> None:
    champion = place.ledger.champion(P)
    assert champion
    promoting.adopt(place, str(champion.previous), by="ann", reason="right")


def approve_what_waits(place: PipelineHome) -> None:
    [waiting] = place.ledger.waiting(P)
    promoting.approve(place, waiting.mlflow_version, by="ann", reason="fine")


def freeze_or_not(place: PipelineHome) -> None:
    promoting.freeze(place, place.ledger.frozen(P) is None, by="ann", reason="season")


@pytest.mark.parametrize("act", [roll_back_or_on, adopt_the_other, freeze_or_not])
def test_what_was_decided_while_mlflow_went_away_is_healed(
    place: PipelineHome, act: Callable[[PipelineHome], None]
) -> None:
    for n in range(1, 20):
        before = len(place.ledger.records(P))
        with away(place, n) as client:
            try:
                act(place)
            except MlopsError as error:
                said = str(error)
            gone = client.comes_back()
        assert len(place.ledger.records(P)) == before + 1
        heal(place)
        champion = place.ledger.champion(P)
        assert champion
        assert aliases(place.home, P) == {
            "champion": champion.mlflow_version,
            "previous": champion.previous,
        }
        assert promoting.verify(place.home, P) == []
        if not gone:
            break
        assert "It is decided and recorded, but the registry does not say so yet. MLflow says" in said
        assert "mlops registry heal flights" in said
    assert n == 5  # three aliases and a tag


@pytest.mark.parametrize("act", [roll_back_or_on, adopt_the_other, approve_what_waits])
def test_without_mlflow_nobody_decides_on_files_that_cannot_be_looked_at(
    place: PipelineHome, act: Callable[[PipelineHome], None]
) -> None:
    asked(place.ledger, "3", model_hash=hash_in(place, "3"))
    before = place.ledger.records(P)
    with away(place, 0) as client:
        with pytest.raises(MlopsError, match="MLflow says"):
            act(place)
        client.comes_back()
    assert place.ledger.records(P) == before
    act(place)
    assert mlops(place, "promotions", P, "--verify").exit_code == 0


def test_an_approval_while_mlflow_went_away_is_healed_and_not_given_twice(place: PipelineHome) -> None:
    asked(place.ledger, "3", model_hash=hash_in(place, "3"))
    with away(place, 2) as client:
        with pytest.raises(MlopsError, match="decided and recorded"):
            approve_what_waits(place)
        assert client.comes_back()
    again = mlops(place, "approve", P, "3", "--reason", "fine")
    assert (again.exit_code, "was approved, and became champion" in again.output) == (2, True)
    heal(place)
    assert aliases(place.home, P) == {"champion": "3", "previous": "2"}


# --- nothing to decide on


def test_without_a_champion_the_registry_says_none(place: PipelineHome, tmp_path: Path) -> None:
    new = PipelineHome(Home.create(tmp_path / "new"), loaded(P))
    new.home.__dict__["registry"] = place.home.registry
    assert "flights has no champion" in mlops(new, "registry", "heal", P).output
    refused = mlops(new, "rollback", P, "--reason", "worse")
    assert (refused.exit_code, "flights has no champion to roll back" in refused.output) == (2, True)
    promoting.heal(new.home, P)
    assert aliases(new.home, P) == {"champion": None, "previous": None}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("approve", "2"), "does not wait for approval: it was approved, and became champion"),
        (("approve", "9"), "has no version 9"),
        (("reject", "3"), "does not wait for approval: it was made by no retrain"),
        (("rollback", "--to", "3"), "Version 3 of flights never was champion"),
        (("rollback", "--to", "2"), "Version 2 is the champion of flights already"),
        (("registry", "adopt", "3"), "No retrain of flights has made version 3: it has passed no gates"),
        (("registry", "adopt", "2"), "Version 2 is the champion of flights already"),
    ],
)
def test_what_cannot_be_decided_is_told_and_changes_nothing(
    place: PipelineHome, arguments: tuple[str, ...], said: str
) -> None:
    before = place.ledger.records(P)
    command = 2 if arguments[0] == "registry" else 1
    done = mlops(place, *arguments[:command], P, *arguments[command:], "--reason", "it is right")
    assert (done.exit_code, said in done.output) == (2, True), done.output
    assert place.ledger.records(P) == before
    assert aliases(place.home, P) == {"champion": "2", "previous": "1"}
