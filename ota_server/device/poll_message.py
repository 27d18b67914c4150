"""What a board may say in a poll (docs/protocol.md), and how much of it.

An authentic board is not a harmless one: its key may be stolen, its flash damaged. So every value
has a type and a limit here, and no control character passes that could act on a terminal or a log.
"""

import contextlib
import json
import re
from typing import Any, TypeGuard

import orjson

from ..policy import Bad, Crash, Report

TRACE_CHARS = 500
TEXT_CHARS = 64
CRASHES_TOLD = 16
"""A board counts no further in a row."""
WORD_CHARS = 16
JOBS = 32
JOB_TRACE_CHARS = 240
UNKNOWN_ORDERS = 4

_HALF_DIGEST = re.compile(r"[0-9a-f]{32}|")
_NONCE = re.compile(r"[0-9a-f]{16}")
_WORD = re.compile(r"[a-z-]{1,16}")
# What a board tells once a boot: key in the poll, name in policy.Board, what it must be.
_FACTS = (
    ("chip", "chip", str),
    ("boot", "boot", int),
    ("fw", "fw", str),
    ("mpy", "mpy", str),
    ("trust", "trust", int),
    ("addr", "address", str),
)


class BadPoll(Exception):
    """An authenticated poll that breaks the protocol; the message says how."""


def parse(body: bytes) -> Any:
    """JSON, read as kindly as can be: a damaged traceback must not cost a board its server.

    Raises:
        ValueError, RecursionError: it is no JSON.
    """
    with contextlib.suppress(orjson.JSONDecodeError):
        return orjson.loads(body)  # strict and fast
    text = body.decode("utf-8", "replace")
    value = json.loads(text, strict=False)
    if "\\u" in text:
        # A lone surrogate is no text to a database or a page.
        plain = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        value = json.loads(plain)
    return value


def envelope(message: dict[str, Any]) -> tuple[str, str]:
    """Nonce and ticket of an authenticated poll: all that a stale one is answered by.

    A ticket that none of our replies can have had counts as missing: the answer brings a good one.

    Raises:
        BadPoll: the nonce is not what it must be.
    """
    ticket = message.get("k")
    if not (isinstance(ticket, str) and _NONCE.fullmatch(ticket)):
        ticket = ""
    return _matching(message, "n", _NONCE), ticket


def report(message: dict[str, Any]) -> Report:
    """What an authenticated poll reports; unknown keys are ignored.

    Raises:
        BadPoll: a value is not what it must be.
    """
    state = _text(message, "state", WORD_CHARS)
    if not _WORD.fullmatch(state):
        raise BadPoll("state")
    facts = {
        name: _number(message, key) if kind is int else _text(message, key, TEXT_CHARS)
        for key, name, kind in _FACTS
        if key in message
    }
    if "life" in message:
        facts["life"] = _matching(message, "life", _NONCE)
    return Report(
        seq=_number(message, "seq"),
        digest=_matching(message, "m", _HALF_DIGEST),
        state=state,
        heap=_number(message, "heap"),
        up=_number(message, "up"),
        facts=facts,
        bad=_bad(message.get("bad")),
        progress=_progress(message.get("prog")),
        unknown=_unknown(message.get("unk", [])),
        held=bool(message.get("held", 0)),
        jobs=_jobs(message.get("jobs")),
        open=_number(message, "open") if "open" in message else None,
        wrong=_number(message, "wrong") if "wrong" in message else 0,
        pushed=bool(message.get("push", 0)),
        failed=_reason(message, "fail") if "fail" in message else "",
        first=printable(str(message.get("first", "")), TEXT_CHARS),
        crash=_crash(message.get("crash")),
        job=printable(str(message.get("job", "")), JOB_TRACE_CHARS),
    )


def printable(text: str, most: int) -> str:
    """At most `most` characters, control and other invisible ones spelled out (`\\x1b`).

    Line feeds and tabs stay: tracebacks have them.
    """
    if text.isprintable():
        return text[:most]
    shown = (
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text[:most]
    )
    return "".join(shown)[:most]


def _bad(value: Any) -> Bad | None:
    if value is None:
        return None
    if not is_object(value):
        raise BadPoll("bad")
    reason = _reason(value, "why")
    trace = printable(str(value.get("trace", "")), TRACE_CHARS)
    return Bad(_matching(value, "m", _HALF_DIGEST), reason, bool(value.get("soft", 0)), trace)


def _crash(value: Any) -> Crash | None:
    if value is None:
        return None
    if not is_object(value):
        raise BadPoll("crash")
    n = value.get("n")
    if not (is_number(n) and 0 < n < CRASHES_TOLD):
        raise BadPoll("crash")
    trace = printable(str(value.get("trace", "")), TRACE_CHARS)
    return Crash(n, trace, again="trace" not in value)


def _reason(message: dict[str, Any], key: str) -> str:
    code = _text(message, key, WORD_CHARS)
    if not _WORD.fullmatch(code):
        raise BadPoll(key)
    return code


def _progress(value: Any) -> str:
    if value is None:
        return ""
    if not _is_pair(value):
        raise BadPoll("prog")
    return f"{value[0]}/{value[1]}"


def _jobs(value: Any) -> str | None:
    if value is None:
        return None
    if not (is_object(value) and all(map(_is_pair, value.values()))):
        raise BadPoll("jobs")
    shown = list(value.items())[:JOBS]
    return json.dumps({printable(name, TEXT_CHARS): runs for name, runs in shown})


def _unknown(value: Any) -> tuple[str, ...]:
    if not (_is_list(value) and all(isinstance(order, str) for order in value)):
        raise BadPoll("unk")
    return tuple(printable(order, TEXT_CHARS) for order in value[:UNKNOWN_ORDERS])


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value is a JSON object."""
    return isinstance(value, dict)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_pair(value: Any) -> bool:
    return _is_list(value) and len(value) == 2 and all(map(is_number, value))


def is_number(value: Any) -> TypeGuard[int]:
    """Whether a value is a number that the protocol allows."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _number(message: dict[str, Any], key: str) -> int:
    value = message.get(key)
    if not is_number(value):
        raise BadPoll(key)
    return value


def _text(message: dict[str, Any], key: str, most: int) -> str:
    value = message.get(key)
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise BadPoll(key)
    return value


def _matching(message: dict[str, Any], key: str, pattern: "re.Pattern[str]") -> str:
    value = message.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BadPoll(key)
    return value
