"""The page that Prometheus scrapes, the dashboard and the rules that are made of it."""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mlops_pipelines import prometheus
from mlops_pipelines.alerting.attending import attend
from mlops_pipelines.alerting.monitors import CheckedParity
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.health import health_of
from mlops_pipelines.monitoring.feature_health import report_features
from mlops_pipelines.monitoring.reports import OVERALL, main_rows, report_drift, report_performance
from mlops_pipelines.prometheus import METRICS, Page, figures
from mlops_pipelines.spec import Slos
from tests.loop import advance, at, copy_of, mlops, serving_home, small_home, varied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_pipelines.home import PipelineHome

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "mlops.json"
ALL: dict[str, Any] = {"freshness": {}, "availability": {}, "label_maturity": {}, "quality": {}}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Key = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of twelve days whose champion is from the 8th, with its reports."""
    home = tmp_path_factory.mktemp("lived")
    place = serving_home(home)
    advance(place, at(13))
    report_features(place, [])
    report_drift(place, [])
    report_performance(place, [])
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return varied(copy_of(lived, tmp_path / "home"), slos=Slos.model_validate(ALL))


def parsed(text: str) -> dict[Key, float]:
    """The samples of a page by name and labels; each there once, of a kind and with a help of its own."""
    found: dict[Key, float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def of(found: Mapping[Key, float], name: str, **labels: str) -> float:
    return found[name, frozenset(({"pipeline": "small_flights"} | labels).items())]


def test_the_page_says_what_health_and_the_reports_say(place: PipelineHome) -> None:
    found = parsed(mlops(place, "metrics", place.name).output)
    health = health_of(place)
    assert of(found, "mlops_readable") == of(found, "mlops_healthy") == 1
    behind = health.behind("events")
    assert behind is not None
    assert of(found, "mlops_events_lag_seconds") == behind.total_seconds()
    assert of(found, "mlops_files_waiting") == of(found, "mlops_events_unscored") == 0
    champion = place.ledger.champion(place.name)
    assert champion is not None
    assert of(found, "mlops_champion_version_info", version=champion.mlflow_version) == 1
    assert of(found, "mlops_champion_age_seconds") == (at(13) - champion.at).total_seconds()
    assert of(found, "mlops_retrains_total", outcome="promoted") == 1
    assert of(found, "mlops_retrains_total", outcome="failed") == 0
    [row] = main_rows(place.lake.read("performance_report", days=["2013-01-10"]).to_pylist())
    assert of(found, "mlops_log_loss") == row["log_loss"]
    assert of(found, "mlops_skill", metric="log_loss_skill") == row["log_loss_skill"]
    last = at(10).timestamp()
    assert of(found, "mlops_monitor_last_day_timestamp_seconds", report="performance_report") == last
    [drift] = [
        row
        for row in place.lake.read("drift_report", days=["2013-01-12"]).to_pylist()
        if row["feature"] == OVERALL
    ]
    assert of(found, "mlops_drift_psi_unexplained") == drift["excess"]
    assert of(found, "mlops_drift_level") == prometheus.LEVELS[drift["level"]]
    assert not {name for name, _ in found} - set(METRICS)


def test_objectives_and_incidents_have_their_series(place: PipelineHome) -> None:
    attend(place, [], CheckedParity(holds=False, sentence="3 vectors differ"), NOW)
    made = {(name, *sorted(labels.items())): value for name, labels, value in figures(place)}
    pipeline = ("pipeline", place.name)
    assert made["mlops_incidents_open", pipeline, ("severity", "critical")] == 1
    assert made["mlops_incidents_open", pipeline, ("severity", "info")] == 0
    assert made["mlops_alerts_looked_timestamp_seconds", pipeline] == NOW.timestamp()
    for slo in ALL:
        assert ("mlops_slo_budget_left_ratio", pipeline, ("slo", slo)) in made
        for span in ("1d", "3d", "7d"):
            assert ("mlops_slo_burn_rate", pipeline, ("slo", slo), ("span", span)) in made


def test_a_pipeline_has_few_series(place: PipelineHome) -> None:
    assert len([*figures(varied(place, slos=None))]) <= 25
    assert len([*figures(place)]) <= 25 + 4 * 5


def test_what_is_missing_is_left_out_and_never_nought(tmp_path: Path) -> None:
    place = varied(small_home(tmp_path), slos=Slos.model_validate(ALL))
    found = parsed(prometheus.page([place]).decode())
    names = {name for name, _ in found}
    assert names == {
        "mlops_page_timestamp_seconds", "mlops_readable", "mlops_healthy", "mlops_files_waiting",
        "mlops_triggers_pending", "mlops_retrains_total",
    }  # fmt: skip


def test_a_figure_that_is_not_finite_is_left_out(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some(*_: object) -> list[tuple[str, dict[str, str], float | None]]:
        return [("mlops_log_loss", {}, value) for value in (math.nan, math.inf, -math.inf, None)]

    monkeypatch.setattr(prometheus, "_of_reports", some)
    assert "mlops_log_loss" not in {name for name, _, _ in figures(place)}


def test_names_say_what_they_are_of_and_in_which_unit() -> None:
    for name, named in METRICS.items():
        assert re.fullmatch(r"mlops_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (named.kind == "counter"), name
        assert named.help.endswith("."), name
        if any(word in name for word in ("lag", "age", "timestamp", "compute")):
            assert name.endswith("_seconds"), name


def test_a_pipeline_that_cannot_be_looked_at_hides_none_of_the_others(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = prometheus.figures

    def failing(one: PipelineHome, *rest: Any) -> Any:
        if one.spec.description == "broken":
            raise TerminalError("The disk is gone.")
        return looked(one, *rest)

    monkeypatch.setattr(prometheus, "figures", failing)
    broken = varied(place, name="broken", description="broken")
    found = parsed(prometheus.page([broken, place]).decode())
    assert found["mlops_readable", frozenset({("pipeline", "broken")})] == 0
    assert of(found, "mlops_readable") == 1
    assert of(found, "mlops_events_lag_seconds") >= 0


def test_a_page_is_made_once_for_who_asks_twice(place: PipelineHome, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    now = [100.0]

    def noted(one: PipelineHome, *_: object) -> list[prometheus.Sample]:
        looked.append(one.name)
        return [("mlops_files_waiting", {"pipeline": one.name}, float(len(looked)))]

    monkeypatch.setattr(prometheus, "figures", noted)
    registry = CollectorRegistry()
    registry.register(Page([place], timer=lambda: now[0]))
    assert looked == [], "nothing is looked at before somebody asks"
    pages = [generate_latest(registry)]
    threads = [threading.Thread(target=lambda: pages.append(generate_latest(registry))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looked) == len(set(pages)) == 1
    now[0] += prometheus.KEPT + 0.1
    assert generate_latest(registry) not in pages
    assert len(looked) == 2


def test_the_file_is_written_whole_and_again(place: PipelineHome, tmp_path: Path) -> None:
    path = tmp_path / "mlops.prom"
    for _ in range(2):
        done = mlops(place, "metrics", place.name, "--textfile", str(path))
        assert (done.exit_code, f"Written to {path}" in done.output) == (0, True), done.output
    assert of(parsed(path.read_text()), "mlops_readable") == 1
    assert [one.name for one in tmp_path.iterdir() if one.name != "home"] == ["mlops.prom"]
    refused = mlops(place, "metrics", place.name, "--textfile", str(tmp_path / "none" / "a.prom"))
    assert refused.exit_code == 2
    assert "cannot be written: No such file or directory" in refused.output
    both = mlops(place, "metrics", place.name, "--serve", "--textfile", str(path))
    assert (both.exit_code, "exclude each other" in both.output) == (2, True)


def test_the_server_is_scraped_and_a_port_that_is_taken_is_refused(place: PipelineHome) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    prometheus.serve([place], "127.0.0.1", port)
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        assert page.headers["Content-Type"].startswith("text/plain")
        found = parsed(page.read().decode())
    assert of(found, "mlops_readable") == 1
    assert of(found, "mlops_slo_budget_left_ratio", slo="availability") == 1
    with pytest.raises(UserError, match="cannot be listened on"):
        prometheus.serve([place], "127.0.0.1", port)


def test_the_command_serves_until_it_is_interrupted(lived: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "import sys; from mlops_pipelines import spec_loading; from tests.small_flights import loaded; "
        "spec_loading.load_pipeline = lambda name: loaded(); "
        "from mlops_pipelines.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "metrics", "small_flights", "--serve", "--port", str(port)]
    with subprocess.Popen(
        [*command, "--home", str(lived)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == f"Metrics: http://127.0.0.1:{port}/metrics\n"
            with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
                assert of(parsed(page.read().decode()), "mlops_readable") == 1
        finally:
            server.terminate()
    assert server.returncode == -15


# What is made of it


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\bmlops_[a-z_]+", text))


def expressions(part: object) -> list[str]:
    """What a dashboard asks Prometheus for."""
    if isinstance(part, dict):
        own = [part["expr"]] if "expr" in part else []
        return own + [found for value in part.values() for found in expressions(value)]
    return [found for value in part for found in expressions(value)] if isinstance(part, list) else []


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = set().union(*(named_in(one) for one in expressions(dashboard["panels"])))
    assert asked == set(METRICS)
    assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "pipeline"]
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or panel["title"]
        assert "unit" in panel.get("fieldConfig", {}).get("defaults", {"unit": ""})
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_panels_do_not_lie_upon_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at_ = panel["gridPos"]
        cells = {
            (x, y) for x in range(at_["x"], at_["x"] + at_["w"]) for y in range(at_["y"], at_["y"] + at_["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_rules_ask_for_metrics_there_are_and_watch_the_page_itself() -> None:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    rules = {rule["alert"]: rule for rule in group["rules"]}
    for rule in rules.values():
        assert named_in(rule["expr"])
        assert named_in(rule["expr"]) <= set(METRICS)
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} == set(rule["annotations"])
        assert re.fullmatch(r"\d+[smh]", rule["for"])
    dead = rules["MlopsPageMissing"]["expr"]
    assert "absent(mlops_page_timestamp_seconds)" in dead
    assert "time() - mlops_page_timestamp_seconds" in rules["MlopsPageOld"]["expr"]


def test_the_documentation_names_every_metric_and_no_other() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    table = set(re.findall(r"^\| `(mlops_[a-z_]+)", page, re.MULTILINE))
    assert table == set(METRICS)
    assert named_in(page) - {"mlops_pipelines"} == set(METRICS)
