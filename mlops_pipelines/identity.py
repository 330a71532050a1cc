"""Who acts, and why. Who is the user of the operating system, or the bearer of a signed token, never what
somebody types.

A token is a JWT (RFC 7519) signed with Ed25519 by an identity provider whose public key the home's operator
has put among HOME/keys/identities.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from mlops_pipelines.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

AUDIENCE = "mlops_pipelines"
_BY = " (token by "
_HELP = "docs/promotion.md says how a token is made, and where its public key belongs"


def who_acts(identities: Path, token: str | None) -> str:
    """The authenticated identity of this process.

    identities: folder of the public keys (PEM) of those who may vouch for people. token: a JWT with `sub`,
    `exp` and the audience `mlops_pipelines`; without one the user of the operating system is who acts.
    Raises UserError for a token that is expired, is meant for others, or is signed by nobody known.
    """
    return _bearer(identities, token) if token else _user()


def way_of(identity: str) -> str:
    """How somebody was authenticated: by the operating system, or by which provider of tokens."""
    if re.search(r"\buser \d+ of the operating system\)?$", identity):
        return "the operating system"
    return f"tokens by {identity.rpartition(_BY)[2].removesuffix(')')}" if _BY in identity else ""


def _user() -> str:
    import pwd

    # Not the environment, which says whatever its user likes.
    number = os.getuid()
    try:
        return f"{pwd.getpwuid(number).pw_name} (user {number} of the operating system)"
    except KeyError:
        return f"user {number} of the operating system"


def _bearer(identities: Path, token: str) -> str:
    import jwt

    keys = sorted(identities.glob("*.pem"))
    for path in keys:
        try:
            claims = jwt.decode(
                token,
                path.read_text(encoding="ascii"),
                algorithms=["EdDSA"],
                audience=AUDIENCE,
                options={"require": ["exp", "sub", "aud"]},
            )
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidTokenError as error:
            raise UserError(
                f"The identity token is not valid: {error}.", expected="a valid one", remedy=_HELP
            ) from error
        except (ValueError, UnicodeDecodeError, jwt.InvalidKeyError) as error:
            raise UserError(f"{path} is no Ed25519 public key (PEM).", remedy=_HELP) from error
        return f"{claims['sub']}{_BY}{path.stem})"
    known = ", ".join(path.stem for path in keys)
    raise UserError(
        "The identity token is signed by nobody who is known here.",
        expected=f"a signature by {known} (public keys in {identities})"
        if known
        else f"one by a provider whose public key lies in {identities}; there is none",
        remedy=_HELP,
    )


def said(reason: str) -> str:
    """A reason that says something, on one line. Raises UserError for an empty one."""
    told = " ".join(reason.split())
    if not told:
        raise UserError("The reason is empty.", expected="a sentence that will be read in half a year")
    return told
