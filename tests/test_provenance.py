"""The commit of the running code, asked of real repositories."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from mlops_pipelines import provenance
from mlops_pipelines.errors import UserError
from mlops_pipelines.provenance import Commit, code_commit, commit_of, lock_hash, platform, run_at
from mlops_pipelines.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _asked_afresh() -> Iterator[None]:
    def forget() -> None:
        for cached in (code_commit, lock_hash, platform, settings):
            cached.cache_clear()

    forget()
    yield
    forget()


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    (folder / "mlops_pipelines").mkdir(parents=True)
    (folder / "mlops_pipelines" / "provenance.py").write_text("", encoding="utf-8")
    (folder / "README.md").write_text("", encoding="utf-8")
    (folder / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_a_clean_clone_is_its_commit(project: Path) -> None:
    assert commit_of(project) == Commit(git(project, "rev-parse", "HEAD"), dirty=False)


def test_changed_and_new_code_is_dirty(project: Path) -> None:
    sha = git(project, "rev-parse", "HEAD")
    new = project / "mlops_pipelines" / "pipelines" / "mine" / "defs.yaml"
    new.parent.mkdir(parents=True)
    new.write_text("type: x\n", encoding="utf-8")
    assert commit_of(project) == Commit(sha, dirty=True)
    shutil.rmtree(new.parent.parent)
    assert commit_of(project) == Commit(sha, dirty=False)
    (project / "mlops_pipelines" / "provenance.py").write_text("x = 1\n", encoding="utf-8")
    assert commit_of(project) == Commit(sha, dirty=True)


def test_what_decides_no_result_does_not_count(project: Path) -> None:
    (project / "README.md").write_text("more", encoding="utf-8")
    (project / "data").mkdir()
    (project / "data" / "ledger.db").write_text("x", encoding="utf-8")
    (project / "mlops_pipelines" / "__pycache__").mkdir()
    (project / "mlops_pipelines" / "__pycache__" / "x.pyc").write_text("x", encoding="utf-8")
    assert commit_of(project).dirty is False


def test_code_installed_inside_another_repository_has_no_commit(project: Path) -> None:
    (project / ".gitignore").write_text(".venv/\n", encoding="utf-8")
    installed = project / ".venv" / "lib" / "site-packages"
    (installed / "mlops_pipelines").mkdir(parents=True)
    (installed / "mlops_pipelines" / "provenance.py").write_text("", encoding="utf-8")
    assert commit_of(installed) == Commit("unknown", None)


def test_without_a_repository_or_git_the_commit_is_unknown(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commit_of(tmp_path) == Commit("unknown", None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit_of(project) == Commit("unknown", None)


def test_variables_of_a_git_hook_do_not_mislead(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = git(project, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert commit_of(project).sha == sha


def test_a_build_that_names_its_commit_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_CODE_COMMIT", "abc123")
    assert code_commit() == Commit("abc123", None)


def test_the_lock_is_named_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "requirements.lock"
    monkeypatch.setattr(provenance, "_LOCK", lock)
    assert lock_hash() is None
    lock_hash.cache_clear()
    lock.write_text("numpy==2\n", encoding="utf-8")
    assert lock_hash() == hashlib.sha256(b"numpy==2\n").hexdigest()


def test_the_platform_says_what_a_model_depends_on() -> None:
    found = platform()
    assert set(found) == {
        "system", "machine", "processor", "cores", "python", "lightgbm", "numpy", "pyarrow"
    }  # fmt: skip
    assert all(found.values())


SAYS = """
import json, os, pathlib, sys
def main():
    tree = str(pathlib.Path(__file__).parents[1])
    settings = {name: value for name, value in os.environ.items() if name.startswith("MLOPS_")}
    pathlib.Path(os.environ["SAID"]).write_text(json.dumps([VERSION, sys.argv[1:], tree, settings]))
    sys.exit(3)
"""


def test_a_command_is_run_with_the_code_of_a_commit(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = project / "mlops_pipelines" / "cli.py"
    shas = []
    for version in (1, 2):
        code.write_text(f"VERSION = {version}\n{SAYS}", encoding="utf-8")
        git(project, "add", "--all")
        git(project, "commit", "--quiet", "-m", f"version {version}")
        shas.append(git(project, "rev-parse", "HEAD"))
    said = tmp_path / "said"
    monkeypatch.setenv("SAID", str(said))
    assert run_at(shas[0], ["reproduce", "x"], project) == 3
    version, arguments, tree, _ = json.loads(said.read_text())
    assert (version, arguments) == (1, ["reproduce", "x"])
    assert not (project / tree).exists()
    assert git(project, "worktree", "list").count("\n") == 0
    assert "VERSION = 2" in code.read_text()


def test_settings_of_a_file_reach_the_code_of_a_commit(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "mlops_pipelines" / "cli.py").write_text(f"VERSION = 1\n{SAYS}", encoding="utf-8")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "-m", "says")
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    monkeypatch.setenv("MLOPS_HOME", "/of/the/shell")
    monkeypatch.chdir(tmp_path)
    given = (
        "MLOPS_HOME=/of/the/file\nMLOPS_DATASETS_REMOTE=/mnt/sets\nMLOPS_ONLINE_STORE=redis://:pw@here:1/0\n"
    )
    (tmp_path / ".env").write_text(given, encoding="utf-8")
    run_at(git(project, "rev-parse", "HEAD"), [], project)
    *_, settings_there = json.loads((tmp_path / "said").read_text())
    assert settings_there.items() >= {
        ("MLOPS_HOME", "/of/the/shell"),
        ("MLOPS_DATASETS_REMOTE", "/mnt/sets"),
        ("MLOPS_ONLINE_STORE", "redis://:pw@here:1/0"),
    }


@pytest.mark.parametrize("sha", ["0" * 40, "unknown"])
def test_a_commit_that_is_not_there_is_told(project: Path, sha: str) -> None:
    with pytest.raises(UserError, match=f"commit {sha} cannot be checked out"):
        run_at(sha, [], project)
