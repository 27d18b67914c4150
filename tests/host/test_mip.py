"""Third-party modules: installed by mip's packages, locked, built, and at work on a board."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mipy_ota.signing import bundle
from mipy_ota.tools import cli
from mipy_ota.tools.app import build, mip, packages
from mipy_ota.tools.console import Failure
from tests.support import ROOT, fleet

CLS = fleet.CLASS
ROBUST = b"from micropython import const\nVALUE = const(7)\n"
HELPER = b"def double(x):\n    return 2 * x\n"


class Site:
    """An index and a host of repositories on 127.0.0.1: path -> content, or -> where it moved."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | str] = {}
        self.asked: list[str] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                page = site.pages.get(self.path)
                if isinstance(page, str):
                    self.send_response(302)
                    self.send_header("location", page)
                    page = b""
                else:
                    self.send_response(404 if page is None else 200)
                self.end_headers()
                self.wfile.write(page or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def publish(self, name: str, files: dict[str, bytes], *, version: str = "1.0", **more) -> None:
        """A package in the index."""
        hashes = [[path, hashlib.sha256(data).hexdigest()[:8]] for path, data in files.items()]
        for (_, short), data in zip(hashes, files.values(), strict=True):
            self.pages[f"/pi/file/{short[:2]}/{short}"] = data
        table = json.dumps({"version": version, "hashes": hashes, **more}).encode()
        self.pages[f"/pi/package/py/{name}/{version}.json"] = table
        self.pages[f"/pi/package/py/{name}/latest.json"] = table


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site()
    monkeypatch.setattr(packages, "HOSTS", {"github": made.url + "/gh/{}/{}/{}/{}"})
    yield made
    made.close()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.toml").write_text('name = "demo"\nruntime = false\n')
    (folder / "main.py").write_text("import robust\n")
    return folder


def add(app: Path, site: Site, *wanted: str) -> packages.Lock:
    return packages.add(app, list(wanted), site.url + "/pi")


def lib(app: Path) -> dict[str, bytes]:
    root = app / "lib"
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def refused(app: Path, site: Site, package: str, text: str) -> None:
    """It cannot be installed, and nothing has changed."""
    before = lib(app), (app / mip.LOCK).exists()
    with pytest.raises(Failure, match=text):
        add(app, site, package)
    assert (lib(app), (app / mip.LOCK).exists()) == before


def test_by_name(app: Path, site: Site) -> None:
    """With what it needs, at one version or the newest; what it no longer has goes."""
    site.publish("robust", {"umqtt/robust.py": ROBUST, "old.py": b""}, deps=[["helper", "latest"]])
    site.publish("helper", {"helper.py": HELPER}, version="0.3", deps=[["robust", "1.0"]])
    lock = add(app, site, "robust")
    assert lib(app) == {"umqtt/robust.py": ROBUST, "old.py": b"", "helper.py": HELPER}
    assert (lock["robust"].version, lock["helper"].version) == ("1.0", "0.3")
    assert packages.read_lock(app) == lock
    assert lock["robust"].files["umqtt/robust.py"] == hashlib.sha256(ROBUST).hexdigest()

    site.publish("robust", {"umqtt/robust.py": ROBUST + b"#\n"}, version="1.1")
    add(app, site, "robust@1.0")
    assert lib(app)["umqtt/robust.py"] == ROBUST
    add(app, site, "robust")
    assert lib(app) == {"umqtt/robust.py": ROBUST + b"#\n"}  # nothing needs the helper now
    assert packages.read_lock(app)["robust"].version == "1.1"


def needs(site: Site, name: str, *deps: list[str], version: str = "1.0") -> None:
    """A package of one file, named after it and its version, with dependencies."""
    content = f"VERSION = {name!r}, {version!r}\n".encode()
    site.publish(name, {f"{name}.py": content}, version=version, deps=list(deps))


def versions(app: Path) -> dict[str, str]:
    return {name: package.version for name, package in packages.read_lock(app).items()}


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_that_pin_different_versions_are_told(app: Path, site: Site, order: tuple) -> None:
    """Whether they come at once, or one is there already."""
    needs(site, "third", version="2.0")
    needs(site, "third", version="1.0")
    needs(site, "a", ["third", "1.0"])
    needs(site, "b", ["third", "2.0"])
    text = "[ab] wants third [12].0, [ab] wants [12].0"
    before = lib(app)
    with pytest.raises(Failure, match=text):
        add(app, site, *order)
    assert lib(app) == before
    add(app, site, order[0])
    refused(app, site, order[1], text)
    refused(app, site, f"third@{'2.0' if order[0] == 'a' else '1.0'}", "you want third")


@pytest.mark.parametrize("order", [("any", "one"), ("one", "any")])
def test_any_version_gives_way_to_a_certain_one(app: Path, site: Site, order: tuple) -> None:
    needs(site, "third", version="1.0")
    needs(site, "third", version="2.0")  # the newest
    needs(site, "any", ["third", "latest"])
    needs(site, "one", ["third", "1.0"])
    add(app, site, *order)
    assert versions(app)["third"] == "1.0" and b"1.0" in lib(app)["third.py"]


def test_what_a_person_pinned_stays(app: Path, site: Site) -> None:
    needs(site, "third", version="1.0")
    needs(site, "third", version="2.0")
    needs(site, "any", ["third", "latest"])
    needs(site, "two", ["third", "2.0"])
    add(app, site, "third@1.0")
    add(app, site, "any")
    assert versions(app) == {"third": "1.0", "any": "1.0"}
    refused(app, site, "two", "two wants third 2.0, you once wanted 1.0")
    add(app, site, "third@2.0", "two")
    assert versions(app)["third"] == "2.0"


def test_what_was_brought_goes_with_the_last_that_needs_it(
    app: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    needs(site, "deep")
    needs(site, "third", ["deep", "latest"])
    needs(site, "a", ["third", "latest"])
    needs(site, "b", ["third", "latest"])
    add(app, site, "a", "b")
    mip.rm(["a"], app)
    assert set(lib(app)) == {"b.py", "third.py", "deep.py"}
    with pytest.raises(Failure, match="third needs deep"):
        mip.rm(["deep"], app)
    mip.rm(["b"], app)
    assert not lib(app) and not (app / mip.LOCK).exists()
    assert "deep is gone, nothing needs it" in capsys.readouterr().out

    add(app, site, "third")
    add(app, site, "a")
    mip.rm(["a"], app)  # a person asked for the other one
    assert set(lib(app)) == {"third.py", "deep.py"}


def test_line_ends_that_git_changed(app: Path, site: Site) -> None:
    site.publish("robust", {"robust.py": ROBUST.replace(b"\n", b"\r\n"), "x.bin": b"\0\r\n"})
    add(app, site, "robust")
    assert lib(app) == {"robust.py": ROBUST, "x.bin": b"\0\r\n"}
    made = build.make(app, CLS, 1)
    (app / "lib" / "robust.py").write_bytes(ROBUST.replace(b"\n", b"\r\n"))
    assert build.make(app, CLS, 1) == made
    mip.rm(["robust"], app)
    assert not lib(app)


def test_github(app: Path, site: Site) -> None:
    """A repository's package.json, its folder, a tag, and a single file."""
    table = {"urls": [["robust.py", "src/robust.py"], ["h.py", "github:a/other/h.py"]]}
    site.pages |= {
        "/gh/me/kit/v2/package.json": json.dumps(table).encode(),
        "/gh/me/kit/v2/src/robust.py": ROBUST,
        "/gh/a/other/v2/h.py": HELPER,
        "/gh/me/kit/HEAD/sub/package.json": b'{"version": "9", "urls": [["s.py", "s.py"]]}',
        "/gh/me/kit/HEAD/sub/s.py": "/gh/moved",
        "/gh/moved": b"s = 1\n",
    }
    add(app, site, "github:me/kit@v2", "github:me/kit/sub", "github:me/kit/src/robust.py@v2")
    assert lib(app) == {"robust.py": ROBUST, "h.py": HELPER, "s.py": b"s = 1\n"}
    assert set(packages.read_lock(app)) == {
        "github:me/kit@v2",
        "github:me/kit/sub",
        "github:me/kit/src/robust.py@v2",
    }


def test_from_this_computer(app: Path, site: Site, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    (kit / "parts").mkdir(parents=True)
    (kit / "__init__.py").write_bytes(b"")
    (kit / "parts" / "a.py").write_bytes(HELPER)
    add(app, site, str(kit), str(kit / "parts" / "a.py"))
    assert lib(app) == {"kit/__init__.py": b"", "kit/parts/a.py": HELPER, "a.py": HELPER}
    (kit / "package.json").write_text('{"urls": [["b.py", "parts/a.py"]]}')
    add(app, site, str(kit))
    assert set(lib(app)) == {"a.py", "b.py"}


def test_what_is_refused(app: Path, site: Site, tmp_path: Path) -> None:
    def publish(name: str, **table: object) -> None:
        site.pages[f"/pi/package/py/{name}/latest.json"] = json.dumps(table).encode()

    refused(app, site, "nobody", "there is no .*nobody")
    refused(app, site, "not a name", "no package's name")
    refused(app, site, "github:me", "no repository")
    refused(app, site, str(tmp_path), "no package")
    refused(app, site, "x.py", "no package")
    site.pages["/pi/package/py/html/latest.json"] = b"<html>"
    refused(app, site, "html", "no JSON")
    site.pages["/pi/package/py/list/latest.json"] = b"[1]"
    refused(app, site, "list", "no package")
    for number, urls in enumerate(([["a.py"]], [1], 5, [["a.py", None]])):
        publish(f"odd{number}", urls=urls)
        refused(app, site, f"odd{number}", "no pair of texts")
    site.pages["/pi/package/py/x"] = b""
    for number, name in enumerate(("../main.py", "/etc/x.py", "a/../../b.py", "ä.py", ".h", "")):
        publish(f"out{number}", urls=[[name, site.url + "/pi/package/py/x"]])
        refused(app, site, f"out{number}", "no release can hold")
    for number, place in enumerate(("../../../x", "/x")):
        publish(f"up{number}", urls=[["a.py", place]])
        refused(app, site, f"up{number}", "outside its folder")
    kit = tmp_path / "kit"
    kit.mkdir()
    (tmp_path / "secret.py").write_text("")
    (kit / "package.json").write_text('{"urls": [["a.py", "../secret.py"]]}')
    refused(app, site, str(kit), "outside its folder")
    publish("reads", deps=[["/etc", "latest"]])
    refused(app, site, "reads", "depends on the path")
    site.publish("robust", {"robust.py": ROBUST})
    short = hashlib.sha256(ROBUST).hexdigest()[:8]
    site.pages[f"/pi/file/{short[:2]}/{short}"] = ROBUST + b"import evil\n"
    refused(app, site, "robust", "another robust.py than it lists")
    site.pages[f"/pi/file/{short[:2]}/{short}"] = b"x" * (packages.FILE_BYTES + 1)
    refused(app, site, "robust", "has more than")
    for number in range(40):
        publish(f"chain{number}", deps=[[f"chain{number + 1}", "latest"]])
    refused(app, site, "chain0", "package number")
    refused(app, site, "http://127.0.0.1:1/x.py", "cannot get")


def test_nothing_is_overwritten(app: Path, site: Site) -> None:
    site.publish("one", {"same.py": HELPER, "one.py": b""})
    site.publish("two", {"same.py": ROBUST})
    site.publish("three", {"same.py": HELPER})
    (app / "lib").mkdir()
    (app / "lib" / "one.py").write_text("mine = 1\n")
    refused(app, site, "one", "is there already")
    (app / "lib" / "one.py").write_text("")
    add(app, site, "one", "three")
    refused(app, site, "two", "belongs to")


def test_build_checks(app: Path, site: Site) -> None:
    """What packages brought must be as it came; what lies there by hand is taken as it is."""
    site.publish("robust", {"robust.py": ROBUST})
    add(app, site, "robust")
    (app / "lib" / "own.py").write_text("own = 1\n")
    files = bundle.read(build.make(app, CLS, 1))[1]
    assert set(files) == {"main.py", "lib/robust.mpy", "lib/own.mpy"}
    path = app / "lib" / "robust.py"
    path.write_bytes(ROBUST + b"#")
    with pytest.raises(Failure, match="not as it came, with robust"):
        build.make(app, CLS, 1)
    path.unlink()
    with pytest.raises(Failure, match="gone, with robust"):
        build.make(app, CLS, 1)
    add(app, site, "robust")
    build.make(app, CLS, 1)
    for lock in ("{", "[]", '{"robust": {}}', '{"r": {"source": "", "version": "", "files": 1}}'):
        (app / mip.LOCK).write_text(lock)
        with pytest.raises(Failure, match=r"cannot read .*mip\.lock"):
            build.make(app, CLS, 1)


def test_the_verbs(
    app: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mipy(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["mipy", "mip", *words])
        return cli.main()

    site.publish("robust", {"umqtt/robust.py": ROBUST, "b.py": HELPER})
    assert mipy("install", "robust", "--app", str(app), "--index", site.url + "/pi/") == 0
    assert capsys.readouterr().out == "lib/umqtt/robust.py\nlib/b.py\n"
    (app / "lib" / "b.py").write_text("changed = 1\n")
    monkeypatch.chdir(app)
    assert mipy("rm", "robust") == 0
    assert "b.py was changed and stays" in capsys.readouterr().err
    assert set(lib(app)) == {"b.py"} and not (app / mip.LOCK).exists()
    assert not (app / "lib" / "umqtt").exists()
    assert mipy("rm", "robust") == 1
    monkeypatch.chdir(app.parent)
    assert mipy("install", "robust") == 1
    assert "is no app" in capsys.readouterr().err


BOARD = """\
import mip
import robust
import runtime
from drivers import foreign
from runtime import log


def setup(app):
    mip.install("github:me/kit")
    print("at work", robust.VALUE, foreign.Gauge(3).read())


runtime.run(setup)
"""


def test_on_a_board(app: Path, site: Site, tmp_path: Path) -> None:
    """Installed and dropped-in modules work as they are; the board's own mip tells what to do."""
    site.publish("robust", {"robust.py": ROBUST})
    add(app, site, "robust")
    (app / "app.toml").write_text('name = "demo"\n')
    (app / "main.py").write_text(BOARD)
    (app / "config.py").write_bytes((ROOT / "app_slots" / "config.py").read_bytes())
    (app / "drivers").mkdir()
    (app / "drivers" / "foreign.py").write_text(
        "from machine import Pin\n\n\nclass Gauge:\n    def __init__(self, pin):\n"
        "        self.pin = Pin(pin, Pin.IN)\n\n    def read(self):\n        return 5\n"
    )
    files = bundle.read(build.make(app, CLS, 1000))[1]
    assert {"lib/robust.mpy", "drivers/foreign.mpy", "lib/mip.mpy"} <= set(files)
    made = fleet.release(files, 1000)
    with fleet.prepared(tmp_path / "board", fleet.identity(), made, speed=10) as board:
        life = board.life(timeout=60, until="at work 7 5")
    assert "on the computer: mipy mip install github:me/kit, then mipy release" in life.console
    assert "at work 7 5" in life.console
