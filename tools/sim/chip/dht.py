# The stock firmware's frozen `dht`.
import _bus


class DHTBase:
    def __init__(self, pin):
        self.pin = pin
        self.buf = bytearray(5)

    def measure(self):
        frame = _bus.dht.get(self.pin.id)
        if frame is None:
            raise OSError(110)
        self.buf[:] = frame
        if sum(frame[:4]) & 0xFF != frame[4]:
            raise Exception("checksum error")


class DHT11(DHTBase):
    def humidity(self):
        return self.buf[0]

    def temperature(self):
        return self.buf[2]


class DHT22(DHTBase):
    def humidity(self):
        return (self.buf[0] << 8 | self.buf[1]) * 0.1

    def temperature(self):
        tenths = (self.buf[2] & 0x7F) << 8 | self.buf[3]
        return tenths * (-0.1 if self.buf[2] & 0x80 else 0.1)
