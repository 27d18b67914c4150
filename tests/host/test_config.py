"""config.py: what may be in it, and what a build says when it does not fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mipy_ota.tools import places
from mipy_ota.tools.app import build, config
from mipy_ota.tools.console import Failure

GOOD = """\
'''Settings.'''

# Plain comments say nothing to the build: 1..3
NAME = "x"
LED = 2  #: 0..16
OFFSET = -1.5  #: -10..
ON = True
PAUSE = 60 * 60
UNIT = "C"  #: C | F
PASSWORD = ""  #: secret
SERVER = ""  #: url
ZONE = "CET-1CEST,M3.5.0,M10.5.0/3"  #: tz
"""


def failure(source: str) -> str:
    with pytest.raises(Failure) as caught:
        config.declared(source)
    assert "\n" not in caught.value.text and caught.value.hint
    return caught.value.text


def test_good() -> None:
    keys = config.declared(GOOD)
    assert {name: key.default for name, key in keys.items() if name != "ZONE"} == {
        "NAME": "x",
        "LED": 2,
        "OFFSET": -1.5,
        "ON": True,
        "PAUSE": 3600,
        "UNIT": "C",
        "PASSWORD": "",
        "SERVER": "",
    }
    assert [key.name for key in keys.values() if key.secret] == ["PASSWORD"]
    assert keys["LED"].text == "LED = 2  #: 0..16"


def test_the_projects_own() -> None:
    keys = config.declared((places.sources("app_slots") / "config.py").read_text())
    assert keys["LOG_LEVEL"].rule == "0..3"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("A = [1]", "config.py, line 2: the default of A is neither"),
        ("A = None", "line 2: the default of A is neither"),
        ("A = 1 // 0", "line 2: the default of A is neither"),
        ("A = open('x')", "line 2: the default of A is neither"),
        ("import os", "line 2 is no setting"),
        ("A = B = 1", "line 2 is no setting"),
        ("_A = 1", "_A is declared twice or private"),
        ("NAME = 1", "NAME is declared twice"),
        ("A = (", "config.py, line 2: "),
        ("A = 1  #: 2..3", "line 2: the default of A is not within 2..3"),
        ('A = "x"  #: 1..3', "`#: 1..3` is no rule for a text"),
        ("A = 1  #: secret", "is no rule for a whole number"),
        ("A = True  #: 0..1", "is no rule for a switch"),
        ('A = "k"  #: C | F', "the default of A is not one of C, F"),
        ("#: secret", "belongs to no setting"),
        ('A = "hush"  #: secret', "releases can be read by anybody"),
        ('MQTT_PASSWORD = ""', "sounds like a secret"),
        ('mqtt_password = "hush"', "sounds like a secret"),
        ('API_KEY = "hush"', "sounds like a secret"),
        ('WIFI_PSK = "hush"', "sounds like a secret"),
        ('A = "a\\nb"', "the default of A is not one line of text"),
        ('A = "CET"  #: tz', "the default of A is not a POSIX time zone rule"),
        ('A = "server:80"  #: url', "the default of A is not an address like"),
    ],
)
def test_bad(line: str, said: str) -> None:
    assert said in failure(f'NAME = "x"\n{line}\n')


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("NAME", " two  words ", " two  words "),
        ("LED", "16", 16),
        ("LED", "17", None),
        ("LED", "1.5", None),
        ("OFFSET", "2", 2.0),
        ("OFFSET", "-11", None),
        ("OFFSET", "nan", None),
        ("ON", "off", False),
        ("ON", "2", None),
        ("UNIT", "F", "F"),
        ("UNIT", "K", None),
        ("SERVER", "http://192.168.1.2:8266", "http://192.168.1.2:8266"),
        ("SERVER", "", ""),
        ("SERVER", "http://a/b", None),
        ("ZONE", "<+0330>-3:30", "<+0330>-3:30"),
        ("ZONE", "EST5EDT,M3.2.0,M11.1.0", "EST5EDT,M3.2.0,M11.1.0"),
        ("ZONE", "Europe/Berlin", None),
    ],
)
def test_values(name: str, text: str, value: config.Value | None) -> None:
    key = config.declared(GOOD)[name]
    if value is None:
        with pytest.raises(ValueError) as caught:
            key.parse(text)
        assert text not in str(caught.value) or not text
    else:
        assert key.parse(text) == value and type(key.parse(text)) is type(key.default)


def app(folder: Path, **files: str) -> Path:
    for name, text in ({"app.toml": 'name = "a"\n'} | files).items():
        (folder / name).write_text(text)
    return folder


RUNS = "import config\nimport runtime\n\n\ndef setup(app):\n    print(config.LED)\n"
DECLARED = 'LED = 2\nLOG_LEVEL = 1  #: 0..3\nSERVER = ""  #: url\n'


@pytest.mark.parametrize(
    ("main", "declares", "said", "hint"),
    [
        (RUNS, DECLARED[8:], "main.py, line 6 uses config.LED, which config.py", "LED = ..."),
        (RUNS, DECLARED[:31], "uses config.SERVER, which", '`SERVER = ""  #: url`'),
        (
            RUNS,
            DECLARED.replace("= 1  #: 0..3", '= "info"'),
            "config.py, line 2: LOG_LEVEL is a whole number with the rule `#: 0..3` for",
            "`LOG_LEVEL = 1  #: 0..3`",
        ),
        (RUNS, DECLARED.replace("  #: 0..3", ""), "LOG_LEVEL is a whole number with the rule", "`"),
        ("from config import X\nimport runtime\n", DECLARED, "uses config.X", "X = ..."),
        (
            RUNS.replace("config", "config as c", 1).replace("config.LED", "c.NOPE"),
            DECLARED,
            "main.py, line 6 uses config.NOPE",
            "NOPE = ...",
        ),
        (RUNS.replace("config.LED", "getattr(config, 'NOPE')"), DECLARED, "uses config.NOPE", "N"),
    ],
)
def test_what_a_build_refuses(
    tmp_path: Path, main: str, declares: str, said: str, hint: str
) -> None:
    with pytest.raises(Failure) as caught:
        build.assemble(app(tmp_path, **{"main.py": main, "config.py": declares}), "unix", 1)
    assert said in caught.value.text and hint in caught.value.hint


MQTT = """\
import config
import runtime


def setup(app):
    from runtime.homeassistant import HomeAssistant
    from runtime.mqtt import Mqtt
    from runtime.syslog import Syslog

    HomeAssistant(app, Mqtt(app))
    Syslog(app)


runtime.run(setup)
"""
HOST = 'MQTT_HOST = ""\n'
LOGS = 'SYSLOG_HOST = ""\n'


@pytest.mark.parametrize(
    ("more", "said", "hint"),
    [
        ("", "runtime/mqtt.py, line ", '`MQTT_HOST = ""`'),
        ('MQTT_HOSTS = "192.168.1.5"\n', "uses config.MQTT_HOST, which", '`MQTT_HOST = ""`'),
        ("MQTT_HOST = 5\n", "MQTT_HOST is a text for runtime/mqtt.py", '`MQTT_HOST = ""`'),
        (HOST + 'MQTT_PORT = "1883"\n', "MQTT_PORT is a whole number", "0..65535`"),
        (HOST + "MQTT_PORT = 1883\n", "with the rule `#: 0..65535`", "0..65535`"),
        (HOST + "MQTT_PORT = -1  #: 0..65535\n", "default of MQTT_PORT is not within", "correct"),
        (HOST + 'MQTT_TLS = "no"\n', "MQTT_TLS is a switch", "`MQTT_TLS = False`"),
        (HOST + "MQTT_CA = 1\n", "MQTT_CA is a text", '`MQTT_CA = ""`'),
        (HOST + "MQTT_USER = 1\n", "MQTT_USER is a text", '`MQTT_USER = ""`'),
        (HOST + "MQTT_PASSWORD = 1\n", "MQTT_PASSWORD is a text", "secret`"),
        (HOST + "SYSLOG_HOST = 1\n", "SYSLOG_HOST is a text for runtime/syslog.py", "SYSLOG_HOST"),
        (HOST + "SYSLOG_PORT = 5.14\n", "SYSLOG_PORT is a whole number", "0..65535`"),
        (HOST + "NAME = 1\n", "NAME is a text for runtime/discovery.py", '`NAME = ""`'),
    ],
)
def test_a_broker_that_is_misnamed(tmp_path: Path, more: str, said: str, hint: str) -> None:
    declares = DECLARED + "PORTAL = 30  #: 0..\n" + more
    with pytest.raises(Failure) as caught:
        build.assemble(app(tmp_path, **{"main.py": MQTT, "config.py": declares}), "unix", 1)
    assert "\n" not in caught.value.text
    assert said in caught.value.text and hint in caught.value.hint


def test_a_broker_and_no_more(tmp_path: Path) -> None:
    declares = DECLARED + "PORTAL = 30  #: 0..\n" + 'MQTT_HOST = "a"  #: a | b\n' + LOGS
    build.assemble(app(tmp_path, **{"main.py": MQTT, "config.py": declares}), "unix", 1)


def test_a_value_read_too_early(tmp_path: Path) -> None:
    files = {"main.py": RUNS + "\n\nPIN = config.LED\n", "config.py": DECLARED}
    warnings = build.assemble(app(tmp_path, **files), "unix", 1).warnings
    assert (
        len([text for text in warnings if "main.py, line 9 reads config.LED before" in text]) == 1
    )


def test_board_and_build_know_the_same_names_of_secrets() -> None:
    board = (places.sources("app_slots") / "runtime" / "settings.py").read_text()
    found = re.search(r'^_NAMED = b" (.+) "$', board, re.MULTILINE)
    build_knows = re.search(r"\(([A-Z|]+)\)$", config._NAMED_SECRET.pattern)
    assert found and build_knows
    assert sorted(found[1].split()) == sorted(build_knows[1].split("|"))


def test_a_setting_that_nothing_reads(tmp_path: Path) -> None:
    declares = DECLARED + "PORTAL = 30  #: 0..\n" + HOST + LOGS + "MQTT_PROT = 1884\n"
    built = build.assemble(app(tmp_path, **{"main.py": MQTT, "config.py": declares}), "unix", 1)
    unread = [text for text in built.warnings if "nothing reads" in text]
    assert [text.split(" declares ")[1].split(",")[0] for text in unread] == ["LED", "MQTT_PROT"]
    assert "line 7" in unread[1] and "misspelled" in unread[1]


@pytest.mark.parametrize(
    ("uses", "line"),
    [
        ("from utilities import daily", 'NTP = "pool.ntp.org"'),
        ("from runtime.syslog import Syslog", 'SYSLOG_HOST = ""'),
    ],
)
def test_a_setting_that_is_missing(tmp_path: Path, uses: str, line: str) -> None:
    files = {"main.py": f"{RUNS}    {uses}\n", "config.py": DECLARED + "PORTAL = 30  #: 0..\n"}
    with pytest.raises(Failure) as caught:
        build.assemble(app(tmp_path, **files), "unix", 1)
    assert "does not declare" in caught.value.text and f"write `{line}`" in caught.value.hint


def test_a_local_name_is_not_the_module(tmp_path: Path) -> None:
    files = {"main.py": "def f(config):\n    return config.other\n", "config.py": DECLARED}
    build.assemble(app(tmp_path, **files), "unix", 1)
    main = "import config as c\nf = lambda c: c.other\nfor d in 'ab':\n    print(c.LED)\n"
    build.assemble(app(tmp_path, **(files | {"main.py": main})), "unix", 1)


def test_without_the_runtime_it_is_a_module_like_any_other(tmp_path: Path) -> None:
    facts = 'name = "a"\nruntime = false\n'
    files = {"main.py": "import config\n", "config.py": "PINS = [1, 2]\n", "app.toml": facts}
    build.assemble(app(tmp_path, **files), "unix", 1)
