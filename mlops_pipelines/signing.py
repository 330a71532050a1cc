"""Ed25519 signatures: a home signs what it makes and knows the public keys it trusts.

HOME/keys/signing.pem             private key, mode 0600, made on first use; or a file of the setting
HOME/keys/public/<key>.pem        public keys whose signatures are valid here, by their fingerprint
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_pipelines.errors import TerminalError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_OPENSSL = "openssl genpkey -algorithm ed25519 -out signing.pem"


@dataclass(frozen=True)
class Signature:
    """key: fingerprint of the public key, 16 hex digits of its SHA-256. value: base64 of 64 bytes."""

    key: str
    value: str


class Keys:
    """The keys in one folder, made on first use.

    given: file of a private key (PEM, PKCS 8, without a password) to sign with instead of the folder's own.
    """

    def __init__(self, folder: Path, given: Path | None = None):
        self.folder = folder
        self._given = given

    @property
    def private(self) -> Path:
        """File of the private key that signs, or would."""
        return self._given or self._path

    def sign(self, content: bytes) -> Signature:
        """Signs with the private key. Raises UserError if it is missing, or is no Ed25519 key."""
        private = self._private()
        key = self._trust(private.public_key())
        return Signature(key, base64.b64encode(private.sign(content)).decode())

    def verify(self, what: str, content: bytes, signature: Mapping[str, str] | None) -> None:
        """Whether one of the public keys signed just this. what: what is signed, for the error.

        Raises TerminalError if it is not signed, the key is not known, or the content is another one.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        listed = self.public()
        key = (signature or {}).get("key")
        if not signature or key not in listed:
            signed = f"is signed with the key {key}, which is not known here" if key else "is not signed"
            raise TerminalError(
                f"{what[:1].upper()}{what[1:]} {signed}.",
                expected=f"a signature by one of {', '.join(listed) or 'the keys'} in {self._public}",
                remedy="mlops datasets keys",
            )
        try:
            public: Ed25519PublicKey = load_pem_public_key(listed[key].encode())  # type: ignore[assignment]
            public.verify(_bytes(signature["value"]), content)
        # ValueError: no base64.
        except (InvalidSignature, ValueError, KeyError) as error:
            raise TerminalError(
                f"{what[:1].upper()}{what[1:]} was changed since it was signed.",
                expected=f"what the key {key} signed",
                remedy="restore it from a backup or from the remote",
            ) from error

    def public(self) -> dict[str, str]:
        """PEM by fingerprint. Raises UserError for a file that holds another key than its name says."""
        found = {}
        for path in sorted(self._public.glob("*.pem")):
            pem = path.read_text(encoding="ascii", errors="replace")
            if path.stem != _fingerprint_of(pem):
                raise UserError(
                    f"{path} is not the public key that its name says.",
                    expected="an Ed25519 public key (PEM), named by the first 16 hex digits of its SHA-256",
                    remedy=f"remove it, or copy the right one to {self._public}",
                )
            found[path.stem] = pem
        return found

    @property
    def own(self) -> str | None:
        """Fingerprint of the key that signs here; None before its first use."""
        if not (self._given or self._path.exists()):
            return None
        return _fingerprint(self._private().public_key())

    def renew(self) -> str:
        """Makes another private key; its fingerprint. What the one before it signed stays valid.

        Raises UserError where the setting gives the key.
        """
        if self._given:
            raise UserError(
                f"The signing key is given by MLOPS_SIGNING_KEY ({self._given}).",
                expected="a key of the home",
                remedy=f"make another one where that is kept: {_OPENSSL}",
            )
        self._path.unlink(missing_ok=True)
        return self._trust(self._make().public_key())

    @property
    def _path(self) -> Path:
        return self.folder / "signing.pem"

    @property
    def _public(self) -> Path:
        return self.folder / "public"

    def _private(self) -> Ed25519PrivateKey:
        path = self.private
        if not path.exists() and not self._given and not self.public():
            return self._make()
        try:
            content = path.read_bytes()
        except OSError as error:
            another = _OPENSSL if self._given else "mlops datasets keys --new"
            raise UserError(
                f"The signing key {path} cannot be read: {error.strerror}.",
                expected="the file that MLOPS_SIGNING_KEY names" if self._given else "the home's own key",
                remedy=another if isinstance(error, FileNotFoundError) else f"chmod 600 {path}, as its owner",
            ) from error
        if not self._given and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(
                f"The signing key {path} may be read by others.",
                expected="mode 0600",
                remedy=f"chmod 600 {path}; if others could have read it, mlops datasets keys --new",
            )
        return _parsed(path, content)

    def _make(self) -> Ed25519PrivateKey:
        """Makes the folder's key; of processes that do so at once, one wins and all have its key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        self.folder.mkdir(parents=True, exist_ok=True)
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        made = self.folder / f".{uuid.uuid4()}"
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(made, self._path)
        except FileExistsError:
            pass  # another process was faster, and its key stands
        finally:
            made.unlink()
        return _parsed(self._path, self._path.read_bytes())

    def _trust(self, public: Ed25519PublicKey) -> str:
        """Lists the public key; its fingerprint."""
        key = _fingerprint(public)
        path = self._public / f"{key}.pem"
        if not path.exists():
            self._public.mkdir(parents=True, exist_ok=True)
            whole = self._public / f".{uuid.uuid4()}"
            whole.write_bytes(_pem(public))
            whole.replace(path)
        return key


def _bytes(value: str) -> bytes:
    """What base64 stands for. Raises ValueError for what it is not, or not as it is written here: its last
    digit has bits that stand for nothing."""
    found = base64.b64decode(value, validate=True)
    if base64.b64encode(found).decode() != value:
        raise ValueError("it is written in another way")
    return found


def _parsed(path: Path, content: bytes) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # no PEM; a key with a password; unknown to OpenSSL
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        # Nothing of the cause, which may quote the file.
        raise UserError(
            f"{path} is no Ed25519 private key.",
            expected="PEM (PKCS 8) without a password",
            remedy=_OPENSSL,
        ) from None
    return private


def _pem(public: Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _fingerprint(public: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def _fingerprint_of(pem: str) -> str | None:
    """Fingerprint of a public key as text; None if it is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        public = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return _fingerprint(public) if isinstance(public, Ed25519PublicKey) else None
