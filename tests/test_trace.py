"""A prediction is traced to its landed row, and made again from it, in a home that lived a fortnight."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from mlops_pipelines.errors import UserError
from mlops_pipelines.home import PipelineHome
from mlops_pipelines.ingest.contract import MASKED
from mlops_pipelines.reproduce import Link, Reproducer, reproduce
from mlops_pipelines.trace import find_prediction, promotion_of, trace
from mlops_pipelines.trace_page import as_page, as_text
from tests.loop import advance, at, copy_of, mlops, retrain, small_home

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two champions, predictions of both, and a retrain that learned from the first ones."""
    home = tmp_path_factory.mktemp("lived")
    place = small_home(home)
    for day, run_id in ((10, "first"), (14, "second")):
        advance(place, at(day))
        assert retrain(place, run_id).promotion
    advance(place, at(16))
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    """A copy of that home."""
    return copy_of(lived, tmp_path / "home")


def predictions(place: PipelineHome, days: list[str] | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = place.lake.read("predictions", days=days).to_pylist()
    return rows


def reproduced(place: PipelineHome, prediction_id: str) -> list[Link]:
    return list(reproduce([place], prediction_id))


def differing(place: PipelineHome, prediction_id: str) -> str:
    """The link that differs."""
    last = reproduced(place, prediction_id)[-1]
    assert not last.same
    return last.name


def flip(path: Path) -> None:
    """Alter one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


# --- the trace


def test_a_trace_leads_from_the_landed_row_to_the_retrain_it_fed(place: PipelineHome) -> None:
    row = predictions(place, ["2013-01-11"])[0]
    told = trace(find_prediction([place], row["prediction_id"]))
    assert json.loads(json.dumps(told)) == told
    assert told["prediction"]["score"] == row["score"]
    landed = pq.read_table(told["landed"]["file"]).slice(told["landed"]["row"], 1).to_pylist()[0]
    assert row["event_id"] == f"{landed['event_id']}"
    assert told["landed"]["there"]
    assert told["event"]["partition"] == "2013-01-11"
    assert [one["view"] for one in told["views"]] == [view.name for view in place.features.views]
    assert all(one["tiles"] for one in told["views"] if "tiles" in one and "carrier" in one["key"])
    first, second = place.ledger.retrains(place.name)
    assert told["retrain"]["id"] == first.id
    assert told["training_set"]["version"] == first.dataset_version
    assert told["model"]["hash"] == first.model_hash
    assert told["retrain"]["triggers"][0]["evidence"] == {"why": "first"}
    assert told["verdicts"]
    assert told["promotion"]["sequence"] == 1
    assert told["labels"][0]["landed"]["stream"] == "labels"
    assert [one["retrain"] for one in told["fed"]] == [second.id]
    assert told["fed"][0]["model_version"] == "2"
    assert told["code"]["platform"]["python"]


def test_a_trace_of_today_has_no_label_and_fed_nothing(place: PipelineHome) -> None:
    newest = max(predictions(place), key=lambda row: str(row["decided_at"]))
    told = trace(find_prediction([place], newest["prediction_id"]))
    assert (told["labels"], told["fed"]) == ([], [])
    assert "none is known yet" in as_text(told, 100)


def test_text_and_page_say_all_of_it(place: PipelineHome) -> None:
    row = predictions(place, ["2013-01-11"])[0]
    told = trace(find_prediction([place], row["prediction_id"]))
    told["landed"]["file"] = "<script>x</script>"
    text, page = as_text(told, 400), as_page(told)
    assert "<script>" not in page
    for said in (row["prediction_id"], told["training_set"]["version"], "approved by", "fed  retrain"):
        assert said in text
    assert told["retrain"]["id"] in page
    assert max(map(len, as_text(told, 90).splitlines())) <= 90


def test_what_is_sensitive_is_masked_and_so_is_what_was_made_of_it(place: PipelineHome) -> None:
    rules = place.contract.events
    columns = rules.columns | {"tailnum": rules.columns["tailnum"].model_copy(update={"sensitive": True})}
    contract = place.contract.model_copy(update={"events": rules.model_copy(update={"columns": columns})})
    place = PipelineHome(place.home, replace(place.loaded, contract=contract))
    found = find_prediction([place], predictions(place, ["2013-01-11"])[0]["prediction_id"])
    told = trace(found)
    assert told["event"]["values"]["tailnum"] == MASKED
    made_of_it = {name for name, value in told["vector"]["values"].items() if value == MASKED}
    # Found by aircraft: its lateness, and what the register of aircraft says of it.
    of_aircraft = ("tail_", "plane_")
    assert made_of_it == {name for name in told["vector"]["values"] if name.startswith(of_aircraft)}
    assert any(name.startswith("tail_lateness_late_mean") for name in made_of_it)
    assert found.event["tailnum"][0].as_py() not in as_text(told, 400) + as_page(told)


@pytest.mark.parametrize("name", ["", "x", "../../etc/passwd", "0123456789ABCDEF", "0" * 17])
def test_what_is_no_id_is_refused(place: PipelineHome, name: str) -> None:
    with pytest.raises(UserError, match="is no id of a prediction"):
        find_prediction([place], name)


def test_an_unknown_id_is_told(place: PipelineHome) -> None:
    with pytest.raises(UserError, match=r"There is no prediction 0{16} of small_flights"):
        find_prediction([place], "0" * 16)


# --- made again


@pytest.fixture(scope="module")
def month(lived: Path, full: bool, tmp_path_factory: pytest.TempPathFactory) -> PipelineHome:
    """The home after a month, with a retrain a week; in the fast suite the fortnight."""
    place = copy_of(lived, tmp_path_factory.mktemp("month") / "home")
    for day in (21, 28) if full else ():
        advance(place, at(day))
        retrain(place, f"of the {day}th")
    if full:
        advance(place, at(31))
    return place


@pytest.mark.proof
def test_predictions_drawn_at_random_are_reproduced(
    month: PipelineHome, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    place = month
    drawn = random.Random(17).sample(  # noqa: S311 - which of them does not matter
        predictions(place), 200 if full else 5
    )
    sample_size("predictions", len(drawn))
    again, links = Reproducer(), 0
    for row in drawn:
        found = find_prediction([place], row["prediction_id"])
        told = trace(found)
        assert all(told[part] for part in told if part not in ("labels", "fed"))
        made = list(again.links(found))
        assert [link for link in made if not link.same] == []
        assert made[-1].name == "decision"
        links += len(made)
    sample_size("links", links)


def part_of(place: PipelineHome, table: str, day: str) -> Path:
    from pathlib import Path

    [path] = place.lake.files(table, days=[day])
    return Path(path)


DAY = "2013-01-15"


def test_an_altered_byte_of_a_partition_is_named(place: PipelineHome) -> None:
    row = predictions(place, [DAY])[0]
    flip(part_of(place, "events", DAY))
    assert differing(place, row["prediction_id"]) == "partition"


@pytest.mark.parametrize(
    ("table", "link"), [("predictions", "prediction"), ("examples", "examples"), ("events", "partition")]
)
def test_an_altered_byte_is_named_wherever_it_lies(place: PipelineHome, table: str, link: str) -> None:
    name = predictions(place, [DAY])[0]["prediction_id"]
    path = part_of(place, place.features.examples if table == "examples" else table, DAY)
    whole = path.read_bytes()
    for at_ in range(0, len(whole), len(whole) // 25):
        path.write_bytes(whole[:at_] + bytes([whole[at_] ^ 1]) + whole[at_ + 1 :])
        [*_, last] = reproduced(place, name)
        assert (last.name, last.same, last.recorded == last.rebuilt) == (link, False, False)


def test_what_is_gone_from_the_training_window_is_named(place: PipelineHome) -> None:
    name = predictions(place, [DAY])[0]["prediction_id"]
    part_of(place, place.features.examples, "2013-01-03").unlink()
    [*_, last] = reproduced(place, name)
    assert (last.name, last.same) == ("training set", False)
    assert "are gone" in (last.why or "")


def test_an_altered_byte_of_a_landed_file_is_named(place: PipelineHome) -> None:
    row = predictions(place, [DAY])[0]
    flip(place.path / trace(find_prediction([place], row["prediction_id"]))["landed"]["file"])
    assert differing(place, row["prediction_id"]) == "partition"


def test_an_altered_byte_of_a_tile_is_named(place: PipelineHome) -> None:
    row = predictions(place, [DAY])[0]
    view = next(view for view in place.features.views if view.windowed)
    flip(part_of(place, f"feature_tiles/{view.id}", "2013-01-14"))
    assert differing(place, row["prediction_id"]) == f"tiles of {view.name}"


def test_an_altered_byte_of_an_example_is_named(place: PipelineHome) -> None:
    row = predictions(place, [DAY])[0]
    flip(part_of(place, place.features.examples, DAY))
    assert differing(place, row["prediction_id"]) == "examples"


def test_an_altered_byte_of_the_training_set_is_named(place: PipelineHome) -> None:
    row = predictions(place, [DAY])[0]
    version = trace(find_prediction([place], row["prediction_id"]))["training_set"]["version"]
    flip(place.home.datasets.version(place.name, version).path / "2013-01-05.parquet")
    assert differing(place, row["prediction_id"]) == "training set"


def test_an_altered_byte_of_the_manifest_is_named(place: PipelineHome) -> None:
    row = predictions(place, [DAY])[0]
    flip(place.home.datasets.root / place.name / "manifest.json")
    assert differing(place, row["prediction_id"]) == "manifest"


@pytest.mark.parametrize("kept", ["artifacts", "cache"])
@pytest.mark.parametrize("file", ["model.lgb", "facts.json"])
def test_an_altered_byte_of_the_model_is_named(place: PipelineHome, kept: str, file: str) -> None:
    row = predictions(place, [DAY])[0]
    promotion = promotion_of(find_prediction([place], row["prediction_id"]))
    place.home.registry.load(place.name, promotion.mlflow_version)  # into the cache
    for path in (place.home.path / "mlflow" / kept).rglob(file):
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(
            content.replace(b'"cores": ', b'"cores": 1') if file == "facts.json" else content + b" "
        )
    assert differing(place, row["prediction_id"]) == "stored model"


def test_an_altered_byte_of_the_prediction_is_named(place: PipelineHome) -> None:
    row = predictions(place, [DAY])[0]
    flip(part_of(place, "predictions", DAY))
    assert differing(place, row["prediction_id"]) == "prediction"


def test_a_landed_file_that_is_gone_is_named(place: PipelineHome) -> None:
    row = predictions(place, [DAY])[0]
    shutil.rmtree(place.landing("events"))
    last = reproduced(place, row["prediction_id"])[-1]
    assert (last.name, last.same) == ("partition", False)
    assert "is not there any more" in (last.why or "")


# --- the commands


def test_the_chain_is_printed_for_people_machines_and_browsers(place: PipelineHome, tmp_path: Path) -> None:
    name = predictions(place, [DAY])[0]["prediction_id"]
    assert name in mlops(place, "trace", name).stdout
    told = mlops(place, "trace", name, "--json", "--page", str(tmp_path / "trace.html"))
    assert json.loads(told.stdout) == trace(find_prediction([place], name))
    assert name in (tmp_path / "trace.html").read_text()
    # Read by a program, no line is broken in two.
    landed = trace(find_prediction([place], name))["landed"]["file"]
    assert landed in mlops(place, "trace", name).stdout
    refused = mlops(place, "trace", name, "--page", str(tmp_path / "no folder" / "trace.html"))
    assert (refused.exit_code, "cannot be written" in refused.output) == (2, True)


def test_a_prediction_made_again_is_printed_link_by_link(place: PipelineHome) -> None:
    name = predictions(place, [DAY])[0]["prediction_id"]
    whole = mlops(place, "reproduce", name, "--json")
    assert whole.exit_code == 0
    links = json.loads(whole.stdout)["links"]
    assert all(link["same"] and link["recorded"] == link["rebuilt"] for link in links)
    said = mlops(place, "reproduce", name).stdout.splitlines()
    assert len(said) == len(links)
    assert all(" same " in line for line in said)


def test_what_differs_is_named_and_is_the_exit_code(place: PipelineHome) -> None:
    name = predictions(place, [DAY])[0]["prediction_id"]
    flip(part_of(place, "events", DAY))
    result = mlops(place, "reproduce", name)
    assert result.exit_code == 1
    assert "Error: partition differs." in result.stderr
    last = json.loads(mlops(place, "reproduce", name, "--json").stdout)["links"][-1]
    assert (last["name"], last["same"]) == ("partition", False)
    assert "SHA-256" in last["why"]


def test_what_the_user_has_to_mend_first_is_no_link_that_differs(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise UserError("The ledger cannot be opened.")

    monkeypatch.setattr(type(place.ledger), "files_taken", away)
    with pytest.raises(UserError, match="cannot be opened"):
        reproduced(place, predictions(place, [DAY])[0]["prediction_id"])


@pytest.mark.parametrize("command", ["trace", "reproduce"])
def test_an_unknown_id_is_the_mistake_of_who_asked(place: PipelineHome, command: str) -> None:
    result = mlops(place, command, "0" * 16)
    assert result.exit_code == 2
    assert "There is no prediction" in result.stderr
