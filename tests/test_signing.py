"""Keys of a home and what they sign."""

from __future__ import annotations

import base64
import multiprocessing
import stat
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.signing import Keys, Signature

WHAT = "the manifest of x"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def openssl(path: Path, algorithm: str = "ed25519", *more: str) -> Path:
    subprocess.run(["openssl", "genpkey", "-algorithm", algorithm, "-out", str(path), *more], check=True)
    return path


def verify(keys: Keys, content: bytes, signature: Signature) -> None:
    keys.verify(WHAT, content, vars(signature))


def test_what_is_signed_is_verified_and_nothing_else(keys: Keys) -> None:
    signature = keys.sign(b"content")
    verify(keys, b"content", signature)
    with pytest.raises(TerminalError, match="The manifest of x was changed since it was signed"):
        verify(keys, b"Content", signature)
    assert keys.sign(b"content") == signature


@pytest.mark.parametrize("value", ["", "%", "AAAA", "A" * 88, "ä", "\udc80"])
def test_a_broken_signature_is_refused(keys: Keys, value: str) -> None:
    key = keys.sign(b"content").key
    with pytest.raises(TerminalError, match="was changed since"):
        verify(keys, b"content", Signature(key, value))


def test_a_signature_is_written_in_one_way(keys: Keys) -> None:
    signature = keys.sign(b"content")
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    last = digits[digits.index(signature.value[85]) + 1]
    same = signature.value[:85] + last + "=="
    assert base64.b64decode(same) == base64.b64decode(signature.value)
    with pytest.raises(TerminalError, match="was changed since"):
        verify(keys, b"content", Signature(signature.key, same))


def test_the_key_is_made_once_for_the_owner_alone(keys: Keys, tmp_path: Path) -> None:
    assert (keys.own, keys.public()) == (None, {})
    key = keys.sign(b"").key
    path = tmp_path / "keys" / "signing.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "PRIVATE" not in "".join(keys.public().values())
    assert (keys.own, list(keys.public())) == (key, [key])
    assert sorted(p.name for p in path.parent.iterdir()) == ["public", "signing.pem"]


def test_another_key_signs_from_then_on_and_the_old_one_stays_known(keys: Keys) -> None:
    old = keys.sign(b"content")
    new = keys.renew()
    assert keys.sign(b"content").key == new != old.key
    verify(keys, b"content", old)


def test_a_key_that_is_not_listed_is_not_trusted(keys: Keys, tmp_path: Path) -> None:
    signature = keys.sign(b"content")
    others = Keys(tmp_path / "others")
    with pytest.raises(TerminalError, match=f"signed with the key {signature.key}, which is not known here"):
        verify(others, b"content", signature)
    with pytest.raises(TerminalError, match="is not signed"):
        others.verify(WHAT, b"content", None)
    (tmp_path / "others" / "public").mkdir(parents=True)
    (tmp_path / "others" / "public" / f"{signature.key}.pem").write_text(keys.public()[signature.key])
    verify(others, b"content", signature)


def test_a_lost_key_is_told_and_not_replaced_in_silence(keys: Keys, tmp_path: Path) -> None:
    keys.sign(b"")
    (tmp_path / "keys" / "signing.pem").unlink()
    with pytest.raises(UserError, match=r"signing.pem cannot be read(.|\n)*mlops datasets keys --new"):
        keys.sign(b"")


def test_a_key_that_others_may_read_is_refused(keys: Keys, tmp_path: Path) -> None:
    keys.sign(b"")
    (tmp_path / "keys" / "signing.pem").chmod(0o640)
    with pytest.raises(UserError, match="may be read by others"):
        keys.sign(b"")


def test_a_given_key_is_used_and_no_other_is_made(tmp_path: Path) -> None:
    given = openssl(tmp_path / "given.pem")
    keys = Keys(tmp_path / "keys", given)
    signature = keys.sign(b"content")
    verify(Keys(tmp_path / "keys"), b"content", signature)
    assert keys.own == signature.key
    assert not (tmp_path / "keys" / "signing.pem").exists()
    with pytest.raises(UserError, match="is given by MLOPS_SIGNING_KEY"):
        keys.renew()


@pytest.mark.parametrize(
    "given", ["missing.pem", "text.pem", "rsa.pem", "password.pem"], ids=lambda name: name.partition(".")[0]
)
def test_a_wrong_key_is_told_without_its_content(tmp_path: Path, given: str) -> None:
    path = tmp_path / given
    if given == "text.pem":
        path.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    elif given == "rsa.pem":
        openssl(path, "rsa", "-quiet")
    elif given == "password.pem":
        openssl(path, "ed25519", "-aes256", "-pass", "pass:secret")
    with pytest.raises(UserError, match=r"cannot be read|is no Ed25519 private key") as told:
        Keys(tmp_path / "keys", path).sign(b"")
    assert "secret" not in str(told.value)
    assert "c2VjcmV0" not in str(told.value)


def test_a_public_key_under_another_name_is_told(keys: Keys, tmp_path: Path) -> None:
    key = keys.sign(b"").key
    folder = tmp_path / "keys" / "public"
    (folder / "0000.pem").write_text((folder / f"{key}.pem").read_text())
    with pytest.raises(UserError, match=r"0000.pem is not the public key that its name says"):
        keys.public()


def _sign(folder: str, gate: Any, signatures: Any) -> None:
    gate.wait()
    signatures.put(Keys(Path(folder)).sign(b"content").key)


def test_processes_that_make_the_key_at_once_have_one(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    gate, signatures = spawn.Barrier(4), spawn.Queue()
    work = [spawn.Process(target=_sign, args=(str(tmp_path / "k"), gate, signatures)) for _ in range(4)]
    for process in work:
        process.start()
    made = {signatures.get(timeout=60) for _ in work}
    for process in work:
        process.join()
    assert made == set(Keys(tmp_path / "k").public())
    assert len(made) == 1
