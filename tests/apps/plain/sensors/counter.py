"""Stands for a sensor: each reading is one more than the last."""


class Counter:
    def __init__(self):
        self._value = 0

    def read(self):
        self._value += 1
        return self._value
