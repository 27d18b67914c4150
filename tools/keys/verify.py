"""`mipy sign` and `mipy verify`: who vouches for a release or a trust file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...signing import bundle, limits, manifest, trust
from ...signing.reasons import Refused
from ...signing.rsa import PublicKey
from .. import console, options
from ..console import Failure
from ..files import failed, write
from . import sign as signing
from . import signed
from . import store as keys

if TYPE_CHECKING:
    pass


def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A release (.ota).")],
    key: Annotated[
        str | None, typer.Option(metavar="ID", help="Sign with this key, or the start of its id.")
    ] = None,
    dev: Annotated[
        bool, typer.Option("--dev", help="Sign with the dev key, for boards that carry it.")
    ] = False,
) -> None:
    """Sign a release, in place."""
    content = _read(file)
    try:
        if key or dev:
            chosen = keys.find(key, ("dev",) if dev else ("release", "dev"))
            done = signing.sign_bundle(content, keys.private(chosen))
            if chosen.role == "release":
                signed.keep(bundle.read(done)[0])
        else:
            done = signing.sign_for_fleet(content)
    except Refused as refused:
        raise Failure(f"{file} is not signed: {refused}", "build it again") from refused
    try:
        write(file, done)
    except OSError as problem:
        raise failed(f"cannot write {file}", problem) from problem
    made = manifest.parse(bundle.read(done)[0])
    console.say(f"{file}: {signing.in_words(made)}")
    console.say(f"signed by {', '.join(one.key_id for one in made.signatures)}")


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A release or a trust file.")],
    trust_path: Annotated[
        Path | None,
        typer.Option("--trust", metavar="FILE", help="The trust file to believe; the fleet's."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check a release or trust file as a board would, and tell who signed it."""
    content = _read(file)
    try:
        if content.startswith(trust.HEADER.encode() + b"\n"):
            found = _verify_trust(content, trust_path)
        else:
            found = _verify_release(content, trust_path)
    except Refused as refused:
        if as_json:
            console.data({"ok": False, "code": refused.code, "detail": refused.detail})
            raise typer.Exit(1) from refused
        raise Failure(
            f"{file} is refused ({refused.code}): {refused}",
            "get the file again, or make a new one: `mipy build`, `mipy sign`",
        ) from refused
    if as_json:
        console.data({"ok": True, **found})
    else:
        console.show({key: _words(value) for key, value in found.items()}, as_json=False)


def _words(value: object) -> object:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else value


def _verify_release(content: bytes, trust_path: Path | None) -> dict[str, Any]:
    raw, files = bundle.read(content)
    if trust_path:
        believed, dev_keys = trust.parse(_read(trust_path)), []
    else:
        believed, dev_keys = keys.trust(), [PublicKey.of(keys.private(key)) for key in _dev(raw)]
    verified = manifest.verify(raw, believed, dev_keys[0] if dev_keys else None)
    made = verified.manifest
    bundle.check(made, files)
    return {
        "app": made.app,
        "class": made.cls,
        "seq": made.seq,
        "floor": made.floor,
        "note": made.title,
        "files": len(made.files),
        "bytes": made.total,
        "digest": made.digest,
        "signed by": list(verified.signers),
        "with": "a dev key" if verified.dev else f"trust version {believed.version}",
    }


def _dev(raw: bytes) -> list[keys.KeyFile]:
    """This fleet's dev keys among those that a manifest says have signed it."""
    ids = {signature.key_id for signature in manifest.parse(raw).signatures}
    return [key for key in keys.entries() if key.role == "dev" and key.id in ids]


def _verify_trust(content: bytes, trust_path: Path | None) -> dict[str, Any]:
    version = trust.parse(content).version
    if version == 1:
        new = trust.verify_first(content)
    elif trust_path:
        new = trust.verify_next(trust.parse(_read(trust_path)), content)
    else:
        known = keys.trust_files()
        if len(known) < version - 1:
            raise Refused("trust-version", f"version {version - 1} is not here")
        new = trust.verify_chain([*known[: version - 1], content])
    return {
        "fleet": new.fleet,
        "version": new.version,
        "keys": [f"{role} {key.id}" for role, key in new.keys],
        "revoked": list(new.revoked),
        "root threshold": new.root_threshold,
        "release threshold": new.release_threshold,
        "signed by": sorted({one.key_id for one in new.signatures}),
    }


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limits.BUNDLE_BYTES + 1)
    except OSError as problem:
        raise failed(f"cannot read {path}", problem, "name a file") from problem
    if len(content) > limits.BUNDLE_BYTES:
        raise Failure(f"{path} is larger than any release may be ({limits.BUNDLE_BYTES} bytes)")
    return content
