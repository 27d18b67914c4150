"""Each rule finds what it is for, and leaves ordinary device code alone."""

from pathlib import Path

import pytest

from mipy_ota.tools import places
from mipy_ota.tools.app import lint_device

PATH = Path("x.py")
OWN = ("runtime", "ota")

PLANTED = [
    ("x = pow(2, 65537, n)", "pow(a, b, m)"),
    ("import binascii\ny = binascii.crc32(b'')", "binascii.crc32"),
    ("from binascii import crc32", "binascii.crc32"),
    ("import binascii as b\ny = b.crc32(b'')", "binascii.crc32"),
    ("import hashlib\nhashlib.md5()", "hashlib.md5"),
    ("import machine\nmachine.soft_reset()", "machine.soft_reset"),
    ("import os\nos.sync()", "os.sync"),
    ("import os\nos.path.join('a', 'b')", "os.path"),
    ("import sys\nsys.ps1 = '> '", "sys.ps1"),
    *[
        (f"import random\nrandom.{name}(x)", f"random.{name}")
        for name in ("choice", "randint", "randrange", "uniform", "random", "shuffle")
    ],
    *[
        (f"from math import {name}", f"math.{name}")
        for name in ("factorial", "isclose", "gamma", "erf", "sinh", "tau", "inf")
    ],
    *[
        (f"x.{name}()", f".{name}()")
        for name in (
            "partition",
            "rpartition",
            "splitlines",
            "center",
            "bit_length",
            "hexdigest",
            "indices",
            "cast",
        )
    ],
    *[
        (f"y = {name}", name)
        for name in ("compile", "execfile", "__file__", "NotImplemented", "complex")
    ],
    ("z = 2j", "complex number"),
    ("class A:\n    def __setattr__(self, k, v): self.x = v", "__setattr__"),
    ("class A:\n    def __delattr__(self, k): self.x = k", "__delattr__"),
    *[
        (f"import {name}", f"module {name}")
        for name in (
            "hmac",
            "logging",
            "pathlib",
            "typing",
            "dataclasses",
            "enum",
            "_thread",
            "vfs",
            "numpy",
        )
    ],
    ("from typing import Any", "module typing"),
    ("try:\n    f()\nexcept:\n    pass", "swallowed"),
    ("try:\n    f()\nexcept Exception:\n    pass", "swallowed"),
    ("try:\n    f()\nexcept BaseException:\n    'no matter'", "swallowed"),
    (
        "for x in y:\n    try:\n        f()\n    except (OSError, Exception):\n        continue",
        "swal",
    ),
    ("def g():\n    try:\n        f()\n    except Exception:\n        return", "swallowed"),
    ("while True:\n    pass", "waits for ever"),
    ("while 1:\n    continue", "waits for ever"),
    ("def f(:", "syntax"),
]

CLEAN = """
import binascii, gc, json, machine, os, random, re, sys
import asyncio
import ota
from hashlib import sha256
from micropython import const
from runtime import log
from umqtt.simple import MQTTClient

_N = const(16)
PATTERN = re.compile("a+")

def f(x, choice):
    try:
        os.stat("/x")
    except OSError:
        pass
    try:
        g()
    except Exception as e:
        log.error(e)
    while True:
        x = x * x % 7 + pow(2, 3)
        if not x:
            machine.reset()
    return binascii.hexlify(sha256(b"").digest()), random.getrandbits(3), choice.random

class Light:
    def __init__(self):
        self.compile = None
"""


@pytest.mark.parametrize(("source", "text"), PLANTED, ids=[source for source, _ in PLANTED])
def test_planted_is_found(source: str, text: str) -> None:
    found = lint_device.check(source, PATH, OWN)
    assert len(found) == 1
    assert text in str(found[0])
    assert str(found[0]).startswith("x.py:")


def test_clean_code_passes() -> None:
    assert lint_device.check(CLEAN, PATH, OWN) == []


def test_an_import_that_may_fail_passes_where_that_is_caught() -> None:
    guarded = "try:\n    import vfs\nexcept {}:\n    vfs = None\n"
    assert lint_device.check(guarded.format("ImportError"), PATH) == []
    assert lint_device.check(guarded.format("(OSError, ImportError)"), PATH) == []
    assert lint_device.check(guarded.format("OSError"), PATH) != []


def test_line_is_that_of_the_construct() -> None:
    assert lint_device.check("a = 1\n\nb = a.center(3)\n", PATH)[0].line == 3


def test_folder_reads_all_sources(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mine.py").write_text("x = 1j")
    (tmp_path / "main.py").write_text("import mine\nimport yours")
    own = lint_device.own_modules(tmp_path)
    found = lint_device.check_folder(tmp_path, own)
    assert [(finding.path.name, finding.line) for finding in found] == [
        ("mine.py", 1),
        ("main.py", 2),
    ]


def test_this_tree_is_clean() -> None:
    app = places.sources("app_slots")
    own = lint_device.own_modules(app)
    folders = (places.sources("bootloader"), app)
    assert [str(f) for folder in folders for f in lint_device.check_folder(folder, own)] == []
