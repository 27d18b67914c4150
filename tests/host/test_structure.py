"""The host's rooms: no circle of imports, each room imports only downwards, no crowded folder."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from mipy_ota.tools.cli import VERBS
from tests.support import ROOT

PARTS = ("signing", "ota_server", "tools")
FLOORS = (
    "signing",
    "ota_server",  # the rules
    "ota_server.storage",
    "ota_server.web",
    "ota_server.device",
    "ota_server.people",
    "ota_server.dashboard",
    "ota_server.mqtt",
    "ota_server.app",
    "tools",  # console, files, options, ...: what every room stands on
    "tools.app",
    "tools.keys",
    "tools.backup",
    "tools.fleet",
    "tools.flash",
    "tools.board",
    "tools.adopt",
    "tools.sim",
    "entrance",
)
"""From below to above; a module imports from its own floor and from those below it."""
ENTRANCE = {"tools.cli", "tools.doctor", "tools.offline"}
"""These lie in tools/ and use every room."""
MOST_FILES = 15
Graph = Mapping[str, frozenset[str]]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name -> file, of the host's own code; what runs on a virtual chip is the chip's."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for part in PARTS
        for path in (root / part).rglob("*.py")
        if "chip" not in path.parts
    }


def imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules that a module imports anywhere in it: lazily and for its types as well."""
    package = name.split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) + 1 - node.level]
        elif (node.module or "").startswith("mipy_ota"):
            base = []
        else:
            continue
        base = [*base, *(node.module or "").removeprefix("mipy_ota").strip(".").split(".")]
        base = [part for part in base if part]
        for alias in node.names:
            for found in (".".join([*base, alias.name]), ".".join(base)):
                if found in known and found != name:
                    yield found
                    break


def graph(root: Path = ROOT) -> Graph:
    known = modules(root)
    return {name: frozenset(imported(name, path, known)) for name, path in known.items()}


def circle(edges: Graph) -> list[str]:
    """A circle of imports, if there is one."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as found:
        return list(found.args[1])
    return []


def floor(name: str) -> int:
    parts = name.split(".")
    if name in ENTRANCE:
        return FLOORS.index("entrance")
    is_room = ".".join(parts[:2]) in FLOORS
    return FLOORS.index(".".join(parts[:2]) if is_room else parts[0])


def upwards(edges: Graph) -> list[str]:
    """Imports from a floor above."""
    return sorted(
        f"{name} imports {other}"
        for name, others in edges.items()
        for other in others
        if floor(other) > floor(name)
    )


def between_verbs(edges: Graph) -> list[str]:
    """Modules with a verb that import another such module."""
    verbs = {f"tools.{where.partition(':')[0]}" for _, where, _ in VERBS}
    return sorted(
        f"{name} imports {other}" for name in verbs for other in edges[name] if other in verbs
    )


def test_no_circle_of_imports() -> None:
    assert circle(graph()) == []


def test_every_room_imports_downwards() -> None:
    assert upwards(graph()) == []
    rooms = {
        f"{part}.{path.parent.name}"
        for part in PARTS
        for path in (ROOT / part).glob("*/__init__.py")
    }
    assert rooms == {room for room in FLOORS if "." in room} - {"ota_server.app"}


def test_no_verb_imports_another_verb() -> None:
    assert between_verbs(graph()) == []


def crowded(root: Path = ROOT) -> dict[str, int]:
    """Folder -> number of its modules, where these are too many; the parts' own folders too."""
    folders = Counter(
        path.parent.relative_to(root).as_posix()
        for path in modules(root).values()
        if path.name != "__init__.py"
    )
    return {folder: count for folder, count in folders.items() if count > MOST_FILES}


def test_no_folder_is_crowded() -> None:
    assert crowded() == {}


# --- that these tests can fail


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A house with one fault of each kind."""
    files = {
        "signing/rsa.py": "from ..tools.console import say\n",
        "tools/console.py": "",
        "tools/app/build.py": "def f():\n    from . import mip\n",
        "tools/app/mip.py": "if TYPE_CHECKING:\n    from .build import facts\n",
        "tools/board/run.py": "from mipy_ota.tools.board import bridge\n",
        "tools/board/bridge.py": "from ..app import build\n",
        **{f"{room}/m{n}.py": "" for room in ("ota_server", "tools/keys") for n in range(16)},
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_faults_are_found(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edges = graph(house)
    assert set(circle(edges)) == {"tools.app.build", "tools.app.mip"}
    assert upwards(edges) == ["signing.rsa imports tools.console"]
    assert crowded(house) == {"ota_server": MOST_FILES + 1, "tools/keys": MOST_FILES + 1}
    monkeypatch.setattr(
        f"{__name__}.VERBS", (("run", "board.run:run", ""), ("bridge", "board.bridge:bridge", ""))
    )
    assert between_verbs(edges) == ["tools.board.run imports tools.board.bridge"]
