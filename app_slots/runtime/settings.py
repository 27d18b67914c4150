"""The board's own values for what config.py declares, with a changed one on trial like a release.

How they lie on flash, and what ends their trial, is in settings_store.py and health.py.
"""

from micropython import const

import config
import ota
import runtime
from runtime import log

_TRIES = const(3)  # starts that changed values have to prove themselves, as in settings_store.py
_SECRET = const(4)  # characters that make a secret worth hiding from the log
# The last words of a secret's name.
_NAMED = b" PASSWORD PASSWD PASSPHRASE PASS PWD PSK SECRET TOKEN KEY "

store = runtime.lend("settings_store")


def _values(copy):
    """Return the values of a Copy as {key: text}."""
    values = {}
    for line in copy.values.decode().split("\n"):
        if line:
            key, text = line.split(" ", 1)
            values[key] = text
    return values


def stored():
    """Return (tries, {key: text}) of what counts; see settings_store.py for the tries."""
    copy = store.newest()
    return copy.tries, _values(copy)


def _rules():
    """Return {key: rule} as config.py says behind `#:`; none where it is compiled.

    As bytes, also what they are compared with: short texts would stay as names (app/names.py).
    """
    rules = {}
    try:
        f = open("/app_slots/%s/config.py" % ota.slot, "rb")
    except OSError:
        return rules
    try:
        for line in f:
            parts = line.split(b"#:")
            if len(parts) == 2 and b" = " in parts[0]:
                rules[line.split(b" ")[0].decode()] = parts[1].strip()
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
        raise ValueError("is either 1 or 0")
    value = text
    if isinstance(default, (int, float)):
        try:
            value = type(default)(text)
        except ValueError:
            raise ValueError("is of type " + type(default).__name__)
        low, high = rule.split(b"..") if b".." in rule else (b"", b"")
        if low and value < float(low) or high and value > float(high):
            raise ValueError("is within %s" % rule.decode())
    elif b"|" in rule and text.encode() not in [word.strip() for word in rule.split(b"|")]:
        raise ValueError("is one of %s" % rule.decode())
    return value


def load():
    """Put the board's values into `config`. A trial has one try fewer then, or is over."""
    copy = store.newest()
    if copy.tries == 1:
        log.error("settings: the change has not proved itself, the former values are back")
        store.rollback()
        copy = store.newest()
    if copy.tries:
        copy.tries -= 1
        store.write(copy)
    runtime.settings_trial = copy.tries > 0
    values = _values(copy)
    rules = _rules() if values else {}
    for key, text in values.items():
        default = getattr(config, key, None)
        if default is None:
            log.warning("settings: %s is unknown here, ignored", key)
            continue
        try:
            value = _parse(default, text, rules.get(key, b""))
        except ValueError as e:  # the text is not logged: it may be a secret in the wrong place
            log.error("settings: %s %s; default used", key, e)
            continue
        setattr(config, key, value)
    for key in dir(config):
        value = getattr(config, key)
        if not isinstance(value, str) or len(value) < _SECRET:
            continue
        word = b" %s " % key.split("_")[-1].upper().encode()
        if rules.get(key) == b"secret" or word in _NAMED:
            log.secrets.append(value)
    log.secrets.sort(key=len, reverse=True)  # one may begin like another


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
    copy = store.newest()
    texts = _values(copy)
    rules = _rules()
    for key, value in values.items():
        default = getattr(config, key, None)
        if default is None or key[0] == "_":
            raise ValueError("config.py declares no %s" % key)
        if value is None:
            texts.pop(key, None)
            continue
        text = str(value)
        if "\n" in text:
            raise ValueError(key + " is one line")
        try:
            _parse(default, text, rules.get(key, b""))
        except ValueError as e:
            raise ValueError(key + " " + str(e))
        texts[key] = text
    if not copy.tries:
        copy.place = store.other(copy)
    copy.number += 1
    copy.tries = 1 + _TRIES
    copy.values = "".join([key + " " + texts[key] + "\n" for key in sorted(texts)]).encode()
    store.make_folder()
    store.write(copy)
    runtime.settings_trial = False  # what runs now is no try of these values
