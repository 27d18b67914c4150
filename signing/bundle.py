"""Bundles: a release as one file on its way between hosts (docs/protocol.md, "Bundle").

1. A zip of at most 16 MB: ``manifest``, then ``files/<name in the slot>`` sorted by name.
2. Everything is stored, not compressed, and dated 1980-01-01: equal releases are equal bytes.
3. Nothing else is in it: no comment, no zip64, no second file of a name, no encryption.
4. The files are those that the manifest lists, with their sizes and hashes.

No name in a bundle is ever used as a path here.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from typing import BinaryIO

from . import limits
from .manifest import Manifest
from .reasons import Refused

MANIFEST = "manifest"
FOLDER = "files/"
_END = struct.Struct("<4s4H2LH")  # the zip's last record, without comment
_ZIP64_LOCATOR_BYTES = 20
_DIRECTORY_BYTES = 64 * 1024  # 65 entries need a tenth of it


def write(raw_manifest: bytes, files: Mapping[str, bytes]) -> bytes:
    """The bundle of a manifest and its files (name in the slot -> content)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as bundle:
        bundle.writestr(_entry(MANIFEST), raw_manifest)
        for name in sorted(files):
            bundle.writestr(_entry(FOLDER + name), files[name])
    return out.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)  # dated 1980-01-01
    entry.create_system = 3  # also on Windows
    entry.external_attr = 0o644 << 16
    return entry


def read(source: bytes | BinaryIO) -> tuple[bytes, dict[str, bytes]]:
    """Manifest and files of a bundle, with no belief in either: see `check`.

    Args:
        source: the bundle, or a seekable file of it.

    Raises:
        Refused: ``size``, ``syntax`` or ``truncated``.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    _check_end(file)
    try:
        with zipfile.ZipFile(file) as bundle:
            entries = bundle.infolist()
            _check_entries(entries)
            contents = {entry.filename: bundle.read(entry) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError) as error:
        raise Refused("truncated", f"the bundle is damaged ({error})") from error
    if MANIFEST not in contents:
        raise Refused("syntax", "the bundle has no manifest")
    manifest = contents.pop(MANIFEST)
    return manifest, {name.removeprefix(FOLDER): content for name, content in contents.items()}


def _check_end(file: BinaryIO) -> None:
    """Before zipfile believes it: the directory is small, and there is just one."""
    size = file.seek(0, io.SEEK_END)
    if size > limits.BUNDLE_BYTES:
        raise Refused("size", f"{size} bytes, {limits.BUNDLE_BYTES} are allowed")
    file.seek(max(0, size - _END.size - _ZIP64_LOCATOR_BYTES))
    tail = file.read()
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise Refused("syntax", "this is no bundle, or not the whole of one")
    _, _, _, _, count, directory, _, _ = _END.unpack(tail[-_END.size :])
    if tail.startswith(b"PK\6\7") or count > limits.FILES + 1 or directory > _DIRECTORY_BYTES:
        raise Refused("syntax", "the bundle lists more than a release may hold")


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise Refused("syntax", "the bundle holds a name twice")
    for entry in entries:
        if entry.filename != MANIFEST and not entry.filename.startswith(FOLDER):
            raise Refused("extra", f"'{entry.filename[:80]}' does not belong into a bundle")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Refused("syntax", "a bundle stores its files plain")
    # Entries may overlap, so that few bytes pretend to be many.
    if sum(entry.file_size for entry in entries) > limits.BUNDLE_BYTES:
        raise Refused("size", f"more than {limits.BUNDLE_BYTES} bytes in all")


def check(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Rule 4.

    Raises:
        Refused: ``extra``, ``truncated``, ``size`` or ``hash``.
    """
    listed = {file.name: file for file in manifest.files}
    if extra := sorted(set(files) - set(listed)):
        raise Refused("extra", f"'{extra[0][:80]}'")
    for name, file in listed.items():
        if name not in files:
            raise Refused("truncated", f"'{name}' is missing")
        found = len(files[name])
        if found != file.size:
            code = "size" if found > file.size else "truncated"
            raise Refused(code, f"'{name}' has {found} bytes instead of {file.size}")
        if sha256(files[name]).hexdigest() != file.sha256:
            raise Refused("hash", f"'{name}'")
