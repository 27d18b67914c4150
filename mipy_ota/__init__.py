"""MiPy-OTA: signed over-the-air releases for stock MicroPython boards.

The parts are folders at the top of the repository; the links beside this file give them the one
name under which they are imported, in a checkout as in a wheel.
"""

__version__ = "0.1.0"
