"""The server's connection to the broker: nudges, and Home Assistant's entities.

1. A board is nudged when its next poll would bring it a release or an order that it has not been
   told of; three times at most for each, at growing distances, and anew when a person gives it an
   order or wants it updated. It wakes no board that sleeps or is away: those poll by themselves
   when they are back.
2. Never all at once: at most NUDGES_A_SECOND, so that no fleet arrives at the server together.
3. What comes from the broker is a stranger's. A button pressed is one more nudge, at most one in
   BUTTON_SECONDS for a board, and only for boards whose next poll brings something: where all
   slots of a rollout are taken, or it is halted, the button does nothing.
4. What waits is a set of boards, so it is bounded however long the broker is away; once it is back
   all boards are looked at again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
import orjson

from ..policy import Board, Known, Release, pending
from ..rollout_gate import Gate, minute_of_day
from ..storage import queries
from ..storage.base import Storage, StorageError
from . import home_assistant
from .settings import BrokerSettings

NUDGES_A_SECOND = 20
NUDGE_AGAIN = (60.0, 600.0)
"""Seconds after a nudge until the next one, as long as the board has not polled."""
BUTTON_SECONDS = 10.0
SWEEP_SECONDS = 60.0
"""Between two looks at all boards: for what no event tells, such as a release that is due again."""
BOARDS_AT_ONCE = 100
LONGEST_PAUSE = 60.0
CONNECT_SECONDS = 10.0
LAST_SECONDS = 1.0
KEEPALIVE_SECONDS = 30
INCOMING = 1000
"""Messages that may wait; what comes beyond is dropped."""
BUTTONS = "mipy/+/ota/install"
log = logging.getLogger(__name__)
_client_log = logging.getLogger(f"{__name__}.client")
_client_log.setLevel(logging.CRITICAL)  # it has a line for each message that finds no room


@dataclass(slots=True)
class _Nudged:
    """What a board was last nudged for, when, and how often."""

    why: tuple[str, int] = ("", 0)
    at: float = 0.0
    times: int = 0


@dataclass(slots=True)
class _Shown:
    """What Home Assistant was last told of a board."""

    config: bytes = b""
    state: bytes = b""


@dataclass(slots=True)
class Broker:
    """Speaks with the broker until cancelled.

    Args:
        storage: whose boards these are.
        settings: which broker.
        open_offer: the release that a board's next poll would bring, or None.
    """

    storage: Storage
    settings: BrokerSettings
    open_offer: Callable[[Known, float], Awaitable[Release | None]] | None = None
    _waiting: dict[str, None] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _nudged: dict[str, _Nudged] = field(default_factory=dict)
    _pressed: dict[str, float] = field(default_factory=dict)
    _shown: dict[str, _Shown] = field(default_factory=dict)

    def changed(self, board_id: str) -> None:
        """Look at a board again: it has reported, or people have changed something about it."""
        self._waiting[board_id] = None
        self._news.set()

    def nudge(self, board_id: str) -> None:
        """Nudge a board once more, if its next poll brings it something."""
        self._pressed[board_id] = time.monotonic()
        self._nudged.pop(board_id, None)
        self.changed(board_id)

    async def run(self) -> None:
        """Connect, again and again; a broker that is away costs nobody anything."""
        self.storage.watchers.append(self.changed)
        self.storage.nudgers.append(self.nudge)
        pause, said = 1.0, ""
        while True:
            started = time.monotonic()
            try:
                await self._session()
            except (aiomqtt.MqttError, OSError) as problem:
                # Neither names the password.
                text = f"{type(problem).__name__}: {problem}"
                if text != said:
                    host, port = self.settings.address
                    log.warning("MQTT broker %s:%d: %s; trying again", host, port, text)
                said = text
            if time.monotonic() - started > LONGEST_PAUSE:
                pause, said = 1.0, ""
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _session(self) -> None:
        """One connection, until it ends."""
        settings = self.settings
        host, port = settings.address
        client = aiomqtt.Client(
            host,
            port,
            username=settings.user or None,
            password=settings.password.get_secret_value() or None,
            will=aiomqtt.Will(home_assistant.STATUS, "offline", qos=1, retain=True),
            timeout=CONNECT_SECONDS,
            keepalive=KEEPALIVE_SECONDS,
            max_queued_incoming_messages=INCOMING,
            tls_context=settings.context(),
            logger=_client_log,
        )
        async with client:
            log.info("MQTT broker %s:%d: connected", host, port)
            self._shown.clear()  # it may have lost what it was to keep
            await client.publish(home_assistant.STATUS, "online", qos=1, retain=True)
            await client.subscribe(BUTTONS, qos=1)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen(client))
                    tasks.create_task(self._sweep())
                    tasks.create_task(self._serve(client))
            except* (aiomqtt.MqttError, OSError) as problems:
                raise problems.exceptions[0] from None
            finally:
                # An orderly end is no will's business.
                with contextlib.suppress(aiomqtt.MqttError):
                    await client.publish(
                        home_assistant.STATUS, "offline", qos=1, retain=True, timeout=LAST_SECONDS
                    )

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            board_id = str(message.topic).split("/")[1]
            if message.retain or message.payload != home_assistant.INSTALL.encode():
                continue
            await self._press(board_id)

    async def _press(self, board_id: str) -> None:
        """Home Assistant's button, or whoever may publish: nudge the board once more."""
        now = time.monotonic()
        if now - self._pressed.get(board_id, -BUTTON_SECONDS) < BUTTON_SECONDS:
            return
        if await self._known(board_id) is None:
            # Names that somebody makes up must not keep the database busy.
            await asyncio.sleep(1 / NUDGES_A_SECOND)
            return
        self.nudge(board_id)

    async def _sweep(self) -> None:
        """Look at all boards: at the start, when releases change, and now and then."""
        while True:
            epoch, after = self.storage.epoch, ""
            while True:
                try:
                    ids = await self.storage.read(queries.ids, after, BOARDS_AT_ONCE)
                except StorageError as problem:
                    log.warning("boards are not looked at: %s", problem)
                    break
                for board_id in ids:
                    self.changed(board_id)
                if len(ids) < BOARDS_AT_ONCE:
                    break
                after = ids[-1]
            due = time.monotonic() + SWEEP_SECONDS
            while epoch == self.storage.epoch and time.monotonic() < due:
                await asyncio.sleep(1.0)

    async def _serve(self, client: aiomqtt.Client) -> None:
        """Tell the broker of all that changes."""
        while True:
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
            board_id = next(iter(self._waiting))
            del self._waiting[board_id]
            known = await self._known(board_id)
            if known is None or known.board.retired is not None:
                await self._forget(client, board_id)
                continue
            now = time.time()
            wanted = await self._wanted(known, now)
            if self.settings.home_assistant:
                await self._show(client, known.board, wanted)
            if self._due(known, wanted):
                await client.publish(f"mipy/{board_id}/update", qos=1)
                await asyncio.sleep(1 / NUDGES_A_SECOND)
            else:
                await asyncio.sleep(0)  # polls come first

    async def _known(self, board_id: str) -> Known | None:
        try:
            return await self.storage.known(board_id)
        except StorageError:
            return None

    async def _wanted(self, known: Known, now: float) -> Release | None:
        if self.open_offer:
            return await self.open_offer(known, now)
        board = known.board
        line = self.storage.rollouts_of(board.app, board.cls, board.channel)
        gate = Gate(line, minute_of_day(now))
        return pending(known, self.storage.releases_of(board.app, board.cls), now, gate)

    def _due(self, known: Known, wanted: Release | None) -> bool:
        """Whether the board is to be nudged now; it counts as nudged then."""
        board, now = known.board, time.monotonic()
        told = wanted is not None and wanted.digest == board.offered
        orders = [order.n for order in known.orders if not order.tries]
        pressed = board.id in self._pressed and board.id not in self._nudged
        if not orders and (wanted is None or (told and not pressed)):
            return False
        why = (wanted.digest if wanted else "", max(orders, default=0))
        last = self._nudged.get(board.id)
        if last is None or last.why != why:
            last = self._nudged[board.id] = _Nudged(why)
        elif last.times > len(NUDGE_AGAIN) or now - last.at < NUDGE_AGAIN[last.times - 1]:
            return False
        last.at, last.times = now, last.times + 1
        return True

    async def _show(self, client: aiomqtt.Client, board: Board, wanted: Release | None) -> None:
        """Publish what of the board's entity has changed."""
        if board.last_seen is None:
            return
        releases = self.storage.releases_of(board.app, board.cls)
        running = next((one for one in releases if one.short == board.digest), None)
        shown = self._shown.setdefault(board.id, _Shown())
        config = orjson.dumps(home_assistant.config(board))
        state = orjson.dumps(home_assistant.state(board, running, wanted))
        if config != shown.config:
            topic = home_assistant.config_topic(self.settings.discovery, board.id)
            await self._keep(client, topic, config)
            shown.config = config
        if state != shown.state:
            await self._keep(client, home_assistant.state_topic(board.id), state)
            shown.state = state

    async def _forget(self, client: aiomqtt.Client, board_id: str) -> None:
        """Take back what is kept at the broker of a board that was removed."""
        self._nudged.pop(board_id, None)
        self._pressed.pop(board_id, None)
        if self._shown.pop(board_id, None):
            topic = home_assistant.config_topic(self.settings.discovery, board_id)
            await self._keep(client, topic, b"")
            await self._keep(client, home_assistant.state_topic(board_id), b"")

    async def _keep(self, client: aiomqtt.Client, topic: str, payload: Any) -> None:
        await client.publish(topic, payload, qos=1, retain=True)
