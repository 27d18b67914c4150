"""Nothing that a board, a broker or a server says reaches a terminal or a page unescaped."""

from __future__ import annotations

import ast
import io
import logging
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mipy_ota
from mipy_ota.tools import console, logs, places
from mipy_ota.tools.board import run, target, terminal
from mipy_ota.tools.board.repl import Raised
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import release
from mipy_ota.tools.printable import Printable, printable

ROOT = Path(mipy_ota.__file__).resolve().parent.parent
HOSTILE = "a\x1b]52;c;cm0gLXJm\x07b\x1b[2J\x9b6n\rover\u202etxt\nwhat to do: curl"
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


# --- the function


@given(st.text())
def test_what_is_printable_has_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in shown)
    assert not FORBIDDEN.search(shown)
    assert printable(shown) == shown


def test_people_s_own_letters_stay() -> None:
    for text in ("größe", "Küche", "датчик", "温度計", "می‌خواهم", "👩‍🔬", "a\u00a0b"):
        assert printable(text) == text
    assert printable("a\x1b[31m\n") == "a\\x1b[31m\\n"
    assert printable("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"


@given(st.binary(max_size=60), st.integers(0, 60))
def test_a_board_s_output_is_the_same_however_it_is_cut(said: bytes, at: int) -> None:
    for cursor in (False, True):
        whole, pieces = Printable(cursor), Printable(cursor)
        # What waits for its rest comes with the next letter.
        assert whole(said) + whole(b".") == pieces(said[:at]) + pieces(said[at:]) + pieces(b".")


@pytest.mark.parametrize(
    "passed", ["\x1b[K", "\x1b[10D", "\x1b[999;999H", "\x1b[6n", "\x1b[?25l", "\x1b[1;31m", "\b \b"]
)
def test_an_editor_on_the_board_gets_its_cursor(passed: str) -> None:
    assert Printable(cursor=True)(passed.encode()) == passed
    if passed != "\b \b":
        assert "\x1b" not in Printable()(passed.encode())


@pytest.mark.parametrize(
    "stopped",
    [
        "\x1b]0;title\x07",  # the window's title
        "\x1b]52;c;cm0=\x07",  # the clipboard
        "\x1b]8;;http://x\x1b\\",  # a link
        "\x1bP+q544e\x1b\\",  # a question that the terminal answers
        "\x1b[c",
        "\x1b[21t",
        "\x1b[?1049h",
        "\x1b[5i",  # prints
        "\x1bc",
        "\u009b6n",
        "\u202e",
    ],
)
def test_the_rest_is_shown_instead(stopped: str) -> None:
    for cursor in (False, True):
        shown = Printable(cursor)(stopped.encode() + b".")
        assert not FORBIDDEN.search(shown.replace("\a", "")), shown
        assert "\\x" in shown or "\\u" in shown


# --- what goes through it


def terminals(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Make terminals of standard output and error; returns what reads what was written to them."""

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    both = [Terminal(io.BytesIO(), "utf-8", write_through=True) for _ in "oe"]
    monkeypatch.setattr(sys, "stdout", both[0])
    monkeypatch.setattr(sys, "stderr", both[1])
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda: "".join(one.buffer.getvalue().decode() for one in both)  # type: ignore


SINKS: dict[str, Callable[[], object]] = {
    "say": lambda: console.say(HOSTILE),
    "note": lambda: console.note(HOSTILE),
    "warn": lambda: console.warn(HOSTILE),
    "error": lambda: console.error(HOSTILE, HOSTILE),
    "table": lambda: console.table("", ("a",), [(HOSTILE,)]),
    "show": lambda: console.show({"a": HOSTILE}, as_json=False),
    "data": lambda: console.data({"a": HOSTILE}),
    "passage": lambda: console.passage(HOSTILE),
    "output": lambda: console.output()(HOSTILE.replace("\r", "").encode()),
}


@pytest.mark.parametrize("sink", SINKS)
def test_every_way_to_the_terminal(sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    SINKS[sink]()
    said = streams()
    assert "52;c;cm0gLXJm" in said
    assert not FORBIDDEN.search(said.replace("\x1b[0m", "")), said
    # A line of its own would pass for one of ours.
    assert ("\nwhat to do: curl" in said) == (sink in ("passage", "output"))


def test_progress_and_live_displays(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress() as bar:
        bar.add_task(HOSTILE, total=1)
        bar.refresh()
    with console.busy(HOSTILE):
        pass
    with release._Live() as show:
        show([release.Seen(HOSTILE, "open", HOSTILE)])
    said = streams()
    assert "cm0gLXJm" in said
    for part in ("\x1b]", "\x9b", "\u202e", "\rover"):
        assert part not in said


def test_into_a_file_a_board_s_output_goes_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    console.output()(b"\x1b[2J\xff\r\n")
    assert capfdbinary.readouterr().out == b"\x1b[2J\xff\r\n"


def test_a_traceback_of_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mipy exec BOARD`, whose code raises an exception with the sequences in its text."""
    streams = terminals(monkeypatch)

    class Board:
        def limit(self, seconds: int) -> None:
            pass

        def follow(self, code: bytes, heard: Callable[[bytes], None]) -> None:
            heard(HOSTILE.encode())
            raise Raised(f"Traceback (most recent call last):\nValueError: {HOSTILE}\n")

    class Opened:
        def __enter__(self) -> Board:
            return Board()

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(target, "find", lambda board: None)
    monkeypatch.setattr(run.session, "opened", lambda found: Opened())
    with pytest.raises(Failure) as raised:
        run.execute("kitchen", "x")
    console.error(raised.value.text, raised.value.hint)
    said = streams()
    assert "ValueError" in said
    assert not FORBIDDEN.search(said.replace("\rover", "")), said


def test_the_terminal_shows_what_is_no_line_editing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []

    class Stream:
        def read(self, timeout: float) -> bytes:
            return b">>> \x1b[K" + HOSTILE.encode()

    monkeypatch.setattr(terminal, "_show", shown.append)
    found: Any = target.Target(HOSTILE)
    one = terminal.Terminal(found, Stream(), None, until=0.0)  # type: ignore[arg-type]
    one._hear(0)
    one._note(HOSTILE)
    assert shown[0].startswith(b">>> \x1b[K")
    assert b"\x1b]" not in b"".join(shown)
    one._until = 1.0
    one._countdown()
    assert shown[-1].count(b"\x1b") == shown[-1].count(b"\x07") == 1


def test_the_server_s_log(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "board %s", (HOSTILE,), None)
    for form in (logs.Lines(), logs.Json()):
        assert not FORBIDDEN.search(form.format(record))


# --- that there is no other way

WAYS_OUT = {
    "print", "input", "typer.echo", "typer.secho", "typer.prompt", "typer.confirm",
    "sys.stdout.write", "sys.stderr.write", "stream.write",
    "sys.stdout.buffer.write", "sys.stderr.buffer.write", "console.out", "console.err",
    "getpass", "logging.StreamHandler",
}  # fmt: skip
ESCAPED = {
    "tools/logs.py:to_stderr",  # both of its forms escape: test_the_server_s_log
    "tools/console.py",  # the way out itself
    "tools/board/terminal.py:_show",  # bytes that its callers have escaped
    "tools/sim/micropython.py:main",  # the command that was found on this computer
}


def host_modules() -> list[Path]:
    tools = places.sources("tools")
    device = tools / "sim" / "chip"
    parts = (tools, ROOT / "ota_server", ROOT / "signing")
    return [
        path for part in parts for path in sorted(part.rglob("*.py")) if device not in path.parents
    ]


def ways_out(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """What a module writes to a terminal by, and the function in which it does."""
    tree = ast.parse(path.read_text())
    bodies = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    functions = (one for body in bodies for one in body if isinstance(one, ast.FunctionDef))
    for function in functions:
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in WAYS_OUT:
                yield ast.unparse(node.func), function


def test_there_is_no_other_way_to_the_terminal() -> None:
    """Whoever writes past console.py calls `printable` in the same function."""
    found, past = 0, []
    for path in host_modules():
        name = str(path.relative_to(ROOT))
        for way, function in ways_out(path):
            found += 1
            if name in ESCAPED or f"{name}:{function.name}" in ESCAPED:
                continue
            if "rintable" not in ast.unparse(function) and not harmless(way, function):
                past.append(f"{name}:{function.lineno} {function.name}: {way}")
    assert found > 10
    assert not past


def harmless(way: str, function: ast.FunctionDef) -> bool:
    """`console.out()` of which something is asked, or to which only a drawing of ours goes."""
    text = ast.unparse(function)
    return way in ("console.out", "console.err") and ".print(" not in text


def test_pages_escape_all_that_is_put_into_them() -> None:
    """Templates escape by themselves; scripts put in text, and no markup."""
    pages = sorted((ROOT / "ota_server" / "pages").iterdir())
    assert any(path.suffix == ".html" for path in pages)
    for path in pages:
        if path.suffix == ".html":
            assert not re.search(r"\|\s*safe|autoescape false|Markup", path.read_text()), path
        if path.suffix == ".js":
            raw = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function"
            assert not re.search(raw, path.read_text()), path
    for path in sorted((ROOT / "ota_server").rglob("*.py")):
        assert "Markup(" not in path.read_text(), path
        for environment in re.findall(r"Environment\((.*?)\)\n", path.read_text(), re.DOTALL):
            assert "autoescape=True" in environment, path
