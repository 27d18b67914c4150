# Runs first on every power-on; compiled on the chip each time, hence a few lines.
# Nothing but Ctrl-C in the pause may leave it: an exception would keep main.py from running.
check = stuck = unsure = False
try:
    import machine
    import time

    if time.ticks_ms() < 5000:  # not a soft reset of the REPL
        check = machine.reset_cause() != machine.DEEPSLEEP_RESET
        # Starts in a row that came to nothing, above rtc.END: rtc.STARTS.
        m = bytearray(machine.RTC().memory())
        if len(m) < 16 or bytes(255 - b for b in m[:8]) != m[8:16]:
            m = bytearray(8) + b"\xff" * 8 + m[16:]
        stuck = m[0] > 127
        unsure = m[0] > 31
        if not stuck:
            m[0] += 16
            m[8] -= 16
            machine.RTC().memory(m)
        del m
    if unsure:
        del __import__("bootloader.damage").damage
except BaseException as e:
    print("boot.py:", repr(e))
try:
    from bootloader import pins

    pins.hold()
    del pins
    if check and not unsure:
        del __import__("bootloader.damage").damage
except BaseException as e:
    print("boot.py:", repr(e))
if stuck:
    print("ota: 8 starts in a row have failed; the boot stage on this flash may be damaged")
    print("what to do: flash it anew with `mipy flash`, which keeps name, key and settings")
    print("the next try is in 10 minutes; Ctrl-C leads to the REPL")
    time.sleep(600)
del check, stuck, unsure
