"""A blocking HTTP/1.1 connection that is kept alive; bodies are never held."""

import socket
from micropython import const

from bootloader.refused import Refused

_HEAD = const(1024)
_LINE = const(128)
_BODY = const(1024)
_WAIT = const(10)  # seconds of silence


class Link:
    """Connected to `url` (http://host:port or https://...). Raises OSError when it cannot be."""

    def __init__(self, url):
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
        """Send a request; return (content length, value of ota-mac). Raises Refused("http")."""
        s = self._s
        s.write("%s HTTP/1.1\r\nhost: %s\r\n%s\r\n" % (what, self._host, head))
        if body:
            s.write(body)
        left = _HEAD
        status = length = None
        mac = b""
        while True:
            line = s.readline(_LINE)  # pyright: ignore # so much is allocated
            left -= len(line)
            if line[-2:] != b"\r\n" or left <= 0:
                raise Refused("http")
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
            raise Refused("http")
        return length, mac

    def post(self, path, body, mac):
        """Return (body, mac) of the reply to `body` (bytes) sent with `mac` (hex)."""
        head = "content-length: %d\r\nota-mac: %s\r\n" % (len(body), mac)
        length, mac = self._ask("POST " + path, head, body)
        if length > _BODY:
            raise Refused("size")
        reply = b""
        while len(reply) < length:
            part = self._s.read(length - len(reply))
            if not part:
                raise OSError("connection closed")
            reply += part
        return reply, mac

    def body(self, path):
        """Ask for `path`; return a stream of the inflated body, to be read to its end."""
        self._ask("GET " + path)
        import deflate

        return deflate.DeflateIO(self._s, deflate.RAW, 10)

    def save(self, path, name, most, h=None, buf=None):
        """Write the inflated body of `path` to the file `name`; Refused("size") beyond `most`.

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
                    raise Refused("size")
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
        raise Refused("truncated")
    except OSError as e:
        if e.args[0] == 22:
            raise Refused("hash")
        raise
