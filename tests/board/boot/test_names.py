"""Device code with firmware's names: it means what it meant, and an app changes nothing in it."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mipy_ota.signing import bundle
from mipy_ota.tools import places
from mipy_ota.tools.app import build
from mipy_ota.tools.app.compile import boot_stage, bytecode, modules, names, tracebacks
from mipy_ota.tools.console import Failure
from mipy_ota.tools.sim.micropython import binary
from tests.support import ROOT

# What a renaming can get wrong. Each module prints; `main` prints what the others do.
TRICKY = {
    "drivers/base.py": """
_count = 3
_WORDS = ("one", "two")


class Base:
    def __init__(self, place):
        self._pin = place
        self.place = place

    def _apply(self, place):
        return self._pin + place

    def twice(self, place):
        return self._apply(place) * 2


def _helper(_count):  # hides the global
    return _count + 1


def late(fn, args, *rest, deep=1):
    _inner = lambda args: (args, fn, rest)
    return _inner(args), deep


def use(failed):
    def inner(take):
        nonlocal failed
        failed += take
        return failed
    return [inner(n) for n in (1, 2)], failed


def spread(topic, retain=False):
    return "%s %s" % (topic, retain)


def bump():
    global _count
    _count += 1
    return _count, _helper(9), {"place": _WORDS}
""",
    "drivers/child.py": """
from drivers import base
from drivers.base import Base, _WORDS, late as later


class Child(Base):
    _shared = [5]

    def _apply(self, place):
        return Base._apply(self, place) - len(self._shared)

    @property
    def _hidden(self):
        return f"{self._pin}{self.place!r}"

    def named(self):
        return getattr(self, "_pin"), self._hidden


def _made(x, *, y):
    return x * y


def work(say):
    try:
        say()
    except KeyError as failed:
        return repr(failed), _made(2, y=say and 4), later(1, 2, 3, deep=4), base.bump()
""",
    "main.py": """
from drivers.base import late, spread, use
from drivers.child import Child, _WORDS, work

c = Child(4)
print(c.twice(3), c.named(), late(1, 2, 3)[0][0], use(5), _WORDS)
print(spread("a", retain=True), spread(topic="b"), spread(**{"topic": "c"}))


def fails():
    raise KeyError("k")


print(work(fails))


class Mine(Child):
    def _apply(self, place):
        self._shared = [place]
        return 100


print(Mine(1).twice(1), Mine(1).place, hasattr(c, "place"))
""",
}


def run(folder: Path, files: Mapping[str, str]) -> str:
    """What main prints with these modules on a board's interpreter."""
    for file, text in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run = subprocess.run(
        [*binary(), "main.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_it_means_the_same(tmp_path: Path) -> None:
    main = TRICKY["main.py"]
    ours = {file: text for file, text in TRICKY.items() if file != "main.py"}
    changed = names.short(ours, [main.encode()])
    for file, text in ours.items():
        assert changed[file] != text and text.count("\n") == changed[file].count("\n")
    assert run(tmp_path / "a", TRICKY) == run(tmp_path / "b", {**changed, "main.py": main})


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("x._pin", "self._pin = "),
        ("x.take = 1", "def inner(take)"),
        ("f(topic=1)", "def spread(topic"),
        ("from drivers.base import _helper", "def _helper("),
        ("getattr(x, '_pin')", "self._pin = "),
        ("f(**{'topic': 1})", "def spread(topic, "),
        ("class A:\n  def _apply(self): pass", "def _apply(self"),
        ("from drivers.base import *", "self._pin = "),
    ],
)
def test_what_is_used_beside_keeps_its_name(line: str, kept: str) -> None:
    ours = {"drivers/base.py": TRICKY["drivers/base.py"]}
    assert kept not in names.short(ours)["drivers/base.py"]
    assert kept in names.short(ours, [line.encode()])["drivers/base.py"]
    # Bytecode has the same names in it.
    made = (
        bytecode.compiled(line.encode(), "lib/x.py") if "*" not in line else b"\0" + line.encode()
    )
    if "*" not in line:
        assert kept in names.short(ours, [made])["drivers/base.py"]


def test_a_name_of_the_apps_own_meets_no_lent_one() -> None:
    ours = {"drivers/base.py": TRICKY["drivers/base.py"]}
    lent = re.search(r"self\.(\w+) = ", names.short(ours)["drivers/base.py"])
    assert lent and lent[1] in names.FOR_MEMBERS
    beside = f"class Sub:\n  def __init__(self):\n    self.{lent[1]} = 1\n"
    assert f"self.{lent[1]} = " not in names.short(ours, [beside.encode()])["drivers/base.py"]


APP = """
import runtime
from drivers.relay import Relay


def setup(app):
    pass
"""
CONFIG = (ROOT / "app_slots" / "config.py").read_text()


@pytest.mark.parametrize(
    "line",
    ["print(sorted([any((1,))]))", "import errno", "failed = make = place = 1", "_pin = range(3)",
     "print('failed to take a place')"],
)  # fmt: skip
def test_a_line_more_changes_the_apps_own_file_alone(tmp_path: Path, line: str) -> None:
    def files(name: str, main: str) -> Mapping[str, bytes]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "app.toml").write_text('name = "weather"\n')
        (folder / "config.py").write_text(CONFIG)
        (folder / "main.py").write_text(main)
        return bundle.read(build.make(folder, "esp8266-generic", 5))[1]

    before = files("a", APP + "\n\nruntime.run(setup)\n")
    after = files("b", APP + f"    {line}\n\n\nruntime.run(setup)\n")
    assert [name for name in after if before[name] != after[name]] == ["main.py"]


def test_an_apps_own_driver_is_left_alone(tmp_path: Path) -> None:
    source = (
        "_LIMIT = 3\n\n\nclass Odd:\n    def __init__(self, thing):\n        self._thing = thing\n"
    )
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "odd.py").write_text(source)
    (tmp_path / "app.toml").write_text('name = "weather"\n')
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "main.py").write_text("import runtime\nfrom drivers.odd import Odd\n")
    files = bundle.read(build.make(tmp_path, "esp8266-generic", 5))[1]
    assert files["drivers/odd.mpy"] == bytecode.compiled(
        source.encode(), "drivers/odd.py", "xtensa"
    )


def test_a_damaged_file_of_the_project_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "our_sources", lambda: {"runtime/log.py": "def f(:\n"})
    with pytest.raises(Failure, match=r"runtime/log\.py, line 1"):
        modules.our_modules([])


def test_lent_names_are_in_every_firmware() -> None:
    """The binary's names stand for the chips'; network's and machine's are not among them."""
    lent = [*names.FOR_PARAMETERS, *names.FOR_GLOBALS]
    assert len(set(lent)) == len(lent)

    def interned(name: str) -> int:
        code = f"import micropython\nx = 1\nexec('def f(): x.{name}')\nmicropython.qstr_info()"
        run = subprocess.run([*binary(), "-c", code], capture_output=True, text=True, check=True)
        return int(re.findall(r"n_qstr=(\d+)", run.stdout)[0])

    assert interned("nobodys_name") == interned("append") + 1
    assert [name for name in lent if interned(name) != interned("append")] == []


def test_internal_names_are_the_projects_and_nobodys_else() -> None:
    sources = {**modules.our_sources(), **boot_stage.sources()}
    defined = {name for text in sources.values() for name in re.findall(r"\w+", text)}
    assert defined >= names.INTERNAL
    docs = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    told = set(re.findall(r"\b(?:app|ota|log|runtime|mqtt|clock|daily)\.(\w+)", docs))
    assert not told & names.INTERNAL
    for tree in (places.sources("bootloader"), places.sources("app_slots")):
        for path in tree.rglob("*.py"):
            # Private names of umqtt.simple, whose class is extended.
            assert not {"_send_str", "_recv_len"} & set(re.findall(r"\w+", path.read_text())), path


def test_what_the_runtime_asks_of_the_boot_stage_keeps_its_name() -> None:
    """`ota.x` and `ota.stage("y").x` mean what the board has, whose names are not the release's."""
    asked: set[str] = set()
    parts: set[str] = set()
    for file, text in modules.our_sources().items():
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Attribute(value=ast.Name(id="ota"), attr=name):
                    asked.add(name)
                case ast.Attribute(value=ast.Call(func=ast.Attribute(attr="stage")), attr=name):
                    asked.add(name)
                case ast.Assign(
                    targets=[ast.Name(id=part)], value=ast.Call(func=ast.Attribute(attr="stage"))
                ):
                    parts.add(f"{file} {part}")
                case _:
                    pass
        asked.update(
            node.attr for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute) and f"{file} {ast.unparse(node.value)}" in parts
        )  # fmt: skip
    assert {"install_failures", "answered", "start", "broadcast", "mac"} <= asked
    for file, text in names.short(modules.our_sources()).items():
        for name in asked:
            reached = rf"\.{name}\b"
            had = re.findall(reached, modules.our_sources()[file])
            assert len(re.findall(reached, text)) == len(had), (file, name)


def test_tracebacks_have_the_own_names_again() -> None:
    scheduler = modules.our_sources()["runtime/scheduler.py"].split("\n")
    line = next(i for i, text in enumerate(scheduler, 1) if "result = fn(*args)" in text)
    lent = names.FOR_GLOBALS[0]
    trace = (
        f'  File "runtime.scheduler", line {line}, in {lent}\n'
        f'  File "main", line 3, in {lent}\n'
        '  File "runtime.scheduler", line 1, in <module>\nKeyError: 1\n'
    )
    assert tracebacks.readable(trace) == trace.replace(
        f"line {line}, in {lent}", f"line {line}, in attempt"
    )


def test_what_releases_use_of_the_boot_stage_keeps_its_name() -> None:
    """A board's boot stage stays, and meets the runtimes of all years.

    The list only grows: what was in it once, some release in the field may ask for.
    """
    kept = (ROOT / "tests" / "vectors" / "stage_names.txt").read_text().split()
    stage = boot_stage.short(boot_stage.sources())
    there = {word for text in stage.values() for word in re.findall(r"\w+", text)}
    asked = {word for text in modules.our_sources().values() for word in _of_the_stage(text)}
    defined = {word for text in boot_stage.sources().values() for word in _defined(text)}
    assert asked & defined <= set(kept), sorted(asked & defined - set(kept))
    assert set(kept) <= there, sorted(set(kept) - there)


def _of_the_stage(text: str) -> set[str]:
    """Names that a module of the runtime may reach in the boot stage: attributes and imports."""
    tree = ast.parse(text)
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found | {node.name for node in ast.walk(tree) if isinstance(node, ast.alias)}


def _defined(text: str) -> set[str]:
    """Functions, classes and variables at the top of a module; constants are numbers by then."""
    found: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and "const(" not in ast.unparse(node):
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def test_what_is_borrowed_is_there() -> None:
    """A module that is borrowed by name, and what is reached in it, is nobody's to type-check."""
    stage = {Path(name).stem: text for name, text in boot_stage.sources().items()}
    runtime = {Path(name).stem: text for name, text in modules.our_sources().items()
               if name.startswith("runtime/")}  # fmt: skip
    texts = [*stage.values(), *modules.our_sources().values()]
    found = [one for text in texts for one in _borrowed(ast.parse(text))]
    assert len(found) > 50
    for call, module, name in found:
        there = runtime if call == "lend" else stage
        assert module in there, (call, module)
        defined = {n.id for n in ast.walk(ast.parse(there[module])) if isinstance(n, ast.Name)}
        defined |= set(re.findall(r"^(?:async def|def|class) (\w+)", there[module], re.M))
        assert name is None or name in defined, (call, module, name)


def _borrowed(tree: ast.Module) -> Iterator[tuple[str, str, str | None]]:
    """(how, module, what is reached in it or None) of each module that a module borrows."""
    reached = {id(node.value): node.attr for node in ast.walk(tree)
               if isinstance(node, ast.Attribute)}  # fmt: skip
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Name(id=call) | ast.Attribute(attr=call),
                args=[ast.Constant(value=str(module)), *rest],
            ) if call in ("stage", "_stage", "lend", "_lend"):
                name = reached.get(id(node))
                if call == "_lend" and rest and isinstance(rest[0], ast.Constant):
                    name = str(rest[0].value)
                yield call, module, name
