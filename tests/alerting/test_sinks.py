"""Notices are sent to real receivers, which take them, are away, or refuse."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
import threading
import traceback
from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.alerting.notices import Notice
from mlops_pipelines.alerting.sinks import (
    LONGEST_PAUSE,
    LONGEST_WISH,
    MOST_ATTEMPTS,
    kind_of,
    name_of,
    next_attempt,
    send,
    takes,
)
from mlops_pipelines.clock import WallClock, midnight
from mlops_pipelines.errors import MlopsError, TerminalError, TransientError, UserError
from mlops_pipelines.spec import Sink
from tests.alerting.receivers import Answer, mail_server, notice, self_signed, web
from tests.redis_server import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.spec import Severity

HOOK = Sink.model_validate({"webhook": {"url_env": "HOOK"}})
FILE = Sink.model_validate({"file": "alerts/all.jsonl"})
PASSWORD = "Tr0ub4dor-hidden"  # noqa: S105 - of a server that a test starts


def mail(port: int, **given: Any) -> Sink:
    told = {"host": "localhost", "port": port, "starttls": False, "from": "mlops@example.org"}
    return Sink.model_validate({"email": {**told, "to": ["a@example.org", "b@example.org"], **given}})


def hooked(monkeypatch: pytest.MonkeyPatch, address: str) -> str:
    """The address of a webhook, whose path is a secret."""
    monkeypatch.setenv("HOOK", f"{address}/services/hidden/T0?key=hidden")
    return address


def failure(sink: Sink, home: Path, kind: type[MlopsError] = TransientError) -> MlopsError:
    """The error of sending, which is just of this kind and says no secret, nor does what led to it."""
    with pytest.raises(MlopsError) as refused:
        send(sink, notice(), home)
    error = refused.value
    assert type(error) is kind, error
    # With what every frame holds, as those do that collect errors; this one is left out, and what called it.
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "sinks.py" in told
    assert "hidden" not in told + repr(error) + str(vars(error))
    return error


# What goes where


@pytest.mark.parametrize(
    ("sink", "severity", "sent"),
    [
        (FILE, "info", True),
        (HOOK, "info", False),
        (HOOK, "warning", True),
        (HOOK, "critical", True),
        (HOOK.model_copy(update={"at_least": "critical"}), "warning", False),
        (FILE.model_copy(update={"at_least": "warning"}), "info", False),
    ],
)
def test_a_sink_takes_what_is_bad_enough(sink: Sink, severity: Severity, sent: bool) -> None:
    assert takes(sink, severity) is sent


def test_sinks_are_named_for_people() -> None:
    assert [(kind_of(one), name_of(one)) for one in (FILE, HOOK, mail(25))] == [
        ("file", "file alerts/all.jsonl"),
        ("webhook", "webhook HOOK"),
        ("email", "email a@example.org, b@example.org by localhost:25"),
    ]


# When it is tried again

AT = midnight("2013-03-03")


def test_pauses_double_up_to_an_hour_and_then_a_person_must_act() -> None:
    pauses = []
    for attempts in range(1, MOST_ATTEMPTS):
        again = next_attempt(attempts, AT)
        assert again is not None
        pauses.append((again - AT) / timedelta(minutes=1))
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert next_attempt(MOST_ATTEMPTS, AT) is None
    assert timedelta(hours=20) < timedelta(minutes=sum(pauses)) < timedelta(hours=28)
    with pytest.raises(ValueError, match="0 attempts"):
        next_attempt(0, AT)


@given(st.integers(1, 10**9), st.timedeltas(timedelta(0), timedelta(days=10**5)) | st.none())
def test_a_receiver_is_left_alone_as_long_as_it_asks_within_reason(
    attempts: int, after: timedelta | None
) -> None:
    again = next_attempt(attempts, AT, after)
    assert (again is None) is (attempts >= MOST_ATTEMPTS)
    if again is not None:
        assert max(timedelta(minutes=1), min(after or timedelta(0), LONGEST_WISH)) <= again - AT
        assert again - AT <= max(LONGEST_PAUSE, LONGEST_WISH)


# Files


def lines(path: Path) -> list[Notice]:
    return [Notice.from_json(line) for line in path.read_text("ascii").splitlines()]


def test_a_file_gets_a_line_of_each_notice(tmp_path: Path) -> None:
    opened, over = notice(title="Late: •••\u2028"), notice(event="resolved")
    for one in (opened, over):
        send(FILE, one, tmp_path)
    assert lines(tmp_path / "alerts" / "all.jsonl") == [opened, over]


def append(home: Path, writer: int, many: int) -> None:
    for n in range(many):
        send(FILE, notice(incident=f"w{writer}-i{n}", title=f"{writer}" * 9000), home)


def test_eight_processes_at_once_lose_no_line_and_mix_none(tmp_path: Path) -> None:
    fresh = multiprocessing.get_context("spawn")
    writers = [fresh.Process(target=append, args=(tmp_path, n, 25)) for n in range(8)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [one.exitcode for one in writers] == [0] * 8
    found = lines(tmp_path / "alerts" / "all.jsonl")
    assert sorted(one.incident for one in found) == sorted(f"w{w}-i{n}" for w in range(8) for n in range(25))


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "alerts" / "all.jsonl"
    path.parent.mkdir()
    path.write_text(notice().to_json()[:50])
    send(FILE, notice(), tmp_path)
    torn, whole = path.read_text().splitlines()
    assert (len(torn), Notice.from_json(whole)) == (50, notice())


def test_a_full_disk_is_tried_again_and_leaves_no_part_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(FILE, notice(), tmp_path)
    write, calls = os.write, []

    def filling(file: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(file, data[:7])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", filling)
        assert "No space left" in failure(FILE, tmp_path).message
    assert lines(tmp_path / "alerts" / "all.jsonl") == [notice()]


def test_a_file_that_may_not_be_written_is_for_a_person_to_mend(tmp_path: Path) -> None:
    (tmp_path / "alerts" / "all.jsonl").mkdir(parents=True)
    assert "cannot be written: Is a directory" in failure(FILE, tmp_path, UserError).message


# Webhooks


@pytest.mark.parametrize("event", ["opened", "resolved"])
def test_a_webhook_gets_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str) -> None:
    with web() as receiver:
        hooked(monkeypatch, receiver.address)
        send(HOOK, notice(event=event), tmp_path)
    [message] = receiver.got
    assert receiver.paths == ["/services/hidden/T0?key=hidden"]
    assert message["blocks"][0]["text"]["text"] == f"flight_delays: drift, {event}"
    assert "Try: mlops features show flight_delays carrier_late_mean_7d" in json.dumps(message)


def test_a_receiver_that_stumbles_gets_it_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web(Answer(500), Answer(200)) as receiver:
        hooked(monkeypatch, receiver.address)
        assert "HOOK answered 500" in failure(HOOK, tmp_path).message
        send(HOOK, notice(), tmp_path)
    assert len(receiver.got) == 2


@pytest.mark.parametrize(
    ("asked", "within"),
    [
        ("120", (120, 120)),
        ("0", (0, 0)),
        (90, (60, 90)),
        (-9, (0, 0)),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
def test_a_receiver_that_has_too_much_says_how_long_it_wants_to_be_left_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str | int | None,
    within: tuple[int, int] | None,
    code: int,
) -> None:
    if isinstance(asked, int):
        asked = format_datetime(WallClock().now() + timedelta(seconds=asked))
    with web(Answer(code, {"Retry-After": asked} if asked else {})) as receiver:
        hooked(monkeypatch, receiver.address)
        error = failure(HOOK, tmp_path)
    assert isinstance(error, TransientError)
    assert (error.after is None) is (within is None)
    if error.after is not None and within is not None:
        assert within[0] <= error.after.total_seconds() <= within[1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(404, body="no_service"), "HOOK answered 404, no_service."),
        (Answer(404, body="no route {path}"), "HOOK answered 404."),
        (Answer(400, body="hidden"), "HOOK answered 400."),
        (Answer(403, body="\xff" * 9999), "HOOK answered 403."),
        (Answer(302, {"Location": "http://127.0.0.1:9/hidden"}), "HOOK answered 302."),
    ],
)
def test_a_receiver_that_refuses_is_for_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, words: str
) -> None:
    with web(answer) as receiver:
        hooked(monkeypatch, receiver.address)
        assert failure(HOOK, tmp_path, TerminalError).message.endswith(words)
    assert len(receiver.got) == 1


def test_a_message_is_not_sent_on_to_another_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with web() as other, web(Answer(307, {"Location": f"{other.address}/x"})) as receiver:
        hooked(monkeypatch, receiver.address)
        assert "not sent on" in str(failure(HOOK, tmp_path, TerminalError))
    assert (len(receiver.got), other.got) == (1, [])


def test_a_receiver_that_is_away_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooked(monkeypatch, f"http://127.0.0.1:{free_port()}")
    assert "cannot be reached" in failure(HOOK, tmp_path).message
    hooked(monkeypatch, "https://no-such-host.invalid")
    monkeypatch.setenv("NO_PROXY", "*")
    assert "cannot be reached" in failure(HOOK, tmp_path).message


def test_a_receiver_without_a_certificate_that_is_trusted_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server() as plain:
        hooked(monkeypatch, f"https://127.0.0.1:{plain.port}")
        assert "certificate" in failure(HOOK, tmp_path, TerminalError).message


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (None, "HOOK is not set"),
        ("", "HOOK is not set"),
        ("http://hooks.example.org/hidden", "http, by which whoever listens"),
        ("http://localhost.example.org/hidden", "http, by which whoever listens"),
        ("http://localhost@example.org/hidden", "http, by which whoever listens"),
        ("hidden", "no host"),
        ("ftp://hidden/x", "another protocol"),
        ("https://", "no host"),
        ("https://a:b:hidden/", "no host"),
        ("https://[hidden/", "no host"),
        ("https://a/hid\nden", "a character"),
        ("https://a\\@hidden/", "a character"),
        ("https://a/hidden\u0661", "a character"),
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str | None, why: str
) -> None:
    monkeypatch.delenv("HOOK", raising=False)
    if held is not None:
        monkeypatch.setenv("HOOK", held)
    error = failure(HOOK, tmp_path, UserError)
    assert why in error.message
    assert error.remedy is not None
    assert error.remedy.startswith("export HOOK=")


def test_no_log_has_the_address_whoever_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    filters = [*logging.getLogger("urllib3.connectionpool").filters]
    with web(Answer(200), Answer(500)) as receiver:
        hooked(monkeypatch, receiver.address)
        send(HOOK, notice(), tmp_path)
        failure(HOOK, tmp_path)
        hooked(monkeypatch, f"http://127.0.0.1:{free_port()}")
        failure(HOOK, tmp_path)
    assert "hidden" not in caplog.text
    assert logging.getLogger("urllib3.connectionpool").filters == filters


# Mail


@pytest.mark.parametrize("event", ["opened", "resolved"])
def test_a_mail_arrives(tmp_path: Path, event: str) -> None:
    with mail_server() as server:
        send(mail(server.port), notice(event=event), tmp_path)
    [got] = server.got
    how = "critical" if event == "opened" else event
    assert got["Subject"].startswith(f"[{how}] flight_delays: Of carrier_late_mean_7d")
    assert (got["From"], got["To"]) == ("mlops@example.org", "a@example.org, b@example.org")
    assert abs(got["Date"].datetime - WallClock().now()) < timedelta(minutes=5)
    assert "Try: mlops features show flight_delays carrier_late_mean_7d" in got.get_content()


def test_a_mail_says_what_it_says_and_no_header_more(tmp_path: Path) -> None:
    hostile = "Über\r\nBcc: thief@example.org\r\n.\r\nMAIL FROM:<x@y>"
    with mail_server() as server:
        send(mail(server.port), notice(title=hostile, symptoms=(hostile,)), tmp_path)
    [got] = server.got
    assert got["Bcc"] is None
    assert "Über Bcc: thief@example.org . MAIL FROM:<x@y>" in got["Subject"]
    assert "\n  Über Bcc: thief@example.org . MAIL FROM:<x@y>\n" in got.get_content().replace("\r\n", "\n")


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("MAIL_USER", "mlops")
    monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)
    return {"username_env": "MAIL_USER", "password_env": "MAIL_PASSWORD"}


def test_a_mail_goes_encrypted_and_with_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: dict[str, str]
) -> None:
    certificate = self_signed(tmp_path)
    with mail_server(certificate=certificate, password=PASSWORD) as server:
        sink = mail(server.port, starttls=True, **login)
        assert "certificate that can be verified" in failure(sink, tmp_path, TerminalError).message
        assert (server.logins, server.got) == ([], [])
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        send(sink, notice(), tmp_path)
    assert (server.encrypted, server.logins, len(server.got)) == ([True], ["mlops"], 1)


def test_a_server_of_another_name_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path, "elsewhere.example.org")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mail_server(certificate=certificate) as server:
        refused = failure(mail(server.port, starttls=True), tmp_path, TerminalError)
    assert "Hostname mismatch" in refused.message
    assert server.got == []


def test_a_server_that_does_not_encrypt_gets_no_password(tmp_path: Path, login: dict[str, str]) -> None:
    with mail_server(password=PASSWORD) as server:
        sink = mail(server.port, starttls=True, **login)
        assert "offers no STARTTLS" in failure(sink, tmp_path, TerminalError).message
    assert (server.logins, server.got) == ([], [])


def test_a_wrong_password_is_for_a_person_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="smtplib")
    with mail_server(password="another") as server:  # noqa: S106 - of a server that a test starts
        sink = mail(server.port, **login)
        assert "did not take name and password: 535" in failure(sink, tmp_path, TerminalError).message
        monkeypatch.setenv("MAIL_PASSWORD", "hidden-é")
        assert "cannot be sent" in failure(sink, tmp_path, UserError).message
        monkeypatch.delenv("MAIL_PASSWORD")
        assert "MAIL_PASSWORD is not set" in failure(sink, tmp_path, UserError).message
    assert server.got == []
    assert "hidden" not in repr(sink) + caplog.text


def test_a_server_that_takes_no_password_is_told_none(tmp_path: Path, login: dict[str, str]) -> None:
    with mail_server() as server:
        assert "offers no login" in failure(mail(server.port, **login), tmp_path, TerminalError).message


@pytest.mark.parametrize(
    ("reply", "kind", "told"),
    [
        ("451 try later", TransientError, "refused the message: 451 try later."),
        ("550 spam", TerminalError, "refused the message: 550 spam."),
        (f"550 who is {PASSWORD}", TerminalError, "refused the message: 550."),
    ],
)
def test_a_reply_says_whether_it_is_for_now_or_for_good(
    tmp_path: Path, login: dict[str, str], reply: str, kind: type[MlopsError], told: str
) -> None:
    with mail_server(reply=reply, password=PASSWORD) as server:
        assert failure(mail(server.port, **login), tmp_path, kind).message.endswith(told)


@pytest.mark.parametrize(
    ("replies", "kind", "told", "taken"),
    [
        ({"a@example.org": "550 unknown"}, TerminalError, "refused a@example.org: 550.", 1),
        ({"b@example.org": "451 busy"}, TransientError, "refused b@example.org: 451.", 1),
        (
            {"a@example.org": "451 busy", "b@example.org": "550 unknown"},
            TerminalError,
            "refused a@example.org, b@example.org: 550.",
            0,
        ),
    ],
)
def test_who_does_not_get_it_is_named(
    tmp_path: Path, replies: dict[str, str], kind: type[MlopsError], told: str, taken: int
) -> None:
    with mail_server(recipients=replies) as server:
        assert failure(mail(server.port), tmp_path, kind).message.endswith(told)
    assert len(server.got) == taken


def test_a_mail_server_that_is_away_is_tried_again(tmp_path: Path) -> None:
    assert "cannot be reached: Connection refused" in failure(mail(free_port()), tmp_path).message


def test_a_server_that_hangs_up_is_tried_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        hanging_up = threading.Thread(target=hang_up)
        hanging_up.start()
        assert "ended the conversation" in failure(mail(listener.getsockname()[1]), tmp_path).message
        hanging_up.join()
