"""Run the proofs at full size, keep what they print, and say how large every sample was."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
BUDGET_SECONDS = 60 * 60
# What is still at work then hangs. Before that it is late, and its proofs count.
HANGS_SECONDS = 2 * BUDGET_SECONDS
# Proofs wait for daemons, children and the disk about as long as they work.
WORKERS = str(2 * (os.cpu_count() or 1))
PROOFS = ("-m", "proof", "--full", "-n", WORKERS, "--dist", "loadfile", "--no-loadscope-reorder",
          "-p", "no:cacheprovider", "--durations=20", "-v", "tests")  # fmt: skip


def stream(command: Sequence[str], *, budget: float, log: Path) -> tuple[int, str]:
    """Exit code and output of a command that is ended, children too, when its budget is used up.

    budget: seconds. The output is shown as it comes and kept in `log`. The exit code of a command
    that was ended is that of its signal, negative.
    """
    lines = []
    with (
        log.open("w", buffering=1) as kept,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that its children end with it
        ) as process,
    ):
        assert process.stdout is not None
        timer = threading.Timer(budget, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                kept.write(line)
                lines.append(line)
        except BaseException:  # an interrupt too: no proof goes on unseen
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            timer.cancel()
    return process.returncode, "".join(lines)


def sample_sizes(output: str) -> list[str]:
    """Lines of the section `sample sizes` that the suite prints after a run."""
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip("= ") == "sample sizes"), len(lines))
    found = []
    for line in lines[start + 1 :]:
        if line.startswith("="):
            break
        if line:
            found.append(line)
    return found


def commit() -> str:
    """Commit of the working tree, marked when there are changes; `unknown` without git."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def outcome(code: int, seconds: float) -> str:
    """`passed`, or FAILED and why: proofs that held count as passed within the hour alone."""
    allowed = BUDGET_SECONDS // 60
    if code == -signal.SIGKILL:
        return f"FAILED: not done within {allowed} minutes, nor in twice as many"
    if code:
        return "FAILED"
    if seconds > BUDGET_SECONDS:
        return f"FAILED: every proof held, in {seconds / 60:.0f} minutes; {allowed} are allowed"
    return "passed"


def summary(code: int, output: str, *, seconds: float, started: datetime) -> str:
    """What the run showed, in the form of `verification/latest.txt`."""
    last = next((line.strip("= ") for line in reversed(output.splitlines()) if line.strip()), "no output")
    return "\n".join(
        [
            f"outcome: {outcome(code, seconds)}",
            f"tests: {last}",
            f"started: {started:%Y-%m-%d %H:%M} UTC, {seconds / 60:.1f} minutes",
            f"commit: {commit()}",
            f"machine: Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
            f"{os.cpu_count()} cores",
            "",
            "sample sizes",
            *(f"  {line}" for line in sample_sizes(output)),
            "",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Run the proofs; further arguments go to pytest. Returns 0 if every proof held, within the hour."""
    folder = ROOT / "verification"
    started = datetime.now(UTC)
    begin = time.monotonic()
    code, output = stream(
        [sys.executable, "-m", "pytest", *PROOFS, *arguments],
        budget=HANGS_SECONDS,
        log=folder / "verify.log",
    )
    seconds = time.monotonic() - begin
    text = summary(code, output, seconds=seconds, started=started)
    (folder / "latest.txt").write_text(text)
    print(f"\n{text}")
    return 0 if outcome(code, seconds) == "passed" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
