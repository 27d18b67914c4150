"""What a board should run: rules over plain values, with no HTTP, no SQL and no clock in them.

1. A board is offered the newest release of its app, class and channel that is neither withdrawn
   nor rejected for good by this very board, and that its firmware would accept: above every seq
   it has confirmed, or the one it confirmed last (a repair).
2. Nothing is offered while a trial is open, to a board that is to go back, or to a retired one.
   A paused one is offered a repair in recovery, and nothing else.
3. A report counts only once: the ticket in it proves that it answers our last reply.
4. What a rollout stands against is not offered (`Gate`), but for a repair in recovery.
5. An order is repeated until a report shows its effect, to boards that listen to orders, and a
   few times at most: one that the board cannot follow must not have it reset for ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

DEV_INTERVAL = 15
"""Seconds between polls of a board that carries a dev key."""
INTERVAL = 300
"""Seconds between polls of every other board."""
JITTER = 0.1
DAY_MINUTES = 24 * 60
EPOCH = 1_577_836_800  # 2020-01-01 UTC, from which a seq counts minutes
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
CRASHING = "crashing"
UPDATING_STATES = ("installing", "trial")
"""The state of a board whose confirmed app has crashed, and has not lasted CALM_SECONDS since."""
CALM_SECONDS = 600
"""A life as long as this is no crash to the board's own count (bootloader/start.py)."""
MOST_CRASHES = 2**31 - 1
CRASH_LIMIT = 5
"""So many crashes in a row make a board leave a confirmed release."""
UNLOCK = "ota-unlock "
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
    publisher: str = ""
    channels: frozenset[str] = frozenset(("stable",))

    @property
    def short(self) -> str:
        """The half of the digest that boards record and report."""
        return self.digest[:32]


@dataclass(slots=True)
class Board:
    """One board as last heard of. `digest`, `confirmed`: the first half of a release's digest.

    Attributes:
        channel: only what is published there is offered to it.
        paused: nothing is offered to it, but for a repair in recovery.
        retired: when people took it out of use; it is answered, and offered nothing.
        peer: where its last poll that counted came from.
        offered: the release named in the last reply, its whole digest.
        open: for how many seconds its WebREPL was open then, 0 without end, None when closed.
        wrong: wrong passwords there since its start.
        life: what it calls its life since then.
        crashes: of the release in `confirmed` since then, as far as the board could tell them.
    """

    id: str
    name: str
    app: str
    cls: str
    key: bytes
    dev: bool
    enrolled: float
    channel: str = "stable"
    paused: bool = False
    retired: float | None = None
    last_seen: float | None = None
    peer: str = ""
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
    offered: str = ""
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Crash:
    """The last life of a confirmed app ended in a crash, the `n`-th in a row.

    The traceback is empty where the app hung. `again`: the board has told it already.
    """

    n: int
    trace: str
    again: bool = False

    @property
    def reason(self) -> str:
        """Its reason code."""
        return "exception" if self.trace else "watchdog"


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
        first: the address that the board asks before this server's, if there is one.
        job: which job never succeeded, and its traceback.
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
    first: str = ""
    crash: Crash | None = None
    job: str = ""


TargetState = Literal["offered", "confirmed", "failed", "silent", "void"]


@dataclass(frozen=True, slots=True)
class Target:
    """A board that was offered the release of a rollout."""

    rollout: int
    state: TargetState
    offered_at: float


@dataclass(frozen=True, slots=True)
class Move:
    """A change of one target.

    Attributes:
        old, new: its states; None: it is not there (before the offer, after a retry).
        reason, trace: what the board said of a failure.
    """

    board: str
    rollout: int
    old: TargetState | None
    new: TargetState | None
    wave: int = 0
    reason: str = ""
    trace: str = ""


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
class Tickets:
    """What a board may put into its next message that counts; either is used up with the other.

    Attributes:
        counted: ticket of the last reply to a report that counted.
        carried: numbers of the orders in that reply.
        stale: the one that every stale poll since then has been given. The same for all: whoever
            sends an old message again shall not void what the board was told.
    """

    counted: str = ""
    carried: tuple[int, ...] = ()
    stale: str = ""

    def admit(self, ticket: str) -> bool:
        """Whether a message with this ticket counts."""
        return ticket != "" and ticket in (self.counted, self.stale)


@dataclass(slots=True)
class Known:
    """All that is known of a board and bears on the answer to its next poll.

    Attributes:
        rejected: what it went back from or refused, by the first half of the digest, oldest first.
        orders: those whose effect has not been seen, oldest first.
        targets: its part in the last rollouts, by their numbers.
        epoch: of the releases, trust files and rollouts that the last decision was made with, -1
            when an equal report might be answered otherwise.
        decided: when it was made.
    """

    board: Board
    rejected: dict[str, Bad] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    targets: dict[int, Target] = field(default_factory=dict)
    tickets: Tickets = field(default_factory=Tickets)
    epoch: int = -1
    decided: float = 0.0


@dataclass(slots=True)
class Verdict:
    """What a report changes, and what the board is told.

    Attributes:
        changes: of the Board, by its names.
        rejection: takes the place of an earlier one of the same digest.
        ended: orders, and how.
        forgotten: digests that the board is to be offered again.
        given: orders that people add.
        orders: in the reply.
        release: in the reply.
        offer: the reply is the first that names this release.
        moves: of this board's targets.
        waits: the next report may be answered otherwise even if it says the same.
    """

    changes: dict[str, Any]
    events: list[Event] = field(default_factory=list)
    rejection: Bad | None = None
    ended: list[tuple[Order, str]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    given: list[Order] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    release: Release | None = None
    offer: bool = False
    moves: list[Move] = field(default_factory=list)
    waits: bool = False

    @property
    def durable(self) -> bool:
        """Whether the reply has to wait until it is on the disk."""
        noted = self.events or self.rejection or self.ended or self.orders or self.moves
        return bool(noted or self.offer)


class Gate(Protocol):
    """What rollouts say to a report; see `rollout_gate`."""

    def judge(self, known: Known, report: Report, verdict: Verdict) -> None:
        """Add to the verdict what the report says of the board's targets."""

    def admits(self, known: Known, release: Release, verdict: Verdict) -> bool:
        """Whether the board may be offered a release now; the target is added to the verdict."""
        ...


class _Open:
    """No rollouts: everybody gets everything."""

    def judge(self, known: Known, report: Report, verdict: Verdict) -> None:
        pass

    def admits(self, known: Known, release: Release, verdict: Verdict) -> bool:
        return True


OPEN: Gate = _Open()


def decide(
    known: Known,
    report: Report,
    carried: Sequence[int],
    releases: Sequence[Release],
    reset: int | None,
    now: float,
    gate: Gate = OPEN,
) -> Verdict:
    """The answer to a fresh report.

    Args:
        carried: numbers of the orders in the reply that this report answers.
        releases: those of the board's app and class, newest first, of all channels.
        reset: the seq that the trust file which the board has taken brings it down to.
        now: seconds since 1970.
        gate: the rollouts that concern the board.
    """
    board = known.board
    if reset is not None:
        board = replace(board, high=min(board.high, reset))
    running = next((one for one in releases if one.short == report.digest), None)
    last = known.rejected.get(report.bad.digest) if report.bad else None
    verdict = judge(board, report, last, running)
    left = _settle(known.orders, report, carried, verdict)
    gate.judge(known, report, verdict)
    # A board in recovery has nothing to go back from, and needs whatever there is.
    going_back = report.state != "recovery" and any(order.text == "rollback" for order in left)
    if board.retired is None:
        verdict.orders = heard(report.state, left)
    if board.retired is None and not going_back:
        bads = dict(known.rejected)
        if verdict.rejection:
            bads[verdict.rejection.digest] = verdict.rejection
        rejected = {d for d, bad in bads.items() if not bad.soft and d not in verdict.forgotten}
        board = replace(board, **verdict.changes)

        def admits(release: Release) -> bool:
            return gate.admits(replace(known, board=board), release, verdict)

        latest = latest_seq(now)
        verdict.release = offer(board, report, releases, frozenset(rejected), latest, admits)
    offered = verdict.release.digest if verdict.release else ""
    verdict.changes["offered"] = offered
    verdict.offer = offered not in ("", known.board.offered)
    return verdict


def _settle(
    orders: Sequence[Order], report: Report, carried: Sequence[int], verdict: Verdict
) -> list[Order]:
    """Note which orders have ended; returns those still open."""
    left: list[Order] = []
    for order in orders:
        result = settled(order, report, order.n in carried)
        if result is None:
            left.append(order)
            continue
        verdict.ended.append((order, result))
        verdict.events.append(Event("order-ended", reason=result, text=order.title))
        if result == "done" and order.text.startswith("retry "):
            verdict.forgotten.append(order.text.removeprefix("retry "))
    return left


def offer(
    board: Board,
    report: Report,
    releases: Sequence[Release],
    rejected: frozenset[str],
    latest: int,
    admits: Callable[[Release], bool] = lambda _: True,
) -> Release | None:
    """The release to name in the reply, or None.

    Args:
        releases: those of the board's app and class, newest first, of all channels.
        rejected: digests (first half) that this board rejected for good.
        latest: the highest seq that a release can have now; see `latest_seq`.
        admits: whether rollouts let this board have a release now; asked of what else it may have.
    """
    if report.state == "trial":
        return None
    # What it runs may lie above its line: a trust file's `reset` brought that down. And what no
    # release can have does not count: one lying report must not end all offers.
    published = any(release.short == report.digest for release in releases)
    bar = board.high if published or report.seq > latest else max(board.high, report.seq)
    for release in releases:
        if release.withdrawn is not None or release.short in rejected:
            continue
        if release.short == report.digest:
            return None  # even if its channel has an older one: that would be a step back
        repair = release.seq == board.high
        if board.channel not in release.channels and not repair:
            continue
        mends = repair and report.state == "recovery"
        if board.paused and not mends:
            continue
        if not (release.seq > bar or repair):
            return None
        if mends or admits(release):
            return release
    return None


def pending(
    known: Known, releases: Sequence[Release], now: float, gate: Gate = OPEN
) -> Release | None:
    """The release that a board's next poll would bring, as far as its last one tells; or None.

    Args:
        releases: those of the board's app and class, newest first, of all channels.
        now: seconds since 1970.
        gate: the rollouts that concern the board.
    """
    board = known.board
    going_back = board.state != "recovery" and any(one.text == "rollback" for one in known.orders)
    if board.last_seen is None or board.retired is not None or going_back:
        return None
    report = Report(board.seq, board.digest, board.state, board.heap, board.up)
    rejected = frozenset(digest for digest, bad in known.rejected.items() if not bad.soft)

    def admits(release: Release) -> bool:
        return gate.admits(known, release, Verdict({}))

    return offer(board, report, releases, rejected, latest_seq(now), admits)


def judge(board: Board, report: Report, known: Bad | None, running: Release | None) -> Verdict:
    """What a fresh report means, compared with what was known of the board.

    Args:
        known: what is already recorded about the release in `report.bad`.
        running: the release that the board says it runs, if it is one of this server's.
    """
    verdict = Verdict(
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
    _judge_state(board, report, running, verdict)
    _judge_crash(board, report, verdict)
    if report.jobs is not None:
        verdict.changes["jobs"] = report.jobs
    if report.job and report.job != board.trace and verdict.changes["state"] != CRASHING:
        verdict.changes |= {"reason": "job", "trace": report.job}
        verdict.events.append(Event("job-fails", report.seq, report.digest, "job", report.job))
    if report.bad is not None:
        _judge_bad(board, report.bad, known, verdict)
    if report.failed and report.failed != board.reason:
        verdict.changes |= {"reason": report.failed, "trace": ""}
        verdict.events.append(Event("install-failed", reason=report.failed))
    elif report.first and not report.failed and report.first != board.trace:
        verdict.changes |= {"reason": "moved", "trace": report.first}
        verdict.events.append(Event("asks-elsewhere", reason="moved", text=report.first))
    verdict.events += [Event("unknown-order", text=order) for order in report.unknown]
    # A board tells its facts in the first report of a life that counts. Fewer seconds since its
    # start without them are those of another board, on which the same image lies.
    if not report.facts and report.up < board.up and board.reason != "twin":
        verdict.changes |= {"reason": "twin", "trace": ""}
        verdict.events.append(Event("twin", text=f"up {board.up} s, then {report.up} s"))
    if (report.open is None) != (board.open is None):
        verdict.events.append(Event("webrepl-closed" if report.open is None else "webrepl-open"))
    if report.wrong > board.wrong:
        text = f"{report.wrong} wrong WebREPL passwords since its start"
        verdict.events.append(Event("wrong-password", text=text))
    return verdict


def _judge_state(board: Board, report: Report, running: Release | None, verdict: Verdict) -> None:
    if running and report.seq != running.seq and report.digest != board.digest:
        text = f"it says {report.seq} of a release that has {running.seq}"
        verdict.events.append(Event("wrong-seq", running.seq, report.digest, text=text))
    if report.state == "ok":
        if report.digest != board.confirmed:
            verdict.changes["confirmed"] = report.digest
            if report.bad is None or report.bad.digest != board.confirmed:
                verdict.events.append(Event("confirmed", report.seq, report.digest))
            if report.pushed and not board.paused:
                # Somebody works on this board: he says when it may follow again.
                verdict.changes["paused"] = True
                verdict.events.append(Event("paused", text="a release was pushed to it"))
        # A dev-signed release does not raise the board's line, and is never published.
        news = report.digest != board.confirmed or not board.high
        if running and news and running.seq > board.high:
            verdict.changes["high"] = running.seq
    elif (report.state, report.digest) != (board.state, board.digest):
        verdict.events.append(Event(report.state, report.seq, report.digest))


def _judge_crash(board: Board, report: Report, verdict: Verdict) -> None:
    """Count a crash of the confirmed app, once however often the board tells it.

    The 1st, 2nd, 4th, 8th ... become events: one that crashes all day must not push out what else
    happened to the board.
    """
    before = board.crashes
    if "confirmed" in verdict.changes:
        before = verdict.changes["crashes"] = 0
    crash = report.crash
    if crash is None:
        # Boards tell it once in a life, among the facts.
        same_life = not report.facts and report.up < CALM_SECONDS
        if report.state == "ok" and board.state == CRASHING and same_life:
            verdict.changes["state"] = CRASHING
        return
    if report.state == "ok":
        verdict.changes["state"] = CRASHING
    if crash.again or report.facts.get("life", "") == board.life:
        return
    crashes = min(max(before + 1, crash.n), MOST_CRASHES)
    verdict.changes |= {"crashes": crashes, "reason": crash.reason, "trace": crash.trace}
    if crashes.bit_length() > before.bit_length():
        times = "crashed once" if crashes == 1 else f"crashed {crashes} times"
        text = f"{times} since it was confirmed\n{crash.trace}".rstrip()
        verdict.events.append(Event("crashed", report.seq, report.digest, crash.reason, text))


def crashes_since_confirmation(known: Known, digest: str) -> int:
    """How often a board told of crashes of a release that it had confirmed.

    Args:
        digest: the first half of the release's.
    """
    if known.board.confirmed == digest:
        return known.board.crashes
    bad = known.rejected.get(digest)
    return CRASH_LIMIT if bad is not None and bad.reason == "crashes" else 0


def _judge_bad(board: Board, bad: Bad, known: Bad | None, verdict: Verdict) -> None:
    final = not bad.soft and bad.reason in ROLLBACK_REASONS | RELEASE_REASONS
    bad = replace(bad, soft=not final)
    # Boards repeat it at each boot. The traceback may be of a later crash: it does not count.
    same = known is not None and (known.reason, known.soft) == (bad.reason, bad.soft)
    if same and board.digest != bad.digest:
        return
    verdict.rejection = bad
    verdict.changes |= {"reason": bad.reason, "trace": bad.trace}
    kind = "rolled-back" if bad.reason in ROLLBACK_REASONS else "refused"
    verdict.events.append(Event(kind, digest=bad.digest, reason=bad.reason, text=bad.trace))


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
    if order.text.startswith(UNLOCK):
        if report.open is not None:
            return "done"
        life = report.facts.get("life")
        if life is not None and f"\nlife {life}\n" not in order.text:
            return "the board has started again, and stays closed"
    if received:
        if order.text in report.unknown:
            return "the board does not know this order"
        still = report.bad is not None and order.text == f"retry {report.bad.digest}"
        if order.text != "rollback" and not order.text.startswith(UNLOCK) and not still:
            return "done"
    # Not by what was received: a board that resets at the order loses the ticket that came with it.
    return "the board did not follow" if order.tries >= ORDER_TRIES else None


def give(known: Known, text: str) -> Verdict:
    """Queue an order for a board, in the place of an equal one still open."""
    equal = [(order, "given again") for order in known.orders if order.text == text]
    order = Order(0, text, known.board.digest)
    return Verdict({}, [Event("ordered", text=title(text))], ended=equal, given=[order])


def cancel(known: Known) -> Verdict:
    """End the orders that are open."""
    ended = [(order, "cancelled") for order in known.orders]
    events = [Event("order-ended", reason=why, text=order.title) for order, why in ended]
    return Verdict({}, events, ended=ended)


def pause(paused: bool) -> Verdict:
    """Leave a board alone, or offer releases to it again."""
    return Verdict({"paused": paused}, [Event("paused" if paused else "follow")])


def heard(state: str, orders: Sequence[Order]) -> list[Order]:
    """Those of the open orders that a board in `state` looks at; one that opens it goes alone."""
    unlocks = [order for order in orders if order.text.startswith(UNLOCK)]
    if state == "recovery":
        return unlocks[-1:]
    if state not in LISTENING_STATES:
        return []
    return unlocks[-1:] or list(orders)


def title(order: str) -> str:
    """An order in one line."""
    if order.startswith(UNLOCK):
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
        made, here = (
            datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
            for seconds in (seq * 60 + EPOCH, now)
        )
        known = next((one for one in newest if one.seq > latest_seq(now)), None)
        return f"seq {seq} stands for {made}, and this server's clock says {here}; " + (
            f"it has published seq {known.seq} already, so set the server's clock"
            if known
            else "set the one of the two clocks that is wrong"
        )
    if newest and seq <= newest[0].seq:
        return f"seq {seq} is not above {newest[0].seq}, the newest of this app and class"
    return None


def latest_seq(now: float) -> int:
    """The highest seq that may be published at `now` (seconds since 1970)."""
    return minutes_since_2020(now) + DAY_MINUTES


def minutes_since_2020(now: float) -> int:
    """The default seq of a release made at `now` (seconds since 1970)."""
    return int(now - EPOCH) // 60
