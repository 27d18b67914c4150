"""The tables, as SQLAlchemy Core has them, for SQLite and PostgreSQL alike.

A change here needs a migration in `migrations/versions/`; a test compares the two. Times are
seconds since 1970, digests 64 hex digits in `releases` and 32 wherever a board reported them.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Time = Float(53)
Number = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the key is called INTEGER."""

DEFAULT_CHANNEL = "stable"


def _text(name: str, **more: object) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="", **more)  # type: ignore[arg-type]


def _number(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=false())


apps = Table(
    "apps",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created", Time, nullable=False),
)

channels = Table(
    "channels",
    metadata,
    Column("app", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("created", Time, nullable=False),
)

boards = Table(
    "boards",
    metadata,
    Column("id", String(64), primary_key=True),
    _text("name"),
    _text("app"),
    _text("cls"),
    Column("key", LargeBinary, nullable=False),
    _flag("dev"),
    Column("enrolled", Time, nullable=False),
    Column("channel", String(64), nullable=False, server_default=DEFAULT_CHANNEL),
    _flag("paused"),
    Column("retired", Time),
    # What its last report said, and what came of it:
    Column("last_seen", Time),
    _text("peer"),
    _number("seq"),
    _text("digest"),
    _text("state"),
    _text("confirmed"),
    _number("high"),
    _number("heap"),
    _number("up"),
    _flag("held"),
    _text("progress"),
    _text("jobs"),
    _text("chip"),
    _number("boot"),
    _text("fw"),
    _text("mpy"),
    _number("trust"),
    _text("address"),
    _text("reason"),
    _text("trace"),
    _text("life"),
    Column("open", Integer),
    _number("wrong"),
    _text("offered"),
    _number("crashes"),
    # What it may put into its next message that counts; in memory where one process serves.
    _text("ticket"),
    _text("carried"),
    _text("stale_ticket"),
    Index(None, "app", "cls"),
    Index(None, "name"),
    Index(None, "last_seen"),
    sqlite_with_rowid=False,
)

tags = Table(
    "tags",
    metadata,
    Column("board", String(64), primary_key=True),
    Column("tag", String(64), primary_key=True),
    Index(None, "tag"),
)

releases = Table(
    "releases",
    metadata,
    Column("digest", String(64), primary_key=True),
    _text("app"),
    _text("cls"),
    _number("seq"),
    _number("floor"),
    _text("note"),
    _number("total"),
    Column("published", Time, nullable=False),
    _text("publisher"),
    Column("withdrawn", Time),
    UniqueConstraint("app", "cls", "seq"),
    sqlite_with_rowid=False,
)

channel_releases = Table(
    "channel_releases",
    metadata,
    Column("channel", String(64), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("added", Time, nullable=False),
    sqlite_with_rowid=False,
)

offers = Table(
    "offers",
    metadata,
    Column("n", Number, primary_key=True),
    Column("board", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("at", Time, nullable=False),
    Index(None, "board", "n"),
    Index(None, "digest"),
)

rejections = Table(
    "rejections",
    metadata,
    Column("board", String(64), primary_key=True),
    Column("digest", String(64), primary_key=True),
    _text("reason"),
    _flag("soft"),
    _text("trace"),
    Column("at", Time, nullable=False),
    sqlite_with_rowid=False,
)

orders = Table(
    "orders",
    metadata,
    Column("n", Number, primary_key=True),
    Column("board", String(64), nullable=False),
    _text("text"),
    _text("base"),
    Column("given", Time, nullable=False),
    _number("tries"),
    Column("done", Time),
    _text("outcome"),
    Index(None, "board", "n"),
)

events = Table(
    "events",
    metadata,
    Column("n", Number, primary_key=True),
    Column("board", String(64), nullable=False),
    Column("at", Time, nullable=False),
    _text("kind"),
    _number("seq"),
    _text("digest"),
    _text("reason"),
    _text("text"),
    Index(None, "board", "n"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Number, primary_key=True),
    _text("app"),
    _text("cls"),
    Column("channel", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("started", Time, nullable=False),
    _text("operator"),
    # Lists, as JSON; members "" are all boards of the channel, hours "" the whole day.
    _text("canary"),
    _text("waves"),
    _text("members"),
    _text("hours"),
    _number("in_flight"),
    Column("tolerated", Float(53), nullable=False),
    _flag("strict"),
    Column("share", Float(53), nullable=False),
    _number("silence_s"),
    _number("soak_s"),
    _flag("approval"),
    _number("wave"),
    _number("approved"),
    Column("met_at", Time),
    _text("why"),
    _number("accepted_bad"),
    _number("accepted"),
    # Its targets by state: kept, never counted anew for a poll.
    _number("offered"),
    _number("confirmed"),
    _number("failed"),
    _number("silent"),
    _number("void"),
    Index(None, "app", "cls", "channel"),
    Index(None, "digest"),
)

targets = Table(
    "targets",
    metadata,
    Column("rollout", BigInteger, primary_key=True, autoincrement=False),
    Column("board", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    _number("wave"),
    Column("offered_at", Time, nullable=False),
    Column("ended_at", Time),
    _text("reason"),
    _text("trace"),
    Index(None, "board"),
    sqlite_with_rowid=False,
)

trust = Table(
    "trust",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("at", Time, nullable=False),
    Column("reset", Integer),
    Column("body", LargeBinary, nullable=False),
)

operators = Table(
    "operators",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("created", Time, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("n", Number, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("operator", String(64), nullable=False),
    _text("label"),
    Column("role", String(16), nullable=False),
    Column("created", Time, nullable=False),
    Column("expires", Time),
    Column("used", Time),
    Index(None, "operator"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("operator", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("token", BigInteger),
    Column("created", Time, nullable=False),
    Column("expires", Time, nullable=False),
    Column("used", Time, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("n", Number, primary_key=True),
    Column("at", Time, nullable=False),
    _text("operator"),
    _text("address"),
    _text("action"),
    _text("target"),
    _text("before"),
    _text("after"),
)
