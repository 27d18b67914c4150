"""An app held against what its boards have and what anybody may read, before a board learns it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .. import places
from . import config, entry, imports, leaks, packages, source
from .collect import is_module, left_out
from .project import Facts


def check(app_dir: Path, about: Facts, sources: Mapping[str, Path], cls: str) -> list[str]:
    """Hold an app's files (name in the slot -> file) against all that is known of its boards.

    Returns warnings.

    Raises:
        Failure: a release of them cannot work, or holds a secret; it says where.
    """
    trees = {name: source.parsed(path) for name, path in sources.items() if is_module(name)}
    root = places.sources("app_slots")
    locked = {name for package in packages.read_lock(app_dir).values() for name in package.files}
    # The project's own are held against all this by its lint and tests.
    own = {
        name: path
        for name, path in sources.items()
        if root not in path.parents or app_dir.resolve() == root.resolve()
    }
    own_trees = {name: tree for name, tree in trees.items() if name in own}
    warnings = [
        f"{name} began with a byte order mark, which boards take for a name; the release has none"
        for name in own_trees
        if source.has_bom(own[name])
    ]
    # Without the runtime config.py is a module like any other.
    warnings += config.check(sources) if about.runtime else []
    warnings += imports.check(
        sources, trees, cls, more=about.modules, left_out=left_out(app_dir), locked=locked
    )
    warnings += entry.warnings(own_trees, about.runtime)
    written = {name: path for name, path in own.items() if name.removeprefix("lib/") not in locked}
    leaks.check(written, own_trees, about.public)
    return warnings
