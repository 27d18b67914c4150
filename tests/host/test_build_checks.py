"""What a build says before a board learns it: syntax, imports, secrets, an idle main.py."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

from mipy_ota.signing import bundle
from mipy_ota.tools import cli, places
from mipy_ota.tools.app import build, imports, leaks, lint_device, new, project
from mipy_ota.tools.console import Failure
from mipy_ota.tools.sim import micropython

CLS = "esp8266-generic"
SMALL = "esp8266-generic-1m"
ESP32 = "esp32-generic"
PLAIN = 'name = "weather"\nruntime = false\n'
WITH_RUNTIME = 'name = "weather"\n'
CONFIG = 'NAME = "x"\nLOG_LEVEL = 1  #: 0..3\nSERVER = ""  #: url\nPORTAL = 30  #: 0..\n'
STARTS = "import runtime\n\n\ndef setup(app):\n    pass\n\n\nruntime.run(setup)\n"


@pytest.fixture
def app(tmp_path):
    """Makes an app: `app({"lib/a.py": ...})` returns its folder."""

    def make(files=(), facts=PLAIN):
        given = {"app.toml": facts, "main.py": "print(1)\n", **dict(files)}
        for name, content in given.items():
            path = tmp_path / "app" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "app"

    return make


def refusal(folder, cls=CLS) -> Failure:
    with pytest.raises(Failure) as caught:
        build.make(folder, cls, 5)
    assert caught.value.text and "\n" not in caught.value.text + caught.value.hint
    return caught.value


def warnings(folder, cls=CLS) -> str:
    return "\n".join(build.assemble(folder, cls, 5).warnings)


def built(folder, cls=CLS) -> dict[str, bytes]:
    return bundle.read(build.make(folder, cls, 5))[1]


# --- syntax --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["main.py", "config.py", "lib/a.py", "drivers/a.py"])
@pytest.mark.parametrize(
    "source",
    [
        "match 1:\n    case 1:\n        pass\n",
        "def f(a, /, b):\n    pass\n",
        "try:\n    pass\nexcept* ValueError:\n    pass\n",
        "with (open('a') as f, open('b') as g):\n    pass\n",
        "return 5\n",
    ],
)
def test_what_the_chips_compiler_refuses_the_build_refuses(app, name, source):
    """Also in the two files that are compiled on the board alone."""
    ast.parse(source)  # CPython takes each
    refused = refusal(
        app({"main.py": "import drivers.a" if "drivers" in name else "", name: source})
    )
    assert name in refused.text and "does not compile" in refused.text


def test_a_byte_order_mark_is_taken_off_with_a_word(app):
    """A board takes it for the beginning of the first name."""
    mark = b"\xef\xbb\xbf"
    folder = app({"main.py": mark + b"print(1)\r\n", "lib/a.py": mark + b"x = 1\n"})
    assert built(folder)["main.py"] == b"print(1)\n"
    said = warnings(folder)
    assert "main.py began with a byte order mark" in said and "lib/a.py began" in said
    run = subprocess.run(
        [*micropython.binary(), "-c", "exec(b'\\xef\\xbb\\xbfprint(1)')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "NameError" in run.stderr


@pytest.mark.parametrize(
    "content, said",
    [
        ("print(1)\n".encode("utf-16"), "UTF-16"),
        (b"# -*- coding: latin-1 -*-\nx = '\xe4'\n", "line 2 is no UTF-8"),
    ],
)
def test_another_encoding_is_refused(app, content, said):
    refused = refusal(app({"main.py": content}))
    assert said in refused.text and "UTF-8" in refused.hint


def test_line_ends_are_the_same_on_every_computer(app):
    one = build.make(app({"main.py": "a = 1\nb = 2\n", "lib/m.py": "x = 1\n"}), CLS, 5)
    two = build.make(app({"main.py": "a = 1\r\nb = 2\r\n", "lib/m.py": "x = 1\r\n"}), CLS, 5)
    assert one == two


# --- imports -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [CLS, SMALL, ESP32, "esp32-generic-c3"])
@pytest.mark.parametrize(
    "source",
    [
        "import json, ujson, machine, dht, ota, os as o",
        "from umachine import Pin",
        "from lib1 import a\nimport lib1, beside.part",
        "from beside import part",
        "try:\n    import nowhere\nexcept ImportError:\n    nowhere = None",
        "try:\n    import nowhere\nexcept (OSError, ImportError):\n    import json as nowhere",
        "if TYPE_CHECKING:\n    from typing import Any",
        "__import__('gc').collect()",
    ],
)
def test_what_is_provided_can_be_imported(app, cls, source):
    folder = app({"main.py": source, "lib/lib1.py": "a = 1", "beside/part.py": ""})
    assert "imports" not in warnings(folder, cls)


@pytest.mark.parametrize(
    "files, cls, said, remedy",
    [
        ({"main.py": "import typing"}, CLS, "main.py, line 1 imports typing", "a comment"),
        ({"lib/a.py": "\ndef f():\n    import x.y"}, CLS, "lib/a.py, line 3 imports x.y", "mip"),
        ({"main.py": "__import__('lost')"}, CLS, "imports lost", "lost.py"),
        ({"main.py": "import os.path"}, ESP32, "imports os.path", "os"),
        ({"main.py": "import _thread"}, CLS, f"the firmware of {CLS}", "asyncio task"),
        ({"main.py": "import bluetooth"}, "esp32-generic-s2", "bluetooth", "app.toml"),
        ({"main.py": "import asyncio"}, SMALL, "asyncio", "runtime = false"),
        ({"main.py": "import cmath"}, CLS, "cmath", "cmath.py"),
        ({"main.py": "import ssd1306"}, ESP32, "ssd1306", "ssd1306.py"),
        ({"main.py": "from runtime import log"}, CLS, "runtime", "runtime = true"),
        ({"main.py": "import build.x", "build/x.py": ""}, CLS, "build.x", "stays at home"),
        ({"main.py": "import tests", "tests/a.py": ""}, CLS, "tests", "stays at home"),
        (
            {"main.py": "import umqtt.simple", "lib/umqtt/mine.py": ""},
            CLS, "umqtt.simple", "lib/umqtt hides",
        ),
        ({"pack/__init__.py": "", "pack/a.py": "from .b import c"}, CLS, "pack.b", "pack.py"),
        ({"main.py": "import typing\nimport enum\nimport lost"}, CLS, "nor enum, lost", "comment"),
    ],
)  # fmt: skip
def test_an_import_that_nothing_provides_is_refused(app, files, cls, said, remedy):
    refused = refusal(app(files), cls)
    assert said in refused.text and remedy in refused.hint


def test_the_runtime_needs_asyncio(app):
    refused = refusal(app({"main.py": STARTS, "config.py": CONFIG}, WITH_RUNTIME), SMALL)
    assert "asyncio" in refused.text and "runtime = false" in refused.hint


def test_an_import_that_only_some_lives_reach_is_a_warning(app):
    folder = app({"main.py": "if len('x') > 2:\n    import lost\n"})
    assert "main.py, line 2 imports lost" in warnings(folder)
    assert "imports" not in warnings(app({"main.py": "if 1 > 2:\n    import esp32\n"}))


def test_firmware_that_has_more_is_believed(app):
    files = {"main.py": "import lvgl\nimport lvgl.fonts"}
    assert "lvgl" in refusal(app(files)).text
    app(files, PLAIN + 'modules = ["lvgl", "lvgl.fonts"]\n')
    assert "lvgl" not in warnings(app(files, PLAIN + 'modules = ["lvgl", "lvgl.fonts"]\n'))
    assert "lost" in warnings(app({"main.py": "import lost"}), "pico-w")


def test_relative_imports(app):
    files = {"pack/__init__.py": "from . import a\n", "pack/a.py": "from .deep.b import c\n"}
    files |= {"pack/deep/b.py": "from ..a import x\nfrom . import b\n", "main.py": "import pack"}
    assert "imports" not in warnings(app(files))


# --- names that hide others ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, said",
    [
        ("json.py", "json.py hides the firmware's json"),
        ("json/data.txt", "json/ hides the firmware's json"),
        ("asyncio.mpy", "asyncio.mpy hides"),
        ("ota.py", "ota.py is never imported: ota is the boot stage's"),
        ("lib/ota.py", "lib/ota.py is never imported"),
        ("bootloader/x.py", "bootloader/ is never imported"),
        ("gc.py", "gc.py is never imported: gc is the firmware's"),
        ("lib/network.py", "lib/network.py is never imported"),
    ],
)
def test_a_module_that_hides_the_firmwares_is_refused(app, name, said):
    refused = refusal(app({name: b"M\6\0\x1f" if name.endswith(".mpy") else ""}))
    assert said in refused.text and refused.hint == "rename it"


@pytest.mark.parametrize("name", ["neopixel.py", "lib/umqtt/simple.py", "lib/ssl.py"])
def test_one_that_may_be_meant_to_is_a_warning(app, name):
    assert f"{name.replace('simple.py', '')} takes the place of the firmware's" in warnings(
        app({name: ""})
    )


def test_what_packages_brought_is_meant(app):
    folder = app({"lib/ssl.py": "", "lib/neopixel.py": ""})
    (folder / "mip.lock").write_text(
        json.dumps({"ssl": {"source": "", "version": "", "files": {"ssl.py": _sha(b"")}}})
    )
    assert "takes the place" not in warnings(folder)


def _sha(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_who_wins_is_what_micropython_says(tmp_path):
    """Files against built-in modules, on the real thing."""
    here = {"binascii", "json", "os", "random", "struct", "time", "gc", "math", "sys", "builtins"}
    for name in here:
        (tmp_path / f"{name}.py").write_text("MINE = 1\n")
    (tmp_path / "errno").mkdir()  # a folder of data
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += f"for n in {sorted(here)!r}: print(n, hasattr(__import__(n), 'MINE'))\n"
    code += "import errno; print('errno', not hasattr(errno, 'EIO'))\n"
    run = subprocess.run(
        [*micropython.binary(), "-c", code], capture_output=True, text=True, check=True
    )
    hidden = {line.split()[0] for line in run.stdout.splitlines() if line.endswith("True")}
    assert hidden == {"binascii", "json", "os", "random", "struct", "time", "errno"}
    for name in here | {"errno"}:
        provided = imports.Provided.by([f"{name}.py"], imports.firmware(CLS) or ())
        assert bool(provided.hidden_by(name)) and (name in imports._FIXED) == (name not in hidden)


def test_tables_agree_with_the_lint_of_device_code():
    both = {name.split(".")[0] for name in imports.EVERYWHERE}
    assert both >= lint_device.MODULES
    for cls, chip in ((CLS, "esp8266"), (ESP32, "esp32")):
        stock = {name.split(".")[0] for name in imports.firmware(cls) or ()}
        other = {"esp32"} if chip == "esp8266" else set()
        assert lint_device.MODULES - other <= stock


# --- native code ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header, cls, said",
    [
        (b"M\6\x27\x1f", "esp32-generic", "xtensa; esp32-generic has xtensawin"),
        (b"M\6\x2b\x1f", CLS, "xtensawin; esp8266-generic has xtensa"),
        (b"M\6\x17\x1f", "esp32-generic-c3", "armv7m; esp32-generic-c3 has rv32imc"),
        (b"M\6\x00\x3f", CLS, "more than 32 bits"),
    ],
)
def test_code_for_another_chip_is_refused(app, header, cls, said):
    assert said in refusal(app({"lib/fast.mpy": header}), cls).text


# --- what stays at home --------------------------------------------------------------------------


@pytest.fixture
def mipy(monkeypatch, tmp_path, capsys):
    """Runs `mipy`: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "home"))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mipy", *map(str, words)])
        code = cli.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_build_says_what_stays_at_home(app, mipy):
    folder = app({"tests/test_a.py": "", "README.md": "", "build/old.ota": ""})
    code, _, err = mipy("build", folder, "--class", CLS)
    assert code == 0 and "not in it: tests/" in err
    app({"build/table.bin": ""})
    data = json.loads(mipy("build", folder, "--class", CLS, "--json")[1])
    assert data[0]["left_out"] == ["build", "tests"]


# --- main.py that never starts -------------------------------------------------------------------


@pytest.mark.parametrize(
    "main",
    [
        STARTS,
        "from runtime import run\n\n\ndef main():\n    run(print)\n\n\nmain()\n",
        "import runtime as r\n\ntry:\n    r.run(print)\nfinally:\n    pass\n",
        "import runtime\n\nif __name__ in ('__main__', 'main'):\n    runtime.run(print)\n",
        "import runtime\nwhile True:\n    break\nruntime.run(print)\n",
        "import mine\n\nmine.go()\n",
        "import runtime\n\n\ndef f(n):\n    if n:\n        runtime.run(n)\n\n\nprint(f(1))\n",
    ],
)
def test_a_main_that_starts_the_runtime(app, main):
    mine = "import runtime\n\n\ndef go():\n    runtime.run(print)\n"
    folder = app({"main.py": main, "mine.py": mine, "config.py": CONFIG}, WITH_RUNTIME)
    assert "main.py" not in warnings(folder)


@pytest.mark.parametrize(
    "main, said",
    [
        ("", "main.py is empty"),
        ('"""Only a docstring."""\n', "main.py is empty"),
        ("import runtime\n\n\ndef setup(app):\n    pass\n", "never reaches runtime.run()"),
        ("import runtime\n\n\ndef main():\n    runtime.run(print)\n", "never reaches"),
        ("import ota, time\n\nwhile True:\n    ota.check()\n    time.sleep(1)\n", "never reaches"),
        ("import runtime\nwhile 1:\n    print(1)\nruntime.run(print)\n", "never reaches"),
        (
            "import runtime\n\nif __name__ == '__main__':\n    runtime.run(print)\n",
            "line 3: a board",
        ),
    ],
)
def test_a_main_that_never_starts_the_runtime_is_named(app, main, said):
    folder = app({"main.py": main, "config.py": CONFIG}, WITH_RUNTIME)
    assert said in warnings(folder)


def test_a_plain_main_that_does_nothing_is_named(app):
    assert "empty" in warnings(app({"main.py": "# later\n"}))
    said = warnings(app({"main.py": "import json\n\nif __name__ == '__main__':\n    print(1)\n"}))
    assert '`__name__` is "main" there' in said
    assert not warnings(app({"main.py": "import ota\n\nota.check()\n"}))


def test_the_projects_own_apps_have_nothing_to_say(tmp_path):
    for name, path in {"app_slots": places.sources("app_slots"), **new.examples()}.items():
        for cls in project.facts(path).classes:
            said = [w for w in build.assemble(path, cls, 5).warnings if "heap" not in w]
            assert not said, name
    new.make(tmp_path / "mine")
    assert not warnings(tmp_path / "mine")


# --- secrets -------------------------------------------------------------------------------------

PASSWORD = "hunter2-hunter2"


@pytest.mark.parametrize(
    "name, content",
    [
        ("main.py", f'wlan.connect("home", "{PASSWORD}")'),
        ("main.py", f'wlan.connect(ssid, key="{PASSWORD}")'),
        ("main.py", f'do_connect("home", "{PASSWORD}")'),
        ("main.py", f'ap.config(ssid="x", key="{PASSWORD}")'),
        ("main.py", f'WIFI_PASSWORD = "{PASSWORD}"'),
        ("main.py", f'config["password"] = "{PASSWORD}"'),
        ("main.py", f'self.api_key = "{PASSWORD}"'),
        ("main.py", f'c = MQTTClient("a", "b", user="u", password="{PASSWORD}")'),
        ("main.py", f'd = {{"ssid": "home", "psk": "{PASSWORD}"}}'),
        ("main.py", f'def f(host, password="{PASSWORD}"):\n    pass'),
        ("lib/a.py", f'URL = "mqtt://user:{PASSWORD}@broker"'),
        ("lib/a.py", f'TOKEN: str = "{PASSWORD}"'),
        ("config.json", f'{{"wifi": {{"ssid": "home", "password": "{PASSWORD}"}}}}'),
        ("settings.toml", f'wifi_password = "{PASSWORD}"'),
        ("notes.txt", f"mqtt://user:{PASSWORD}@broker.local"),
        ("config.yaml", f"  api-token: {PASSWORD}"),
        ("www/index.html", f"<a href='http://me:{PASSWORD}@host/'>"),
        ("cert.bin", "-----BEGIN RSA PRIVATE KEY-----\n" + PASSWORD),
        ("secrets.py", f'wifi = "{PASSWORD}"'),
        ("secrets.json", f'"{PASSWORD}"'),
        ("lib/credentials.py", f'a = "{PASSWORD}"'),
        ("passwords.txt", PASSWORD),
    ],
)
def test_a_secret_is_refused_and_not_shown(app, name, content):
    refused = refusal(app({name: content}))
    assert name.rsplit("/", 1)[-1] in refused.text
    assert PASSWORD not in refused.text + refused.hint
    assert "config.py" in refused.hint or "move" in refused.hint


@pytest.mark.parametrize(
    "name, content",
    [
        ("main.py", 'password = ""\nx = f(password=password)\n'),
        ("main.py", "wlan.connect(ssid, password)\ns.connect(('host', 80))\n"),
        ("main.py", 'names = sorted("b a".split(), key="x".count)\nKEY = "temperature"\n'),
        ("main.py", 'url = "mqtt://%s:%s@%s" % (user, word, host)\n'),
        ("main.py", 'compass = "north"\nkeyword = "x"\n'),
        ("config.json", '{"password": "", "token": null, "compass": "north"}'),
        ("notes.txt", "http://example.org:80/a@b\nPassword:\n"),
        ("www/app.js", 'form.password = "typed";'),
        ("www/index.html", '<input type="password" name=password>'),
    ],
)
def test_what_is_none_is_not_refused(app, name, content):
    build.make(app({name: content}), CLS, 5)


def test_what_is_meant_to_be_read_is_said_to_be(app):
    files = {
        "main.py": f'TOKEN = "{PASSWORD}"  # public\n',
        "config.json": f'{{"psk": "{PASSWORD}"}}',
    }
    files["secrets.py"] = "x = 1\n"
    public = 'public = ["config.json", "secrets.py"]\n'
    assert {"config.json", "main.py", "secrets.mpy"} == set(built(app(files, PLAIN + public)))
    assert "config.json" in refusal(app(files, PLAIN + 'public = ["secrets.py"]\n')).text


def test_what_packages_brought_is_readable_anyway(app):
    content = f'PASSWORD = "{PASSWORD}"\n'.encode()
    folder = app({"lib/a.py": content})
    (folder / "mip.lock").write_text(
        json.dumps({"a": {"source": "", "version": "", "files": {"a.py": _sha(content)}}})
    )
    assert "lib/a.mpy" in built(folder)


def test_every_text_is_looked_at_up_to_a_limit(app):
    app({"big.txt": "x\n" * leaks._LARGEST})
    build.make(app({}), CLS, 5)


@pytest.mark.timeout(60)  # where each byte is a beginning, it takes minutes
@pytest.mark.parametrize("name", ["big.txt", "www/big.js"])
@pytest.mark.parametrize("part", ["0123456789abcdef", "a://b:c", "a.b-c=", "key :"])
def test_a_line_as_long_as_a_file_is_looked_at(app, name, part):
    line = part * (leaks._LARGEST // len(part) - 4)
    build.make(app({name: line}), CLS, 5)
    if name.endswith(".txt"):
        assert "has a value" in refusal(app({name: f"{line}\ntoken=secret"})).text
