"""The `mipy` command: a table of verbs, each imported only when it runs.

A verb is a function with typer's annotations in a module of its own. It returns nothing, raises
`console.Failure` when it cannot go on, and its docstring is its help. To add one, write the
function and add a line to `VERBS`.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mipy_ota import __version__

from . import console, places

# (words after `mipy`, "module in tools:function", line in the list of verbs)
VERBS = (
    ("new", "app.new:new", "Start an app of your own in a folder."),
    ("keys new", "keys.verbs:new", "Make the keys of a fleet."),
    ("keys revoke", "keys.verbs:revoke", "Revoke a key."),
    ("keys reset", "keys.verbs:reset", "Bring the boards' highest seq and floor down."),
    ("keys server", "keys.verbs:server", "Name the server's address to every board."),
    ("keys publish", "fleet.publish:publish", "Send new trust versions to the server."),
    ("keys list", "keys.verbs:list_keys", "List the keys and what they may sign."),
    ("keys backup", "keys.verbs:backup", "Pack the keys into one encrypted file."),
    ("keys restore", "keys.verbs:restore", "Bring the keys back from a backup."),
    ("mip install", "app.mip:install", "Put third-party modules into an app's lib/."),
    ("mip rm", "app.mip:rm", "Remove third-party modules from an app's lib/."),
    ("build", "app.verb:build", "Compile an app into an unsigned release."),
    ("sign", "keys.verify:sign", "Sign a release."),
    ("verify", "keys.verify:verify", "Check a release or trust file as a board would."),
    ("release", "fleet.release:release", "Build, sign and publish; --follow the boards."),
    ("reissue", "fleet.release:reissue", "Publish an earlier release again under a new number."),
    ("rollback", "fleet.release:rollback", "Send a board back to its other slot."),
    ("promote", "fleet.rollout:promote", "Bring a release to one more channel."),
    ("rollout show", "fleet.rollout:show", "Show the rollouts, or one with its boards."),
    ("rollout start", "fleet.rollout:start", "Start a rollout of a release."),
    ("rollout pause", "fleet.rollout:pause", "Offer the release to no further board for now."),
    ("rollout resume", "fleet.rollout:resume", "Go on, also after a halt."),
    ("rollout cancel", "fleet.rollout:cancel", "End a rollout for good."),
    ("rollout approve", "fleet.rollout:approve", "Let the next wave pass."),
    ("rollout retry", "fleet.rollout:retry", "Offer it again to boards that failed."),
    ("serve", "fleet.serve:serve", "Run the OTA server."),
    ("backup", "backup.verb:backup", "Pack the whole fleet into one encrypted file."),
    ("restore", "backup.verb:restore", "Bring a whole fleet back from a backup."),
    ("flash", "flash.verb:flash", "Flash a board over USB, once."),
    ("adopt", "adopt.verb:adopt", "Take a board that runs MicroPython into the fleet."),
    ("wifi add", "board.wifi:add", "Let a board know a network."),
    ("wifi ls", "board.wifi:ls", "List the networks a board knows."),
    ("wifi rm", "board.wifi:rm", "Let a board forget a network."),
    ("push", "board.push:push", "Send an app to a board while you work on it."),
    ("watch", "board.push:watch", "Push an app each time it is saved."),
    ("follow", "board.push:follow", "Have a board take the server's releases again."),
    ("open", "board.open:open_board", "Open a production board's WebREPL for a while."),
    ("repl", "board.terminal:repl", "Open a board's terminal."),
    ("bridge", "board.bridge:bridge", "Give a board a serial port, for mpremote."),
    ("exec", "board.run:execute", "Run a piece of Python on a board."),
    ("run", "board.run:run", "Run a script on a board, without storing it."),
    ("logs", "board.run:logs", "Show what a board prints."),
    ("reset", "board.run:reset", "Reset a board."),
    ("fs ls", "board.fs:ls", "List a folder."),
    ("fs tree", "board.fs:tree", "List a folder and all that is in it."),
    ("fs cat", "board.fs:cat", "Show a file."),
    ("fs cp", "board.fs:cp", "Copy a file to or from a board."),
    ("fs mkdir", "board.fs:mkdir", "Make a folder."),
    ("fs rm", "board.fs:rm", "Remove a file or folder."),
    ("fs df", "board.fs:df", "Show how full the flash is."),
    ("fs sha256sum", "board.fs:sha256sum", "Show a file's hash."),
    ("get", "board.settings:get", "Show a board's settings."),
    ("set", "board.settings:set_", "Change a board's settings, on trial."),
    ("label", "board.label:label", "Show a board's label and QR code."),
    ("sim", "sim.command:sim", "Run a virtual board with its console."),
    ("boards", "fleet.boards:boards", "List the boards and what they run."),
    ("status", "fleet.boards:status", "Show the server, its releases and its rollouts."),
    ("board rename", "fleet.change:rename", "Give a board another name on the server."),
    ("board tag", "fleet.change:tag", "Give a board these tags and no others."),
    ("board retire", "fleet.change:retire", "Take a board out of use, or back."),
    ("board rm", "fleet.change:remove", "Have the server forget a board."),
    ("pause", "fleet.change:pause", "Offer a board nothing until `mipy follow`."),
    ("retry", "fleet.change:retry", "Offer a board a release again that it rejected."),
    ("withdraw", "fleet.change:withdraw", "Offer a release to no further board."),
    ("operator ls", "fleet.people:operators", "List who may use the server."),
    ("operator add", "fleet.people:add", "Add an operator, or change a role."),
    ("operator rm", "fleet.people:remove", "Remove an operator with all tokens."),
    ("token ls", "fleet.people:tokens", "List the tokens."),
    ("token new", "fleet.people:token", "Make a token for an operator."),
    ("token rm", "fleet.people:revoke", "Revoke a token."),
    ("audit", "fleet.people:audit", "Show who changed what on the server."),
    ("doctor", "doctor:doctor", "Check this computer, the server, a board."),
)

MAKERS = {"new", "keys new", "keys restore", "restore"}
"""What may be the first command of a fleet; any other of a fleet that is not there was mistyped."""

GROUPS = {
    "keys": "Make, list, back up and restore signing keys.",
    "fs": "The files on a board.",
    "mip": "Third-party modules of an app.",
    "wifi": "The networks that a board knows.",
    "rollout": "How releases go out, wave by wave.",
    "board": "What the server knows of a board.",
    "operator": "Who may use the server.",
    "token": "What operators and programs log in with.",
}

INTERRUPTED = 130  # 128 + SIGINT, as shells count
INTERNAL = 70  # EX_SOFTWARE of sysexits.h


class Loaded(TyperCommand):
    """A verb with its module."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual, but every error knows the verb, whose --help is then the one to see."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as wrong:
            if getattr(wrong, "ctx", None) is None:
                wrong.ctx = ctx  # type: ignore[attr-defined]
            raise


class Verb(TyperCommand):
    """Stands for a verb in help and shell completion, without its module."""

    def __init__(self, words: str, where: str, line: str) -> None:
        super().__init__(words.rpartition(" ")[2], help=line)
        self.words = words
        self.where = where

    def load(self) -> Any:
        """Import the verb's module and return its real command."""
        module, function = self.where.split(":")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(self.name, cls=Loaded)(
            getattr(import_module(f".{module}", __package__), function)
        )
        return typer.main.get_command(app)


class Verbs(TyperGroup):
    """A group that imports the one verb that is run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if not isinstance(command, Verb):
            return name, command, rest
        if places.fleet() != places.DEFAULT:
            if command.words in MAKERS:
                places.refuse_near_name()
            elif command.words != "serve" or places.fleets():
                places.existing_fleet()  # a computer without keys begins by serving
        return name, command.load(), rest


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"mipy {__version__}")
        raise typer.Exit


def _use(fleet: str | None) -> str | None:
    """Choose the fleet while the command line is parsed: verbs are looked up after that."""
    if fleet is not None:
        # One place for the choice: places.fleet() and child processes read it from here.
        os.environ["MIPY_FLEET"] = fleet
        places.fleet()
    return fleet


def _common(
    fleet: Annotated[
        str | None,
        typer.Option(
            envvar="MIPY_FLEET",
            metavar="NAME",
            callback=_use,
            help='Fleet; "default" if not given.',
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Signed over-the-air releases for MicroPython boards."""


def _root() -> Any:
    root: Any = typer.main.get_command(
        typer.Typer(callback=_common, cls=Verbs, add_completion=False, rich_markup_mode=None)
    )
    for words, where, line in VERBS:
        group, _, _ = words.rpartition(" ")
        if group and group not in root.commands:
            root.add_command(Verbs(name=group, help=GROUPS[group], rich_markup_mode=None))
        (root.commands[group] if group else root).add_command(Verb(words, where, line))
    return root


def main() -> int:
    """Run `mipy` with the process's arguments.

    Returns the exit code: 0 done, 1 failed (or as the `Failure` says), 2 wrong usage,
    70 a defect of this program, 130 stopped by Ctrl-C.
    """
    try:
        arguments = sys.argv[1:] or ["--help"]
        result = _root().main(arguments, prog_name="mipy", standalone_mode=False)
        sys.stdout.flush()
    except console.Failure as failure:
        console.error(failure.text, failure.hint)
        return failure.code
    except typer.TyperException as wrong:
        console.error(*_usage(wrong))
        return wrong.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python flushes once more at exit: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as defect:
        if os.environ.get("MIPY_DEBUG"):
            raise
        console.error(
            f"unexpected {type(defect).__name__}: {defect}",
            "run it again with MIPY_DEBUG=1 for the details, and report them",
        )
        return INTERNAL
    if result == INTERRUPTED:
        console.note("stopped")
    # A verb returns None; an int is the code of typer.Exit or of Ctrl-C.
    return result if isinstance(result, int) else 0


def _usage(wrong: Any) -> tuple[str, str]:
    context = getattr(wrong, "ctx", None)
    command = context.command_path if context else "mipy"
    return wrong.format_message(), f"see {command} --help"


if __name__ == "__main__":
    sys.exit(main())
