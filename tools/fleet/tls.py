"""A certificate of this server's own, which browsers warn about once."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from pathlib import Path

from .. import places
from ..files import failed, write

DAYS = 397
"""No browser takes one that lasts longer."""


def certificate(address: str) -> Path:
    """A file with key and certificate for `address` and localhost, made when needed.

    Args:
        address: IP address or name under which browsers reach the server.

    Raises:
        Failure: it cannot be written.
    """
    path = places.fleet_dir() / f"tls-{address.strip('[]').replace(':', '_')}"
    if not _good(path):
        try:
            write(path, _make(address.strip("[]")), 0o600)
        except OSError as problem:
            raise failed(f"cannot write {path}", problem) from None
    return path


def _good(path: Path) -> bool:
    from cryptography import x509

    if not path.exists():
        return False
    found = x509.load_pem_x509_certificate(path.read_bytes())
    return found.not_valid_after_utc > _now() + datetime.timedelta(days=1)


def _make(address: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "MiPy-OTA")])
    names = [_name(one) for one in dict.fromkeys([address, socket.gethostname(), "localhost"])]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(days=1))
        .not_valid_after(_now() + datetime.timedelta(days=DAYS - 1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + made.public_bytes(serialization.Encoding.PEM)


def _name(text: str):
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
