"""What a pipeline may declare of its alerts, and that nothing it makes depends on them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from mlops_pipelines.component import build_definitions
from mlops_pipelines.errors import UserError
from mlops_pipelines.retraining import data_mark
from mlops_pipelines.spec import Alerts, PipelineSpec, Sink
from mlops_pipelines.spec_loading import load_spec
from tests.loop import small_home, varied
from tests.small_flights import loaded
from tests.test_spec import MINIMAL
from tests.test_spec_loading import DEFS, written

if TYPE_CHECKING:
    from pathlib import Path

MAIL = {"host": "smtp.example.org", "from": "mlops@example.org", "to": ["ops@example.org"]}
ALL = Alerts.model_validate(
    {
        "sinks": [
            {"file": "alerts/all.jsonl", "at_least": "warning"},
            {"webhook": {"url_env": "SLACK_WEBHOOK"}},
            {"email": {**MAIL, "username_env": "MAIL_USER", "password_env": "MAIL_PASSWORD"}},
        ],
        "reopen_within": "2w",
    }
)


def declared(alerts: Any) -> Alerts:
    return PipelineSpec.model_validate({**MINIMAL, "alerts": alerts}).alerts


def test_by_default_a_file_of_the_home_gets_all() -> None:
    assert PipelineSpec.model_validate(MINIMAL).alerts == declared({})
    [sink] = declared({}).sinks
    assert (sink.file, sink.threshold) == ("alerts.jsonl", "info")
    assert declared({}).reopen_within == timedelta(days=7)
    assert declared({"sinks": []}).sinks == ()


def test_what_is_declared_is_read_back() -> None:
    assert [one.threshold for one in ALL.sinks] == ["warning"] * 3
    spec = PipelineSpec.model_validate({**MINIMAL, "alerts": ALL})
    assert spec.model_dump(mode="json")["alerts"]["sinks"][2]["email"]["from"] == "mlops@example.org"
    assert PipelineSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert PipelineSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "file",
    [
        "",
        "/var/log/alerts.jsonl",
        "../alerts.jsonl",
        "a/../../b.jsonl",
        "alerts",
        "ledger.db",
        ".hidden.jsonl",
        "a//b.jsonl",
        "a\\b.jsonl",
        "alerts.jsonl\n",
        "keys/a.jsonl",
        "pipelines/flight_delays/landing/events/2013-01-01/a.jsonl",
    ],
)
def test_a_file_lies_in_the_home_where_nothing_else_does(file: str) -> None:
    with pytest.raises(ValidationError, match=r"below the home|holds other things"):
        declared({"sinks": [{"file": file}]})


SECRET = "https://hooks.example.org/hidden"  # noqa: S105 - stands for one


@pytest.mark.parametrize(
    ("alerts", "place", "told"),
    [
        (SECRET, (), "is not a mapping of keys to values; what stands there is not repeated"),
        ({"sinks": SECRET}, ("sinks",), "is not a list; what stands there is not repeated"),
        ({"sinks": [{"file": SECRET}]}, ("sinks", 0, "file"), "is not a .jsonl file below the home"),
        ({"sinks": [SECRET]}, ("sinks", 0), "is not a mapping of keys to values"),
        ({"sinks": [{"webhook": SECRET}]}, ("sinks", 0, "webhook"), "is not a mapping of keys to values"),
        (
            {"sinks": [{"webhook": {"url_env": "A", "url": SECRET}}]},
            ("sinks", 0, "webhook", "url"),
            "url is not a key of this part (allowed: url_env)",
        ),
        (
            {"sinks": [{"webhook": {"url_env": SECRET}}]},
            ("sinks", 0, "webhook", "url_env"),
            "is not the name of an environment variable: capital letters",
        ),
        (
            {"sinks": [{"email": {**MAIL, "password_env": "hidden!"}}]},
            ("sinks", 0, "email", "password_env"),
            "is not the name of an environment variable",
        ),
        (
            {"sinks": [{"email": {**MAIL, "host": "smtp://me:hidden@host"}}]},
            ("sinks", 0, "email", "host"),
            "is not a host, such as smtp.example.org",
        ),
        (
            {"sinks": [{"email": {**MAIL, "to": ["hidden\nBcc: b@c"]}}]},
            ("sinks", 0, "email", "to", 0),
            "is not an e-mail address, such as mlops@example.org",
        ),
        (
            {"sinks": [{"email": {**MAIL, "hidden": 1}}]},
            ("sinks", 0, "email", "hidden"),
            "hidden is not a key of this part (allowed: host, port, starttls, from, to, username_env",
        ),
        ({"sinks": [{"email": {**MAIL, "to": []}}]}, ("sinks", 0, "email", "to"), "is empty"),
        ({"sinks": [{}]}, ("sinks", 0), "give one of file, webhook and email"),
        (
            {"sinks": [{"file": "a.jsonl", "webhook": {"url_env": "A"}}]},
            ("sinks", 0),
            "give one of file, webhook and email",
        ),
        (
            {"sinks": [{"file": "a.jsonl", "at_least": "fatal"}]},
            ("sinks", 0, "at_least"),
            "(allowed: critical, warning, info)",
        ),
        ({"reopen_within": "0d"}, ("reopen_within",), "must be longer than 0s"),
    ],
)
def test_what_is_wrong_is_said_and_no_secret_is_repeated(
    alerts: Any, place: tuple[str | int, ...], told: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        declared(alerts)
    [error] = refused.value.errors()
    assert error["loc"] == ("alerts", *place)
    assert told in error["msg"]
    if place[-1:] != ("hidden",):
        assert "hidden" not in str(refused.value)


def refused(tmp_path: Path, alerts: str) -> str:
    with pytest.raises(UserError) as found:
        load_spec(written(tmp_path, f"{DEFS}  alerts:\n    sinks:\n{alerts}"))
    [line] = found.value.message.splitlines()[1:]
    return line


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ("username_env: MAIL_USER", "password_env: is missing: a name and a password go together"),
        ("password_env: MAIL_PASSWORD", "username_env: is missing: a name and a password go together"),
        (
            "starttls: false",
            "starttls: without it whoever listens reads along (allowed: false with localhost",
        ),
        ("port: 465", "port: 465 speaks TLS from the first byte on"),
    ],
)
def test_mail_that_could_not_go_safely_is_refused(tmp_path: Path, added: str, told: str) -> None:
    mail = "{host: smtp.example.org, from: a@example.org, to: [b@example.org], %s}"
    assert f"alerts.sinks.0.email.{told}" in refused(tmp_path, f"      - email: {mail % added}\n")


def test_a_sink_that_stands_twice_is_refused(tmp_path: Path) -> None:
    sinks = ("{file: a.jsonl}", "{webhook: {url_env: A}}", "{file: a.jsonl, at_least: critical}")
    line = refused(tmp_path, "".join(f"      - {one}\n" for one in sinks))
    assert "alerts.sinks.2: stands twice; first in line" in line


def test_mail_on_this_machine_needs_no_encryption(tmp_path: Path) -> None:
    sink = "{host: localhost, port: 25, starttls: false, from: a@example.org, to: [b@example.org]}"
    path = written(tmp_path, f"{DEFS}  alerts: {{sinks: [{{email: {sink}}}]}}\n")
    assert load_spec(path).spec.alerts.sinks[0].email is not None


def test_nothing_that_is_made_depends_on_who_is_told(tmp_path: Path) -> None:
    place = small_home(tmp_path)
    other = varied(place, alerts=ALL)
    assert data_mark(place, place.clock.now()) == data_mark(other, place.clock.now())
    assert place.features.version == other.features.version
    before, after = (
        build_definitions(one).get_repository_def().asset_graph
        for one in (loaded(), replace(loaded(), spec=other.spec))
    )
    keys = before.get_all_asset_keys()
    assert {key: before.get(key).code_version for key in keys} == {
        key: after.get(key).code_version for key in after.get_all_asset_keys()
    }


def test_a_sink_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_WEBHOOK", SECRET)
    assert "hidden" not in repr(ALL) + ALL.model_dump_json() + repr(Sink.model_validate(ALL.sinks[1]))
