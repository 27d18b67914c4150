# The REPL: lines for people, and the raw mode that tools speak, with raw-paste
# (shared/runtime/pyexec.c, readline.c). It reads from the serial line, where Ctrl-C is no byte but
# a flag in the shared memory, and from the terminal that dupterm adds. Only there it echoes: what
# is typed at the console is shown by the host's own terminal.
import builtins

import usys
from _page import ESP32, RESET, SOFT_RESET, die
from _term import key, local, print_exception, prompting, send, write
from micropython import const

_RAW = "raw REPL; CTRL-B to exit\r\n>"
_PASTE = b"\r\npaste mode; Ctrl-C to cancel, Ctrl-D to finish\r\n=== "
_WINDOW = const(64)  # plain ASCII, as all that crosses the serial line
_HISTORY = const(8)
_COMPOUND = ("if ", "while ", "for ", "try:", "with ", "def ", "class ", "async ", "@")
_history = []


def run(names, restart):
    """Serve for ever; `restart` is the soft reset."""
    raw = False
    while True:
        try:
            raw = (_raw if raw else _friendly)(names, restart)
        except KeyboardInterrupt:
            write("\r\n>" if raw else "\nKeyboardInterrupt\n")


# --- for people


def _friendly(names, _):
    end, line = _line(b">>> ", names)
    if end == 1:
        write(_RAW)
        return True
    if end == 2:
        version = usys.version.split("; ")[-1]
        write("\r\n%s; %s\r\n" % (version, usys.modules["sys"].implementation._machine))
        write('Type "help()" for more information.\r\n')
    elif end == 4:
        write("\r\nMPY: soft reboot\r\n" if local[0] else "")
        die(SOFT_RESET if ESP32 else RESET)
    elif end == 5:
        _execute_pasted(names)
    elif line:
        while _goes_on(line):
            end, more = _line(b"... ", names)
            if end == 3:
                return False
            line += b"\n" + more
            if end == 4:
                break
        _show(line.decode(), names)
    return False


def _line(prompt, names):
    """Read a line; (the control key that ended it, or 13; the line)."""
    write(prompt)
    line = bytearray()
    at = 0
    back = 0
    while True:
        c = _byte()
        if c in (1, 2, 4, 5) and not line or c == 3:
            _echo(b"\r\n" if c in (3, 4) else b"")
            return c, b""
        if c in b"\r\n":
            _echo(b"\r\n")
            if line and local[0] and _history[:1] != [bytes(line)]:
                _history.insert(0, bytes(line))
                del _history[_HISTORY:]
            return 13, bytes(line)
        start, before = at, len(line)
        if c == 27:
            c = _escape()
            if c in b"AB":
                back = min(max(back + (1 if c == 65 else -1), 0), len(_history))
                line = bytearray(_history[back - 1] if back else b"")
                at = len(line)
                _echo(b"\x1b[%dD" % start if start else b"")
                _echo(line + b"\x1b[K")
                continue
            c = {67: 6, 68: 16, 72: 1, 70: 5, 51: 4}.get(c, 0)
        if c == 9 and line.strip():
            added = _complete(line[:at].decode(), names, prompt, line)
            line[at:at] = added
            at += len(added)
        elif c >= 32 and c != 127 or c == 9:
            line[at:at] = bytes((c,))
            at += 1
        else:
            at = _edited(line, at, c)
        if at == start + 1 == len(line) == before + 1:
            _echo(line[start:])
        elif at != start or len(line) != before:
            _echo(b"\x1b[%dD" % start if start else b"")
            _echo(line + b"\x1b[K")
            _echo(b"\x1b[%dD" % (len(line) - at) if at < len(line) else b"")


def _edited(line, at, c):
    """Obey an editing key: change `line` in place; return where the cursor is then."""
    if c in (8, 127) and at:
        at -= 1
        line[at:] = line[at + 1 :]
    elif c == 4:
        line[at:] = line[at + 1 :]
    elif c == 2:
        line[:] = b""
    places = {1: 0, 2: 0, 5: len(line), 6: min(at + 1, len(line)), 16: max(at - 1, 0)}
    return places.get(c, at)


def _escape():
    c = _byte()
    if c not in b"[O":
        return 0
    c = _byte()
    if c in b"134":
        _byte()  # the ~
        return {49: 72, 51: 51, 52: 70}[c]
    return c


def _complete(text, names, prompt, line):
    start = len(text)
    while start and (text[start - 1] in "_." or text[start - 1].isalpha()):
        start -= 1
    path = text[start:].split(".")
    last = path.pop()
    try:
        known = dir(eval(".".join(path), names)) if path else list(names) + dir(builtins)
    except Exception:
        return b""
    found = sorted(set(name for name in known if name.startswith(last)))
    if not found:
        return b""
    common = found[0]
    for name in found:
        while not name.startswith(common):
            common = common[:-1]
    if len(found) > 1 and common == last:
        _echo(b"\r\n" + "    ".join(found).encode() + b"\r\n" + prompt + line)
    return common[len(last) :].encode()


def _goes_on(line):
    """Whether the statement has more lines to come."""
    text = line.decode()
    if text.startswith(_COMPOUND) and not text.endswith("\n"):
        return True
    depth = 0
    quote = ""
    i = 0
    while i < len(text):
        c = text[i]
        if quote:
            if c == "\\":
                i += 1
            elif text.startswith(quote, i):
                i += len(quote) - 1
                quote = ""
        elif c in "'\"":
            quote = c * 3 if text.startswith(c * 3, i) else c
            i += len(quote) - 1
        elif c == "#":
            while i < len(text) and text[i] != "\n":
                i += 1
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        i += 1
    return depth > 0 or len(quote) == 3 or text.endswith("\\")


def _execute_pasted(names):
    _echo(_PASTE)
    code = bytearray()
    while True:
        c = _byte()
        if c == 3:
            _echo(b"\r\n")
            return
        if c == 4:
            break
        code.append(10 if c == 13 else c)
        _echo(b"\r\n=== " if c == 13 else bytes((c,)))
    _echo(b"\r\n")
    try:
        prompting[0] = 0
        exec(compile(bytes(code), "<stdin>", "exec"), names)
    except SystemExit:
        die(SOFT_RESET if ESP32 else RESET)
    except BaseException as problem:
        print_exception(problem)


def _show(line, names):
    try:
        prompting[0] = 0
        try:
            code = compile(line, "<stdin>", "eval")
        except SyntaxError:
            exec(compile(line, "<stdin>", "exec"), names)
            return
        value = eval(code, names)
        if value is not None:
            names["_"] = value
            write(repr(value) + "\n")
    except SystemExit:
        die(SOFT_RESET if ESP32 else RESET)
    except BaseException as problem:
        print_exception(problem)


# --- for tools


def _raw(names, restart):
    code = bytearray()
    while True:
        c = _byte()
        if c == 1:
            code = bytearray()
            write(_RAW)
        elif c == 2:
            write("\r\n")
            return False
        elif c == 3:
            code = bytearray()
        elif c == 5 and not code:
            code = _paste()
            if code is not None:
                _execute(code, names)
                return True
            code = bytearray()
        elif c == 4:
            write("OK")
            if code:
                _execute(bytes(code), names)
            else:
                write("\r\nMPY: soft reboot\r\n")
                restart()
                write(_RAW)
            return True
        elif c != 13 or code:
            code.append(c)


def _paste():
    if _byte() != 65:
        return None
    _byte()
    write(b"R\x01" + bytes((_WINDOW, 0)) + b"\x01")
    code = bytearray()
    while True:
        c = _byte()
        if c == 4 or c == 3:
            write(b"\x04")
            return bytes(code) if c == 4 else b"raise KeyboardInterrupt"
        code.append(c)
        if len(code) % _WINDOW == 0:
            write(b"\x01")


def _execute(code, names):
    try:
        prompting[0] = 0
        exec(compile(code, "<stdin>", "exec"), names)
        write("\x04\x04>")
    except SystemExit:
        die(SOFT_RESET if ESP32 else RESET)
    except BaseException as problem:
        write("\x04")
        print_exception(problem)
        write("\x04>")


def _byte():
    prompting[0] = 1
    return key()


def _echo(data):
    if local[0]:
        send(data)
