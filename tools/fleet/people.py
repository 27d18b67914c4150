"""`mipy operator`, `mipy token`, `mipy audit`: who may use the server, and who did what."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from .. import console

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ROLES = "read, publish, operate or admin; each includes those before it."


def operators(as_json: JSON = False) -> None:
    """List who may use the server, beside its owner."""
    from .client import connect

    found = connect().operators()
    if as_json:
        console.data(found)
    elif not found:
        console.say("only the owner, with the token in the fleet's folder")
    else:
        console.table("", ("operator", "role"), [(one["name"], one["role"]) for one in found])


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Small letters and digits.")],
    role: Annotated[str, typer.Option(help=ROLES)] = "read",
) -> None:
    """Add an operator, or change the role of one."""
    from .client import connect

    connect().add_operator(name, role)
    console.say(f"{name} has the role '{role}'")
    console.note(f"make a token: mipy token new {name}")


def remove(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Remove an operator. All tokens and logins of that name end at once."""
    from .client import connect

    connect().remove_operator(name)
    console.say(f"{name} may no longer use the server")


def tokens(as_json: JSON = False) -> None:
    """List the tokens, without what would let anybody in."""
    from .client import connect

    found = connect().tokens()
    if as_json:
        console.data(found)
        return
    console.table(
        "",
        ("number", "operator", "role", "label", "expires", "last used"),
        [
            (one["n"], one["operator"], one["role"], one["label"], _day(one["expires"]),
             _day(one["used"]) if one["used"] else "never")
            for one in found
        ],
    )  # fmt: skip


def token(
    operator: Annotated[str, typer.Argument(metavar="NAME")],
    role: Annotated[str | None, typer.Option(help="A lower role than the operator's.")] = None,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it lasts.")] = 365,
    as_json: JSON = False,
) -> None:
    """Make a token for an operator. It is shown this once.

    A program or another computer uses it by a file that MIPY_TOKEN_FILE names.
    """
    from .client import connect

    asked = {"label": label, "days": days} | ({"role": role} if role else {})
    made = connect().add_token(operator, **asked)
    if as_json:
        console.data(made)
        return
    console.say(made["token"])
    console.note(f"role '{made['role']}', until {_day(made['expires'])}; it is not shown again")


def revoke(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="See mipy token ls.")],
) -> None:
    """Revoke a token. Logins that it began end at once."""
    from .client import connect

    connect().remove_token(number)
    console.say(f"token {number} is revoked")


def audit(as_json: JSON = False) -> None:
    """Show the last 100 changes on the server, and who made them."""
    from .client import connect

    found = connect().audit()
    if as_json:
        console.data(found)
        return
    console.table(
        "",
        ("when", "who", "from", "action", "of", "to"),
        [
            (time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["at"])), one["operator"],
             one["address"], one["action"], one["target"], one["after"])
            for one in found
        ],
    )  # fmt: skip


def _day(then: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(then))
