"""MiPy-OTA: signed over-the-air releases for stock MicroPython boards.

In a wheel `signing`, `tools` and `ota_server` lie inside this package. In a checkout they are
folders beside it, so the checkout's root joins the package's search path.
"""

from pathlib import Path

__version__ = "0.1.0.dev0"

_HERE = Path(__file__).resolve().parent
if not (_HERE / "tools").is_dir():
    __path__.append(str(_HERE.parent))
