"""Whether alerts arrive, as people ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mlops_pipelines.alerting.notices import Notice
from mlops_pipelines.cli import main
from mlops_pipelines.spec import Alerts
from tests.alerting.receivers import Answer, mail_server, web
from tests.loop import mlops, small_home, varied

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

WITHHELD = "   It is told no incident of this home, whose clock is that of a replay."
HOOK = {"webhook": {"url_env": "HOOK"}, "at_least": "critical"}


@pytest.fixture
def place(tmp_path: Path) -> PipelineHome:
    return small_home(tmp_path)


def telling(place: PipelineHome, *sinks: object) -> PipelineHome:
    return varied(place, alerts=Alerts.model_validate({"sinks": sinks}))


def test_each_sink_gets_a_test_and_it_is_said_which_took_it(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web() as receiver, mail_server() as server:
        monkeypatch.setenv("HOOK", f"{receiver.address}/hidden")
        mail = {
            "host": "localhost",
            "port": server.port,
            "starttls": False,
            "from": "a@b.org",
            "to": ["c@d.org"],
        }
        all_three = telling(place, {"file": "a.jsonl"}, HOOK, {"email": mail})
        done = mlops(all_three, "alerts", "test", place.name)
    assert (done.exit_code, done.output.splitlines()) == (
        0,
        [
            "1  file a.jsonl: took it",
            "2  webhook HOOK: took it",
            WITHHELD,
            f"3  email c@d.org by localhost:{server.port}: took it",
            WITHHELD,
        ],
    )
    [line] = (place.home.path / "a.jsonl").read_text().splitlines()
    told = Notice.from_json(line)
    assert (told.kind, told.severity, told.at) == ("test", "info", place.clock.now())
    assert (len(receiver.got), len(server.got)) == (1, 1)


def test_one_that_refuses_keeps_no_other_from_it_and_is_the_exit_code(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web(Answer(404, body="no_service")) as receiver:
        monkeypatch.setenv("HOOK", f"{receiver.address}/hidden")
        telling_both = telling(place, HOOK, {"file": "a.jsonl"})
        done = mlops(telling_both, "alerts", "test", place.name)
        as_json = mlops(telling_both, "alerts", "test", place.name, "--json")
    assert done.exit_code == as_json.exit_code == 1
    assert done.output.splitlines() == [
        "1  webhook HOOK: The webhook of HOOK answered 404, no_service.",
        "   Try: export HOOK=ADDRESS, one that is still valid",
        WITHHELD,
        "2  file a.jsonl: took it",
    ]
    first, second = json.loads(as_json.output)["sinks"]
    assert (first["sink"], first["kind"], first["took"]) == (1, "webhook", False)
    assert second == {
        "sink": 2, "kind": "file", "name": "file a.jsonl", "withheld": False, "took": True, "why": None,
        "remedy": None,
    }  # fmt: skip
    assert "hidden" not in done.output + as_json.output


def test_one_sink_is_tested_alone(place: PipelineHome) -> None:
    both = telling(place, {"file": "a.jsonl"}, {"file": "b.jsonl"})
    done = mlops(both, "alerts", "test", place.name, "--sink", "2")
    assert (done.exit_code, done.output) == (0, "2  file b.jsonl: took it\n")
    assert not (place.home.path / "a.jsonl").exists()
    refused = mlops(both, "alerts", "test", place.name, "--sink", "3")
    assert refused.exit_code == 2
    assert "has no sink 3.\nExpected: 1 to 2\n" in refused.output


def test_a_pipeline_that_tells_nobody_says_so(place: PipelineHome) -> None:
    done = mlops(telling(place), "alerts", "test", place.name)
    assert (done.exit_code, done.output) == (0, f"{place.name} tells nobody: alerts.sinks is empty.\n")


def test_the_command_shows_examples() -> None:
    done = CliRunner().invoke(main, ["alerts", "test", "--help"])
    assert done.output.count("mlops alerts test flight_delays") == 2
