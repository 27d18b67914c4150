"""What the page of a release says, made of values: files, changes, signers, causes of failures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from ...signing import envelope, limits
from ...signing.manifest import PREFIX, Manifest
from ...signing.reasons import SENTENCES
from ...signing.trust import Trust
from ..policy import Release
from ..storage.release_queries import Failure

BOARDS_NAMED = 5
"""Of those that failed for one cause."""
CAUSES_SHOWN = 8
"""On a page; with what a hostile board may send they are 50 KB."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file of a release, against the former release.

    Attributes:
        size: in bytes; None: the release has it no more.
        before: its size in the former release; None: it was not there.
        same: its content is the same.
    """

    name: str
    size: int | None
    before: int | None
    same: bool = False

    @property
    def word(self) -> Literal["new", "removed", "same", "changed"]:
        """What became of it."""
        if self.before is None:
            return "new"
        if self.size is None:
            return "removed"
        return "same" if self.same else "changed"


def former(release: Release, releases: Sequence[Release]) -> Release | None:
    """The release before this one; withdrawn ones are passed over.

    Args:
        releases: of the same app and class, newest first.
    """
    return next((one for one in releases if one.seq < release.seq and one.withdrawn is None), None)


def changes(new: Manifest, old: Manifest | None) -> list[FileChange]:
    """What of a release changed, file by file: of the release first, then what it has no more.

    Args:
        old: the former release; None: there is none, or its manifest is lost, and nothing is new.
    """
    before = {file.name: file for file in (old or new).files}
    found = [
        FileChange(
            file.name,
            file.size,
            was.size if (was := before.pop(file.name, None)) else None,
            same=was is not None and was.sha256 == file.sha256,
        )
        for file in new.files
    ]
    return found + [FileChange(name, None, file.size) for name, file in before.items()]


def summary(changed: Iterable[FileChange]) -> str:
    """The changes in a few words: `2 new, 1 changed, 1 removed`."""
    words = [one.word for one in changed]
    told = [
        f"{words.count(word)} {word}" for word in ("new", "changed", "removed") if word in words
    ]
    return ", ".join(told) or "the files are the same"


@dataclass(frozen=True, slots=True)
class Signer:
    """A key that signed a release, by its id.

    Attributes:
        standing: "trusted" by the fleet now, "revoked" since, or "unknown" to it.
    """

    key_id: str
    standing: Literal["trusted", "revoked", "unknown"]


def signers(raw: bytes, trust: Trust) -> list[Signer]:
    """Whose signatures a manifest carries, with how the fleet stands to them now.

    Raises:
        Refused: it is no manifest.
    """
    sealed = envelope.take_apart(raw, limits.MANIFEST_BYTES, limits.MANIFEST_SIGNATURES)
    good = sealed.signers(PREFIX, trust.of_role("release"))
    found: list[Signer] = []
    for one in sealed.signatures:
        trusted: Literal["trusted", "unknown"] = "trusted" if one.key_id in good else "unknown"
        found.append(Signer(one.key_id, "revoked" if one.key_id in trust.revoked else trusted))
    return found


@dataclass(slots=True)
class Cause:
    """Boards that failed a release in the same way.

    Attributes:
        key: the same for this cause each time.
        title: the exception, or what the reason means.
        trace: of the board that told it last; "" where none did.
        boards: (id, name) of some of them, the newest first.
        count: of all of them.
    """

    key: str
    reason: str
    title: str
    trace: str
    boards: list[tuple[str, str]] = field(default_factory=list)
    count: int = 0


def causes(failures: Iterable[Failure]) -> list[Cause]:
    """Failures by their cause, the most frequent first.

    Two have the same cause when their reasons, the places in their tracebacks and the types of
    their exceptions are the same: `ValueError: 3` at line 7 and `ValueError: 4` at line 7 are one.
    """
    found: dict[tuple[str, str], Cause] = {}
    for one in failures:
        places, exception = _taken_apart(one.trace)
        key = one.reason, "\n".join([*places, exception.partition(":")[0]])
        title = exception or SENTENCES.get(one.reason, one.reason)
        name = sha256("\0".join(key).encode()).hexdigest()[:12]
        cause = found.setdefault(key, Cause(name, one.reason, title, one.trace))
        cause.count += 1
        if len(cause.boards) < BOARDS_NAMED:
            cause.boards.append((one.board, one.name))
    return sorted(found.values(), key=lambda cause: -cause.count)


def _taken_apart(trace: str) -> tuple[list[str], str]:
    """The places that a traceback names, and its last line."""
    lines = [line.strip() for line in trace.strip().splitlines()]
    places = [line for line in lines if line.startswith("File ")]
    return places, lines[-1] if lines and lines[-1] not in places else ""
