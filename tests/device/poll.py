"""Runs the loop against the server at the address given, in the way the other words say."""

import gc

import fake

ota = fake.ota
ota.board["server"] = fake.args[0].split(",")
mode = fake.args[1:]
if "trial" in mode:
    ota.trial = True
    ota.can_confirm = "unripe" not in mode
if "bad" in mode or "soft" in mode:
    ota.rejection = (bytes([0xAB] * 16), "exception", "soft" in mode)
    with open("/state/crash", "w") as f:
        f.write('Traceback "x"\n' * 40)
if "lines" in mode:
    with open("/data/log0", "w") as f:
        f.write("1 I an older line\n" * 20 + "9 W the newest line\n")
if "fails" in mode:
    ota.install_failures = 3
if "offline" in mode:
    fake.WLAN.up = False
for word in mode:
    if word.startswith("digest="):
        ota.digest16 = bytes.fromhex(word[7:])

import runtime  # noqa: E402

gc.collect()
before = gc.mem_free()
lowest = [before]
spins = [0, 0]


def setup(app):
    app.updater.left = 0
    seconds = int(mode[0])

    def watch():
        spins[0] += 1
        lowest[0] = min(lowest[0], gc.mem_free())
        if app.updater.fails >= 12:
            raise KeyboardInterrupt

    app.every(50, watch)
    if "busy" in mode:
        app.busy = lambda: True
    if "flaky" in mode:

        def flaky():
            raise ValueError("flaky")

        app.every(500, flaky)
    if "hasten" in mode:
        # Pauses of the updater pass twenty times as fast.
        for job in app.jobs:
            if job.name == "updater":
                job.period = job.left = 50

    def done():
        raise KeyboardInterrupt

    app.after(seconds * 1000, done)
    gc.collect()
    print("free with the loop set up:", gc.mem_free())


try:
    runtime.run(setup)
except KeyboardInterrupt:
    print("interrupted")
except SystemExit as e:
    print("left for", e)
gc.collect()
print("events", ota.events, "heard", ota.server_seen_at, "spins", spins[0])
print("free before", before, "after", gc.mem_free(), "lowest", lowest[0])
