"""What a board should run: rules over plain values, with no HTTP, no SQL and no clock in them.

1. A board is offered the newest release of its app and class that is neither withdrawn nor
   rejected for good by this very board, and that its firmware would accept: above every seq it
   has confirmed, or the one it confirmed last (a repair).
2. Nothing is offered while a trial is open, or to a board that is to go back. One that people
   put on hold is offered a repair in recovery, and nothing else.
3. A report counts only once: the ticket in it proves that it answers our last reply.
4. An order is repeated until a report shows its effect, to boards that listen to orders, and a
   few times at most: one that the board cannot follow must not have it reset for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

DEV_INTERVAL = 15
"""Seconds between polls of a board that carries a dev key."""
INTERVAL = 300
"""Seconds between polls of every other board."""
JITTER = 0.1
DAY_MINUTES = 24 * 60
ORDER_TRIES = 5
"""An order that was sent so often, without an effect that shows, has failed."""

# What ends a trial or a confirmed release; every other code refuses an install.
ROLLBACK_REASONS = frozenset(
    "exception watchdog veto verify timeout power sleep crashes order".split()
)

# What a board can only say of content that has the digest it was offered. Every other code speaks
# of the way or the flash: anybody on the way can cause it, so it never ends an offer.
RELEASE_REASONS = frozenset("app class mpy arch seq same-seq floor floor-low name rejected".split())
# In these states a board looks at orders; in the others it would not and they would be lost.
LISTENING_STATES = frozenset(("ok", "trial"))
OPENING = "ota-open "
"""How an order begins that opens a board's WebREPL. Heard in recovery too."""


@dataclass(frozen=True, slots=True)
class Release:
    """One published release. `digest` is 64 hex digits; times are seconds since 1970."""

    digest: str
    app: str
    cls: str
    seq: int
    floor: int
    note: str
    total: int
    published: float
    withdrawn: float | None = None

    @property
    def short(self) -> str:
        """The half of the digest that boards record and report."""
        return self.digest[:32]


@dataclass(frozen=True, slots=True)
class Board:
    """One board as last heard of. `digest`, `confirmed`: the first half of a release's digest.

    `open`: for how many seconds its WebREPL was open then, 0 without end, None when it was closed;
    `wrong`: wrong passwords there since its start; `life`: what it calls its life since then.
    """

    id: str
    name: str
    app: str
    cls: str
    key: bytes
    dev: bool
    enrolled: float
    follow: bool = True
    last_seen: float | None = None
    seq: int = 0
    digest: str = ""
    state: str = ""
    confirmed: str = ""
    high: int = 0
    heap: int = 0
    up: int = 0
    held: bool = False
    progress: str = ""
    jobs: str = ""
    chip: str = ""
    boot: int = 0
    fw: str = ""
    mpy: str = ""
    trust: int = 0
    address: str = ""
    reason: str = ""
    trace: str = ""
    life: str = ""
    open: int | None = None
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Bad:
    """A release that the board went back from, or would not install."""

    digest: str
    reason: str
    soft: bool
    trace: str


@dataclass(frozen=True, slots=True)
class Report:
    """One poll's content.

    Attributes:
        facts: what a board tells once a boot, by Board's names.
        jobs: failed and good runs by the job's name, as JSON; None when unchanged.
        failed: why the last install did not get through, as a reason code; "" when it did.
    """

    seq: int
    digest: str
    state: str
    heap: int
    up: int
    facts: dict[str, Any] = field(default_factory=dict)
    bad: Bad | None = None
    progress: str = ""
    unknown: tuple[str, ...] = ()
    held: bool = False
    jobs: str | None = None
    open: int | None = None
    wrong: int = 0
    pushed: bool = False
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """Something the board is told to do.

    `base` is what it ran when the order was given, `tries` how many replies have carried it.
    """

    n: int
    text: str
    base: str
    tries: int = 0

    @property
    def title(self) -> str:
        """What people read: one line."""
        return title(self.text)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a board's history."""

    kind: str
    seq: int = 0
    digest: str = ""
    reason: str = ""
    text: str = ""


@dataclass(slots=True)
class Outcome:
    """What a report changes. Whatever is in `events` or `rejection` must survive a crash."""

    changes: dict[str, Any]
    events: list[Event] = field(default_factory=list)
    rejection: Bad | None = None

    @property
    def durable(self) -> bool:
        return bool(self.events or self.rejection)


def offer(
    board: Board,
    report: Report,
    releases: Sequence[Release],
    rejected: frozenset[str],
    latest: int,
) -> Release | None:
    """The release to name in the reply, or None.

    Args:
        releases: those of the board's app and class, newest first.
        rejected: digests (first half) that this board rejected for good.
        latest: the highest seq that a release can have now; see `latest_seq`.
    """
    if report.state == "trial":
        return None
    # What it runs may lie above its line: a trust file's `reset` brought that down. And what no
    # release can have is no bar: one lying report must not end all offers.
    published = any(release.short == report.digest for release in releases)
    bar = board.high if published or report.seq > latest else max(board.high, report.seq)
    for release in releases:
        if release.withdrawn is not None or release.short in rejected:
            continue
        if release.short == report.digest:
            return None
        repair = release.seq == board.high
        if not board.follow and not (repair and report.state == "recovery"):
            continue
        return release if release.seq > bar or repair else None
    return None


def judge(board: Board, report: Report, known: Bad | None, running: Release | None) -> Outcome:
    """What a fresh report means, compared with what was known of the board.

    Args:
        known: what is already recorded about the release in `report.bad`.
        running: the release that the board says it runs, if it is one of this server's.
    """
    outcome = Outcome(
        {
            "seq": report.seq,
            "digest": report.digest,
            "state": report.state,
            "heap": report.heap,
            "up": report.up,
            "held": report.held,
            "progress": report.progress,
            "high": board.high,
            "open": report.open,
            "wrong": report.wrong,
            **report.facts,
        }
    )
    _judge_state(board, report, running, outcome)
    if report.jobs is not None:
        outcome.changes["jobs"] = report.jobs
    if report.bad is not None:
        _judge_bad(board, report.bad, known, outcome)
    if report.failed and report.failed != board.reason:
        outcome.changes |= {"reason": report.failed, "trace": ""}
        outcome.events.append(Event("install-failed", reason=report.failed))
    outcome.events += [Event("unknown-order", text=order) for order in report.unknown]
    if (report.open is None) != (board.open is None):
        outcome.events.append(Event("webrepl-closed" if report.open is None else "webrepl-open"))
    if report.wrong > board.wrong:
        text = f"{report.wrong} wrong WebREPL passwords since its start"
        outcome.events.append(Event("wrong-password", text=text))
    return outcome


def _judge_state(board: Board, report: Report, running: Release | None, outcome: Outcome) -> None:
    if running and report.seq != running.seq and report.digest != board.digest:
        text = f"it says {report.seq} of a release that has {running.seq}"
        outcome.events.append(Event("wrong-seq", running.seq, report.digest, text=text))
    if report.state == "ok":
        if report.digest != board.confirmed:
            outcome.changes["confirmed"] = report.digest
            if report.bad is None or report.bad.digest != board.confirmed:
                outcome.events.append(Event("confirmed", report.seq, report.digest))
            if report.pushed and board.follow:
                # Somebody works on this board: he says when it may follow again.
                outcome.changes["follow"] = False
                outcome.events.append(Event("hold", text="a release was pushed to it"))
        # A dev-signed release does not raise the board's line, and is never published.
        news = report.digest != board.confirmed or not board.high
        if running and news and running.seq > board.high:
            outcome.changes["high"] = running.seq
    elif (report.state, report.digest) != (board.state, board.digest):
        outcome.events.append(Event(report.state, report.seq, report.digest))


def _judge_bad(board: Board, bad: Bad, known: Bad | None, outcome: Outcome) -> None:
    final = not bad.soft and bad.reason in ROLLBACK_REASONS | RELEASE_REASONS
    bad = replace(bad, soft=not final)
    # Boards repeat it at each boot. The traceback may be of a later crash: it does not count.
    same = known is not None and (known.reason, known.soft) == (bad.reason, bad.soft)
    if same and board.digest != bad.digest:
        return
    outcome.rejection = bad
    outcome.changes |= {"reason": bad.reason, "trace": bad.trace}
    kind = "rolled-back" if bad.reason in ROLLBACK_REASONS else "refused"
    outcome.events.append(Event(kind, digest=bad.digest, reason=bad.reason, text=bad.trace))


def settled(order: Order, report: Report, received: bool) -> str | None:
    """How an order ended: "done", why it did not work, or None while it is open.

    Args:
        received: the report answers a reply that carried the order.
    """
    if order.text == "rollback":
        # Seen after a reset, when the board no longer holds the ticket that came with the order.
        bad = report.bad
        told = bad is not None and (bad.reason, bad.digest) == ("order", order.base)
        if told or (report.digest != order.base and report.state != "installing"):
            return "done"
    if order.text.startswith(OPENING):
        if report.open is not None:
            return "done"
        life = report.facts.get("life")
        if life is not None and f"\nlife {life}\n" not in order.text:
            return "the board has started again, and stays closed"
    if received:
        if order.text in report.unknown:
            return "the board does not know this order"
        still = report.bad is not None and order.text == f"retry {report.bad.digest}"
        if order.text != "rollback" and not order.text.startswith(OPENING) and not still:
            return "done"
    # Not by what was received: a board that resets at the order loses the ticket that came with it.
    return "the board did not follow" if order.tries >= ORDER_TRIES else None


def heard(state: str, orders: Sequence[Order]) -> list[Order]:
    """Those of the open orders that a board in `state` looks at; one that opens it goes alone."""
    opening = [order for order in orders if order.text.startswith(OPENING)]
    if state == "recovery":
        return opening[-1:]
    if state not in LISTENING_STATES:
        return []
    return opening[-1:] or list(orders)


def title(order: str) -> str:
    """An order in one line."""
    if order.startswith(OPENING):
        return "open WebREPL"
    return order


def interval(dev: bool, override: float | None, chance: float) -> int:
    """Seconds until the next poll, spread by +-10 % so that boards do not march in step.

    Args:
        chance: a random number in [0, 1).
    """
    base = override or (DEV_INTERVAL if dev else INTERVAL)
    return max(1, round(base * (1 - JITTER + 2 * JITTER * chance)))


def clear_of(seq: int, newest: Sequence[Release], now: float) -> str | None:
    """Why a new release's seq will not do, in a sentence; None when it will.

    Args:
        newest: the releases of the same app and class that it has to exceed, newest first.
        now: seconds since 1970.
    """
    if seq > latest_seq(now):
        days = (seq - minutes_since_2020(now)) // DAY_MINUTES
        return f"seq {seq} lies {days} days ahead; check the clock that made it"
    if newest and seq <= newest[0].seq:
        return f"seq {seq} is not above {newest[0].seq}, the newest of this app and class"
    return None


def latest_seq(now: float) -> int:
    """The highest seq that may be published at `now` (seconds since 1970)."""
    return minutes_since_2020(now) + DAY_MINUTES


def minutes_since_2020(now: float) -> int:
    """The default seq of a release made at `now` (seconds since 1970)."""
    return int(now - 1577836800) // 60
