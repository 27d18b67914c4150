"""Rollouts and their targets."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "rollouts",
        sa.Column("id", Number, nullable=False),
        sa.Column("app", sa.Text(), server_default="", nullable=False),
        sa.Column("cls", sa.Text(), server_default="", nullable=False),
        sa.Column("channel", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("started", sa.Float(precision=53), nullable=False),
        sa.Column("operator", sa.Text(), server_default="", nullable=False),
        sa.Column("canary", sa.Text(), server_default="", nullable=False),
        sa.Column("waves", sa.Text(), server_default="", nullable=False),
        sa.Column("members", sa.Text(), server_default="", nullable=False),
        sa.Column("hours", sa.Text(), server_default="", nullable=False),
        sa.Column("in_flight", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tolerated", sa.Float(precision=53), nullable=False),
        sa.Column("strict", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("share", sa.Float(precision=53), nullable=False),
        sa.Column("silence_s", sa.Integer(), server_default="0", nullable=False),
        sa.Column("soak_s", sa.Integer(), server_default="0", nullable=False),
        sa.Column("approval", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("wave", sa.Integer(), server_default="0", nullable=False),
        sa.Column("approved", sa.Integer(), server_default="0", nullable=False),
        sa.Column("met_at", sa.Float(precision=53), nullable=True),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.Column("accepted_bad", sa.Integer(), server_default="0", nullable=False),
        sa.Column("accepted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("offered", sa.Integer(), server_default="0", nullable=False),
        sa.Column("confirmed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("silent", sa.Integer(), server_default="0", nullable=False),
        sa.Column("void", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index(
        op.f("ix_rollouts_app_cls_channel"), "rollouts", ["app", "cls", "channel"], unique=False
    )
    op.create_index(op.f("ix_rollouts_digest"), "rollouts", ["digest"], unique=False)
    op.create_table(
        "targets",
        sa.Column("rollout", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("board", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("wave", sa.Integer(), server_default="0", nullable=False),
        sa.Column("offered_at", sa.Float(precision=53), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("trace", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("rollout", "board", name=op.f("pk_targets")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_targets_board"), "targets", ["board"], unique=False)
