# Runs first on every power-on; compiled on the chip each time, hence a few lines.
# Nothing may leave this file: an exception here would keep main.py from running.
try:
    from bootloader import pins

    pins.hold()
    del pins
except Exception as e:
    print("boot.py:", repr(e))
