"""Sends a notice to where a pipeline says (`alerts.sinks`), and says when to try again.

Addresses of webhooks and passwords are secrets. They are read from the environment when they are needed, and
stand in no error and no log: what a library says of a failure is not passed on, and no frame that an error
goes through holds them in the open.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from mlops_pipelines.alerting.notices import Notice, as_email, as_slack, one_line
from mlops_pipelines.clock import WallClock
from mlops_pipelines.errors import MlopsError, TerminalError, TransientError, UserError
from mlops_pipelines.settings import secret
from mlops_pipelines.spec import LOCAL_HOSTS

if TYPE_CHECKING:
    import smtplib
    from collections.abc import Iterator, Sequence
    from email.message import EmailMessage
    from pathlib import Path

    import requests
    from pydantic import SecretStr

    from mlops_pipelines.spec import Email, Severity, Sink

# So many failed attempts are made, over about a day: then a person must act.
MOST_ATTEMPTS = 30
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=1)
# Of what a receiver asks for (Retry-After), no more than this is granted.
LONGEST_WISH = timedelta(days=1)

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 15.0
_TOO_MANY = 429
# Errors of a file that end when somebody makes room, or by themselves.
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.EINTR)
_LOCAL = (*LOCAL_HOSTS, "::1")
_RANK: tuple[Severity, ...] = ("info", "warning", "critical")


def takes(sink: Sink, severity: Severity) -> bool:
    """Whether what is so bad is sent there."""
    return _RANK.index(severity) >= _RANK.index(sink.threshold)


def kind_of(sink: Sink) -> Literal["file", "webhook", "email"]:
    if sink.webhook is not None:
        return "webhook"
    return "email" if sink.email is not None else "file"


def name_of(sink: Sink) -> str:
    """The sink for people, the same as long as it leads to the same place; without secrets."""
    if sink.webhook is not None:
        return f"webhook {sink.webhook.url_env}"
    if sink.email is not None:
        return f"email {', '.join(sink.email.to)} by {sink.email.host}:{sink.email.port}"
    return f"file {sink.file}"


def send(sink: Sink, notice: Notice, home: Path) -> None:
    """Send a notice, whatever its severity, and return once it was taken.

    home: folder of the home, which a file lies in. The notice is sent as it is: mask it before. Raises
    TransientError where the same may succeed later (`after`: how long the receiver asks to be left alone),
    TerminalError where a person must act; UserError where what the pipeline declares cannot be meant.
    """
    if sink.webhook is not None:
        _post(sink.webhook.url_env, notice)
    elif sink.email is not None:
        _mail(sink.email, notice)
    elif sink.file is not None:
        _append(home / sink.file, notice)


def next_attempt(attempts: int, base: datetime, after: timedelta | None = None) -> datetime | None:
    """When to try again after so many failed attempts, or None: it is given up.

    base: when the last attempt failed. after: how long the receiver asked to be left alone. Pauses are 1, 2,
    4 … minutes, at most an hour.
    """
    if attempts < 1:
        raise ValueError(f"{attempts} attempts cannot have failed")
    if attempts >= MOST_ATTEMPTS:
        return None
    pause = min(FIRST_PAUSE * (1 << min(attempts - 1, 16)), LONGEST_PAUSE)
    return base + max(pause, min(after or timedelta(0), LONGEST_WISH))


# A file


def _append(path: Path, notice: Notice) -> None:
    """Add a line. Whoever does so at once waits; a line that another was cut short in is ended first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            _write_line(file, notice.to_json().encode("ascii") + b"\n")
        finally:
            os.close(file)
    except OSError as error:
        kind = TransientError if error.errno in _PASSING else UserError
        raise kind(
            f"{path} cannot be written: {error.strerror}.",
            expected="a file that this user may write",
            remedy="make room, mend the permissions, or name another file in alerts.sinks",
        ) from error


def _write_line(file: int, line: bytes) -> None:
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        line = b"\n" + line
    try:
        written = 0
        while written < len(line):
            written += os.write(file, line[written:])
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


# A webhook


def _post(variable: str, notice: Notice) -> None:
    import requests

    address, local = _address(variable)
    failure: MlopsError | None = None
    try:
        with requests.Session() as session, _unlogged("urllib3.connectionpool"):
            if local:
                # Not by way of a proxy.
                session.trust_env = False
            with session.post(
                address.get_secret_value(),
                json=as_slack(notice),
                timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS),
                allow_redirects=False,
                stream=True,
            ) as answer:
                failure = _refusal(variable, answer)
    except requests.exceptions.SSLError:
        failure = TerminalError(
            f"The webhook of {variable} has no certificate that can be verified.",
            expected="one by an authority that this machine trusts",
            remedy="export REQUESTS_CA_BUNDLE=FILE, where the authority is your own",
        )
    except requests.exceptions.Timeout:
        failure = TransientError(
            f"The webhook of {variable} did not answer in time.", expected=_ANSWERS, remedy=_AGAIN
        )
    except requests.exceptions.ConnectionError:
        failure = TransientError(
            f"The webhook of {variable} cannot be reached.", expected=_ANSWERS, remedy=_AGAIN
        )
    except (requests.exceptions.RequestException, UnicodeError) as error:
        failure = _no_address(variable, type(error).__name__)
    # Raised out here, so that no error of a library, which names the address, hangs on to it.
    if failure is not None:
        raise failure


_ANSWERS = "a receiver that answers"
_AGAIN = "mlops alerts test PIPELINE, once it is back"


def _address(variable: str) -> tuple[SecretStr, bool]:
    """The address of a webhook, and whether it is on this machine. Raises UserError for none that is one."""
    held = _secret(variable)
    host, wrong = _host(held.get_secret_value())
    if wrong:
        raise _no_address(variable, wrong)
    return held, host in _LOCAL


def _host(address: str) -> tuple[str, str]:
    """The host of an address, and what is wrong with the address, if anything is."""
    if not re.fullmatch(r"[!-\[\]-~]+", address):
        return "", "a character that no address has"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "", "no host, or no port"
    if not host or parts.scheme not in ("http", "https"):
        return "", "no host, or another protocol"
    if parts.scheme == "http" and host not in _LOCAL:
        return "", "http, by which whoever listens reads along"
    return host, ""


def _no_address(variable: str, why: str) -> UserError:
    return UserError(
        f"What {variable} holds is no address of a webhook: {why}.",
        expected="https://HOST/PATH, or http on this machine",
        remedy=f"export {variable}=ADDRESS",
    )


def _refusal(variable: str, answer: requests.Response) -> MlopsError | None:
    """What an answer means; None where the message was taken."""
    code = answer.status_code
    if 200 <= code < 300:
        return None
    told = f"The webhook of {variable} answered {code}{_word(answer)}."
    if code == _TOO_MANY or code >= 500:
        return TransientError(told, expected="200", remedy=_AGAIN, after=_wish(answer))
    if 300 <= code < 400:
        return TerminalError(
            told,
            expected="200: a message is not sent on to another address",
            remedy=f"export {variable}=ADDRESS, the one that it leads to, if you trust it",
        )
    return TerminalError(told, expected="200", remedy=f"export {variable}=ADDRESS, one that is still valid")


def _word(answer: requests.Response) -> str:
    """The word by which Slack says why, such as `invalid_token`. Nothing else: it may repeat the address."""
    import requests

    try:
        body = next(answer.iter_content(64), b"").decode("ascii").strip()
    except (requests.exceptions.RequestException, UnicodeError):
        return ""
    plain = re.fullmatch(r"[a-z]+(_[a-z]+){1,5}", body) and body not in str(answer.request.url)
    return f", {body}" if plain else ""


def _wish(answer: requests.Response) -> timedelta | None:
    """How long the receiver asks to be left alone: in seconds, or until a moment (RFC 9110)."""
    said = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", said):
        return timedelta(seconds=int(said))
    try:
        until = parsedate_to_datetime(said)
    except ValueError:
        return None
    until = until.replace(tzinfo=UTC) if until.tzinfo is None else until
    return max(until - WallClock().now(), timedelta(0))


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    """Keep what this thread does out of a log: it would have the path of the address, which is the secret."""
    log, mine = logging.getLogger(name), threading.get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != mine

    log.addFilter(of_others)
    try:
        yield
    finally:
        log.removeFilter(of_others)


# A mail


def _mail(email: Email, notice: Notice) -> None:
    import smtplib
    import ssl

    message = as_email(notice, email.sender, email.to)
    message["Date"] = WallClock().now()
    who = f"The mail server {email.host}:{email.port}"
    login = _login(email)
    failure: MlopsError
    try:
        _hand_over(email, message, login)
        return
    except smtplib.SMTPAuthenticationError as error:
        # Its words may repeat what was sent.
        failure = _by_code(error.smtp_code, f"{who} did not take name and password", "")
    except smtplib.SMTPRecipientsRefused as error:
        failure = _refused(who, error)
    except smtplib.SMTPResponseException as error:
        failure = _by_code(error.smtp_code, f"{who} refused the message", _words(error.smtp_error, login))
    except smtplib.SMTPNotSupportedError:
        failure = TerminalError(
            f"{who} offers no {'STARTTLS' if email.starttls else 'login'}, or no way of it that is known.",
            expected="a server that offers what alerts.sinks asks for",
            remedy="another port or host in alerts.sinks; mlops check",
        )
    except ssl.SSLCertVerificationError as error:
        failure = TerminalError(
            f"{who} has no certificate that can be verified: {error.verify_message}.",
            expected="one for this host, by an authority that this machine trusts",
            remedy="export SSL_CERT_FILE=FILE, where the authority is your own",
        )
    except smtplib.SMTPException:
        failure = TransientError(f"{who} ended the conversation.", expected=_ANSWERS, remedy=_AGAIN)
    except UnicodeError:
        failure = UserError(
            f"What {email.username_env} or {email.password_env} holds cannot be sent.", expected="ASCII"
        )
    except OSError as error:
        why = f": {error.strerror}" if error.strerror else ""
        failure = TransientError(f"{who} cannot be reached{why}.", expected=_ANSWERS, remedy=_AGAIN)
    raise failure


def _hand_over(email: Email, message: EmailMessage, login: Sequence[SecretStr]) -> None:
    import smtplib
    import ssl

    server = smtplib.SMTP(email.host, email.port, timeout=_ANSWER_SECONDS)
    try:
        if email.starttls:
            server.starttls(context=ssl.create_default_context())
        if login:
            server.login(*(one.get_secret_value() for one in login))
        refused = server.send_message(message)
        with suppress(smtplib.SMTPException, OSError):
            server.quit()  # it was taken, whatever becomes of the farewell
    finally:
        server.close()
    if refused:
        raise smtplib.SMTPRecipientsRefused(refused)


def _login(email: Email) -> tuple[SecretStr, ...]:
    """Name and password, if the server is to be told any."""
    return tuple(_secret(one) for one in (email.username_env, email.password_env) if one is not None)


def _refused(who: str, error: smtplib.SMTPRecipientsRefused) -> MlopsError:
    """Some do not get it. One that never will is what a person must hear of."""
    code, _ = max(error.recipients.values())
    return _by_code(code, f"{who} refused {', '.join(sorted(error.recipients))}", "")


def _by_code(code: int, told: str, words: str) -> MlopsError:
    """What a reply means: 4xx is for now, 5xx for good (RFC 5321)."""
    sentence = f"{told}: {code}{words}."
    if 500 <= code < 600:
        return TerminalError(
            sentence, expected="250", remedy="mend alerts.sinks, then mlops alerts test PIPELINE"
        )
    return TransientError(sentence, expected="250", remedy=_AGAIN)


def _words(reply: bytes | str, login: Sequence[SecretStr]) -> str:
    """What a server says, on one line, if it repeats nothing secret."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    line = one_line(text).rstrip(".")
    if not line or any(one.get_secret_value() in line for one in login):
        return ""
    return f" {line[:200]}"


def _secret(variable: str) -> SecretStr:
    held = secret(variable)
    if held is None:
        raise UserError(
            f"The environment variable {variable} is not set.",
            expected="what alerts.sinks says that it holds",
            remedy=f"export {variable}=...",
        )
    return held
