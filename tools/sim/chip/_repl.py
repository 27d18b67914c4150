# The REPL on the serial line: lines for people, and the raw mode that tools speak, with raw-paste
# (shared/runtime/pyexec.c). Ctrl-C is no byte here: the host sets a flag in the shared memory.
import uselect
import usys
from _page import ESP32, RESET, SOFT_RESET, check, die
from micropython import const

_GREETING = "raw REPL; CTRL-B to exit\r\n>"
_WINDOW = const(64)  # plain ASCII, as all that crosses this line
_stdin = usys.stdin.buffer
_stdout = usys.stdout.buffer
_poll = uselect.poll()
_poll.register(usys.stdin, uselect.POLLIN)


def run(names, restart):
    """Serve for ever; `restart` is the soft reset."""
    raw = False
    while True:
        try:
            raw = (_raw if raw else _friendly)(names, restart)
        except KeyboardInterrupt:
            _write("\r\n>" if raw else "\nKeyboardInterrupt\n")


def _friendly(names, _):
    _write(">>> ")
    line = b""
    while True:
        c = _byte()
        if c == b"\x01":
            _write(_GREETING)
            return True
        if c == b"\x04":
            die(SOFT_RESET if ESP32 else RESET)
        if c == b"\x02":
            line = b""
        elif c in b"\r\n":
            if line:
                _show(line.decode(), names)
            return False
        else:
            line += c


def _raw(names, restart):
    code = b""
    while True:
        c = _byte()
        if c == b"\x01":
            code = b""
            _write(_GREETING)
        elif c == b"\x02":
            _write("\r\n")
            return False
        elif c == b"\x05" and not code:
            code = _paste()
            if code is not None:
                _execute(code, names)
                return True
            code = b""
        elif c == b"\x04":
            _write("OK")
            if code:
                _execute(code, names)
            else:
                _write("\r\nMPY: soft reboot\r\n")
                restart()
                _write(_GREETING)
            return True
        elif c != b"\r" or code:
            code += c


def _paste():
    if _byte() != b"A":
        return None
    _byte()
    _write(b"R\x01" + bytes((_WINDOW, 0)) + b"\x01")
    code = bytearray()
    while True:
        c = _byte()
        if c == b"\x04":
            _write(b"\x04")
            return bytes(code)
        code += c
        if len(code) % _WINDOW == 0:
            _write(b"\x01")


def _execute(code, names):
    try:
        exec(compile(code, "<stdin>", "exec"), names)
        _write("\x04\x04>")
    except SystemExit:
        die(SOFT_RESET if ESP32 else RESET)
    except BaseException as problem:
        _write("\x04")
        usys.print_exception(problem)
        _write("\x04>")


def _show(line, names):
    try:
        try:
            code = compile(line, "<stdin>", "eval")
        except SyntaxError:
            exec(compile(line, "<stdin>", "exec"), names)
            return
        value = eval(code, names)
        if value is not None:
            print(repr(value))
    except SystemExit:
        die(SOFT_RESET if ESP32 else RESET)
    except BaseException as problem:
        usys.print_exception(problem)


def _byte():
    while not _poll.poll(5):
        check()
    c = _stdin.read(1)
    while not c:
        # Nobody will type any more; the board stays on.
        _poll.unregister(usys.stdin)
        while True:
            _poll.poll(5)
            check()
    return c


def _write(text):
    _stdout.write(text)
