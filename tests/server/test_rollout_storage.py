"""What must hold for rollouts in the database, whatever boards, people, time and SIGKILL do."""

import pytest

from tests.support import rollout_machine
from tests.support.rollout_machine import OnPostgres, Server


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_invariants_on_the_database(
    database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short sample of `make rollouts`, with the same seed each time."""
    machine = Server
    if database == "postgres":
        machine, postgres = OnPostgres, request.getfixturevalue("postgres")
        monkeypatch.setattr(OnPostgres, "postgres", postgres, raising=False)
    done = rollout_machine.run(12, machine)
    assert done["replies that name a release"] and done["killed"] and done["running -> halted"]
