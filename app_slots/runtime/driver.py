"""What a driver looks like, and how the loop runs one."""

from micropython import const

_AGAIN = const(3)  # failed polls in a row after which a driver is started anew


class Driver:
    """Base of drivers. The loop calls `start`, then `poll` every `period` ms, `stop` at the end."""

    period = 1000

    def start(self):
        """Take the pins and find the device; raise when it does not answer."""

    # Do what is due, without waiting; raise when the device fails.
    poll = start
    # Leave the pins in a safe state; also called before a new start.
    stop = start

    def health(self):
        """Return "" when all is well, else what is wrong in a few words."""
        return ""


class Runner:
    """A driver as a job: started on its first run, and anew after failing three times in a row."""

    def __init__(self, driver):
        self._driver = driver
        self._up = False
        self._row = _AGAIN

    def __call__(self):
        driver = self._driver
        if self._row >= _AGAIN:
            self.stop()
            driver.start()
            self._up = True
            self._row = 0
        self._row += 1
        driver.poll()
        wrong = driver.health()
        if wrong:
            raise OSError(wrong)
        self._row = 0

    def stop(self):
        if self._up:
            self._up = False
            self._driver.stop()
