# Hands over to the boot stage, and by it to the app. Compiled at every boot, hence short.
# Whatever goes wrong ends in a reset, never at a prompt; only Ctrl-C, a person's wish, does that.
import sys

sys.path.append("/")
try:
    from bootloader import start

    app = start.run()
    del start
    import ota

    if ota.poll_extra:
        ota.webrepl(app)
    ota.go(app)
except KeyboardInterrupt:
    if "ota" in sys.modules:
        sys.modules["ota"].stop()
except Exception as e:
    sys.print_exception(e)
    __import__("time").sleep(5)
    __import__("machine").reset()
