"""From an app's folder to a release: what goes in, what is refused, and that it is repeatable."""

import json
import os
import re
import sys

import pytest

from mipy_ota.signing import bundle, manifest
from mipy_ota.tools import cli, places
from mipy_ota.tools.app import build, new
from mipy_ota.tools.app.project import app_folder, facts
from mipy_ota.tools.console import Failure

CLS = "esp8266-generic"


@pytest.fixture
def app(tmp_path):
    """Makes apps: `app({"main.py": ...})` returns the folder."""

    def make(files, folder="app", facts='name = "weather"\nruntime = false\n'):
        root = tmp_path / folder
        for name, content in ({"app.toml": facts, "main.py": "print(1)\n"} | files).items():
            if content is None:
                continue
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    return make


def contents(release: bytes) -> dict[str, bytes]:
    return bundle.read(release)[1]


def names(folder, **options) -> list[str]:
    return sorted(contents(build.make(folder, CLS, 5, **options)))


def refusal(folder) -> Failure:
    with pytest.raises(Failure) as caught:
        build.make(folder, CLS, 5)
    assert caught.value.text and "\n" not in caught.value.text
    return caught.value


def test_modules_that_are_lent():
    """They are what the sources lend, and the installer, which runs with no app loaded."""
    runtime = places.sources("app_slots") / "runtime"
    lent = {
        name
        for source in runtime.glob("*.py")
        for name in re.findall(r'lend\("(\w+)"\)', source.read_text())
    }
    assert lent | {"installer"} == build.LENT


def test_slot_holds_bytecode_and_the_two_readable_files(app):
    folder = app(
        {
            "config.py": "A = 1\n",
            "lib/umqtt/simple.py": "x = 1\n",
            "pages/view.py": "y = 1\n",
            "www/index.html": "<p>",
            "www/served.py": "print('as it is')",
            "table.bin": b"\0\1",
        }
    )
    assert names(folder) == [
        "config.py",
        "lib/umqtt/simple.mpy",
        "main.py",
        "pages/view.mpy",
        "table.bin",
        "www/index.html",
        "www/served.py",
    ]
    assert "main.mpy" in names(folder, compile_all=True)
    assert "config.mpy" in names(folder, compile_all=True)
    assert "www/served.py" in names(folder, compile_all=True)


def test_what_is_not_for_boards_stays_at_home(app):
    folder = app(
        {
            "README.md": "",
            "LICENSE": "",
            ".gitignore": "",
            "build/old.ota": "",
            "tests/test_app.py": "",
            "__pycache__/main.cpython-311.pyc": "",
            "lib/.hidden": "",
            "lib/a.pyc": "",
        }
    )
    assert names(folder) == ["main.py"]


def test_same_input_gives_the_same_bytes_wherever_and_whenever(app, monkeypatch):
    files = {"lib/a.py": "def f():\n    raise ValueError\n", "b/c.py": "x = 1\n", "main.py": "1"}
    one, two = app(files, "one"), app(dict(reversed(files.items())), "a/longer/way/two")
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert build.make(one, CLS, 5, note="n") == build.make(two, CLS, 5, note="n")


def test_bytecode_names_its_module_and_keeps_its_lines(app):
    code = contents(build.make(app({"lib/deep/a.py": "def f():\n    1/0\n"}), CLS, 5))
    assert b"deep.a\0" in code["lib/deep/a.mpy"]
    assert code["lib/deep/a.mpy"][:4] == b"M\x06\x00\x1f"


def test_the_projects_own_app_builds_for_each_of_its_classes():
    folder = places.sources("app_slots")
    for cls in facts(folder).classes:
        built = build.assemble(folder, cls, 5)
        listed = {file.name for file in built.manifest.files}
        assert {"main.py", "config.py", "runtime/installer.mpy"} <= listed
        bundle.check(built.manifest, contents(built.bundle))


def test_runtime_comes_from_the_project_unless_the_app_has_one_or_wants_none(app):
    with_it = 'name = "weather"\n'
    keys = {"config.py": 'LOG_LEVEL = 1  #: 0..3\nSERVER = ""  #: url\n'}
    assert "runtime/installer.mpy" in names(app(keys, "a", facts=with_it))
    own = app({"runtime/__init__.py": ""}, "b", facts=with_it)
    assert names(own) == ["main.py", "runtime/__init__.mpy"]
    assert names(app({"runtime/__init__.py": ""}, "c")) == ["main.py"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An installation with drivers a, b and the package c, of which b imports a."""
    root = tmp_path / "project"
    for name, text in {
        "drivers/a.py": "A = 1",
        "drivers/b.py": "def f():\n    from drivers import a\n",
        "drivers/c/__init__.py": "",
        "drivers/c/part.py": "",
        "utilities/u.py": "",
        "runtime/__init__.py": "",
        "main.py": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(places, "sources", lambda part: root)


@pytest.mark.parametrize(
    "source, taken",
    [
        ("print('drivers.a')", []),
        ("import drivers.a", ["drivers/a.mpy"]),
        ("from drivers import a", ["drivers/a.mpy"]),
        ("from drivers.a import A", ["drivers/a.mpy"]),
        ("from drivers.b import f", ["drivers/a.mpy", "drivers/b.mpy"]),
        ("def f():\n    import drivers.c.part", ["drivers/c/__init__.mpy", "drivers/c/part.mpy"]),
        ("__import__('utilities.u')", ["utilities/u.mpy"]),
        ("import drivers.a, utilities.u", ["drivers/a.mpy", "utilities/u.mpy"]),
    ],
)
def test_of_drivers_and_utilities_only_what_is_imported(app, project, source, taken):
    assert names(app({"main.py": source})) == sorted(["main.py", *taken])


def test_an_apps_own_driver_wins_over_the_projects(app, project):
    folder = app({"main.py": "import drivers.c", "drivers/c.py": "OWN = 1", "drivers/z.py": ""})
    assert names(folder) == ["drivers/c.mpy", "main.py"]


def test_an_import_from_nowhere_is_named(app, project):
    refused = refusal(app({"main.py": "import drivers.lost"}))
    assert "drivers.lost" in refused.text and "drivers/lost.py" in refused.hint


@pytest.mark.parametrize(
    "name, verb",
    [
        ("wifi.json", "portal"),
        ("lib/wifi.json", "portal"),
        ("release.pem", "mipy keys"),
        ("www/server.KEY", "mipy keys"),
        ("webrepl_cfg.py", "board file"),
        (".env", "config.py"),
        ("lib/.env.local", "config.py"),
    ],
)
def test_secrets_are_refused_and_shown_their_place(app, name, verb):
    refused = refusal(app({name: "hunter2"}))
    assert name.rsplit("/", 1)[-1] in refused.text and verb in refused.hint
    assert "hunter2" not in refused.text + refused.hint


@pytest.mark.parametrize(
    "files, said",
    [
        ({"main.py": None}, "no main.py"),
        ({"app.toml": None}, "no app.toml"),
        ({"app.toml": "name = 5"}, "name = 5"),
        ({"app.toml": "colour = 'red'\nname='x'"}, "colour"),
        ({"app.toml": "name = "}, "cannot read"),
        ({"app.toml": "runtime = false"}, "name"),
        ({"app.toml": "name = 'a/b'\nruntime = false"}, "a/b"),
        ({"app.toml": "name = 'a'\nruntime = false\nfloor = 6"}, "floor"),
        ({"lib/a.py": "", "lib/a.mpy": b"M\6\0\x1f"}, "beside"),
        ({"lib/a.py": "", "lib/a/b.py": ""}, "lib/a"),
        ({"lib/ä.py": ""}, "ä"),
        ({"lib/a b.txt": ""}, "a b"),
        ({"lib/" + "x" * 80: ""}, "name"),
        ({"manifest": ""}, "manifest"),
        ({f"d{i}/{j}": "" for i in range(4) for j in range(16)}, "65 files"),
        ({f"d/{i}": "" for i in range(33)}, "33 entries"),
        ({"lib/a.py": "def f(:\n"}, "line 1"),
        ({"lib/a.py": "x = 1\nreturn 5\n"}, "does not compile"),
        ({"lib/a.mpy": b"M\5\0\x1f"}, "bytecode"),
        ({"lib/a.mpy": b""}, "bytecode"),
        ({"lib/a.mpy": b"M\6\x27\x1f", "lib/b.mpy": b"M\6\x2b\x1f"}, "native"),
    ],
)
def test_what_cannot_be_a_release_is_refused_in_plain_words(app, files, said):
    assert said in refusal(app(files)).text


def test_a_link_is_refused(app, tmp_path):
    folder = app({})
    (folder / "lib").symlink_to(tmp_path)
    assert "link" in refusal(folder).text


def test_native_code_is_declared(app):
    source = "import micropython\n@micropython.native\ndef f(x):\n    return x + 1\n"
    folder = app({"lib/fast.py": source})
    for cls, arch in (
        (CLS, "xtensa"),
        ("esp8266-generic-1m", "xtensa"),
        ("esp32-generic", "xtensawin"),
        ("esp32-generic-s3", "xtensawin"),
        ("esp32-generic-c3", "rv32imc"),
        ("esp32c3-lamp", "rv32imc"),
    ):
        made = build.assemble(folder, cls, 5).manifest
        assert (made.arch, made.mpy) == (arch, "6.3")
    assert build.assemble(app({}, "plain"), CLS, 5).manifest.arch is None


def functions(count: int) -> str:
    return "".join(f"def f{i}(a, b):\n    return a * {i} + b\n" for i in range(count))


def test_heap_is_counted_by_where_modules_run(app):
    folder = app({"lib/half.py": functions(400)})
    assert not build.assemble(folder, CLS, 5).warnings  # in place
    assert any("heap" in w for w in build.assemble(folder, "esp8266-generic-1m", 5).warnings)


def test_what_will_not_fit_is_said(app):
    big = functions(800)
    folder = app({"lib/big.py": big})
    assert any("heap" in text for text in build.assemble(folder, CLS, 5).warnings)
    assert not build.assemble(folder, "esp32-generic", 5).warnings
    fat = app({"data.bin": bytes(500_000)}, "fat")
    assert any("flash" in text for text in build.assemble(fat, CLS, 5).warnings)
    assert any("nothing is known" in text for text in build.assemble(fat, "pico", 5).warnings)
    assert not build.assemble(app({}, "small"), CLS, 5).warnings


# --- the verbs ---------------------------------------------------------------------------------


@pytest.fixture
def mipy(monkeypatch, tmp_path, capsys):
    """Runs `mipy` in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "home"))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mipy", *map(str, words)])
        code = cli.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_build_writes_a_bundle_and_says_how_large_it_is(app, mipy, tmp_path):
    folder = app({"lib/a.py": "x = 1"})
    code, out, _ = mipy("build", folder, "--class", CLS, "--seq", 7, "--note", "1.8.0")
    path = tmp_path / "build" / f"weather-{CLS}-7.ota"
    assert code == 0 and "lib/a.mpy" in out
    made = manifest.parse(bundle.read(path.read_bytes())[0])
    assert (made.seq, made.note, made.signatures) == (7, "1.8.0", ())


def test_build_json_and_the_next_free_seq(app, mipy, tmp_path):
    folder = app({}, facts='name = "weather"\nclasses = ["a", "b"]\nruntime = false')
    first, second = (json.loads(mipy("build", folder, "--json")[1]) for _ in range(2))
    assert [row["class"] for row in first] == ["a", "b"]
    assert second[0]["seq"] > first[0]["seq"] >= build.minutes() - 2
    assert len(list((tmp_path / "build").iterdir())) == 4


def test_build_fails_in_one_line(app, mipy):
    code, out, err = mipy("build", app({}), "--json")
    assert (code, out) == (1, "") and "--class" in err
    code, _, err = mipy("build", app({"wifi.json": "{}"}), "--class", CLS)
    assert code == 1 and "wifi.json" in err and "Traceback" not in err
    code, _, err = mipy("build", "nowhere", "--class", CLS)
    assert code == 1 and "nowhere" in err
    code, _, err = mipy("build", app({}, "other"), "--class", "a/b")
    assert code == 1 and "a/b" in err


def test_new_app_builds_at_once_and_is_named_after_its_folder(mipy, tmp_path):
    code, _, _ = mipy("new", "garden")
    assert code == 0
    folder = tmp_path / "garden"
    assert facts(folder).name == "garden"
    assert 'NAME = "garden"' in (folder / "config.py").read_text()
    listed = names(folder)
    assert {"main.py", "config.py", "runtime/installer.mpy"} <= set(listed)
    assert "README.md" not in listed
    code, _, err = mipy("new", "garden")
    assert code == 1 and "is an app already" in err


def test_new_makes_an_app_of_a_folder_that_is_there(mipy, tmp_path, monkeypatch):
    """What is in it stays; what an app needs comes beside it."""
    folder = tmp_path / "garden"
    (folder / "drivers").mkdir(parents=True)
    (folder / "main.py").write_text("import runtime\nruntime.run(print)\n")
    (folder / "drivers" / "mine.py").write_text("")
    monkeypatch.chdir(folder)
    code, _, err = mipy("new", ".")
    assert code == 0 and "main.py is there and stays" in err
    assert (folder / "main.py").read_text().endswith("run(print)\n")
    assert {"main.py", "config.py"} <= set(names(folder)) and facts(folder).name == "garden"
    assert {path.name for path in tmp_path.iterdir()} == {"garden"}
    (tmp_path / "file").write_text("")
    assert mipy("new", tmp_path / "file")[0] == 1


def test_new_lists_its_examples(mipy):
    for name in new.LIST:
        code, out, _ = mipy("new", "--example", name)
        assert code == 0 and set(out.split()) == set(new.examples())
    code, _, err = mipy("new", "--example", "wether")  # that no folder is named comes later
    assert code == 1 and "there is no example 'wether'" in err and "weather" in err
    assert mipy("new")[0] == 2


def test_new_app_appears_whole_or_not_at_all(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new, "_text", fail)
    with pytest.raises(Failure, match="No space left"):
        new.make(tmp_path / "garden")
    with pytest.raises(Failure, match="no name"):
        new.make(tmp_path / "my garden")
    assert not list(tmp_path.iterdir())


def test_in_an_apps_folder_that_app_is_built(app, mipy, monkeypatch, tmp_path):
    code, _, err = mipy("build")
    assert code == 1 and "is no app" in err and "mipy new ." in err
    assert mipy("release")[0] == 1
    monkeypatch.chdir(places.sources("app_slots").parent)  # the project's checkout: its demo
    assert app_folder(None) == places.sources("app_slots")
    folder = app({}, facts='name = "here"\nclasses = ["esp32-x"]\nruntime = false')
    monkeypatch.chdir(folder)
    assert json.loads(mipy("build", "--json")[1])[0]["app"] == "here"
    assert app_folder(tmp_path) == tmp_path
