"""The board's own values for what config.py declares, with a changed one on trial like a release.

Two copies in /data/settings, each `settings 1 <number> <tries>`, lines `KEY value`, and
`end <first 8 hex of the SHA-256 of all before>`. The higher number counts. `tries` is 0 in a
confirmed copy, one more than what is left in one on trial. A change goes over the older copy, so
the former values stay; from then on only the new copy is written, and where that write is cut the
former ones are back. Each step is one write or one removal.
"""

import os
from binascii import hexlify
from hashlib import sha256
from micropython import const

import config
import ota
import runtime
from runtime import log

_PATH = "/data/settings/"
_MOST = const(2048)  # bytes of a copy
_SECRET = const(4)  # characters that make a password worth hiding from the log
_TRIES = const(3)
_LASTS = const(60)  # s until a change is confirmed, once the server has answered
_LASTS_ALONE = const(600)  # on a board that names no server
_TIMEOUT = const(300)  # s until a trial that is not good costs a try


class _Copy:
    def __init__(self, place, number=0, tries=0):
        self.place = place
        self.number = number
        self.tries = tries
        self.values = {}


def _read(place):
    """Return the _Copy at `place` ("0" or "1"), None when it is not whole."""
    try:
        with open(_PATH + place, "rb") as f:
            b = f.read(_MOST + 1)
        end = b.rfind(b"end ")
        if end < 0 or b[end:] != b"end %s\n" % _check(b[:end]):
            return None
        lines = b[:end].decode().split("\n")
        word, version, number, tries = lines[0].split(" ")
        if word != "settings" or version != "1":
            return None
        copy = _Copy(place, int(number), int(tries))
        for line in lines[1:-1]:
            key, value = line.split(" ", 1)
            copy.values[key] = value
        return copy
    except (OSError, ValueError):
        return None


def _check(b):
    return hexlify(sha256(b).digest()[:4])


def _write(copy):
    lines = ["settings 1 %d %d\n" % (copy.number, copy.tries)]
    for key in sorted(copy.values):
        lines.append("%s %s\n" % (key, copy.values[key]))
    b = "".join(lines).encode()
    b += b"end %s\n" % _check(b)
    if len(b) > _MOST:
        raise ValueError("the settings are too long")
    f = open(_PATH + copy.place, "wb")
    try:
        f.write(b)
    finally:
        f.close()


def _newest():
    a = _read("0")
    b = _read("1")
    if a and b:
        return a if a.number > b.number else b
    return a or b or _Copy("1")


def _rules():
    """Return {key: rule} as config.py says behind `#:`; none where it is compiled."""
    rules = {}
    try:
        f = open("/app_slots/%s/config.py" % ota.slot)
    except OSError:
        return rules
    try:
        for line in f:
            parts = line.split("#:")
            if len(parts) == 2 and " = " in parts[0]:
                rules[line.split(" ")[0]] = parts[1].strip()
    finally:
        f.close()
    return rules


def _parse(default, text, rule):
    """Return `text` as a value of the type of `default`.

    Raises ValueError, which says why, when it is none or outside of bounds or choices; what else a
    rule may say is for computers to know.
    """
    if isinstance(default, bool):
        if text in ("1", "true", "True", "on", "yes"):
            return True
        if text in ("0", "false", "False", "off", "no"):
            return False
        raise ValueError("is 1 or 0")
    value = text
    if isinstance(default, (int, float)):
        try:
            value = type(default)(text)
        except ValueError:
            raise ValueError("is of type " + type(default).__name__)
        low, high = rule.split("..") if ".." in rule else ("", "")
        if low and value < float(low) or high and value > float(high):
            raise ValueError("is within " + rule)
    elif "|" in rule and text not in [word.strip() for word in rule.split("|")]:
        raise ValueError("is one of " + rule)
    return value


def load():
    """Put the board's values into `config`. A trial has one try fewer then, or is over."""
    copy = _newest()
    if copy.tries == 1:
        log.error("settings: the change has not proved itself, the former values are back")
        os.remove(_PATH + copy.place)
        copy = _newest()
    if copy.tries:
        copy.tries -= 1
        _write(copy)
    runtime.trying = copy.tries > 0
    rules = _rules() if copy.values else {}
    for key, text in copy.values.items():
        default = getattr(config, key, None)
        if default is None:
            log.warning("settings: %s is unknown here, ignored", key)
            continue
        try:
            value = _parse(default, text, rules.get(key, ""))
        except ValueError as e:  # the text is not logged: it may be a secret in the wrong place
            log.error("settings: %s %s; default used", key, e)
            continue
        setattr(config, key, value)
    for key in dir(config):
        value = str(getattr(config, key))
        if key.endswith("PASSWORD") and len(value) >= _SECRET:
            log.secrets.append(value)


def set(key, value):
    """Store `value` for `key`, on trial from the next start on; None goes back to the default.

    Raises as change().
    """
    change({key: value})


def change(values):
    """Store several values at once, as {key: value}, in one trial.

    Raises ValueError for a key that config.py does not declare or a value that does not fit it,
    OSError while a release is on trial: one trial at a time. Then nothing is stored.
    """
    if ota.trial:
        raise OSError("a release is on trial, change settings when it is confirmed")
    copy = _newest()
    rules = _rules()
    for key, value in values.items():
        default = getattr(config, key, None)
        if default is None or key[0] == "_":
            raise ValueError("config.py declares no %s" % key)
        if value is None:
            copy.values.pop(key, None)
            continue
        text = str(value)
        if "\n" in text:
            raise ValueError(key + " is one line")
        try:
            _parse(default, text, rules.get(key, ""))
        except ValueError as e:
            raise ValueError("%s %s" % (key, e))
        copy.values[key] = text
    if not copy.tries:
        copy.place = "1" if copy.place == "0" else "0"
    copy.number += 1
    copy.tries = 1 + _TRIES
    _folders()
    _write(copy)
    runtime.trying = False  # what runs now is no try of these values


def _folders():
    try:
        os.mkdir("/data/settings")
    except OSError as e:
        if e.errno != 17:  # EEXIST
            raise


def confirm():
    """Keep the values on trial."""
    copy = _newest()
    if runtime.trying and copy.tries:
        copy.tries = 0
        _write(copy)
        log.info("settings: the change is confirmed")
    runtime.trying = False


def rollback():
    """Drop the values on trial; the former ones hold from the next start on."""
    copy = _newest()
    if copy.tries:
        os.remove(_PATH + copy.place)
    runtime.trying = False


def again():
    """Give back the try that this start took: it is a person who ends it."""
    copy = _newest()
    if 0 < copy.tries <= _TRIES:
        copy.tries += 1
        _write(copy)


def tick(app, sleeping=False):
    """Confirm or end the trial when it is time; called now and then, and before a deep sleep.

    It is good when the server has answered (a changed SERVER: at that address) and nothing that
    would hold back the confirmation of a release is wrong.
    """
    if app.up < _LASTS and not sleeping:
        return
    url = app.updater.answered
    new = _server_is_new()
    lasts = _TIMEOUT if ota.server or new else _LASTS_ALONE
    if url == config.SERVER if new else url or not ota.server and (sleeping or app.up >= lasts):
        held = runtime.lend("health").Health(app).held()
        if not held:
            confirm()
            return
    else:
        held = "no answer from the server"
    if app.up >= lasts and not sleeping:
        log.error("settings: the change has not proved itself (%s), starting again", held)
        ota.reset()


def _server_is_new():
    copy = _newest()
    former = _read("1" if copy.place == "0" else "0")
    server = former.values.get("SERVER") if former else None
    return copy.values.get("SERVER") != server and config.SERVER
