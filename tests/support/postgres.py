"""A real PostgreSQL for the tests, of Debian's package, in a folder and on a socket of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

SECONDS = 60
MISSING = "no PostgreSQL here; what to do: sudo apt install postgresql"
# What a power cut of the machine may lose; a killed process, on either side, loses nothing by it.
_FAST = ("fsync=off", "shared_buffers=16MB", "max_connections=40", "listen_addresses=")


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, which Debian keeps off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


def _user() -> dict[str, Any]:
    """PostgreSQL refuses root."""
    if os.geteuid():
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise LookupError("neither postgres nor nobody is a user here")


class Postgres:
    """A server that can be stopped, killed and started again."""

    def __init__(self) -> None:
        binaries = programs()
        assert binaries, MISSING
        self._binaries = binaries
        self._user = _user()
        self._schemas = 0
        self._process: subprocess.Popen[bytes] | None = None
        # Short, for the socket's path has at most 107 bytes; and others may enter it.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        if self._user:
            os.chown(self.folder, self._user["user"], self._user["group"])
        atexit.register(self.close)
        made = ["initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--username=mipy"]
        made += ["--locale=C", f"--pgdata={self.folder}/data"]
        self._run(made)
        self.start()

    def _command(self, words: list[str]) -> list[str]:
        return [str(self._binaries / words[0]), *words[1:]]

    def _run(self, words: list[str]) -> None:
        subprocess.run(
            self._command(words), check=True, cwd=self.folder, capture_output=True, **self._user
        )

    def start(self) -> None:
        """Start it, and return when it answers."""
        words = ["postgres", "-D", f"{self.folder}/data", "-k", str(self.folder)]
        words += [word for setting in _FAST for word in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            started = subprocess.Popen[bytes](
                self._command(words), cwd=self.folder, stdout=log, stderr=log, **self._user
            )
        self._process = started
        end = time.monotonic() + SECONDS
        while True:
            try:
                psycopg.connect(self.url()).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > end or started.poll() is not None:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        """End it as a crash would: connections are cut, nothing is tidied up."""
        if self._process:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(SECONDS)
            self._process = None

    def close(self) -> None:
        """End it, and leave nothing."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, schema: str = "public") -> str:
        """The URL of a schema, which for a fleet is a database of its own."""
        return (
            f"postgresql://mipy@/postgres?host={quote(str(self.folder))}"
            f"&options=-csearch_path%3D{schema}"
        )

    def schema(self) -> str:
        """The URL of a new one."""
        self._schemas += 1
        name = f"fleet{self._schemas}"
        self.ask(f"CREATE SCHEMA {name}")
        return self.url(name)

    def ask(self, statement: str, url: str = "") -> list[Any]:
        """What a statement says, if it says anything."""
        with psycopg.connect(url or self.url(), autocommit=True) as db:
            answer = db.execute(statement)  # type: ignore[call-overload]
            return answer.fetchall() if answer.description else []
