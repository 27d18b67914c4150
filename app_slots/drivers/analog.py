"""An analogue input."""

from runtime.driver import Driver


class Analog(Driver):
    """The mean of `samples` readings of `adc`, from `low` at 0 to `high` at full scale in `value`.

    `low` and `high` may be in any unit, and `low` the larger. `adc` is a machine.ADC:

        Analog(ADC(0), 0, 1.0)                             volts at the ESP8266's input
        Analog(ADC(Pin(34), atten=ADC.ATTN_11DB), 0, 100)  percent of the ESP32's range

    An ESP8266 that reads much more than 100 times a second may lose its Wi-Fi.
    """

    value = None

    def __init__(self, adc, low, high, samples=8):
        self._adc = adc
        self._low = low
        self._scale = (high - low) / samples / 65535
        self._samples = samples

    def poll(self):
        total = 0
        for _ in range(self._samples):
            total += self._adc.read_u16()
        self.value = self._low + total * self._scale

    def stop(self):
        self.value = None
