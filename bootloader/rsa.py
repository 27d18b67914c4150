"""RSASSA-PKCS1-v1_5 with SHA-256 and e = 65537 (RFC 8017, 8.2.2), verification only.

The expected block is built and compared whole, so there is no ASN.1 to parse. Sixteen squarings
and a multiplication, because ESP8266 has no pow(a, b, m).
"""

# DER of DigestInfo for SHA-256, RFC 8017 9.2 note 1
_INFO = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"


def verify(n, sig, digest):
    """True when `sig` is the signature of `digest` (32 bytes) under the modulus `n` (bytes)."""
    k = len(n)
    if len(sig) != k or k not in (256, 384):
        return False
    want = b"\x00\x01" + b"\xff" * (k - 54) + b"\x00" + _INFO + digest
    n = int.from_bytes(n, "big")
    s = int.from_bytes(sig, "big")
    if s >= n:
        return False
    x = s
    for _ in range(16):
        x = x * x % n
    return (x * s % n).to_bytes(k, "big") == want
