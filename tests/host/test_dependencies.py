"""What pyproject.toml declares: all that is imported, and of uvicorn's insides what is built on."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version

from packaging.requirements import Requirement
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mipy_ota.ota_server.web.limits import GuardedProtocol
from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = {one.name: one for one in map(Requirement, PROJECT["dependencies"])}
OPTIONAL = {one for extra in PROJECT["optional-dependencies"].values()
            for one in (Requirement(text).name for text in extra)}  # fmt: skip


def imported() -> set[str]:
    """The top-level modules that the host's code imports, lazily or not."""
    found: set[str] = set()
    for part in ("signing", "ota_server", "tools"):
        for path in (ROOT / part).rglob("*.py"):
            if "chip" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found.add(str(node.module).split(".")[0])
    return found - sys.stdlib_module_names - {"mipy_ota"}


def test_what_is_imported_is_declared() -> None:
    owners = packages_distributions()
    missing = {
        name
        for name in imported()
        if not {re.sub(r"[-_.]+", "-", one).lower() for one in owners.get(name, [name])}
        & (DECLARED.keys() | OPTIONAL)
    }
    assert missing == set()


def test_every_installed_version_is_within_its_bounds() -> None:
    wrong = {
        name: version(name)
        for name, wanted in DECLARED.items()
        if not wanted.specifier.contains(version(name), prereleases=True)
    }
    assert wrong == {}


def test_what_is_built_on_in_uvicorn_is_still_there() -> None:
    """GuardedProtocol overrides and calls methods of a class that uvicorn keeps for itself.

    If this fails, read the changes to uvicorn/protocols/http/httptools_impl.py, see that
    ota_server/web/limits.py still holds, and only then raise the upper bound in pyproject.toml.
    """
    assert "<" in str(DECLARED["uvicorn"].specifier), "every release of uvicorn must be looked at"
    expected = {
        "connection_made": ["self", "transport"],
        "connection_lost": ["self", "exc"],
        "data_received": ["self", "data"],
        "on_message_begin": ["self"],
        "on_headers_complete": ["self"],
        "_unset_keepalive_if_required": ["self"],
    }
    there = {
        name: list(inspect.signature(getattr(HttpToolsProtocol, name)).parameters)
        for name in expected
    }
    assert there == expected
    ours = {name for name, value in vars(GuardedProtocol).items() if inspect.isfunction(value)}
    overridden = {name for name in ours if hasattr(HttpToolsProtocol, name)}
    assert overridden == expected.keys() - {"_unset_keepalive_if_required"}
