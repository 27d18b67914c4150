"""Private keys for tests. Each is made once for a checkout and kept in .cache/, for its owner only.

No real board ever trusts one of them.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from functools import cache

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mipy_ota.signing import keys, limits, rsa
from tests.support import ROOT

FOLDER = ROOT / ".cache" / "test-keys"
_POOL = itertools.cycle(range(8))


@cache
def key(name: str, bits: int = limits.NEW_KEY_BITS) -> RSAPrivateKey:
    """The key of that name and size, the same in every process."""
    path = FOLDER / f"{re.sub('[^a-z0-9]', '-', name)}-{bits}.pem"
    if not path.exists():
        FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=FOLDER)
        with os.fdopen(handle, "wb") as file:
            file.write(keys.to_pem(generate_private_key(rsa.EXPONENT, bits)))
        try:
            os.link(part, path)
        except FileExistsError:
            pass  # another process was faster: its key is the one
        finally:
            os.unlink(part)
    # Our own: to prove its primes at each start would cost as much as the rest of it.
    found = load_pem_private_key(path.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(found, RSAPrivateKey)
    return found


def pooled() -> RSAPrivateKey:
    """In the place of a fresh key: one that none of the last seven calls has returned."""
    return key(f"pool {next(_POOL)}")
