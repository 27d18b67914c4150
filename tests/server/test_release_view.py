"""What the page of a release says, before it is a page."""

import pytest

from mipy_ota.ota_server.dashboard import release_view
from mipy_ota.ota_server.policy import Release
from mipy_ota.ota_server.storage.release_queries import Failure
from mipy_ota.signing import manifest, trust
from tests.support import vectors

CRASH = 'Traceback (most recent call last):\n  File "main.py", line 7, in read\nValueError: %s'


def made(files: dict[str, bytes]) -> manifest.Manifest:
    return manifest.parse(manifest.make("weather", "esp32", 5, {"main.py": b"x = 1\n", **files}))


def release(seq: int, withdrawn: float | None = None) -> Release:
    return Release(f"{seq:064x}", "weather", "esp32", seq, 0, f"1.{seq}", 9, 1.0, withdrawn)


def test_changes_against_the_former_release():
    old = made({"a.py": b"a", "b.py": b"b", "gone.py": b"gone"})
    new = made({"a.py": b"a", "b.py": b"bb", "fresh.py": b"fresh!"})
    found = release_view.changes(new, old)
    assert [(one.name, one.word, one.before, one.size) for one in found] == [
        ("a.py", "same", 1, 1),
        ("b.py", "changed", 1, 2),
        ("fresh.py", "new", None, 6),
        ("main.py", "same", 6, 6),
        ("gone.py", "removed", 4, None),
    ]
    assert release_view.summary(found) == "1 new, 1 changed, 1 removed"


def test_content_of_the_same_size_is_seen_to_have_changed():
    found = release_view.changes(made({"a.py": b"1"}), made({"a.py": b"2"}))
    assert found[0].word == "changed"
    assert release_view.summary(found) == "1 changed"


def test_first_release_is_compared_with_nothing():
    found = release_view.changes(made({}), None)
    assert [one.word for one in found] == ["same"]
    assert release_view.summary(found) == "the files are the same"


def test_withdrawn_releases_are_passed_over():
    every = [release(4), release(3, withdrawn=2.0), release(2)]
    before = release_view.former(every[0], every)
    assert before and before.seq == 2
    assert release_view.former(every[2], every) is None


def test_signers_are_what_the_fleet_thinks_of_them_now():
    raw = manifest.make("weather", "esp32", 5, {"main.py": b"x"})
    for name in ("release", "release2", "debug"):
        raw = manifest.add_signature(raw, vectors.key(name))
    ids = {name: vectors.public(name).id for name in ("release", "release2", "debug")}
    then, now = (trust.parse(raw) for raw in (vectors.first_trust(), vectors.revoking_trust()))
    assert {one.key_id: one.standing for one in release_view.signers(raw, then)} == {
        ids["release"]: "trusted",
        ids["release2"]: "trusted",
        ids["debug"]: "unknown",
    }
    assert {one.key_id: one.standing for one in release_view.signers(raw, now)} == {
        ids["release"]: "trusted",
        ids["release2"]: "revoked",
        ids["debug"]: "unknown",
    }


def test_signature_by_a_wrong_key_is_nobodys():
    """Its key id is the fleet's, and the signature is not."""
    raw = manifest.make("weather", "esp32", 5, {"main.py": b"x"})
    raw += vectors.signature(raw, "debug", key_id=vectors.public("release").id)
    (one,) = release_view.signers(raw, trust.parse(vectors.first_trust()))
    assert one.standing == "unknown"


def failure(board: str, trace: str = "", reason: str = "exception") -> Failure:
    return Failure(board, f"name of {board}", reason, trace, 1.0)


def test_failures_are_grouped_by_their_cause():
    elsewhere = CRASH.replace("line 7", "line 9")
    found = release_view.causes(
        [
            failure("b1", CRASH % 3),
            failure("b2", elsewhere % 3),
            failure("b3", CRASH % 4),
            failure("b4", CRASH.replace("ValueError", "OSError") % 3),
            failure("b5", reason="timeout"),
            failure("b6", reason="timeout"),
            failure("b7", reason="timeout"),
            failure("b8", CRASH % 3, "watchdog"),
            failure("b9", reason="made-up"),
        ]
    )
    assert [(one.count, one.reason, one.title) for one in found] == [
        (3, "timeout", "the app did not prove healthy in time"),
        (2, "exception", "ValueError: 3"),
        (1, "exception", "ValueError: 3"),
        (1, "exception", "OSError: 3"),
        (1, "watchdog", "ValueError: 3"),
        (1, "made-up", "made-up"),
    ]
    assert found[1].boards == [("b1", "name of b1"), ("b3", "name of b3")]
    assert found[1].trace == CRASH % 3


@pytest.mark.parametrize(
    ("trace", "title"),
    [
        ('File "main.py", line 7', "the app raised an exception"),
        (" \n\n", "the app raised an exception"),
        ("MemoryError", "MemoryError"),
    ],
)
def test_traceback_that_was_cut_has_a_title_too(trace: str, title: str):
    (one,) = release_view.causes([failure("b1", trace)])
    assert one.title == title


def test_boards_of_a_cause_are_counted_and_some_named():
    found = release_view.causes(failure(f"b{n}") for n in range(500))
    assert (found[0].count, len(found[0].boards)) == (500, release_view.BOARDS_NAMED)
