"""Crashes of a confirmed app are counted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("boards", sa.Column("crashes", sa.Integer(), server_default="0", nullable=False))
