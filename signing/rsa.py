"""RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, section 8.2), e = 65537, as the chip checks it.

1. A key has 2048 or 3072 bits; n is odd and has its top bit set.
2. A signature has exactly as many bytes as n, and as a number it is below n.
3. The whole expected block is built and compared. Nothing is parsed, so there is no ASN.1 to
   get wrong and no room for garbage behind the hash.
4. A key's id is the first 8 bytes of SHA-256 of its big-endian n, as hex.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, utils
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from . import limits
from .reasons import Refused

EXPONENT = 65537
# DER of DigestInfo{sha256, 32 bytes}; RFC 8017, section 9.2, note 1.
_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


@dataclass(frozen=True)
class PublicKey:
    """The public half of a key.

    Args:
        modulus: n, big-endian, 256 or 384 bytes.

    Raises:
        Refused: ``syntax`` when n breaks rule 1.
    """

    modulus: bytes

    def __post_init__(self) -> None:
        n = self.modulus
        if len(n) not in limits.KEY_BYTES or not n[0] & 0x80 or not n[-1] & 1:
            raise Refused("syntax", "a key must be RSA with 2048 or 3072 bits")

    @property
    def id(self) -> str:
        """16 hex digits."""
        return hashlib.sha256(self.modulus).hexdigest()[:16]

    @property
    def text(self) -> str:
        """n as base64, as trust and board files spell it."""
        return base64.b64encode(self.modulus).decode()

    @classmethod
    def from_text(cls, text: str) -> "PublicKey":
        """The key that ``text`` (base64 of n) spells. Raises Refused: ``syntax``."""
        return cls(decode(text))

    @classmethod
    def of(cls, private: RSAPrivateKey) -> "PublicKey":
        """The public half of ``private``. Raises Refused: ``syntax`` for a foreign exponent."""
        numbers = private.public_key().public_numbers()
        if numbers.e != EXPONENT:
            raise Refused("syntax", f"a key must have the exponent {EXPONENT}")
        return cls(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big"))

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """Whether ``signature`` is this key's over the 32-byte SHA-256 ``digest``."""
        n, s = int.from_bytes(self.modulus, "big"), int.from_bytes(signature, "big")
        if len(signature) != len(self.modulus) or s >= n:
            return False
        block = pow(s, EXPONENT, n).to_bytes(len(self.modulus), "big")
        return block == expected_block(digest, len(self.modulus))


def expected_block(digest: bytes, size: int) -> bytes:
    """EMSA-PKCS1-v1_5 of a SHA-256 ``digest`` for a key of ``size`` bytes (RFC 8017, 9.2)."""
    tail = b"\0" + _SHA256_INFO + digest
    return b"\0\1" + b"\xff" * (size - 2 - len(tail)) + tail


def sign(private: RSAPrivateKey, digest: bytes) -> bytes:
    """The signature of ``private`` over the 32-byte SHA-256 ``digest``."""
    return private.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))


def new_key() -> RSAPrivateKey:
    """A fresh private key."""
    return generate_private_key(EXPONENT, limits.NEW_KEY_BITS)


def decode(text: str) -> bytes:
    """Bytes of base64 in its one canonical spelling. Raises Refused: ``syntax``."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("syntax", "broken base64") from error
    if base64.b64encode(value).decode() != text:
        raise Refused("syntax", "base64 that is not in its canonical form")
    return value
