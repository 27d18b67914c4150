# The interpreter's own _asyncio reads the host's clock. A board with another needs one that asks
# time.ticks_ms; asyncio takes TaskQueue and Task from here then (extmod/modasyncio.c is the
# contract). A task takes the 32 bytes of heap that it takes there, and 16 more when another waits
# for it, where there it takes 16 for the queue; the loop's queue is the simulator's.
from array import array
from time import ticks_diff, ticks_ms

_MOST = 32


class _Queue:
    """Tasks in the order in which they began to wait."""

    def __init__(self):
        self._tasks = []

    def peek(self):
        return self._tasks[0] if self._tasks else None

    def push(self, task):
        task.data = None
        self._tasks.append(task)

    def pop(self):
        return self._tasks.pop(0)

    def remove(self, task):
        self._tasks.remove(task)


class _Loop:
    """Tasks by the time they are due; equal times keep their order."""

    def __init__(self, room):
        self._tasks = [None] * room
        self._due = array("l", [0] * room)
        self._count = 0

    def peek(self):
        return self._tasks[0] if self._count else None

    def push(self, task, due=None):
        task.data = None
        due = ticks_ms() if due is None else due
        tasks, times = self._tasks, self._due
        place = self._count
        if place == len(tasks):
            tasks.append(None)
            times.append(0)
        while place and ticks_diff(times[place - 1], due) > 0:
            tasks[place] = tasks[place - 1]
            times[place] = times[place - 1]
            place -= 1
        tasks[place] = task
        times[place] = due
        self._count += 1

    def pop(self):
        return self._take(0)

    def remove(self, task):
        self._take(self._tasks.index(task))

    def _take(self, place):
        tasks, times = self._tasks, self._due
        task = tasks[place]
        self._count -= 1
        for n in range(place, self._count):
            tasks[n] = tasks[n + 1]
            times[n] = times[n + 1]
        tasks[self._count] = None
        return task

    def due(self, task):
        return self._due[self._tasks.index(task)]


_loops = [_Loop(_MOST)]
_names = [None]  # of asyncio.core


def TaskQueue():
    # asyncio makes its loop's first.
    return _loops.pop() if _loops else _Loop(0)


class Task:
    # state: True while running, a queue or a function when somebody waits, False or None when it
    # has ended. data: what it waits for or is to be thrown, and its result afterwards.
    state = True

    def __init__(self, coro, names):
        self.coro = coro
        self.data = None
        _names[0] = names

    def __getattr__(self, name):
        if name == "ph_key":  # asked of tasks in the loop's queue alone
            return _names[0]["_task_queue"].due(self)
        raise AttributeError(name)

    def done(self):
        return not self.state

    def cancel(self):
        if not self.state:
            return False
        if self is _names[0]["cur_task"]:
            raise RuntimeError("can't cancel self")
        task = self
        while isinstance(task.data, Task):
            task = task.data
        ready = _names[0]["_task_queue"]
        if hasattr(task.data, "remove"):
            task.data.remove(task)
            ready.push(task)
        elif ticks_diff(task.ph_key, ticks_ms()) > 0:
            ready.remove(task)
            ready.push(task)
        task.data = _names[0]["CancelledError"]
        return True

    def __iter__(self):
        if not self.state:
            self.state = False  # its end has been seen
        elif self.state is True:
            self.state = _Queue()
        elif not isinstance(self.state, _Queue):
            raise RuntimeError("can't wait")
        return self

    def __next__(self):
        if not self.state:
            raise self.data
        waiting = _names[0]["cur_task"]
        self.state.push(waiting)
        waiting.data = self
