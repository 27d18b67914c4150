"""Options of the verbs by which a release goes out."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from .console import Failure

Channel = Annotated[
    str | None, typer.Option(metavar="NAME", help="Channel of boards, stable if not given.")
]
Canary = Annotated[
    list[str] | None,
    typer.Option(metavar="BOARD", help="A board that gets it first; may be given again."),
]
Tag = Annotated[
    str | None, typer.Option(metavar="TAG", help="The boards with this tag get it first.")
]
Waves = Annotated[
    str | None, typer.Option(metavar="PERCENT,...", help="Shares of the fleet, like 5,25,100.")
]
Soak = Annotated[
    int | None,
    typer.Option(min=0, metavar="SECONDS", help="How long a wave must last before the next."),
]
Hours = Annotated[
    str | None,
    typer.Option(metavar="FROM-TO", help="When boards may begin, like 22:00-05:30."),
]
Tolerated = Annotated[
    float | None,
    typer.Option(min=0, max=99, metavar="PERCENT", help="Share of boards that may fail."),
]
Approval = Annotated[bool, typer.Option("--approval", help="Each wave waits for approval.")]
Rehearse = Annotated[
    bool, typer.Option("--rehearse", help="Only say who would get it in which wave.")
]


def wanted(
    channel: str | None = None,
    canary: list[str] | None = None,
    tag: str | None = None,
    waves: str | None = None,
    soak: int | None = None,
    hours: str | None = None,
    tolerated: float | None = None,
    approval: bool = False,
) -> dict[str, Any]:
    """What of it was asked for, as the server takes it.

    Raises:
        Failure: waves or hours are not as they must be.
    """
    said = {
        "channel": channel,
        "canary": canary,
        "tag": tag,
        "waves": None if waves is None else _waves(waves),
        "soak_s": soak,
        "hours": None if hours is None else _hours(hours),
        "tolerated": None if tolerated is None else tolerated / 100,
        "approval": approval or None,
    }
    return {name: value for name, value in said.items() if value not in (None, [])}


def _waves(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or found != sorted(set(found)) or found[0] < 1 or found[-1] != 100:
        raise Failure(
            f"--waves takes growing percentages that end with 100, not '{text}'",
            "write it like --waves 5,25,100",
        )
    return found


def _hours(text: str) -> list[int]:
    found = re.fullmatch(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", text)
    values = [int(part) for part in found.groups()] if found else []
    if not values or max(values[::2]) > 23 or max(values[1::2]) > 59:
        raise Failure(
            f"--hours takes two times of the day, not '{text}'", "write it like --hours 22:00-05:30"
        )
    return [values[0] * 60 + values[1], values[2] * 60 + values[3]]
