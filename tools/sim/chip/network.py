# Wi-Fi as far as a board notices it. The air (which networks, which passwords, up or not) is set by
# the host at any time; a link follows it without being asked, as the chips' SDKs reconnect.
import json
import struct
from binascii import hexlify, unhexlify

import time
from _page import ADDRESS, AIR, ESP32, STATION, libc, memory, page
from _tick import on_air

STA_IF = 0
AP_IF = 1
AUTH_OPEN = 0
AUTH_WPA_PSK = 2
AUTH_WPA2_PSK = 3
AUTH_WPA_WPA2_PSK = 4
STAT_IDLE = 1000 if ESP32 else 0
STAT_CONNECTING = 1001 if ESP32 else 1
STAT_WRONG_PASSWORD = 202 if ESP32 else 2
STAT_NO_AP_FOUND = 201 if ESP32 else 3
STAT_CONNECT_FAIL = 203 if ESP32 else 4
STAT_GOT_IP = 1010 if ESP32 else 5

# What an ESP32 says at once, and until something else happens; the rest when it gives up
_TOLD = (201, 202, 210, 211, 212)
_JOIN_MS = 300
_SCAN_MS = 2000
_STA_ACTIVE = 1
_AP_ACTIVE = 2

_MAC = bytes((2,)) + bytes(int(n) for n in ADDRESS.split(".")) + b"\x01"
_hostname = ["mpy-esp32" if ESP32 else "mpy-esp8266"]
_seen = [-1, {}]
_since = [0]
_given_up = [False]  # an ESP32, after as many attempts as it was told
_reconnects = [-1]
_reason = [0]  # why an ESP32 was disconnected last; forgotten when it has an address
_ap = {
    "ssid": "MicroPython-" + "".join("%02x" % n for n in _MAC[3:]),
    "key": "micropythoN",
    "security": AUTH_WPA_WPA2_PSK,
    "hidden": False,
    "channel": 1,
    "max_clients": 4,
}
_ifconfig = [
    (ADDRESS, "255.0.0.0", "127.0.0.1", "127.0.0.1"),
    ("192.168.4.1", "255.255.255.0", "192.168.4.1", "192.168.4.1"),
]


def _air():
    if _seen[0] != page.radio:
        _seen[0] = page.radio
        size = struct.unpack_from("<I", memory, AIR)[0]
        _seen[1] = json.loads(bytes(memory[AIR + 4 : AIR + 4 + size]))
    return _seen[1]


def _stored(at):
    return bytes(memory[at + 1 : at + 1 + memory[at]])


def _store(at, raw):
    memory[at] = len(raw)
    memory[at + 1 : at + 1 + len(raw)] = raw


def _network():
    # In the air's JSON names are hex, because not all are text.
    return _air()["networks"].get(hexlify(_stored(STATION)).decode())


def _state():
    ssid = _stored(STATION)
    if not page.wifi & _STA_ACTIVE or not ssid or _since[0] is None:
        return STAT_IDLE
    net = _network() if _air()["up"] else None
    passed = time.ticks_diff(time.ticks_ms(), _since[0])
    takes = (net or {}).get("takes", _JOIN_MS)
    if passed < takes:
        return STAT_CONNECTING
    if net is None:
        end = STAT_NO_AP_FOUND
    elif net["password"].encode() != _stored(STATION + 33):
        end = net.get("reason", 15) if ESP32 else STAT_WRONG_PASSWORD
    elif ESP32 and _given_up[0]:
        return _reason[0]
    else:
        _reason[0] = 0
        _was[0] = True
        return STAT_GOT_IP
    if ESP32:
        _reason[0] = end
        _given_up[0] = 0 <= _reconnects[0] < passed // takes
    return end


def _status():
    now = _state()
    if not ESP32 or now == STAT_GOT_IP:
        return now
    if _reason[0] in _TOLD:
        return _reason[0]
    if _busy(now):
        return STAT_CONNECTING
    return _reason[0] or STAT_IDLE


def _busy(now):
    # An ESP32 tries again by itself, with endless reconnects for ever.
    return now not in (STAT_IDLE, STAT_GOT_IP) and not _given_up[0]


def linked():
    """Whether packets leave the board, as station or to clients of its access point."""
    return _state() == STAT_GOT_IP or bool(page.wifi & _AP_ACTIVE and _air()["clients"])


_hole = [-1]
_KEPT = 200  # file descriptors from here on are no longer the board's


def _lose():
    # No packet comes through any more, and nobody is told: each open connection of the board
    # becomes a socket that swallows and never answers, while the peer's end stays as it was.
    name = bytearray(16)
    size = bytearray(4)
    getsockname = libc.func("i", "getsockname", "ipp")
    getsockopt = libc.func("i", "getsockopt", "iiipp")
    fcntl = libc.func("i", "fcntl", "iii")
    if _hole[0] < 0:
        pair = bytearray(8)
        libc.func("i", "socketpair", "iiip")(1, 1 | 0o4000, 0, pair)
        ends = struct.unpack("<ii", pair)
        _hole[0] = fcntl(ends[0], 0, _KEPT)
        fcntl(ends[1], 0, _KEPT)
        for end in ends:
            libc.func("i", "close", "i")(end)
    for fd in range(3, 64):
        size[0] = 16
        if getsockname(fd, name, size) or name[0] != 2:
            continue
        size[0] = 4
        flag = bytearray(4)
        getsockopt(fd, 1, 30, flag, size)  # SO_ACCEPTCONN
        if flag[0] or (page.wifi & _AP_ACTIVE and struct.unpack_from(">H", name, 2)[0] < 32768):
            continue
        fcntl(fd, 0, _KEPT)  # F_DUPFD
        libc.func("i", "dup2", "ii")(_hole[0], fd)


_was = [False]


def _changed():
    now = _state() == STAT_GOT_IP
    if _was[0] and not now:
        _lose()
    elif not now and _since[0] is not None:
        _since[0] = time.ticks_ms()
    _was[0] = now


on_air[0] = _changed


class WLAN:
    IF_STA = STA_IF
    IF_AP = AP_IF
    SEC_OPEN = 0
    SEC_WPA = 2
    SEC_WPA2 = 3
    SEC_WPA_WPA2 = 4
    PM_NONE = 0
    PM_PERFORMANCE = 1
    PM_POWERSAVE = 2

    def __init__(self, interface=STA_IF):
        self._ap = interface
        self._bit = _AP_ACTIVE if interface else _STA_ACTIVE

    def _station(self):
        if self._ap:
            raise OSError("STA required")

    def active(self, on=None):
        if on is None:
            return bool(page.wifi & self._bit)
        if on:
            page.wifi |= self._bit
        else:
            page.wifi &= ~self._bit
            if not self._ap:
                _changed()
        return None

    def connect(self, ssid=None, key=None, *, bssid=None):
        self._station()
        if not self.active():
            raise OSError("Wifi Internal Error" if ESP32 else "STA not active")
        if ESP32 and _busy(_state()):
            raise OSError("Wifi Internal Error")
        if ssid is not None:
            _store(STATION, _bytes(ssid))
            _store(STATION + 33, _bytes(key or b""))
        if self.isconnected():
            _lose()
        _since[0] = time.ticks_ms()
        _given_up[0] = _was[0] = False

    def disconnect(self):
        self._station()
        if self.isconnected():
            _lose()
        _since[0] = None
        _given_up[0] = False
        _was[0] = False

    def isconnected(self):
        if self._ap:
            return self.active() and _air()["clients"] > 0
        up = _state() == STAT_GOT_IP
        if not up and _was[0]:
            _changed()  # whoever knows that the link is gone finds its connections gone as well
        return up

    def status(self, what=None):
        if what == "rssi":
            return (_network() or {}).get("rssi", 0)
        if what == "stations":
            return [(_MAC, "192.168.4.%d" % (n + 2)) for n in range(_air()["clients"])]
        if self._ap:
            return STAT_IDLE
        return _status()

    def scan(self):
        self._station()
        if not self.active():
            raise OSError("STA must be active")
        time.sleep_ms(_SCAN_MS)
        air = _air()
        found = []
        for name in air["networks"] if air["up"] else ():
            net = air["networks"][name]
            hidden = net["hidden"]
            found.append(
                (
                    b"" if hidden else unhexlify(name),
                    _MAC,
                    6,
                    net["rssi"],
                    AUTH_WPA2_PSK if net["password"] else AUTH_OPEN,
                    hidden and not ESP32,
                )
            )
        return sorted(found, key=lambda net: -net[3])

    def config(self, *names, **values):
        if names:
            return self._get(names[0])
        for name, value in values.items():
            self._set(name, value)
        return None

    def _get(self, name):
        name = _ALIAS.get(name, name)
        if name == "mac":
            return _MAC
        if name == "hostname":
            return _hostname[0]
        if name == "ssid" and not self._ap:
            return _stored(STATION).decode()
        if name in _ap:
            return _ap[name]
        if name == "reconnects" and ESP32:
            return _reconnects[0]
        if name in ("pm", "txpower", "protocol"):
            return 0
        raise ValueError("unknown config param")

    def _set(self, name, value):
        name = _ALIAS.get(name, name)
        if name == "hostname":
            _hostname[0] = value
        elif name == "reconnects" and ESP32:
            _reconnects[0] = value
        elif name in _ap and (name != "max_clients" or ESP32):
            if not self._ap:
                raise OSError("AP required")
            if name == "key" and not 8 <= len(value) <= 63:
                raise ValueError("invalid key length")
            _ap[name] = value
        elif name not in ("mac", "pm", "txpower", "protocol"):
            raise ValueError("unknown config param")

    def ifconfig(self, address=None):
        if address is not None:
            if address != "dhcp":
                _ifconfig[self._ap] = tuple(address)
            return None
        if not self._ap and not self.isconnected():
            return ("0.0.0.0",) * 4
        return _ifconfig[self._ap]


_ALIAS = {
    "essid": "ssid",
    "authmode": "security",
    "password": "key",
    "dhcp_hostname": "hostname",
}


def _bytes(value):
    return value.encode() if isinstance(value, str) else bytes(value)


def hostname(name=None):
    if name is None:
        return _hostname[0]
    _hostname[0] = name
    return None


def country(code=None):
    return "XX"


def begin():
    """The chip starts: an ESP8266 joins what it knows."""
    if not ESP32:
        _since[0] = time.ticks_ms()


if page.started == 0:
    # After the first flash the ESP8266 opens an access point, and it remembers both switches.
    page.started = 1
    page.wifi = 0 if ESP32 else _AP_ACTIVE
if ESP32:
    page.wifi = 0
    _store(STATION, b"")
    _since[0] = None
