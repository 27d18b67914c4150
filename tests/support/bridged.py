"""mpremote, as it is, on a board behind `mipy bridge`: `exec`, `fs cp`, `mip install`, `mount`."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mipy_ota.tools.board import bridge, target


@contextmanager
def index(folder: Path) -> Iterator[str]:
    """A package index with one package, as mpremote and mip expect it."""
    source = b"def hello():\n    return 'from the index'\n"
    digest = hashlib.sha256(source).hexdigest()
    file = folder / "file" / digest[:2] / digest
    package = folder / "package" / "py" / "hello" / "latest.json"
    for path in (file, package):
        path.parent.mkdir(parents=True)
    file.write_bytes(source)
    package.write_text(json.dumps({"v": 1, "version": "1.0", "hashes": [["hello.py", digest]]}))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def prove(found: target.Target, folder: Path) -> None:
    """All but `mount` work, which is refused; in a process each as a person has them."""
    file, back = folder / "file.bin", folder / "back.bin"
    file.write_bytes(secrets.token_bytes(1500))
    over = threading.Event()
    with index(folder / "index") as packages, bridge.Bridge(found) as made:

        def pass_on() -> None:
            while not over.is_set():
                made.turn(0.1)

        thread = threading.Thread(target=pass_on)
        thread.start()

        def mpremote(*words: str, code: int = 0) -> str:
            command = [sys.executable, "-m", "mpremote", "connect", made.path, *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=100)
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout + done.stderr

        try:
            assert mpremote("exec", "print(6 * 7)") == "42\n"
            refused = mpremote("mount", str(folder), code=1)
            assert "OSError: `mipy bridge` cannot mount; `mipy watch` runs" in refused
            mpremote("fs", "cp", str(file), ":/data/file.bin")
            mpremote("fs", "cp", ":/data/file.bin", str(back))
            assert back.read_bytes() == file.read_bytes()
            mpremote(
                "mip", "install", "--no-mpy", "--index", packages, "--target", "/data/lib", "hello"
            )
            used = "import sys; sys.path.append('/data/lib'); import hello; print(hello.hello())"
            assert mpremote("exec", used) == "from the index\n"
        finally:
            over.set()
            thread.join(30)
