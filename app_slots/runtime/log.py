"""The log: lines on the console, and in what else takes them (docs/runtime.md)."""

import gc
import io
import sys

level = 1  # 0 debug, 1 info, 2 warning, 3 error
up = 0  # seconds since the start, set by the loop
sinks = []  # functions of (level, line): the ring file, syslog, MQTT; none of them may log
secrets = []  # texts that no line shows


def _write(n, text, args):
    if n < level:
        return
    try:
        line = "%d %c %s" % (up, b"DIWE"[n], text % args if args else text)
        for secret in secrets:
            line = line.replace(secret, "***")
    except MemoryError:
        gc.collect()
        line = text  # rather half a line than one more failure
        for part in args:
            if isinstance(part, str):  # one by one these need no room, unlike anything else
                for secret in secrets:
                    if secret in part:
                        break
                else:
                    print(part)
        for secret in secrets:
            if secret in text:
                line = "***"
    print(line)
    for sink in sinks:
        try:
            sink(n, line)
        except Exception as e:
            print("log:", repr(e))


def debug(text, *args):
    _write(0, text, args)


def info(text, *args):
    _write(1, text, args)


def warning(text, *args):
    _write(2, text, args)


def error(text, *args):
    _write(3, text, args)


def trace(e):
    """Return the traceback of `e` as text."""
    try:
        out = io.StringIO()
        sys.print_exception(e, out)
        return out.getvalue().strip()  # pyright: ignore
    except MemoryError:
        gc.collect()
        return type(e).__name__
