"""What the command line says to a user who asks for what cannot be: a clear message, and exit code 2."""

from __future__ import annotations

import json
import re
import socket
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mlops_pipelines import spec_loading
from mlops_pipelines.cli import main
from mlops_pipelines.home import Home
from mlops_pipelines.ingest import taking
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec_loading import load_pipeline

if TYPE_CHECKING:
    from click.testing import Result


def mlops(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_every_command_that_a_message_names_is_there() -> None:
    root = Path(__file__).parents[1]
    texts = [path.read_text() for folder in ("mlops_pipelines", "assets", "sensors")
             for path in (root / folder).rglob("*.py")]  # fmt: skip
    named = {name for text in texts for name in re.findall(r'(?:remedy=f?"|`)mlops ([a-z]+)', text)}
    assert len(named) > 10
    assert named <= set(main.commands)


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.output


def test_an_unknown_pipeline_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    said = refused(mlops("replay", "flights", "--until", "2013-01-07", "--home", str(tmp_path)))
    assert "flight_delays" in said


@pytest.mark.parametrize(
    "command", [["status", "flight_delays"], ["predictions", "flight_delays"], ["dev"], ["mlflow"]]
)
def test_a_missing_home_is_refused_with_the_command_that_makes_one(
    command: list[str], tmp_path: Path
) -> None:
    said = refused(mlops(*command, "--home", str(tmp_path / "none")))
    assert "There is no home" in said
    assert "mlops replay flight_delays" in said


@pytest.mark.parametrize("day", ["2012-12-31", "2014-01-02", "9999-12-31"])
def test_a_day_outside_the_data_is_refused_with_the_days_there_are(tmp_path: Path, day: str) -> None:
    said = refused(mlops("replay", "flight_delays", "--until", day, "--home", str(tmp_path)))
    assert "2013-01-01" in said
    assert "2014-01-01" in said
    assert not (tmp_path / "ledger.db").exists()


@pytest.mark.parametrize("step", ["7", "a week", "1.5d", "-1d"])
def test_a_bad_duration_is_refused_with_the_units_there_are(tmp_path: Path, step: str) -> None:
    said = refused(
        mlops("replay", "flight_delays", "--until", "2013-01-07", "--step", step, "--home", str(tmp_path))
    )
    assert "s, m, h, d, w" in said or "No such option" in said


@pytest.mark.parametrize("step", ["0d", "12h", "36h"])
def test_a_step_that_is_no_number_of_days_is_refused(tmp_path: Path, step: str) -> None:
    said = refused(
        mlops("replay", "flight_delays", "--until", "2013-01-07", "--step", step, "--home", str(tmp_path))
    )
    assert "whole days" in said


def test_a_bad_date_is_refused(tmp_path: Path) -> None:
    said = refused(mlops("replay", "flight_delays", "--until", "31.3.2013", "--home", str(tmp_path)))
    assert "'31.3.2013' is no day, such as 2013-03-31" in said


def test_an_unwritable_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = refused(
        mlops("replay", "flight_delays", "--until", "2013-01-07", "--home", str(tmp_path / "file" / "home"))
    )
    assert "cannot be written" in said


def test_a_landing_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    landing = tmp_path / "pipelines" / "flight_delays" / "landing"
    landing.mkdir(parents=True)
    (landing / "labels").write_text("in the way")
    said = refused(mlops("replay", "flight_delays", "--until", "2013-01-07", "--home", str(tmp_path)))
    assert "landing folder" in said


def test_a_second_replay_on_a_busy_home_is_refused(tmp_path: Path) -> None:
    with Home.create(tmp_path).exclusive("mlops replay"):
        said = refused(mlops("replay", "flight_delays", "--until", "2013-01-07", "--home", str(tmp_path)))
    assert "is held by `mlops replay`" in said


def test_days_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    Home.create(tmp_path)
    said = refused(
        mlops(
            "status",
            "flight_delays",
            "--since",
            "2013-03-02",
            "--until",
            "2013-03-01",
            "--home",
            str(tmp_path),
        )
    )
    assert "lies before" in said


def test_the_status_of_an_empty_home_has_every_figure(tmp_path: Path) -> None:
    Home.create(tmp_path)
    result = mlops("status", "flight_delays", "--json", "--home", str(tmp_path))
    assert result.exit_code == 0, result.output
    status = json.loads(result.output)
    assert status["watermark"] is None
    assert {"accepted", "quarantined", "unlabelled", "unscored"} <= set(status["events"])
    assert {"joined", "maturity"} <= set(status["labels"])
    assert {"admitted", "failed", "rejected"} <= set(status["retrains"])
    assert {"pending", "served", "folded", "expired"} <= set(status["triggers"])
    assert status["promotions"] == status["predictions"] == 0
    assert status["champion"] == {"version": None, "since": None, "frozen": None}
    figures = {"average_precision", "roc_auc", "log_loss", "rows", "since", "until"}
    assert figures <= set(status["prequential"])
    assert (
        "no scores with labels in these days"
        in mlops("status", "flight_delays", "--home", str(tmp_path)).output
    )


def test_the_status_names_refused_files_and_counts_the_rejects_of_every_stream(tmp_path: Path) -> None:
    place = Home.create(tmp_path).pipeline(load_pipeline("flight_delays"))
    place.prepare()
    folder = place.landing("weather") / "2013-01-01"
    folder.mkdir()
    first = datetime(2013, 1, 1, tzinfo=UTC)
    weather = Flights().rows("weather", first, first + timedelta(days=1))
    temperature = weather.schema.get_field_index("temp")
    hot = pa.array([1000.0] * 3 + weather["temp"].to_pylist()[3:])
    pq.write_table(weather.set_column(temperature, "temp", hot), folder / "hot.parquet")
    (folder / "notes.parquet").write_text("no table")
    taking.register_landed(place)
    taking.take_reference(place, "weather", [])
    status = json.loads(mlops("status", "flight_delays", "--json", "--home", str(tmp_path)).output)
    assert status["files"]["weather"] == {"taken": 1, "waiting": 0, "refused": 1, "quarantined_rows": 3}
    assert status["events"]["quarantined"] == 0
    (text,) = status["refused"]
    assert text.startswith(f"{folder / 'notes.parquet'} cannot be read")
    assert (
        f"refused      {folder / 'notes.parquet'}"
        in mlops("status", "flight_delays", "--home", str(tmp_path)).output
    )


def test_the_status_counts_what_no_sensor_has_seen_and_forgets_refused_files_that_are_gone(
    tmp_path: Path,
) -> None:
    place = Home.create(tmp_path).pipeline(load_pipeline("flight_delays"))
    place.prepare()
    first = datetime(2013, 1, 1, tzinfo=UTC)
    Flights().write(place.landing_root, first, first + timedelta(days=1))
    broken = place.landing("weather") / "2013-01-01" / "notes.parquet"
    broken.write_text("no table")

    def status() -> Any:
        return json.loads(mlops("status", "flight_delays", "--json", "--home", str(tmp_path)).output)

    assert status()["files"]["weather"]["waiting"] == status()["files"]["events"]["waiting"] + 1 == 2
    assert status()["queue"]["files"] >= 4
    assert status()["queue"]["oldest_minutes"] >= 0
    taken = taking.take_reference(place, "weather", [])
    assert [file.path for file in taken.refusals] == ["2013-01-01/notes.parquet"]
    # Whoever looks after the next run still sees it.
    assert taking.take_reference(place, "weather", []).refusals == taken.refusals
    assert status()["files"]["weather"] == {"taken": 1, "waiting": 0, "refused": 1, "quarantined_rows": 0}
    broken.unlink()
    assert taking.take_reference(place, "weather", []).refusals == []
    assert status()["refused"] == []
    assert status()["files"]["weather"]["refused"] == 0
    place.landing("planes").rename(tmp_path / "elsewhere")
    (problem,) = status()["unlistable"]
    assert "planes" in problem


def test_a_home_without_predictions_lists_none(tmp_path: Path) -> None:
    Home.create(tmp_path)
    result = mlops("predictions", "flight_delays", "--json", "--home", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == []


@pytest.mark.parametrize("command", ["dev", "mlflow"])
def test_a_server_says_that_its_port_is_taken(tmp_path: Path, command: str) -> None:
    Home.create(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = mlops(command, "--home", str(tmp_path), "--port", str(port))
    assert result.exit_code == 2
    assert f"The port {port} cannot be listened on" in result.output


@pytest.mark.parametrize("command", ["replay", "status", "predictions", "dev", "mlflow"])
def test_every_command_shows_examples(command: str) -> None:
    result = mlops(command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert "--home" in result.output


def test_a_pipeline_is_checked_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = mlops("check", "flight_delays")
    assert (result.exit_code, result.output) == (0, "flight_delays: ok\n")
    (tmp_path / "defs.yaml").write_text("type: mlops_pipelines.LearningLoop\nattributes: {name: mine}\n")
    monkeypatch.setattr(spec_loading, "checked", partial(spec_loading.checked, root=tmp_path))
    for name in (("mine",), ()):
        said = refused(mlops("check", *name))
        assert f"{tmp_path / 'defs.yaml'} has " in said
        assert "\nTry: docs/pipeline.md" in said
    result = mlops("check", "--json")
    assert result.exit_code == 2
    (found,) = json.loads(result.output)
    assert (found["pipeline"], found["ok"]) == ("mine", False)
    assert "attributes.events" in found["why"]
    assert mlops("check", "--help").output.count("mlops check") == 2
