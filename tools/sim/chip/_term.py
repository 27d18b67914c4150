# os.dupterm (extmod/os_dupterm.c): a second terminal beside the console. All that is printed goes
# to it as well, what comes from it is typed at the REPL, Ctrl-C interrupts. The interpreter's own
# print knows nothing of that, so while there is such a terminal, one that does stands in for it.
import builtins
import io
import uselect
import usys

from _page import ESP32, interrupt, shut
from _wait import wait

_SLOTS = 1 if ESP32 else 2  # the ESP8266's second is its serial line
_RING = 260 if ESP32 else 256
_ROOM = _RING - 1
_FLUSH = 512
_terms = [None] * _SLOTS
_ring = bytearray(_RING)  # what has been typed there: more than fits is lost, as on a chip
_ends = [0, 0]  # read, write
_one = bytearray(1)
_busy = bytearray(1)  # reading from the terminal, or writing to it
_missed = bytearray(1)  # something arrived meanwhile
_stdin = usys.stdin.buffer
_console = usys.stdout.buffer
_poll = uselect.poll()
_poll.register(usys.stdin, uselect.POLLIN)
_print = print
prompting = bytearray(1)  # Ctrl-C is a key like others at the prompt

# The dictionary that overrides builtins is made once, and is the simulator's.
builtins.print = _print
del builtins.print


def dupterm(stream, index=0):
    if not 0 <= index < _SLOTS:
        raise ValueError("invalid dupterm index")
    before = _terms[index]
    _terms[index] = stream
    if index == 0:
        if stream is not None:
            builtins.print = _both
        elif before is not None:
            del builtins.print
    return before


def _gone(text, problem=None):
    stream = dupterm(None)
    _console.write(text)
    if problem:
        usys.print_exception(problem)
    try:
        stream.close()
    except Exception:
        pass


def dupterm_notify(_):
    # In C nothing comes in between: bytes stay in order, and while the terminal is written to its
    # socket waits for what it reads.
    _missed[0] = 1
    while _missed[0] and not _busy[0]:
        _busy[0] = 1
        _missed[0] = 0
        try:
            _take()
        finally:
            _busy[0] = 0


def _take():
    while True:
        c = _receive()
        if c < 0:
            return
        after = (_ends[1] + 1) % _RING
        if after != _ends[0]:
            _ring[_ends[1]] = c
            _ends[1] = after


def _receive():
    # One byte; -1 when there is none, -2 for Ctrl-C, which ends what this call can read.
    stream = _terms[0]
    if stream is None:
        return -1
    try:
        n = stream.readinto(_one)
        if n is None:
            return -1
        if n == 0:
            _gone("dupterm: EOF received, deactivating\n")
            return -1
    except Exception as problem:
        _gone("dupterm: Exception in read() method, deactivating: ", problem)
        return -1
    if _one[0] == 3 and not prompting[0]:
        interrupt()
        return -2
    return _one[0]


def send(data):
    """Bytes for the terminal alone, line ends as a terminal wants them."""
    stream = _terms[0]
    if stream is None:
        return
    within, _busy[0] = _busy[0], 1
    try:
        for n, line in enumerate(bytes(data).replace(b"\r\n", b"\n").split(b"\n")):
            if n:
                stream.write(b"\r\n")
            if line:
                stream.write(line)
    except Exception as problem:
        _gone("dupterm: Exception in write() method, deactivating: ", problem)
    finally:
        _busy[0] = within
    if _missed[0]:
        dupterm_notify(None)


def write(data):
    """Bytes or text for console and terminal."""
    _console.write(data)
    if _terms[0] is not None:
        send(data.encode() if isinstance(data, str) else data)


def _both(*values, file=None, **how):
    if file is not None and file is not stdout:
        _print(*values, file=file, **how)
        return
    text = io.BytesIO()
    _print(*values, file=text, **how)
    write(text.getvalue())


def print_exception(problem, file=None):
    if _terms[0] is None or (file is not None and file is not stdout):
        usys.print_exception(problem, *(() if file is None else (file,)))
        return
    text = io.BytesIO()
    usys.print_exception(problem, text)
    write(text.getvalue())


class _Stdout(io.IOBase):
    buffer = None

    def write(self, data):
        write(data)
        return len(data)

    def flush(self):
        pass

    def ioctl(self, request, argument):
        return 1 if request == 10 else argument & 4 if request == 3 else 0


class _Stdin(io.IOBase):
    buffer = None

    def readinto(self, into):
        into[0] = key()
        return 1

    def read(self, size=1):
        got = b""
        while len(got) < size:
            got += bytes((key(),))
        return got if self is stdin.buffer else got.decode()

    def readline(self, size=-1):
        got = b""
        while got[-1:] not in (b"\n", b"\r") and len(got) != size:
            got += bytes((key(),))
        return got if self is stdin.buffer else got.decode()

    def ioctl(self, request, argument):
        if request != 3:
            return 0
        return argument & 1 if _ends[0] != _ends[1] or _poll.poll(0) else 0


class _Keys:
    """Both places where keys come from, as `wait` asks for them."""

    def ipoll(self, ms):
        return (True,) if _ends[0] != _ends[1] else _poll.ipoll(ms)


_keys = _Keys()
stdout = _Stdout()
stdout.buffer = _Stdout()
stdin = _Stdin()
stdin.buffer = _Stdin()
local = bytearray(1)  # the last key came from the terminal, which wants to see what it types


def key():
    """Wait for a key, as a number; Ctrl-C raises unless at the prompt."""
    while True:
        wait(_keys, None)
        if _ends[0] != _ends[1]:
            c = _ring[_ends[0]]
            _ends[0] = (_ends[0] + 1) % _RING
            local[0] = 1
            return c
        c = _stdin.read(1)
        if c:
            local[0] = 0
            return c[0]
        _poll.unregister(usys.stdin)  # nobody will type any more; the board stays on
