"""Signatures on releases, by one key or by as many as the fleet's trust file asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...signing import bundle, manifest
from ..console import Failure
from . import signed
from . import store as keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey


def sign_bundle(release: bytes, private: RSAPrivateKey) -> bytes:
    """A bundle with one more signature on its manifest.

    Raises:
        Refused: the bundle is not in order; nothing broken is ever signed.
    """
    raw, files = bundle.read(release)
    bundle.check(manifest.parse(raw), files)
    return bundle.write(manifest.add_signature(raw, private), files)


def sign_for_fleet(release: bytes) -> bytes:
    """A bundle signed by as many release keys as the fleet's trust file asks for.

    Raises:
        Failure: too few of the keys are here.
        Refused: the bundle is not in order.
    """
    current = keys.trust()
    usable = keys.usable("release")
    if len(usable) < current.release_threshold:
        raise Failure(
            f"{current.release_threshold} release keys must sign, {len(usable)} are here",
            "bring them with `mipy keys restore`, or make one with `mipy keys new release`",
        )
    for key in usable[: current.release_threshold]:
        release = sign_bundle(release, keys.private(key))
    signed.keep(bundle.read(release)[0])
    return release


def in_words(made: manifest.Manifest) -> str:
    """What a release is, in a line."""
    return (
        f"{made.app} for {made.cls}, seq {made.seq}, floor {made.floor}, note '{made.title}', "
        f"{len(made.files)} files, digest {made.digest[:8]}"
    )
