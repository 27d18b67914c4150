"""How strong a board's Wi-Fi is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("boards", sa.Column("rssi", sa.Integer(), server_default="0", nullable=False))
