"""Trust files name their fleet; those that named an app go: no board and no tool can read them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

FORMER = b"ota-trust 1\napp "
"""How a trust file began that was for one app."""


def upgrade() -> None:
    db = op.get_bind()
    bodies = db.execute(sa.text("SELECT body FROM trust")).scalars()
    if any(bytes(body).startswith(FORMER) for body in bodies):
        db.execute(sa.text("DELETE FROM trust"))
        db.execute(sa.text("UPDATE boards SET trust = 0"))
