"""What must hold for rollouts in the database, whatever boards, people, time and SIGKILL do."""

from tests.support import rollout_machine


def test_invariants_on_the_database() -> None:
    """A short sample of `make rollouts`, with the same seed each time."""
    rollout_machine.run(12)
    done = rollout_machine.DONE
    assert done["replies that name a release"] and done["killed"] and done["running -> halted"]
