"""`mipy set` and `mipy get`: a board's own values for what its app's config.py declares.

The work is done by the board's own runtime/settings.py; in raw mode nothing that is sent is echoed.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from getpass import getpass
from typing import Annotated, Any

import typer

from .. import console, options
from ..app import config
from ..app.config import Key, Value
from ..console import Failure
from ..printable import printable
from . import session, target
from .remote import Remote
from .repl import Raised, Repl

_KEPT = "kept once it has run for a minute and the server has answered, else the former come back"

# A board whose app was stopped has the app's folder on its path already; config's defaults are
# wanted, which an app that ran has overwritten.
_SETUP = """\
import ota,sys
p='/app_slots/'+ota.slot
if p not in sys.path:
 sys.path.insert(0,p)
sys.modules.pop('config',None)
import config,runtime
S=runtime.lend('settings')
"""
_DECLARED = (
    "{k:getattr(config,k) for k in dir(config)"
    " if k[0]!='_' and type(getattr(config,k)) in (bool,int,float,str)}"
)
_STORED = "(lambda t:(t[0],{k:None if k in %r else t[1][k] for k in t[1]}))(S.stored())"


def set_(
    board: options.Board,
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="New values. A KEY alone is asked for unseen, or read from standard input.",
        ),
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option("--default", metavar="KEY", help="Go back to the default in config.py."),
    ] = None,
) -> None:
    """Change settings of a board.

    They are on trial like a release: if crashes, or loss of Wi-Fi or server, follow, the former
    ones come back. The app is started again for it.
    """
    if not changes and not default:
        raise Failure("nothing to set", f"write KEY=VALUE; `mipy get {board}` lists the keys")
    shown, hidden = _asked_for(changes or [])
    with _settings(board) as (repl, keys):
        values: dict[str, Value | None] = {}
        for name, text in (shown | hidden).items():
            key = _key(keys, name)
            if key.secret and name in shown:
                raise Failure(
                    f"{name} is a secret, and other people can see what you type there",
                    f"take a new one: `mipy set {board} {name}` asks for it, or reads one line",
                )
            values[name] = _parsed(key, text)
        values |= {_key(keys, name).name: None for name in default or []}
        try:
            repl.run(f"S.change({values!a})")
        except Raised as problem:
            raise Failure(
                f"the board does not take it: {problem.trace.strip().splitlines()[-1]}",
                "see `mipy boards` for a trial that is open, and try again",
            ) from None
    console.say(f"{', '.join(values)}: on trial from the next start on")
    console.note(f"{_KEPT}; see `mipy get {board}`")


def get(
    board: options.Board,
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="This one alone.")] = None,
    as_json: options.Json = False,
) -> None:
    """Show the settings of a board and where they come from; of a secret, whether it is set.

    The app is stopped for it, and started again.
    """
    with _settings(board) as (repl, keys):
        if key is not None:
            keys = {key: _key(keys, key)}
        secret = tuple(name for name, one in keys.items() if one.secret)
        tries, stored = repl.evaluate(_STORED % (secret,))
        # What is on trial shall not lose a try by being looked at.
        repl.run("S.store.give_back_try()")
    rows = [_row(one, stored, tries > 0) for one in keys.values()]
    if as_json:
        console.data({row["key"]: row for row in rows})
    elif key is not None:
        console.say(_shown(rows[0]))
    else:
        console.table(
            "",
            ("key", "value", "from"),
            [(row["key"], _shown(row), row["from"]) for row in rows],
        )
        for name in sorted(set(stored) - set(keys)):
            console.note(f"{name} is stored on the board, and config.py does not declare it")


def _asked_for(changes: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """({key: text} as typed, {key: text} as asked for unseen)."""
    shown, hidden = {}, {}
    for change in changes:
        name, sign, text = change.partition("=")
        if name in shown or name in hidden:
            raise Failure(f"{name} is given twice", "decide for one of them")
        if sign:
            shown[name] = text
        elif sys.stdin.isatty():
            hidden[name] = getpass(printable(f"{name}: "))
        else:
            line = sys.stdin.readline()
            if not line:
                raise Failure(f"no value for {name}", f"write {name}=VALUE, or pass one line in")
            hidden[name] = line.rstrip("\r\n")
    return shown, hidden


def _key(keys: Mapping[str, Key], name: str) -> Key:
    if name not in keys:
        close = difflib.get_close_matches(name.upper(), keys, 1)
        raise Failure(
            f"the config.py of this board's app declares no {name}",
            f"is it {close[0]}?" if close else "`mipy get BOARD` lists what it declares",
        )
    return keys[name]


def _parsed(key: Key, text: str) -> Value:
    try:
        return key.parse(text)
    except ValueError as problem:
        raise Failure(f"{key.name} {problem}", f"config.py says `{key.text}`") from None


def _row(key: Key, stored: Mapping[str, str | None], trial: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"key": key.name, "value": key.default, "from": "config.py"}
    if key.name in stored:
        row["from"] = "board, on trial" if trial else "board"
        text = stored[key.name]
        if text is not None:
            try:
                row["value"] = key.parse(text)
            except ValueError:
                row["from"] = "config.py; the board's value does not fit"
    if key.secret:
        row |= {"value": None, "secret": True, "set": key.name in stored}
    return row


def _shown(row: Mapping[str, Any]) -> str:
    if row.get("secret"):
        return "(set)" if row["set"] else "(not set)"
    return str(row["value"])


# --- on the board ------------------------------------------------------------------------------


@contextmanager
def _settings(board: str) -> Iterator[tuple[Repl, dict[str, Key]]]:
    """The board's REPL with its settings module as `S`, and what its app declares.

    Raises:
        Failure: no board, or its app has no settings.
    """
    with session.opened(target.find(board)) as repl:
        try:
            repl.run(_SETUP)
        except Raised as problem:
            if problem.kind in ("ImportError", "TypeError"):
                raise Failure(
                    f"no app with the runtime is at work on {board}",
                    "settings need one: see `mipy boards` for what it runs",
                ) from None
            raise
        yield repl, _declared(repl)


def _declared(repl: Repl) -> dict[str, Key]:
    files = Remote(repl)
    folder = repl.evaluate("p").encode()
    size = files.list(folder).get(b"config.py")
    if size is None:  # compiled: names and defaults are left
        return {name: Key(name, value) for name, value in repl.evaluate(_DECLARED).items()}
    return config.declared(files.read(folder + b"/config.py", size).decode())
