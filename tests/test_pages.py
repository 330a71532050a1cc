"""Pages of traces, served and asked for as a browser does."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import uvicorn

from mlops_pipelines.pages import app
from mlops_pipelines.trace import find_prediction, trace
from tests.loop import advance, at, retrain, small_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_pipelines.home import PipelineHome


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> PipelineHome:
    place = small_home(tmp_path_factory.mktemp("home"))
    advance(place, at(10))
    assert retrain(place, "first").promotion
    advance(place, at(12))
    return place


@pytest.fixture(scope="module")
def address(place: PipelineHome) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app(lambda: [place]), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_pages_show_the_trace_of_any_prediction(place: PipelineHome, address: str) -> None:
    row = place.lake.read("predictions").to_pylist()[0]
    name = row["prediction_id"]
    with urlopen(f"{address}/trace?id=+{name}+") as page:
        assert page.url == f"{address}/trace/{name}"
        assert row["event_id"] in page.read().decode()
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    with urlopen(f"{address}/trace/{name}.json") as told:
        assert json.load(told) == trace(find_prediction([place], name))
    with urlopen(address) as page:
        assert "16 hex digits" in page.read().decode()


@pytest.mark.parametrize("name", ["0" * 16, "<script>", ".."])
def test_what_there_is_not_is_told_and_escaped(address: str, name: str) -> None:
    for path in (quote(name), f"{quote(name)}.json"):
        with pytest.raises(HTTPError) as told:
            urlopen(f"{address}/trace/{path}")
        with told.value as page:
            assert page.code == 404
            assert "<script>" not in page.read().decode() or path.endswith("json")
