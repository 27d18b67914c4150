"""BME280: what the driver makes of the raw values in /grid, a line of text each."""

import gc

from drivers import bme280

with open("/grid") as f:
    for line in f:
        numbers = [int(word) for word in line.split()]
        if len(numbers) == 19:
            c = tuple(numbers)
            continue
        t, p, h = numbers
        fine = bme280.temperature(c, t)
        print(fine, bme280.pressure(c, fine, p), bme280.humidity(c, fine, h))
gc.collect()
gc.disable()
before = gc.mem_alloc()
bme280.pressure(c, bme280.temperature(c, t), p)
bme280.humidity(c, fine, h)
print("bytes", gc.mem_alloc() - before)
