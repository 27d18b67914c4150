"""Every manifest and trust file of vectors.py through the chip's own code, on a real MicroPython.

The boot stage runs as the bytecode that is flashed. Stood in for are the places of the trust
copies (the run's own folder instead of the flash) and `ota.stage`, which just imports here.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from mipy_ota.tools.app.compile import boot_stage
from tests.support import vectors

# What the root thresholds of the old version and of the new have signed is beyond attack. The rest
# of the rules guards against a mistake of the signer, who keeps them all, as the server does. The
# chip saves their bytes where breaking one does no harm. Vector -> what the chip says instead.
LENIENT = {
    "version 0": "trust-version",  # refused, by another name
    "a fleet that is a path": "fleet",
    "threshold 0": "trust-sig",
    "roles out of order": "trust-sig",  # the first root key is no root key there
    "unknown role": "",  # a key of no role that is asked for counts for nothing
    "key id in capitals": "",  # revokes nothing
    "revoked twice": "",
    "a key listed twice": "",  # signatures count by key id
    "a 1024-bit key": "",  # verifies nothing: rsa.py takes 2048 and 3072 bits
    "an even modulus": "",  # the key's owner may as well have given it away
}

_CHIP = """
import json
import sys

sys.path[:] = ["", ".frozen"]


class Ota:
    pass


def stage(name):
    __import__("bootloader." + name)
    return sys.modules["bootloader." + name]


Ota.stage = stage
sys.modules["ota"] = Ota
from bootloader import manifest_syntax, record, trust, trust_update
from bootloader.manifest import Rejected

trust.path = lambda copy: "trust%d" % copy
record.store = lambda r: None


def read(name):
    with open(name, "rb") as f:
        return f.read()


def put(old):
    for copy in (0, 1):
        with open(trust.path(copy), "wb") as f:
            f.write(read(old))


def judge_manifest(one):
    put(one["trust"])
    with open("board", "w") as f:
        f.write("dev %s\\nend\\n" % one["dev"])
    trust.verify(one["raw"], b"ota-manifest-v1\0", {"dev": "board"} if one["dev"] else {})
    with open(one["raw"], "rb") as f:
        manifest_syntax.check_manifest(f)


def judge_step(one):
    put(one["trust"])
    try:
        trust_update.apply_next(one["raw"], record.Record(), trust.load()[1] + 1)
    except Rejected:
        assert read(trust.path(0)) == read(trust.path(1)) == read(one["trust"])
        raise
    assert read(trust.path(0)) == read(trust.path(1)) == read(one["raw"])


with open("vectors") as f:
    for line in f:
        one = json.loads(line)
        try:
            judge_step(one) if one["step"] else judge_manifest(one)
            code = ""
        except Rejected as e:
            code = e.args[0]
        except Exception as e:
            code = repr(e)
        print("=" + json.dumps(code))
"""


def judged(mpy: list[str], folder: Path, cases: list[tuple[bytes, bytes, str, bool]]) -> list[str]:
    """What the chip says of each (file, trust file that counts, dev key, is a trust step)."""
    stage = boot_stage.compiled(boot_stage.sources(), [_CHIP.encode()])
    for name, content in stage.items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    lines = []
    for index, (raw, trust, dev, step) in enumerate(cases):
        (folder / f"raw{index}").write_bytes(raw)
        (folder / f"by{index}").write_bytes(trust)
        one = {"raw": f"raw{index}", "trust": f"by{index}", "dev": dev, "step": step}
        lines.append(json.dumps(one) + "\n")
    (folder / "vectors").write_text("".join(lines))
    (folder / "judge.py").write_text(_CHIP)
    done = subprocess.run(
        [*mpy, "judge.py"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("=")]
    assert len(said) == len(cases), done.stdout + done.stderr
    return [json.loads(line[1:]) for line in said]


def test_manifests(mpy: list[str], tmp_path: Path) -> None:
    every = list(vectors.manifest_vectors())
    said = judged(mpy, tmp_path, [(v.raw, v.trust, v.dev, False) for v in every])
    wrong = {v.name: (v.code, got) for v, got in zip(every, said, strict=True) if v.code != got}
    assert len(every) > 200 and not wrong


def test_trust_steps(mpy: list[str], tmp_path: Path) -> None:
    every = list(vectors.trust_steps())
    said = judged(mpy, tmp_path, [(s.new, s.old, "", True) for s in every])
    wrong = {s.name: got for s, got in zip(every, said, strict=True) if s.code != got}
    assert len(every) > 30
    assert wrong == LENIENT
