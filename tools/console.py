"""What every verb says to people and to scripts: one console, one way to fail, one progress bar.

Findings go to standard output, everything else (errors, progress) to standard error, so that
`mipy ... --json | jq` works while a bar is running. Whatever is printed here is escaped
(printable.py), since much of it was said by a board or a server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NoReturn

from .printable import Printable, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Failure(Exception):
    """A verb cannot go on, for a reason the user can do something about.

    Args:
        text: what happened, one line.
        hint: what to do next, one line; empty when there is nothing to do.
        code: exit code of the process, 1 to 125.
    """

    def __init__(self, text: str, hint: str = "", code: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint
        self.code = code


def fail(text: str, hint: str = "", code: int = 1) -> NoReturn:
    """Raise `Failure`; reads better at the end of an expression or a guard."""
    raise Failure(text, hint, code)


# rich costs 60 ms to import, which `mipy --help` and scripts need not pay: made at first use.
_consoles: dict[str, Console] = {}


def out() -> Console:
    """The console of standard output, for people (tables, colours)."""
    return _console("stdout")


def err() -> Console:
    """The console of standard error (progress, errors, commentary)."""
    return _console("stderr")


def _console(name: str) -> Console:
    if name not in _consoles:
        from rich.console import Console

        _consoles[name] = Console(
            stderr=name == "stderr", highlight=False, soft_wrap=True, emoji=False
        )
    return _consoles[name]


def say(text: str) -> None:
    """One line of plain text to standard output; brackets in it are not markup."""
    out().print(printable(text), markup=False)


def passage(text: str, error: bool = False) -> None:
    """Text of several lines, such as a traceback, to standard output or standard error."""
    lines = text.replace("\r\n", "\n").rstrip("\n")
    (err() if error else out()).print(printable(lines, "\n\t"), markup=False)


def note(text: str) -> None:
    """One dim line of commentary to standard error."""
    err().print(printable(text), style="dim", markup=False)


def warn(text: str) -> None:
    """One `warning:` line to standard error."""
    err().print(_labelled("warning", "yellow", text))


def error(text: str, hint: str = "") -> None:
    """One `error:` line, and a `what to do:` line when there is a hint, to standard error."""
    err().print(_labelled("error", "bold red", text))
    if hint:
        err().print(_labelled("what to do", "bold", hint))


def confirm(text: str) -> bool:
    """Ask a question to be answered by yes or no, which Enter alone means."""
    import typer

    return typer.confirm(printable(text), err=True)


def prompt(text: str, default: str | None = None, hidden: bool = False, twice: bool = False) -> str:
    """Ask for a line of text.

    Args:
        default: what Enter alone means.
        hidden: do not show what is typed.
        twice: have it typed a second time.
    """
    import typer

    return typer.prompt(
        printable(text),
        default,
        hide_input=hidden,
        confirmation_prompt=twice,
        show_default=bool(default),
        err=True,
    )


def output() -> Callable[[bytes], None]:
    """A function that passes on to standard output what a board prints, as it comes.

    On a terminal it is escaped. Into a file or another program it goes byte for byte.
    """
    readable, stream = Printable(), sys.stdout

    def put(said: bytes) -> None:
        if stream.isatty():
            stream.write(readable(said))
        else:
            _binary(stream).write(said)
        stream.flush()

    return put


def _binary(stream: IO[str]) -> IO[bytes]:
    stream.flush()
    return stream.buffer  # type: ignore[attr-defined]


def _labelled(label: str, style: str, text: str) -> Any:
    from rich.text import Text

    return Text.assemble((f"{label}: ", style), printable(text))


def data(value: object) -> None:
    """`--json` output: one JSON document on standard output, keys sorted, bytes as hex."""
    json.dump(value, sys.stdout, indent=2, sort_keys=True, default=_plain)
    sys.stdout.write("\n")


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people on standard output; cells are plain text, not markup.

    On a terminal it is drawn and folded to the terminal's width. Into a file or another program
    goes a line a row, whole and aligned, for `grep` and `awk`.
    """
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not out().is_terminal:
        for line in _aligned(title, columns, cells):
            say(line)
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title or None, title_justify="left", pad_edge=False)
    for name in columns:
        grid.add_column(name, overflow="fold")
    for row in cells:
        grid.add_row(*map(Text, row))
    out().print(grid)


def _aligned(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, columns two spaces apart."""
    from rich.cells import cell_len, set_cell_size

    if title:
        yield title
    every = [list(columns), *rows]
    widths = [max(map(cell_len, column)) for column in zip(*every, strict=True)]
    for row in every:
        padded = (set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()


def show(value: Mapping[str, object], as_json: bool) -> None:
    """One record: as JSON for scripts, as aligned `name  value` lines for people."""
    if as_json:
        data(value)
        return
    width = max(map(len, value), default=0)
    for name, item in value.items():
        say(f"{name:<{width}}  {item}")


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress display on standard error; shows nothing where that is not a terminal.

    Use: `with progress() as bar: task = bar.add_task("sending", total=n); bar.advance(task)`.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (
        _described(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Disabled, not just invisible: rich would leave an empty line for it.
    hidden = not err().is_terminal
    with Progress(*columns, console=err(), transient=True, disable=hidden) as bar:
        yield bar


def _described() -> Any:
    """The column of a progress display that says what is under way."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Described(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(printable(task.description))

    return Described()


@contextmanager
def busy(text: str) -> Iterator[Callable[[str], None]]:
    """A line of text and a clock while something of unknown length runs.

    The function it gives changes the text to what is waited for now. Where standard error is not
    a terminal, each text is a line of its own.
    """
    if not err().is_terminal:
        yield _each_once(text)
        return
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    columns = SpinnerColumn(), _described(), TimeElapsedColumn()
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda now: bar.update(task, description=now)


def _each_once(text: str) -> Callable[[str], None]:
    """Note the text now, and from then on each that differs from the one before."""
    last = ""

    def tell(now: str) -> None:
        nonlocal last
        if now != last:
            note(now)
            last = now

    tell(text)
    return tell
