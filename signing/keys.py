"""Private keys as PEM (PKCS 8). Bytes in, bytes out; where they are kept is not decided here.

Roles: ``root`` signs trust files and stays offline, ``release`` signs manifests, ``debug`` signs
orders that open a board, ``dev`` signs for single boards and stands in no trust file.
"""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from .rsa import PublicKey

TRUST_ROLES = ("root", "release", "debug")
ROLES = (*TRUST_ROLES, "dev")


class BadKey(Exception):
    """A PEM file that is no usable private key; the message says why."""


class PassphraseNeeded(BadKey):
    """The key is encrypted and no passphrase was given."""


def to_pem(private: RSAPrivateKey, passphrase: str | None = None) -> bytes:
    """``private`` as PEM, encrypted when there is a passphrase."""
    lock = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


def is_encrypted(pem: bytes) -> bool:
    """Whether a passphrase is needed to read ``pem``."""
    return b"ENCRYPTED" in pem.split(b"\n", 1)[0]


def from_pem(pem: bytes, passphrase: str | None = None) -> RSAPrivateKey:
    """The private key in ``pem``.

    Raises:
        PassphraseNeeded: it is encrypted and ``passphrase`` is None.
        BadKey: the passphrase is wrong, or it is no RSA key.
        Refused: ``syntax`` when it is an RSA key of another size or exponent.
    """
    locked = is_encrypted(pem)
    if locked and passphrase is None:
        raise PassphraseNeeded("the key is protected by a passphrase")
    try:
        private = load_pem_private_key(
            pem, passphrase.encode() if locked and passphrase is not None else None
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "the passphrase is wrong" if locked else "this is no private key in PEM form"
        raise BadKey(reason) from error
    if not isinstance(private, RSAPrivateKey):
        raise BadKey("this is no RSA key")
    PublicKey.of(private)  # refuses sizes and exponents that no board accepts
    return private
