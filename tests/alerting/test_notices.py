"""What people are told: how it looks in a file, a chat and a mail, and what never leaves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email import message_from_bytes
from email.policy import SMTP, default
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlops_pipelines.alerting.notices import (
    SLACK_BLOCKS,
    SLACK_HEADER,
    SLACK_TEXT,
    Notice,
    as_email,
    as_slack,
    as_text,
    masked,
    subject_line,
)
from mlops_pipelines.clock import midnight
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ingest.contract import MASKED
from mlops_pipelines.lineage import hidden_names
from mlops_pipelines.spec_reference import PAGE
from tests.alerting.receivers import notice
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Iterator

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
NOTICES = st.builds(
    notice,
    event=st.sampled_from(["opened", "reopened", "worsened", "resolved"]),
    kind=st.text(),
    subject=st.text(),
    title=st.text(),
    evidence=st.dictionaries(st.text(), SCALARS | st.lists(SCALARS, max_size=5), max_size=5),
    symptoms=st.lists(st.text(), max_size=4).map(tuple),
    remedy=st.text(),
    runbook=st.text(),
    at=st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001
        lambda at: midnight("1970-01-01") + (at - datetime(1970, 1, 1))  # noqa: DTZ001
    ),
)


def mail(of: Notice) -> str:
    """The mail as it goes over the wire, read again: its headers and its body."""
    sent = message_from_bytes(
        as_email(of, "mlops@example.org", ["a@example.org", "b@example.org"]).as_bytes(policy=SMTP),
        policy=default,
    )
    return f"{list(sent.items())}\n{sent.get_body().get_content()}"  # type: ignore[union-attr]


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from (name, *texts(one))
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)
    else:
        yield str(value)


def everything(of: Notice) -> str:
    """All that leaves: as a reader sees it."""
    chat = "\n".join(texts(as_slack(of)))
    for escape, meant in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        chat = chat.replace(escape, meant)
    told = "\n".join(texts(json.loads(of.to_json())))
    return "\n".join([told, chat, as_text(of), subject_line(of), mail(of), repr(of)])


@given(NOTICES)
def test_a_notice_is_read_back_as_it_was_written(of: Notice) -> None:
    assert Notice.from_json(of.to_json()) == of
    assert "\n" not in of.to_json()


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.pop("remedy"),
        lambda told: told.update(mood="bad"),
        lambda told: told.update(event="started"),
        lambda told: told.update(severity="fatal"),
        lambda told: told.update(title=7),
        lambda told: told.update(evidence={"a": {"b": 1}}),
        lambda told: told.update(symptoms="one"),
        lambda told: told.update(at="2013-03-03"),
        lambda told: told.update(at="2013-03-03T00:00:00"),
        lambda told: told.update(at="2013-03-03T00:00:00+02:00"),
    ],
)
def test_what_is_no_notice_is_refused_and_not_repeated(change: Any) -> None:
    told = json.loads(notice(title="hidden").to_json())
    change(told)
    with pytest.raises(TerminalError, match="no notice") as refused:
        Notice.from_json(json.dumps(told))
    assert "hidden" not in str(refused.value)
    with pytest.raises(TerminalError, match="no notice"):
        Notice.from_json("not json")


def test_a_time_is_utc() -> None:
    with pytest.raises(ValueError, match="not a time in UTC"):
        notice(at=datetime(2013, 3, 3, tzinfo=timezone(timedelta(hours=1))))
    with pytest.raises(ValueError, match="not a time in UTC"):
        notice(at=datetime(2013, 3, 3))  # noqa: DTZ001


def test_what_json_cannot_hold_does_not_keep_a_notice_back() -> None:
    read = Notice.from_json(notice(evidence={"skew": float("nan"), "file": "\udcff.csv"}).to_json())
    assert read.evidence == {"skew": None, "file": "?.csv"}


def test_the_text_says_what_is_wrong_what_it_rests_on_and_what_helps() -> None:
    assert as_text(notice()) == (
        "Of carrier_late_mean_7d the index is 0.61, on 3 of 3 days.\n"
        "flight_delays-i12 opened 2013-03-03 00:00 UTC, critical: drift of carrier_late_mean_7d, "
        "to be looked for in: data\n"
        "\n"
        "It rests on:\n"
        "  feature  carrier_late_mean_7d\n"
        "  index    0.61\n"
        "  days     2013-03-01, 2013-03-02\n"
        "\n"
        "What follows from it:\n"
        "  Scores are 0.04 lower on average.\n"
        "\n"
        "Try: mlops features show flight_delays carrier_late_mean_7d\n"
        "Runbook: docs/runbooks/drift.md\n"
    )


def test_the_page_shows_a_notice_as_it_is_told() -> None:
    page = (PAGE.parent / "alerts.md").read_text("utf-8")
    [line] = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    [text] = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert as_text(Notice.from_json(line)) == text
    assert Notice.from_json(line).to_json() == line.strip()


@pytest.mark.parametrize(
    ("event", "begins"),
    [
        ("opened", "[critical] flight_delays: "),
        ("worsened", "[critical, worsened] flight_delays: "),
        ("reopened", "[critical, reopened] flight_delays: "),
        ("resolved", "[resolved] flight_delays: "),
    ],
)
def test_the_subject_says_how_bad_it_is_and_whether_it_is_over(event: str, begins: str) -> None:
    assert subject_line(notice(event=event)).startswith(begins)
    assert len(subject_line(notice(event=event, title="x" * 999))) == 200


@given(NOTICES)
@example(notice(title="<" * 200, symptoms=("&" * 4000,), evidence={">" * 700: "<" * 2900}))
@example(notice(title="", kind="", subject="", symptoms=("",), evidence={"": ""}, remedy=""))
@example(notice(title="<!channel> & <@U1|x>", evidence={str(n): "x" * 99 for n in range(200)}))
def test_a_message_is_within_what_slack_takes(of: Notice) -> None:
    message = as_slack(of)
    blocks = message["blocks"]
    assert 0 < len(blocks) <= SLACK_BLOCKS
    assert 0 < len(blocks[0]["text"]["text"]) <= SLACK_HEADER
    shown = [one["text"] for one in blocks if "text" in one]
    shown += [one for block in blocks for one in block.get("elements", ())]
    for text in (*(one["text"] for one in shown), message["text"]):
        assert 0 < len(text) <= SLACK_TEXT
        assert "<" not in text
        assert ">" not in text
        bare = text.replace("&lt;", "").replace("&gt;", "").replace("&amp;", "")
        assert "&" not in bare
    json.dumps(message, allow_nan=False).encode("ascii")


HOSTILE = "x\r\nBcc: thief@example.org\r\n\r\nbody\x00\u2028\x85Subject: y"


@given(NOTICES)
@example(
    notice(
        pipeline=HOSTILE, incident=HOSTILE, kind=HOSTILE, subject=HOSTILE, title=HOSTILE, remedy=HOSTILE,
        runbook=HOSTILE, symptoms=(HOSTILE,), evidence={HOSTILE: HOSTILE},
    )
)  # fmt: skip
def test_nothing_in_a_notice_becomes_a_header(of: Notice) -> None:
    whole = as_email(of, "mlops@example.org", ["a@example.org"]).as_bytes(policy=SMTP)
    sent = message_from_bytes(whole, policy=default)
    assert sorted(sent.keys()) == sorted(
        [
            "From", "To", "Subject", "Message-ID", "References", "Auto-Submitted", "Content-Type",
            "Content-Transfer-Encoding", "MIME-Version",
        ]
    )  # fmt: skip
    assert sent["To"] == "a@example.org"
    assert sent.get_content_type() == "text/plain"
    assert max(map(len, whole.split(b"\r\n"))) <= 998
    assert b"\n" not in whole.replace(b"\r\n", b"")


def test_mails_of_one_incident_are_one_conversation_and_none_is_shown_twice() -> None:
    opened, again, over = (
        as_email(one, "mlops@example.org", ["a@example.org"])
        for one in (notice(), notice(), notice(event="resolved", at=midnight("2013-03-04")))
    )
    assert opened["Message-ID"] == again["Message-ID"] != over["Message-ID"]
    assert opened["References"] == over["References"] == "<flight_delays-i12@example.org>"


# What never leaves

# Letters that nothing else in a notice has: whatever is found of them is a value that got out.
LETTERS = frozenset("ÀÉÎÕÜ")
SECRET = st.text("ÀÉÎÕÜ <&>\"'\n\\", min_size=1, max_size=12).filter(lambda one: LETTERS & {*one})
AROUND = st.sampled_from(["{}", "'{}'", "of {}, and {}", "({})", "x{}y", "a={};", "<{}>"])


@given(
    values=st.lists(SECRET, min_size=1, max_size=4),
    keys=st.lists(st.sampled_from(["value", "values", "categories", "breaks", "lowest", "group", "odd"]),
                  min_size=4, max_size=4),
    around=st.lists(AROUND, min_size=4, max_size=4),
    where=st.sampled_from(["feature", "features", "column", "subject", "title", "symptom", "remedy"]),
)  # fmt: skip
def test_no_value_of_a_sensitive_column_is_in_anything_that_leaves(
    values: list[str], keys: list[str], around: list[str], where: str
) -> None:
    evidence: dict[str, Any] = {"rows": 10, "index": 0.5}
    for key, value in zip(keys, values, strict=False):
        evidence.setdefault(key, []).append(value)
    pairs = zip(around, values, strict=False)
    # A short value is found where it stands as a word.
    told = [one.format(value, value) if len(value) >= 4 else f"of {value} ." for one, value in pairs]
    if where in ("feature", "column"):
        evidence[where] = "passport"
    if where == "features":
        evidence[where] = ["carrier", "passport"]
    of = notice(
        subject="passport" if where == "subject" else "carrier",
        title=" ".join([*told, *(["passport is off"] if where == "title" else [])]),
        evidence=evidence,
        symptoms=(*told, *(["passport is off"] if where == "symptom" else [])),
        remedy=f"mlops x {told[0]} {'passport' if where == 'remedy' else ''}",
    )
    assert LETTERS & {*everything(of)}
    safe = masked(of, {"passport", "age"})
    assert LETTERS.isdisjoint(everything(safe))
    assert (safe.evidence["rows"], safe.evidence["index"]) == (10, 0.5)
    assert masked(safe, {"passport", "age"}) == safe


@given(st.floats(1, 1e6) | st.integers(10, 10**6), st.integers(0, 3))
def test_a_number_does_not_leave_rounded_either(value: float, digits: int) -> None:
    of = notice(
        subject="age",
        title=f"The age is {value:,.{digits}f}, {value:.3g} or {value}kg since 2013-03-01 in age_mean_30d.",
        evidence={"feature": "age", "highest": value},
        symptoms=(f"It was {round(value)}.",),
        remedy="mlops features show flight_delays age --since 2013-03-01",
    )
    safe = masked(of, ["age"])
    assert safe.title == f"The age is {MASKED}, {MASKED} or {MASKED}kg since 2013-03-01 in age_mean_30d."
    assert (safe.symptoms, safe.evidence["highest"]) == ((f"It was {MASKED}.",), MASKED)
    assert safe.remedy == of.remedy


def test_what_is_about_no_sensitive_column_is_said_in_full() -> None:
    of = notice(evidence={"feature": "carrier", "categories": ["ZZ"]}, subject="carrier")
    assert masked(of, ["passport", "car", "carrier_code"]) is of
    assert masked(of, []) is of


def test_names_counts_and_days_are_said_and_a_missing_value_is_no_secret() -> None:
    evidence = {
        "feature": "passport_last", "features": ["passport_last"], "day": "2013-03-01", "rows": 7,
        "share": 0.5, "value": None, "anything": "K7",
    }  # fmt: skip
    safe = masked(notice(evidence=evidence, title="K7 of passport_last is new."), ["passport_last"])
    assert safe.evidence == {**evidence, "anything": MASKED}
    assert safe.title == f"{MASKED} of passport_last is new."


def test_hidden_are_the_columns_that_the_contract_marks_and_the_features_made_of_them() -> None:
    assert hidden_names(loaded()) == frozenset()
    real = loaded()
    columns = {**real.contract.events.columns}
    columns["tailnum"] = columns["tailnum"].model_copy(update={"sensitive": True})
    events = real.contract.events.model_copy(update={"columns": columns})
    marked = replace(real, contract=real.contract.model_copy(update={"events": events}))
    hidden = hidden_names(marked)
    assert "tailnum" in hidden
    assert {one for one in hidden if one.startswith("tail_")}
    assert "distance" not in hidden
