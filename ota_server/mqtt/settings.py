"""Which broker the server uses, from a file that only its owner may read."""

import ssl
import stat
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

PORT, TLS_PORT = 1883, 8883


class Unusable(Exception):
    """The file cannot be used; the message says why, without what it holds."""


class BrokerSettings(BaseModel):
    """The lines of the file.

    Attributes:
        host: name or address of the broker.
        port: 0 is 1883, with TLS 8883.
        user, password: "" for none.
        tls: speak TLS, and believe certificates of the system's authorities.
        ca: a file with the authority to believe instead (PEM); implies `tls`.
        home_assistant: publish an update entity for each board.
        discovery: the topic under which Home Assistant looks for entities.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    host: str = Field(min_length=1, max_length=253)
    port: int = Field(default=0, ge=0, le=65535)
    user: str = ""
    password: SecretStr = SecretStr("")
    tls: bool = False
    ca: str = ""
    home_assistant: bool = True
    discovery: str = Field(default="homeassistant", pattern=r"^[a-zA-Z0-9_/-]+$")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port or (TLS_PORT if self.context() else PORT)

    def context(self) -> ssl.SSLContext | None:
        """What TLS needs; None without it.

        Raises:
            OSError: `ca` cannot be read.
        """
        if not (self.tls or self.ca):
            return None
        return ssl.create_default_context(cafile=self.ca or None)


def load(path: Path) -> BrokerSettings:
    """Read the file.

    Raises:
        Unusable: it is not there, others may read its password, or a line is wrong.
    """
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            settings = BrokerSettings(**tomllib.load(file))
            settings.context()
    except OSError as problem:
        raise Unusable(f"{problem.filename or path}: {problem.strerror or problem}") from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise Unusable(f"it is not TOML: {problem}") from problem
    except ValidationError as problem:
        first = problem.errors(include_input=False, include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "file"
        raise Unusable(f"{name}: {first['msg']}") from None  # which would show what is in it
    if settings.password.get_secret_value() and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Unusable("others may read the password in it: chmod 600")
    return settings
