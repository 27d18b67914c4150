"""The people's API of the server, spoken with `requests`, and where the server is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase

from .. import console, places
from ..addresses import loopback
from ..files import failed, write

DEFAULT_PORT = 8266
PAGE = 200
CONNECT_SECONDS = 5
ANSWER_SECONDS = 60


class Bearer(AuthBase):
    """Sends the token. As an auth object, so that a ~/.netrc cannot replace it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["authorization"] = f"Bearer {self._token}"
        return request


@dataclass(frozen=True)
class Client:
    """One server.

    Args:
        url: its address, without a path.
        token: what the server's owner knows.

    Every method raises `Failure` when the server cannot be reached, refuses, or is not one of ours.
    """

    url: str
    token: str

    def status(self) -> dict[str, Any]:
        """The server in numbers."""
        return self._call("GET", "status")

    def boards(self) -> list[dict[str, Any]]:
        """All boards."""
        return self._call("GET", "boards")

    def board(self, board: str) -> dict[str, Any]:
        """One board, by id or name."""
        return self._call("GET", f"boards/{_part(board)}")

    def search(self, **wanted: Any) -> list[dict[str, Any]]:
        """The boards that are meant by all of state, app, tag, search and retired, by id."""
        from urllib.parse import urlencode

        asked = {name: value for name, value in wanted.items() if value not in (None, False)}
        found: list[dict[str, Any]] = []
        while True:
            query = urlencode(asked | {"limit": PAGE, "offset": len(found)})
            page = self._call("GET", f"v1/boards?{query}")
            found += page["boards"]
            if len(page["boards"]) < PAGE:
                return found

    def change(self, board: str, **changes: Any) -> dict[str, Any]:
        """Change a board's name, channel, paused, retired or tags."""
        return self._call("PATCH", f"v1/boards/{_part(board)}", _json(**changes))

    def remove(self, board: str) -> dict[str, Any]:
        """Forget a board and its key."""
        return self._call("DELETE", f"v1/boards/{_part(board)}")

    def events(self, board: str, after: int = 0) -> list[dict[str, Any]]:
        """A board's history after event number `after`."""
        return self._call("GET", f"boards/{_part(board)}/events?after={after}")

    def enrol(self, board: bytes) -> dict[str, Any]:
        """Make a board known by its board file; the passwords in it stay here."""
        from ...signing import board_file
        from ...signing.reasons import Refused

        try:
            facts = board_file.parse(board)
        except Refused as refused:
            raise console.Failure(f"this is no board file: {refused}") from refused
        said = {
            "fleet": facts.fleet,
            "id": facts.id,
            "name": facts.name or "",
            "app": facts.app,
            "class": facts.cls,
            "key": facts.key.hex(),
            "dev": facts.dev is not None,
        }
        return self._call("POST", "boards", json.dumps(said).encode())

    def order(self, board: str, order: str) -> dict[str, Any]:
        """Give an order: as docs/protocol.md has them, or one of signing/unlock.py."""
        said = json.dumps({"order": order}).encode()
        return self._call("POST", f"boards/{_part(board)}/orders", said)

    def releases(self) -> list[dict[str, Any]]:
        """All releases, newest first."""
        return self._call("GET", "releases")

    def publish(self, bundle: bytes, **rollout: Any) -> dict[str, Any]:
        """Publish a signed bundle; `rollout` says how it goes out."""
        from urllib.parse import urlencode

        from ...signing import limits

        if len(bundle) > limits.BUNDLE_BYTES:
            console.fail(
                f"the release has {len(bundle)} bytes, {limits.BUNDLE_BYTES} are allowed",
                "leave out what the board does not need",
            )
        query = "?" + urlencode({"rollout": json.dumps(rollout)}) if rollout else ""
        return self._call("POST", f"releases{query}", bundle)

    def rollouts(self, limit: int = 20) -> list[dict[str, Any]]:
        """The newest rollouts."""
        return self._call("GET", f"v1/rollouts?limit={limit}")["rollouts"]

    def rollout(self, number: int) -> dict[str, Any]:
        """One rollout with its boards."""
        return self._call("GET", f"v1/rollouts/{number}")

    def start_rollout(self, digest: str, **wanted: Any) -> dict[str, Any]:
        """Start a rollout of a release, or with `rehearse` say how it would go."""
        return self._call("POST", "v1/rollouts", _json(digest=digest, **wanted))

    def steer_rollout(self, number: int, action: str, **more: Any) -> dict[str, Any]:
        """Start, pause, resume, cancel, approve, retry; `more` may have reason and board."""
        return self._call("POST", f"v1/rollouts/{number}", _json(action=action, **more))

    def bundle(self, digest: str) -> bytes:
        """A release as it was published."""
        return self._answer("GET", f"releases/{_part(digest)}/bundle").content

    def withdraw(self, digest: str) -> dict[str, Any]:
        """Offer a release to no further board."""
        return self._call("POST", f"releases/{_part(digest)}/withdraw")

    def trust(self) -> bytes | None:
        """The newest trust file, None when the server has none."""
        answer = self._send("GET", "trust", None)
        return None if answer.status_code == 404 else self._checked(answer).content

    def add_trust(self, trust: bytes) -> dict[str, Any]:
        """Register the fleet (version 1), or the trust file that comes next."""
        return self._call("POST", "trust", trust)

    def operators(self) -> list[dict[str, Any]]:
        """Who may use the server, beside its owner."""
        return self._call("GET", "operators")

    def add_operator(self, name: str, role: str) -> dict[str, Any]:
        """Add an operator, or change his role."""
        return self._call("POST", "operators", _json(name=name, role=role))

    def remove_operator(self, name: str) -> dict[str, Any]:
        """Remove an operator with his tokens."""
        return self._call("DELETE", f"operators/{_part(name)}")

    def tokens(self) -> list[dict[str, Any]]:
        """All tokens, without their secrets."""
        return self._call("GET", "tokens")

    def add_token(self, operator: str, **more: Any) -> dict[str, Any]:
        """Make a token; `more` may have role, label and days."""
        return self._call("POST", "tokens", _json(operator=operator, **more))

    def remove_token(self, n: int) -> dict[str, Any]:
        """Revoke a token."""
        return self._call("DELETE", f"tokens/{n}")

    def audit(self) -> list[dict[str, Any]]:
        """The last changes, newest first."""
        return self._call("GET", "audit")

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        answer = self._answer(method, path, body)
        try:
            return answer.json()
        except ValueError:
            self._stranger()

    def _answer(self, method: str, path: str, body: bytes | None = None) -> requests.Response:
        return self._checked(self._send(method, path, body))

    def _send(self, method: str, path: str, body: bytes | None) -> requests.Response:
        try:
            with requests.Session() as session:
                # A proxy (http_proxy) cannot reach this computer, and must not learn the token.
                session.trust_env = not loopback(self.url)
                return session.request(
                    method,
                    f"{self.url}/api/{path}",
                    data=body,
                    headers={"content-type": "application/json"} if "v1/" in path else None,
                    auth=Bearer(self.token),
                    timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                    allow_redirects=False,
                )
        except requests.Timeout as problem:
            raise console.Failure(
                f"{self._name()} does not answer in time", "try again; see its log"
            ) from problem
        except requests.RequestException as problem:
            start = "start it with `mipy serve`"
            if not loopback(self.url):
                start = "see that `mipy serve` runs there and that this computer is on its network"
            raise console.Failure(
                f"cannot reach {self._name()}", f"{start}, or name another one with MIPY_SERVER"
            ) from problem

    def _checked(self, answer: requests.Response) -> requests.Response:
        if answer.ok and not answer.is_redirect:
            return answer
        try:
            said = answer.json()
            text, hint, code = said["text"], said["hint"], said["error"]
        except (ValueError, LookupError, TypeError):
            self._stranger()
        if code == "token":
            hint = (
                "if another fleet's server answers there, give one of them another --port; "
                "MIPY_TOKEN_FILE names the file that holds the server's token"
            )
        raise console.Failure(f"{self._name()} refuses ({code}): {text}", hint)

    def _name(self) -> str:
        return f"the server of the fleet '{places.fleet()}' at {self.url}"

    def _stranger(self) -> NoReturn:
        console.fail(
            f"what answers at {self.url} is no MiPy-OTA server", "name it with MIPY_SERVER"
        )


def address() -> str:
    """Where the fleet's server is: MIPY_SERVER, else "server" in fleet.json, else this machine.

    Raises:
        Failure: fleet.json cannot be read, or what is named is no address.
    """
    if named := os.environ.get("MIPY_SERVER"):
        return _url(named, "MIPY_SERVER")
    if named := _settings(places.fleet_dir()).get("server"):
        return _url(named, f'"server" in {places.fleet_dir() / "fleet.json"}')
    return f"http://127.0.0.1:{served_port()}"


def _url(named: object, where: str) -> str:
    """The address, without a slash at its end. Raises Failure, with `where` it stands, for none."""
    try:
        parts = urlsplit(str(named))
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise console.Failure(
            f"{where} is '{named}', which is no address of a server",
            "write it like http://192.168.1.10:8266",
        )
    return str(named).rstrip("/")


def served_port() -> int:
    """The port of this fleet's server on this machine: what `mipy serve --port` was told last.

    Raises:
        Failure: fleet.json cannot be read, or holds none.
    """
    path = places.fleet_dir() / "fleet.json"
    port = _settings(places.fleet_dir()).get("port", DEFAULT_PORT)
    if type(port) is not int or not 0 < port < 65536:
        raise console.Failure(f'"port" in {path} is no port', "correct or delete that line")
    return port


def remember_port(port: int) -> None:
    """Have this fleet's commands on this machine find its server at another port.

    Raises:
        Failure: fleet.json cannot be read or written.
    """
    path = places.fleet_dir() / "fleet.json"
    said = _settings(places.fleet_dir()) | {"port": port}
    try:
        write(path, json.dumps(said, indent=2).encode() + b"\n", 0o600)
    except OSError as problem:
        raise failed(f"cannot write {path}", problem) from problem


def connect() -> Client:
    """The fleet's server, at its `address`.

    The token is in the file that MIPY_TOKEN_FILE names, else in the fleet's folder.

    Raises:
        Failure: the token or fleet.json cannot be read.
    """
    url = address()
    named = os.environ.get("MIPY_TOKEN_FILE") or places.fleet_dir() / "token"
    token_file = Path(named).expanduser()
    try:
        token = token_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise console.Failure(
            f"cannot read the server's token in {token_file}",
            "start the server once with `mipy serve`, or name the file with MIPY_TOKEN_FILE",
        ) from problem
    return Client(url, token)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "fleet.json"
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as problem:
        raise console.Failure(f"cannot read {path}: {problem}", "correct or delete it") from problem
    if not isinstance(value, dict):
        raise console.Failure(f"{path} holds no JSON object", "correct or delete it")
    return value


def _json(**said: Any) -> bytes:
    return json.dumps(said).encode()


def _part(text: str) -> str:
    return quote(text, safe="")
