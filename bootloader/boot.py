# Runs first on every power-on; compiled on the chip each time, hence a few lines.
# Nothing may leave this file: an exception here, or Ctrl-C, would keep main.py from running.
try:
    from bootloader import pins

    pins.hold()
    del pins
except BaseException as e:
    print("boot.py:", repr(e))
