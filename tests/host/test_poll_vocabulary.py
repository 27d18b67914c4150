"""One vocabulary of the poll: what boards send, the server reads and docs/protocol.md says.

A board has two polls: the boot stage's, made of dictionaries, and the runtime's, written as text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from mipy_ota.ota_server.device import api, poll_message
from tests.support import ROOT

PROTOCOL = ROOT / "docs" / "protocol.md"
BOOT_STAGE = ROOT / "bootloader"
RUNTIME = ROOT / "app_slots" / "runtime"
BAD = {"m": "ab" * 16, "why": "exception", "soft": 0, "trace": ""}
# One of each key, with a value that the server takes.
MESSAGE: dict[str, Any] = {
    "id": "b1", "n": "0" * 16, "k": "", "seq": 1, "m": "ab" * 16, "state": "ok", "heap": 1, "up": 1,
    "proto": 1, "app": "demo", "class": "esp32-generic", "chip": "esp32", "boot": 1, "fw": "1.26.1",
    "mpy": "6.3", "trust": 1, "addr": "192.0.2.1", "bad": BAD, "prog": [1, 2], "unk": [],
    "held": 1, "push": 1, "jobs": {}, "life": "0" * 16, "open": 1, "fail": "space", "wrong": 1,
    "first": "http://192.0.2.7:8266", "crash": {"n": 1, "trace": ""}, "job": "",
}  # fmt: skip
UNREAD = {"proto"}
"""For servers of later years: there is one protocol so far."""
APP_ALONE = {"t"}
"""Of the reply: the boot stage needs no clock."""


class Read(dict[str, Any]):
    """A message that knows what was looked for in it."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.keys_read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.keys_read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:  # type: ignore[override]
        self.keys_read.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.keys_read.add(str(key))
        return super().__contains__(key)


def documented(section: str) -> dict[str, str]:
    """Key -> when, of the first table below that heading of docs/protocol.md."""
    text = PROTOCOL.read_text("utf-8")
    part = text.partition(f"\n### {section}\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`.+?`) \| (.+?) \|", part, re.M)
    return {key: when for keys, when in rows for key in re.findall(r"`(\w+)`", keys)}


def trees(folder: Any) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(folder.glob("*.py")):
        yield path.name, ast.parse(path.read_text("utf-8"))


def keys(node: ast.AST) -> Iterator[str]:
    """Keys of dictionaries, but not of those inside them, and of `x["key"] = ...`."""
    match node:
        case ast.Dict():
            yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))
            return
        case ast.Assign(targets=[ast.Subscript(value=of, slice=ast.Constant(value=str(key)))]):
            if not isinstance(of, ast.Subscript):
                yield key
            return
        case _:
            pass
    for child in ast.iter_child_nodes(node):
        yield from keys(child)


def sent_by_boot_stage() -> set[str]:
    found: set[str] = set()
    for name, tree in trees(BOOT_STAGE):
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name="_say") if name == "poll.py":
                    found.update(keys(node))
                case ast.Call(func=ast.Name(id="report") | ast.Attribute(attr="report")):
                    found.update(keys(node))
                case ast.Assign(targets=[target]) if "poll_extra" in ast.unparse(target):
                    found.update(keys(node))
                case _:
                    pass
    return found


def sent_by_runtime() -> set[str]:
    """In the texts of report.py and describe.py; `bad` and `crash` have keys of their own."""
    found: set[str] = set()
    for name in ("report.py", "describe.py"):
        for node in ast.walk(ast.parse((RUNTIME / name).read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = re.sub(r'("(?:bad|crash)":)\{.*', r"\1", node.value)
                found.update(re.findall(r'"(\w+)":', text))
    return found


def keys_of_rejections() -> Iterator[tuple[str, set[str]]]:
    """(module, keys) of each `bad` that a board sends."""
    for name, tree in trees(BOOT_STAGE):
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                found = {str(key.value) for key in node.keys if isinstance(key, ast.Constant)}
                if "why" in found:
                    yield name, found
    text = (RUNTIME / "describe.py").read_text("utf-8").partition('"bad":{')[2].partition("}")[0]
    yield "describe.py", set(re.findall(r'"(\w+)":', text))


def read_of_replies(folder: Any) -> set[str]:
    found: set[str] = set()
    for _, tree in trees(folder):
        for node in ast.walk(tree):
            match node:
                case ast.Subscript(value=value, slice=ast.Constant(value=str(key))):
                    of = value
                case ast.Call(
                    func=ast.Attribute(value=of, attr="get"),
                    args=[ast.Constant(value=str(key)), *_],
                ):
                    pass
                case ast.Compare(left=ast.Constant(value=str(key)), comparators=[of]):
                    pass
                case _:
                    continue
            if ast.unparse(of) in ("reply", "self.reply"):
                found.add(key)
    return found


def server_writes() -> set[str]:
    tree = ast.parse((ROOT / "ota_server" / "device" / "api.py").read_text("utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[target], value=value) if ast.unparse(target).startswith(
                "reply"
            ):
                found.update(keys(node))
            case ast.AnnAssign(target=ast.Name(id="reply"), value=ast.Dict() as value):
                found.update(keys(value))
            case _:
                pass
    return found


def test_requests() -> None:
    told = documented("Request")
    message = Read(MESSAGE)
    assert poll_message.envelope(message) and poll_message.report(message)
    server = message.keys_read | {"id", "app", "class"}  # by these the server knows the board
    assert set(told) == set(MESSAGE)
    assert server | UNREAD == set(told) and not server & UNREAD
    stage, runtime = sent_by_boot_stage(), sent_by_runtime()
    assert stage <= set(told) and runtime <= set(told)
    assert stage | runtime == set(told)
    by_both = {key for key, when in told.items() if when in ("always", "once a boot")}
    assert by_both <= stage and by_both <= runtime


def test_rejections() -> None:
    row = re.search(r"^\| `bad` \|.*?`(\{.*?\})`", PROTOCOL.read_text("utf-8"), re.M)
    assert row and set(re.findall(r'"(\w+)":', row[1])) == BAD.keys()
    message = Read(BAD)
    poll_message.report({**MESSAGE, "bad": message})
    assert message.keys_read == BAD.keys()
    sent = list(keys_of_rejections())
    assert {name for name, _ in sent} == {"poll.py", "install_check.py", "describe.py"}
    assert all(found == BAD.keys() for _, found in sent)


def test_what_is_always_sent_is_what_the_server_expects() -> None:
    told = documented("Request")
    assert {key for key, when in told.items() if when == "always"} == api._ALWAYS


def test_replies() -> None:
    told = set(documented("Reply"))
    assert server_writes() == told
    assert read_of_replies(RUNTIME) == told
    assert read_of_replies(BOOT_STAGE) == told - APP_ALONE
