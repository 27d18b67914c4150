"""The `mipy` command itself: its verbs, its errors and exit codes, where it keeps things."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mipy_ota.tools import cli, console, places


def planted(verb: object) -> ModuleType:
    """A verb's module with one verb in it."""
    module = ModuleType("mipy_ota.tools.planted")
    module.verb = verb  # pyright: ignore[reportAttributeAccessIssue]
    return module


def mipy(monkeypatch: pytest.MonkeyPatch, *words: str, verb: object = None) -> int:
    """Run `mipy` in this process; its exit code."""
    monkeypatch.setitem(sys.modules, "mipy_ota.tools.planted", planted(verb))
    monkeypatch.setattr(cli, "VERBS", (*cli.VERBS, ("planted", "planted:verb", "For a test.")))
    monkeypatch.setattr(sys, "argv", ["mipy", *words])
    monkeypatch.setattr(console, "_consoles", {})
    return cli.main()


def test_help_imports_no_verb() -> None:
    code = (
        "import sys; from mipy_ota.tools import cli; sys.argv = ['mipy', '--help']; cli.main();"
        "sys.exit(any(name in sys.modules for name in ('requests', 'starlette', 'cryptography')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line]
    assert shown == list(dict.fromkeys(words.split()[0] for words, _, _ in cli.VERBS))


def test_help_of_a_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mipy(monkeypatch, "keys", "--help") == 0
    shown = capsys.readouterr().out
    for verb in ("new", "list", "backup", "restore"):
        assert f"\n  {verb} " in shown


def test_failure_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb() -> None:
        raise console.Failure("no [b]key[/b] here", "run mipy keys new", 3)

    assert mipy(monkeypatch, "planted", verb=verb) == 3
    shown = capsys.readouterr()
    assert shown.err == "error: no [b]key[/b] here\nwhat to do: run mipy keys new\n"
    assert shown.out == ""


def test_interrupt_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb() -> None:
        raise KeyboardInterrupt

    assert mipy(monkeypatch, "planted", verb=verb) == 130
    assert capsys.readouterr().err.strip() == "stopped"


def test_defect_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.delenv("MIPY_DEBUG", raising=False)
    assert mipy(monkeypatch, "planted", verb=verb) == 70
    shown = capsys.readouterr().err
    assert "error: unexpected ZeroDivisionError" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("words", "text", "help_of"),
    [
        (("frob",), "No such command 'frob'", "mipy"),
        (("keys", "lst"), "Did you mean 'list'", "mipy keys"),
        (("planted", "--frob"), "--frob", "mipy planted"),
        (("--frob",), "--frob", "mipy"),
        (("release", "--channel"), "'--channel' requires an argument", "mipy release"),
        (("keys", "list", "x"), "unexpected extra argument", "mipy keys list"),
    ],
)
def test_wrong_usage_is_2(
    words: tuple[str, ...],
    text: str,
    help_of: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert mipy(monkeypatch, *words, verb=lambda: None) == 2
    shown = capsys.readouterr().err
    assert text in shown
    assert f"what to do: see {help_of} --help\n" in shown


def test_closed_pipe_is_quiet() -> None:
    shell = f"{sys.executable} -m mipy_ota.tools.cli --help | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_fleet_reaches_the_verb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIPY_HOME", str(tmp_path))
    monkeypatch.setenv("MIPY_FLEET", "default")
    (tmp_path / "garden").mkdir()
    seen: list[Path] = []
    verb = lambda: seen.append(places.keys_dir())  # noqa: E731
    assert mipy(monkeypatch, "--fleet", "garden", "planted", verb=verb) == 0
    assert seen == [tmp_path / "garden" / "keys"]
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in (seen[0], seen[0].parent))


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "x" * 33])
def test_fleet_name_stays_a_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIPY_FLEET", "default")
    assert mipy(monkeypatch, "--fleet", name, "planted", verb=lambda: None) == 1
    assert "no fleet name" in capsys.readouterr().err


def test_home_that_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "file"))
    with pytest.raises(console.Failure, match="cannot use"):
        places.fleet_dir()


def test_json_is_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    console.show({"b": b"\x01\xff", "a": Path("x")}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": "x", "b": "01ff"}


# --- tables and waits ----------------------------------------------------------------------------

LONG = "a note of a release that is longer than any terminal is wide, " * 4


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))


def test_a_piped_table_is_a_whole_line_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.setenv("COLUMNS", "40")
    rows = ("Küche", LONG, 3), ("温度", None, 1), ("x", "x", "x")
    console.table("", ("board", "note", "seen"), rows)
    wide = len(LONG)
    assert capsys.readouterr().out.splitlines() == [
        f"board  {'note':<{wide}}  seen",
        f"Küche  {LONG}  3",
        f"温度   {'':<{wide}}  1",  # each of its letters is two columns wide
        f"x      {'x':<{wide}}  x",
    ]


def test_a_piped_table_without_rows_has_its_heads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_consoles", {})
    console.table("of the fleet", ("a", "b"), [])
    assert capsys.readouterr().out == "of the fleet\na  b\n"


def test_a_narrow_terminal_loses_nothing_of_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, 40)
    digest = "0123456789abcdef" * 4
    console.table("", ("digest", "note"), [(digest, LONG)])
    body = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert max(map(len, body)) <= 40
    first, second = zip(*(line.strip("│").split("│") for line in body), strict=True)
    assert "".join(part.strip() for part in first) == digest
    assert "".join(second).split() == LONG.split()


def test_a_wait_shows_a_clock_and_what_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, 80)
    with console.busy("waiting for its poll") as tell:
        tell("on trial [1/2]")
    shown = capsys.readouterr().err
    assert "waiting for its poll 0:00:00" in shown
    assert "on trial [1/2] 0:00:00" in shown


def test_a_wait_into_a_file_is_a_line_for_each_thing_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_consoles", {})
    with console.busy("waiting for its poll") as tell:
        for text in ("waiting for its poll", "on trial", "on trial"):
            tell(text)
    assert capsys.readouterr().err == "waiting for its poll\non trial\n"
