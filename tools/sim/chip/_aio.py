# The interpreter's own _asyncio reads the host's clock. A board whose clock runs faster needs one
# that asks time.ticks_ms; asyncio takes TaskQueue and Task from here then (extmod/modasyncio.c is
# the contract). It costs a few dozen bytes a task more: heap figures are taken at real speed.
from time import ticks_diff, ticks_ms


class TaskQueue:
    """Tasks by the time they are due; equal times keep their order."""

    def __init__(self):
        self._tasks = []

    def peek(self):
        return self._tasks[0] if self._tasks else None

    def push(self, task, due=None):
        task.data = None
        task.ph_key = due = ticks_ms() if due is None else due
        tasks = self._tasks
        place = len(tasks)
        while place and ticks_diff(tasks[place - 1].ph_key, due) > 0:
            place -= 1
        tasks.insert(place, task)

    def pop(self):
        return self._tasks.pop(0)

    def remove(self, task):
        self._tasks.remove(task)


class Task:
    # state: True while running, a TaskQueue or a function when somebody waits, False or None when
    # it has ended. data: what it waits for or is to be thrown, and its result afterwards.
    def __init__(self, coro, loop):
        self.coro = coro
        self.data = None
        self.state = True
        self.ph_key = 0
        self._loop = loop  # the names of asyncio.core

    def done(self):
        return not self.state

    def cancel(self):
        if not self.state:
            return False
        if self is self._loop["cur_task"]:
            raise RuntimeError("can't cancel self")
        task = self
        while isinstance(task.data, Task):
            task = task.data
        ready = self._loop["_task_queue"]
        if hasattr(task.data, "remove"):
            task.data.remove(task)
            ready.push(task)
        elif ticks_diff(task.ph_key, ticks_ms()) > 0:
            ready.remove(task)
            ready.push(task)
        task.data = self._loop["CancelledError"]
        return True

    def __iter__(self):
        if not self.state:
            self.state = False  # its end has been seen
        elif self.state is True:
            self.state = TaskQueue()
        elif not isinstance(self.state, TaskQueue):
            raise RuntimeError("can't wait")
        return self

    def __next__(self):
        if not self.state:
            raise self.data
        waiting = self._loop["cur_task"]
        self.state.push(waiting)
        waiting.data = self
