"""A blocking HTTP/1.1 connection that is kept alive; bodies are never held."""

import socket
import time
from errno import ETIMEDOUT
from micropython import const

import ota
from bootloader.manifest import Rejected

_HEAD = const(1024)
_LINE = const(128)
_BODY = const(1024)
_WAIT = const(10)  # seconds of silence
_ANSWER = const(60)  # seconds for an answer


class Connection:
    """Connected to `url` (http://host:port or https://...). Raises OSError when it cannot be.

    `timeout` is in s for the head of an answer, and the body of a poll's.
    """

    def __init__(self, url, timeout=_ANSWER):
        self.timeout = timeout * 1000
        scheme, _, host = url.split("/")[:3]
        port = 443 if scheme == "https:" else 80
        self._host = host
        if ":" in host:
            host, port = host.split(":")
        address = socket.getaddrinfo(host, int(port), 0, socket.SOCK_STREAM)[0][-1]
        self._s = s = socket.socket()
        try:
            s.settimeout(_WAIT)
            s.connect(address)
            if scheme == "https:":
                import ssl

                self._s = ssl.wrap_socket(s)
        except OSError:
            s.close()
            raise

    def close(self):
        self._s.close()

    def _ask(self, what, head="", body=b""):
        """Send a request; return (content length, value of ota-mac). Raises Rejected("http")."""
        s = self._s
        s.write("%s HTTP/1.1\r\nhost: %s\r\n%s\r\n" % (what, self._host, head))
        if body:
            s.write(body)
        self._end = time.ticks_add(time.ticks_ms(), self.timeout)
        left = _HEAD
        status = length = None
        mac = b""
        while True:
            line = self._line()
            left -= len(line)
            if line[-2:] != b"\r\n" or left <= 0:
                raise Rejected("http")
            line = line[:-2].lower()
            if not line:
                break
            if status is None:
                status = line[8:12]
            elif line.startswith(b"content-length:"):
                length = int(line[15:])
            elif line.startswith(b"ota-mac:"):
                mac = line[8:].strip()
        if status != b" 200" or length is None:
            print("http", status)
            raise Rejected("http")
        return length, mac

    def _byte(self):
        # One by one: inside read() a peer that trickles would hold the board for hours.
        if time.ticks_diff(self._end, time.ticks_ms()) < 0:
            raise OSError(ETIMEDOUT)
        ota.feed()  # a wait with an end is no hang
        byte = self._s.read(1)
        if not byte:
            raise OSError("connection closed")
        return byte

    def _line(self):
        line = bytearray()
        while line[-1:] != b"\n" and len(line) < _LINE:
            line += self._byte()
        return bytes(line)

    def post(self, path, body, mac):
        """Return (body, mac) of the reply to `body` (bytes) sent with `mac` (hex)."""
        head = "content-length: %d\r\nota-mac: %s\r\n" % (len(body), mac)
        length, mac = self._ask("POST " + path, head, body)
        if length > _BODY:
            raise Rejected("size")
        reply = bytearray()
        while len(reply) < length:
            reply += self._byte()
        return bytes(reply), mac

    def body(self, path):
        """Ask for `path`; return a stream of the inflated body, to be read to its end."""
        self._ask("GET " + path)
        import deflate

        return deflate.DeflateIO(self._s, deflate.RAW, 10)

    def save(self, path, name, most, h=None, buf=None):
        """Write the inflated body of `path` to the file `name`; Rejected("size") beyond `most`.

        `h` takes the hash of what was written. Returns how much less than `most` that was.
        """
        stream = self.body(path)
        buf = buf or bytearray(256)
        view = memoryview(buf)
        f = open(name, "wb")
        try:
            while True:
                n = inflate(stream, buf)
                if not n:
                    return most
                most -= n
                if most < 0:
                    raise Rejected("size")
                if h:
                    h.update(view[:n])
                f.write(view[:n])
        finally:
            f.close()


def inflate(stream, buf):
    """readinto() that tells a broken stream, which is refused, from a broken connection."""
    try:
        return stream.readinto(buf)
    except EOFError:
        raise Rejected("truncated")
    except OSError as e:
        if e.args[0] == 22:
            raise Rejected("hash")
        raise
