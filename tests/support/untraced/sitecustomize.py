"""On PYTHONPATH of an esptool: it does not make the texts of a trace that nobody asked for.

Three quarters of its time go into them: its HexFormatter is lazy, the f-strings around it are not.
"""

import sys

if "esptool" in sys.orig_argv:
    from esptool import loader

    loader.HexFormatter.__str__ = lambda self: f"{len(self._s)} bytes"
