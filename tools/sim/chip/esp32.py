# Nothing of the ESP32's own module is simulated but the names that tell a chip apart.
def mcu_temperature():
    return 40


def raw_temperature():
    return 104


def idf_heap_info(kind):
    return []


HEAP_DATA = 4
HEAP_EXEC = 1
