"""The virtual board: a real MicroPython on a real LittleFS, with the chip's parts simulated.

`board.VirtualBoard` is the interface for tests and tools, `command.py` the verb `mipy sim`, `chip/`
what runs inside the board's interpreter in place of the chip's own modules.
"""
