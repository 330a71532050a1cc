"""Where a derivation comes from: the code, the dependencies, the platform."""

from __future__ import annotations

import hashlib
import os
import platform as machine
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_pipelines.errors import UserError
from mlops_pipelines.settings import environment_without_git, given_settings, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROJECT = Path(__file__).resolve().parent.parent
_PACKAGE = "mlops_pipelines"
# Whose versions decide the bytes of a model.
_LIBRARIES = ("lightgbm", "numpy", "pyarrow")
# What decides a result: a changed README makes no other model.
_CODE = (_PACKAGE, "assets", "sensors", "pyproject.toml", "requirements.lock")
_LOCK = _PROJECT / "requirements.lock"


@dataclass(frozen=True)
class Commit:
    """The commit of the running code. sha: `unknown` without git and without a build that names it.

    dirty: whether the code differed from the commit, files that git does not know included; None where that
    cannot be known.
    """

    sha: str
    dirty: bool | None


@cache
def code_commit() -> Commit:
    """The commit this process runs: given by the build (MLOPS_CODE_COMMIT), else asked of git."""
    given = settings().code_commit
    return Commit(given, None) if given else commit_of(_PROJECT)


def commit_of(project: Path) -> Commit:
    """The commit that is checked out in a project's folder, as far as git tracks the project's code."""
    try:
        # Installed code may lie inside some other repository, whose commit says nothing about it.
        _git(project, "ls-files", "--error-unmatch", "--", f"{_PACKAGE}/provenance.py")
        sha = _git(project, "rev-parse", "HEAD")
        return Commit(
            sha, bool(_git(project, "status", "--porcelain", "--untracked-files=all", "--", *_CODE))
        )
    except (OSError, subprocess.CalledProcessError):
        # No git, or no repository around the code: a wheel, or an image without its history.
        return Commit("unknown", None)


@cache
def lock_hash() -> str | None:
    """SHA-256 of requirements.lock; None where the code runs without it."""
    return hashlib.sha256(_LOCK.read_bytes()).hexdigest() if _LOCK.is_file() else None


@cache
def platform() -> dict[str, str | int]:
    """Operating system, processor, Python and libraries of this process: what the bytes of a model depend on.

    A model depends on its number of threads as well, which stands with its parameters.
    """
    from importlib.metadata import version

    return {
        "system": machine.system(),
        "machine": machine.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "python": machine.python_version(),
        **{library: version(library) for library in _LIBRARIES},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return machine.processor()


def _git(project: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
        ["git", "--no-optional-locks", "-C", str(project), *arguments],  # noqa: S607 - whichever git the user has
        check=True,
        capture_output=True,
        text=True,
        env=environment_without_git(),
    )
    return done.stdout.strip()


def run_at(sha: str, arguments: Sequence[str], project: Path = _PROJECT) -> int:
    """Run `mlops` with the code of a commit, from a temporary work tree; its exit code.

    The interpreter and the installed packages are those of this process. Raises UserError where the commit is
    not known here.
    """
    with tempfile.TemporaryDirectory(prefix="mlops-code-") as folder:
        tree = Path(folder) / "code"
        try:
            _git(project, "worktree", "add", "--detach", "--quiet", str(tree), sha)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
            raise UserError(
                f"The commit {sha} cannot be checked out from {project}: {said}",
                expected="a clone of the repository that the prediction was made with",
                remedy=f"git -C {project} fetch --all",
            ) from error
        try:
            done = subprocess.run(  # noqa: S603 - our own command, and an id that was checked
                [sys.executable, "-c", "from mlops_pipelines.cli import main; main()", *arguments],
                cwd=tree,
                # Settings may stand in a file beside the work tree that this process runs from.
                env={**os.environ, **given_settings(), "PYTHONPATH": str(tree)},
                check=False,
            )
        finally:
            _git(project, "worktree", "remove", "--force", str(tree))
        return done.returncode
