"""MQTT 3.1.1 on the firmware's own umqtt.simple, which never waits here (docs/mqtt.md).

umqtt.simple makes the packets: they go into an outbox, and where it would wait for an answer it is
left by an exception. Answers, pings, time limits and new attempts are the business of one coroutine
that looks at the socket every 50 ms. Connecting is in mqtt_connect.py.
"""

# config: MQTT_HOST = ""

from asyncio import sleep_ms
from errno import ECONNRESET, ETIMEDOUT
from micropython import const
from time import ticks_diff, ticks_ms
from umqtt.simple import MQTTClient, MQTTException

import config
import runtime
from runtime import log
from runtime.scheduler import Job, rand

_STEP = const(50)  # ms between two looks at the socket
_TIMEOUT = const(10000)  # ms for a connection, its acceptance, and each acknowledgement
_SILENT = const(60000)  # ms without a packet after which the broker is gone; twice in it a ping
_LASTS = const(10)  # s after which a connection was a good one
_ANEW = const(60000)  # ms to a new attempt where not even a task found room
_LONGEST = const(6)  # the pause before a new attempt doubles so often, from 1 s
_PIECE = const(64)  # bytes; what is longer is sent as it lies there, not copied into a packet
_OUTBOX = const(512)  # bytes in the outbox beyond which the queue waits
_FILTER = const(122)  # bytes; umqtt.simple before 1.8.0 writes one byte for a packet's length
_COSTS = const(64)  # bytes of heap that a queued message takes beside its text
_LOSES = const(8)  # connections in a row that a message may lose before it is dropped


class Wire:
    """What umqtt.simple takes for a socket: an outbox before the real one, `s`."""

    def __init__(self, s):
        self.s = s
        self.out = []
        self.size = 0  # bytes of `out`

    def write(self, data, n=None):
        out = self.out
        if n is not None:
            data = data[:n]
        self.size += len(data)
        if out and len(out[-1]) + len(data) <= _PIECE:
            out[-1] += data
        else:
            out.append(data)

    def flush(self):
        """Send what the peer takes."""
        out = self.out
        while out:
            n = self.s.write(out[0]) or 0
            self.size -= n
            if n < len(out[0]):
                out[0] = out[0][n:]
                break
            out.pop(0)


def matches(pattern, topic):
    """Whether a topic is meant by a filter with + and # (MQTT 3.1.1, 4.7)."""
    if topic[:1] == "$" and pattern[:1] in "+#":
        return False
    topic = topic.split("/")
    pattern = pattern.split("/")
    for i, level in enumerate(pattern):
        if level == "#":
            return True
        if i == len(topic) or level != "+" and level != topic[i]:
            return False
    return len(topic) == len(pattern)


class Mqtt(MQTTClient):
    """The board's connection to the broker that config.py names.

    In topics a "~" at the beginning stands for the board's own, `mipy/<id>`. `most` is the length
    in bytes (topic and payload) of the longest message that is taken in, `room` the bytes of heap
    for messages that wait to be sent.
    """

    def __init__(self, app, most=512, room=2048):
        super().__init__(b"", b"")  # mqtt_connect.py knows whom to connect to, and as whom
        self.sock = None  # type: Wire  # pyright: ignore # while there is a connection
        self.cb = matches  # umqtt.simple subscribes for nobody; messages are given out below
        self.app = app
        self.base = "mipy/" + app.wifi.board["id"]
        self.up = False
        self.retained = False  # whether the message that is given out was kept by the broker
        self.dropped = 0  # messages that found no room
        self.calls = []  # (qos, job) of what was subscribed to
        self.on_up = []  # jobs to do when the broker has accepted the board
        self.buffer = memoryview(bytearray(most))
        self.queue = []
        self._room = self._free = room
        self._flying = 0  # id of the queue's first message while it is not acknowledged
        self._lost = 0  # connections in a row that ended before it was
        self._fails = 0  # connections in a row that did not last
        self.short = 0  # those of them, in a row, that the broker had accepted
        app.drivers.append(self)  # for stop()
        if config.MQTT_HOST:  # pyright: ignore
            # One job for good: where the heap is full there is no room for a new one.
            self._own = app.every(_ANEW, self._life, "mqtt")
            self._own.left = 0
        else:
            self._room = 0

    # --- for the app

    def publish(self, topic, msg, retain=False, qos=0):
        """Queue a message (str, bytes or a number) for `topic`; qos 0 or 1. A nan goes as "None".

        Where there is no room the oldest message of QoS 0 is dropped, or the oldest of all.
        Raises ValueError for one that never finds room, and for what a broker hangs up on. Nothing
        is kept where the settings name no broker.
        """
        if not self._room:
            return
        if qos > 1 or not topic or "+" in topic or "#" in topic:
            raise ValueError(topic)
        topic = self._full(topic).encode()
        if isinstance(msg, float) and msg - msg != 0:
            msg = None  # nan or infinite: "None" is what Home Assistant takes for unknown
        if not isinstance(msg, bytes):
            msg = str(msg).encode()
        size = len(topic) + len(msg) + _COSTS
        if size > self._room:
            raise ValueError("a message of %d bytes" % size)
        while size > self._free:
            self._drop()
        self.queue.append((topic, msg, retain, qos))
        self._free -= size

    def on(self, topic, fn, qos=0):
        """Call `fn(topic, payload)`, str and bytes, with what comes for `topic`, + and # allowed.

        To be called in setup: the board subscribes when it connects. Raises ValueError for a topic
        of more than 122 bytes or than `most` less 4, and for what a broker hangs up on.
        """
        topic = self._full(topic)
        longest = min(_FILTER, len(self.buffer) - 4)  # with its length and number
        if len(topic.encode()) > longest:
            raise ValueError("a topic of more than %d bytes" % longest)
        wrong = qos > 1 or not topic or "#" in topic[:-1]
        for level in topic.split("/"):
            wrong |= len(level) > 1 and ("+" in level or "#" in level)
        if wrong:
            raise ValueError(topic)
        self.calls.append((qos, self._job(fn, topic)))

    def when_up(self, fn, name):
        """Call `fn()` at each connection, after the board has subscribed to all. In setup too."""
        self.on_up.append(self._job(fn, name))

    async def drain(self, ms=10000):
        """Wait until all that was published is sent and acknowledged; False after `ms`."""
        begin = ticks_ms()
        while self.queue or not self.up or self.sock.out:
            if ticks_diff(ticks_ms(), begin) > ms:
                return False
            await sleep_ms(_STEP)
        return True

    def stop(self):
        """Say good-bye, before a reset or sleep, as far as that goes without waiting."""
        if self.up:
            self.up = False
            MQTTClient.publish(self, (self.base + "/status").encode(), b"offline", True)
            self.sock.write(b"\xe0\0")  # DISCONNECT
            self.sock.flush()
            self.sock.s.close()

    def _full(self, topic):
        return self.base + topic[1:] if topic[:1] == "~" else topic

    def _job(self, fn, name):
        return Job(fn, name, 0, 0, 0, self.app.tallies.setdefault(name, [0, 0, 0]))

    # --- the queue

    def _drop(self):
        queue = self.queue
        last = len(queue) - 1
        first = min(1 if self._flying else 0, last)
        i = first
        while i < last and queue[i][3]:
            i += 1
        self._take_out(first if queue[i][3] else i)
        self.dropped += 1

    def _take_out(self, i):
        topic, msg = self.queue.pop(i)[:2]
        self._free += len(topic) + len(msg) + _COSTS
        if not i:
            self._flying = self._lost = 0

    # --- the connection

    def wait_msg(self):
        raise NotImplementedError  # umqtt.simple has written what it had to, and is left here

    def say(self, method, *args):
        """Let umqtt.simple write what `method` is for."""
        self.pid %= 65535
        try:
            method(self, *args)
        except NotImplementedError:
            pass  # where it would wait

    async def _life(self):
        """One connection, from the attempt to its end, which is always an exception."""
        # Not while a poll's parts are on the heap: what a new connection lends takes as much.
        updater = self.app.updater
        while not self.app.wifi.up or updater.busy:
            await sleep_ms(1000)
        # What setup alone calls takes room. Deleted it would stay in the class's table of names.
        Mqtt.__init__ = Mqtt.on = Mqtt.when_up = None  # pyright: ignore
        begun = None
        try:
            self._limit = _TIMEOUT
            self._heard = self._pinged = ticks_ms()
            updater.waits = True
            await runtime.lend("mqtt_connect").connect(self)
            runtime.wipe()  # what that has left on the stack would stay for the fullest moment
            updater.waits = False
            begun = self.app.up
            self._limit = _SILENT
            self.up = True
            self._own.good()
            for job in self.on_up:
                self.app.attempt(job, job.fn)
            while True:
                await self._packet()
        except MemoryError:
            while self.queue:
                self._drop()  # what waits has the room that a connection needs
            raise
        finally:
            updater.waits = False
            if self.sock:
                self.sock.s.close()
                self.sock = None  # pyright: ignore
            self.up = False
            if self._flying:
                self._flying = 0
                self._lost += 1
                if self._lost >= _LOSES:  # it may be what the broker hangs up on
                    log.error("mqtt: %s is refused", self.queue[0][0])
                    self._take_out(0)
                    self.dropped += 1
            if begun is not None and self.app.up - begun > _LASTS:
                self._fails = self.short = 0
            pause = 1000 << self._fails
            if self._fails < _LONGEST:
                self._fails += 1
            self._own.left = pause // 2 + rand(pause)

    def send(self):
        """Send what is to be sent. Raises OSError when the broker is silent for too long."""
        now = ticks_ms()
        if ticks_diff(now, self._heard) > self._limit:
            raise OSError(ETIMEDOUT)
        wire = self.sock
        if self.up:
            if ticks_diff(now, self._pinged) >= self._limit // 2:
                self._pinged = now
                self.ping()
            if self._flying and ticks_diff(now, self._flown) > _TIMEOUT:
                raise OSError(ETIMEDOUT)
            while self.queue and not self._flying and wire.size < _OUTBOX:
                message = self.queue[0]
                self.say(MQTTClient.publish, *message)
                if message[3]:
                    self._flying = self.pid
                    self._flown = now
                else:
                    self._take_out(0)
        wire.flush()

    async def _read(self, view):
        """Fill `view`."""
        s = self.sock.s
        while view:
            n = s.readinto(view)
            if n is None:
                self.send()
                await sleep_ms(_STEP)
            elif n:
                view = view[n:]
            else:
                raise OSError(ECONNRESET)

    async def read(self):
        """Read one packet; return its first byte and length.

        What follows is in the buffer, the beginning of it if that is too short.
        """
        buffer = self.buffer
        one = buffer[:1]
        await self._read(one)
        kind = one[0]
        n = shift = 0
        while True:
            await self._read(one)
            n |= (one[0] & 127) << shift
            if one[0] < 128:
                break
            shift += 7
            if shift > 21:
                raise MQTTException("this is no MQTT")
        most = len(buffer)
        await self._read(buffer[: min(n, most)])
        left = n - most
        if left > 0:
            part = memoryview(bytearray(64))
            while left > 0:
                await self._read(part[:left])
                left -= 64
                await sleep_ms(0)  # a peer that is faster than the board would keep the loop
        self._heard = ticks_ms()
        return kind, n

    async def _packet(self):
        kind, n = await self.read()
        buffer = self.buffer
        if kind & 0xF4 == 0x30:
            most = min(n, len(buffer))
            end = 2 + (buffer[0] << 8 | buffer[1])
            at = end + (kind & 2)
            if at > n:
                raise MQTTException("this is no MQTT")
            if n > most:
                log.warning("mqtt: %d bytes for %s skipped", n - at, bytes(buffer[2:end]))
            else:
                topic = str(buffer[2:end], "utf-8")
                payload = bytes(buffer[at:n])
                self.retained = bool(kind & 1)
                for _, job in self.calls:
                    if matches(job.name, topic):
                        self.app.attempt(job, job.fn, topic, payload)
            if kind & 2 and at <= most:  # else its number is gone, too
                self.sock.write(b"\x40\x02" + buffer[end:at])
        elif kind == 0x40 and n == 2:
            if buffer[0] << 8 | buffer[1] == self._flying:
                self._take_out(0)
        elif kind == 0x90 and n == 3:
            if buffer[2] > 2:
                log.error("mqtt: the broker refuses a subscription")
        elif kind != 0xD0:
            raise MQTTException("this is no MQTT")
        self.send()
        await sleep_ms(0)  # however much comes, the loop has its turns
        while self.sock.size > _OUTBOX:  # acknowledgements that a deaf peer does not take
            await sleep_ms(_STEP)
            self.send()
