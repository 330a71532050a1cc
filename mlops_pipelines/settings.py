"""The only reader of the environment."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings from the environment (prefix `MLOPS_`) or a `.env` file in the working directory.

    The environment wins over the file, the file over the defaults.
    """

    model_config = SettingsConfigDict(env_prefix="MLOPS_", env_file=".env", extra="ignore")

    home: Path = Field(default=Path("data"), description="Folder of everything made at run time.")
    registry_ui: str = Field(
        default="http://127.0.0.1:5000", description="Where MLflow's pages are served, for links to them."
    )
    pages_ui: str = Field(
        default="http://127.0.0.1:3001", description="Where `mlops pages` serves traces, for links to them."
    )
    ledger_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL database of the ledger, postgresql+psycopg://user@host/name; without it a "
        "file of the home.",
    )
    online_store: SecretStr | None = Field(
        default=None,
        description="Redis server of the online store, redis://host:6379/0; without it a file of the home.",
    )
    datasets_remote: str | None = Field(
        default=None,
        description="Where training sets go as well: a folder, s3://bucket/path or gs://bucket/path.",
    )
    signing_key: Path | None = Field(
        default=None,
        description="Ed25519 private key (PEM) that signs training sets; without it one of the home's own.",
    )
    identity_token: SecretStr | None = Field(
        default=None, description="JWT that says who approves; without it the operating system's user does."
    )
    identity_keys: Path | None = Field(
        default=None,
        description="Folder of public keys (PEM) of those who vouch for people; by default keys/identities "
        "of the home.",
    )
    code_commit: str | None = Field(
        default=None, description="Commit of the running code, given by a build that carries no git."
    )


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


def given_settings() -> dict[str, str]:
    """The settings that were given, in a file or the environment, as variables for a process of our own."""
    found = settings()
    values = {name: getattr(found, name) for name in found.model_fields_set}
    return {
        f"MLOPS_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
        if value is not None
    }


def secret(variable: str) -> SecretStr | None:
    """What an environment variable holds that a pipeline's YAML names; None where it is not set, or empty."""
    value = os.environ.get(variable, "").strip()
    return SecretStr(value) if value else None


def silence_warning(begins: str) -> None:
    """Let the programs that this process starts, or becomes, not give a warning that begins like this."""
    others = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [others, f"ignore:{begins}"]))


def environment_without_git() -> dict[str, str]:
    """The environment for a git of our own: a hook sets variables that lead to the repository it runs in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def use_home(path: Path) -> None:
    """Make `path` the home of this process and of those it starts."""
    os.environ["MLOPS_HOME"] = str(path.expanduser().absolute())
    settings.cache_clear()
