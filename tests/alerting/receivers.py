"""Real receivers for tests, on this machine: a web server, and a mail server."""

from __future__ import annotations

import json
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from mlops_pipelines.alerting.notices import Notice
from mlops_pipelines.clock import WallClock, midnight
from tests.redis_server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from email.message import EmailMessage
    from pathlib import Path


def notice(**changes: Any) -> Notice:
    """An incident as the loop tells it."""
    told: dict[str, Any] = {
        "pipeline": "flight_delays",
        "incident": "flight_delays-i12",
        "event": "opened",
        "kind": "drift",
        "subject": "carrier_late_mean_7d",
        "severity": "critical",
        "triage": "data",
        "title": "Of carrier_late_mean_7d the index is 0.61, on 3 of 3 days.",
        "evidence": {"feature": "carrier_late_mean_7d", "index": 0.61, "days": ["2013-03-01", "2013-03-02"]},
        "symptoms": ("Scores are 0.04 lower on average.",),
        "remedy": "mlops features show flight_delays carrier_late_mean_7d",
        "runbook": "docs/runbooks/drift.md",
        "at": midnight("2013-03-03"),
    }
    return Notice(**{**told, **changes})


# The web


@dataclass(frozen=True)
class Answer:
    """What a web server answers; body: `{path}` in it becomes the path that was asked for."""

    code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = "ok"


@dataclass
class Web:
    """A web server: it gives these answers in turn, the last one again and again. got: bodies, as JSON."""

    address: str
    answers: list[Answer]
    got: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def web(*answers: Answer) -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.paths.append(self.path)
            seen.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = seen.answers[0] if len(seen.answers) == 1 else seen.answers.pop(0)
            self.send_response(answer.code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body.format(path=self.path).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        seen = Web(f"http://127.0.0.1:{server.server_port}", list(answers) or [Answer()])
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield seen
        finally:
            server.shutdown()
            thread.join()


# Mail


@dataclass
class Mail:
    """A mail server. reply: what it says to a message, or to a recipient of that name. got: what it took."""

    port: int
    reply: str = "250 taken"
    recipients: Mapping[str, str] = field(default_factory=dict)
    got: list[EmailMessage] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802 - the server looks for this name
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        reply = self.recipients.get(address, "250 known")
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.reply.startswith("250"):
            self.got.append(message_from_bytes(envelope.content, policy=default))  # type: ignore[arg-type]
            self.encrypted.append(session.ssl is not None)
        return self.reply


@contextmanager
def mail_server(
    *, certificate: Path | None = None, password: str | None = None, **replies: Any
) -> Iterator[Mail]:
    """A mail server while the block runs.

    certificate: file of `self_signed`, if it offers STARTTLS, and asks for it. password: of the only user.
    """
    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import AuthResult

    def known(server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> Any:
        seen.logins.append(given.login.decode())
        return AuthResult(success=given.password.decode() == password, handled=False)

    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    seen = Mail(free_port(), **replies)
    server = Controller(
        seen,
        hostname="127.0.0.1",
        port=seen.port,
        tls_context=context,
        require_starttls=context is not None,
        authenticator=known if password else None,
        auth_required=bool(password and context),
        # Without a user no login is offered.
        auth_require_tls=context is not None or password is None,
    )
    server.start()
    try:
        yield seen
    finally:
        server.stop()


def self_signed(folder: Path, host: str = "localhost") -> Path:
    """A certificate for a host with its key, that nobody trusts yet."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), WallClock().now()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path
