"""Who is asking, and what he may do.

1. A role includes those before it: `read` sees, `publish` adds releases and trust files, `operate`
   enrols boards and tells them what to do, `admin` says who may do what.
2. A token is kept as its SHA-256, expires, and may have a lower role than its operator. The token
   in the server's own file is the owner's: it is admin, never expires, and is in no table, so that
   whoever has the machine can always let himself in.
3. A session is a login on the pages. It survives a restart of the server and ends by logging out,
   by time, with the token that began it, or when the owner's token is replaced.
4. Wrong tokens slow down whoever sends them, never the owner of a right one.
"""

import hashlib
import hmac
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from starlette.requests import HTTPConnection

from ..storage.base import Storage
from ..storage.model import audit, operators, sessions, tokens
from ..storage.statements import Audit

ROLES = ("read", "publish", "operate", "admin")
OWNER = "owner"
"""Who has the token of the server's file."""
COOKIE = "mipy-session"
TOKEN_DAYS = 365
SESSION_SECONDS = 30 * 86400.0
"""Without use; see rule 3."""
USED_SECONDS = 300.0
"""How exactly the last use is noted."""
FAILURES_A_MINUTE = 10
"""Wrong tokens that one address may send in a minute before it is told to wait."""
ADDRESSES = 10_000
"""Of which wrong tokens are counted."""


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody who has proved who he is.

    Attributes:
        token: number of the token that proved it, None for the owner's.
    """

    name: str
    role: str
    address: str = ""
    token: int | None = None

    def may(self, role: str) -> bool:
        """Whether he may do what needs this role."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def audit(self, action: str, target: str = "", before: Any = "", after: Any = "") -> Audit:
        """What goes with a change of his."""
        return Audit(self.name, self.address, action, target, before, after)


class Guessing(Exception):
    """This address has sent too many wrong tokens of late."""


class People:
    """Knows tokens and sessions.

    Args:
        storage: shared with the rest of the server.
        token: the owner's.
    """

    def __init__(self, storage: Storage, token: str) -> None:
        self._storage = storage
        self._token = token.encode()
        self._failures: Counter[str] = Counter()  # wrong tokens by address, in this minute
        self._minute = 0

    async def by_token(self, connection: HTTPConnection, given: str) -> Who | None:
        """Who has this token.

        Raises:
            Guessing: nobody, and the address has tried often.
        """
        address = address_of(connection)
        said = given.encode("utf-8", "replace")
        if hmac.compare_digest(said, self._token):
            return Who(OWNER, "admin", address)
        now = time.time()
        row = await self._storage.read(_token, digest(said), now)
        if row is None:
            self._failed(address)
            return None
        if now - (row.used or 0) > USED_SECONDS:
            await self._storage.write(_used, tokens, tokens.c.n == row.n, now)
        return Who(row.operator, lower(row.role, row.limit), address, row.n)

    def _failed(self, address: str) -> None:
        minute = int(time.monotonic()) // 60
        if minute != self._minute:
            self._minute = minute
            self._failures.clear()
        if self._failures[address] >= FAILURES_A_MINUTE:
            raise Guessing
        if len(self._failures) < ADDRESSES:
            self._failures[address] += 1

    async def by_session(self, connection: HTTPConnection) -> Who | None:
        """Who has logged in on a page, and not logged out since."""
        cookie = connection.cookies.get(COOKIE)
        if not cookie:
            return None
        now = time.time()
        row = await self._storage.read(_session, self._digest(cookie), now)
        if row is None:
            return None
        if now - row.used > USED_SECONDS:
            mine = sessions.c.sha256 == row.sha256
            await self._storage.write(_used, sessions, mine, now, now + SESSION_SECONDS)
        role = row.role if row.limit is None else lower(row.role, row.limit)
        return Who(row.operator, role, address_of(connection), row.token)

    async def log_in(self, who: Who) -> str:
        """Begin a session; returns the cookie."""
        cookie = secrets.token_urlsafe(32)
        now = time.time()
        row = {
            "sha256": self._digest(cookie), "operator": who.name, "role": who.role,
            "token": who.token, "created": now, "expires": now + SESSION_SECONDS, "used": now,
        }  # fmt: skip
        await self._storage.write(_begin, row, audit=who.audit("login"))
        return cookie

    async def log_out(self, connection: HTTPConnection) -> None:
        """End the session."""
        cookie = connection.cookies.get(COOKIE, "")
        await self._storage.write(_end, self._digest(cookie))

    def _digest(self, cookie: str) -> str:
        # With the owner's token, so that all sessions end when that is replaced.
        return digest(self._token + b"\0" + cookie.encode("utf-8", "replace"))


def address_of(connection: HTTPConnection) -> str:
    """Where a request comes from."""
    return connection.client.host if connection.client else ""


def digest(secret: bytes) -> str:
    """What is kept of a token or session: they are random, so no slower hash is needed."""
    return hashlib.sha256(secret).hexdigest()


def lower(one: str, other: str) -> str:
    """The lower of two roles."""
    return min(one, other, key=ROLES.index)


# --- in the database ---


def _token(db: Connection, sha256: str, now: float) -> Any:
    found = select(tokens, operators.c.role.label("limit")).join(
        operators, operators.c.name == tokens.c.operator
    )
    valid = tokens.c.expires.is_(None) | (tokens.c.expires > now)
    return db.execute(found.where(tokens.c.sha256 == sha256, valid)).first()


def _session(db: Connection, sha256: str, now: float) -> Any:
    found = select(sessions, operators.c.role.label("limit")).outerjoin(
        operators, operators.c.name == sessions.c.operator
    )
    row = db.execute(found.where(sessions.c.sha256 == sha256, sessions.c.expires > now)).first()
    return row if row and (row.limit or row.operator == OWNER) else None


def _used(db: Connection, table: Any, mine: Any, now: float, expires: float | None = None) -> None:
    more = {} if expires is None else {"expires": expires}
    db.execute(update(table).where(mine).values(used=now, **more))


def _begin(db: Connection, row: dict[str, Any]) -> None:
    db.execute(delete(sessions).where(sessions.c.expires <= row["created"]))
    db.execute(insert(sessions), row)


def _end(db: Connection, sha256: str) -> None:
    db.execute(delete(sessions).where(sessions.c.sha256 == sha256))


def all_operators(db: Connection) -> list[dict[str, Any]]:
    """Operators, by name."""
    return [dict(row) for row in db.execute(select(operators).order_by("name")).mappings()]


def operator_role(db: Connection, name: str) -> str | None:
    """An operator's role; None if unknown."""
    return db.execute(select(operators.c.role).where(operators.c.name == name)).scalar()


def add_operator(db: Connection, name: str, role: str, now: float) -> None:
    """Add an operator, or change his role; his tokens and sessions follow at once."""
    changed = db.execute(update(operators).where(operators.c.name == name).values(role=role))
    if not changed.rowcount:
        db.execute(insert(operators), {"name": name, "role": role, "created": now})


def remove_operator(db: Connection, name: str) -> None:
    """Remove an operator with his tokens and sessions; LookupError if unknown."""
    db.execute(delete(tokens).where(tokens.c.operator == name))
    db.execute(delete(sessions).where(sessions.c.operator == name))
    if not db.execute(delete(operators).where(operators.c.name == name)).rowcount:
        raise LookupError(name)


def all_tokens(db: Connection) -> list[dict[str, Any]]:
    """Tokens, oldest first, without what would let anybody in."""
    columns = [column for column in tokens.c if column.name != "sha256"]
    return [dict(row) for row in db.execute(select(*columns).order_by(tokens.c.n)).mappings()]


def add_token(db: Connection, row: dict[str, Any]) -> int:
    """Add a token; returns its number."""
    return db.execute(insert(tokens).returning(tokens.c.n), row).scalar_one()


def remove_token(db: Connection, n: int) -> None:
    """Revoke a token with the sessions that it began; LookupError if unknown."""
    db.execute(delete(sessions).where(sessions.c.token == n))
    if not db.execute(delete(tokens).where(tokens.c.n == n)).rowcount:
        raise LookupError(n)


def entries(db: Connection, before: int | None, most: int) -> list[dict[str, Any]]:
    """The audit, newest first, from before entry `before` on."""
    found = select(audit).order_by(audit.c.n.desc()).limit(most)
    if before is not None:
        found = found.where(audit.c.n < before)
    return [dict(row) for row in db.execute(found).mappings()]
