"""How long the pages take with 10,000 boards in the store, and how large they are: `make bench`.

Times are from the request to the last byte, the median of the runs; sizes without compression.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import requests

from mipy_ota.tools.fleet.serve import running
from tests.support import many_boards

ROLLOUT = many_boards.CANCELLED + 1
PAGES = {
    "fleet": "/",
    "fleet, by last report": "/?sort=seen&offset=5000",
    "fleet, those that are offline": "/?state=offline",
    "fleet, a search": "/?search=node-07",
    "board": "/boards/node-00002",
    "board that crashes": "/boards/node-00003",
    "rollouts": "/rollouts",
    "rollout": f"/rollouts/{ROLLOUT}",
    "rollout, those that wait": f"/rollouts/{ROLLOUT}?state=waiting",
    "rollout, by the API": f"/api/v1/rollouts/{ROLLOUT}",
    "rollouts, by the API": "/api/v1/rollouts?limit=100",
}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=11)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        many_boards.fill(Path(folder), asked.boards, trace=many_boards.TRACE)
        with running(Path(folder)) as server, requests.Session() as session:
            session.post(server.url + "/login", data={"token": server.token}, timeout=60)
            session.headers["authorization"] = f"Bearer {server.token}"
            print(f"{'page, with ' + str(asked.boards) + ' boards':<34}{'ms':>8}{'bytes':>10}")
            for name, path in PAGES.items():
                waits: list[float] = []
                size = 0
                for _ in range(asked.runs):
                    started = time.perf_counter()
                    size = len(session.get(server.url + path, timeout=60).content)
                    waits.append(1000 * (time.perf_counter() - started))
                print(f"{name:<34}{statistics.median(waits):>8.0f}{size:>10}")


if __name__ == "__main__":
    main()
