# What the chip keeps outside its heap, and what board.py reads back: one page of memory shared with
# the host (layout: tools/sim/page.py). It outlives the process, as RTC memory outlives a reset.
import ffi
import uctypes
import uos

CHIP = uos.getenv("SIM_CHIP")
ESP32 = CHIP == "esp32"
ADDRESS = uos.getenv("SIM_ADDRESS")
SPEED = int(uos.getenv("SIM_SPEED"))
OWN = uos.getenv("SIM_CLOCK") == "own"  # a clock of its own, not the wall's
HEAP = int(uos.getenv("SIM_HEAP"))
PROFILE = uos.getenv("SIM_PROFILE") == "1"
ROMFS = bool(uos.getenv("SIM_SEGMENT"))  # the firmware is the variant with a ROMFS segment
SILENT = uos.getenv("SIM_SILENT") == "1"

# Exit codes of the process; board.py has the same.
RESET = 40
DEEPSLEEP = 41
REPL = 42
CUT = 43
SOFT_RESET = 44

libc = ffi.open("libc.so.6")
_exit = libc.func("v", "_exit", "i")

_SIZE = 16384
_fd = libc.func("i", "open", "sii")(uos.getenv("SIM_PAGE"), 2, 0)
_address = libc.func("p", "mmap", "piiiii")(0, _SIZE, 3, 1, _fd, 0)
memory = uctypes.bytearray_at(_address, _SIZE)
page = uctypes.struct(
    _address,
    {
        "ops": 0 | uctypes.UINT32,
        "erases": 4 | uctypes.UINT32,
        "programmed": 8 | uctypes.UINT32,
        "peak": 12 | uctypes.UINT32,
        "sent": 16 | uctypes.UINT32,
        "received": 20 | uctypes.UINT32,
        "cause": 24 | uctypes.UINT32,
        "sleep": 28 | uctypes.UINT32,
        "radio": 32 | uctypes.UINT32,
        "clock": 36 | uctypes.UINT32,
        "rtc": 40 | uctypes.UINT32,
        "wifi": 44 | uctypes.UINT32,
        "started": 48 | uctypes.UINT32,
        "interrupt": 52 | uctypes.UINT32,
        "dns": 56 | uctypes.UINT32,  # seconds in which the name server does not answer
        # of the clock, as tools/sim/clock.py has them
        "now": 192 | uctypes.UINT32,
        "lease": 196 | uctypes.UINT32,
        "far": 200 | uctypes.UINT32,
        "held": 204 | uctypes.UINT32,
        "asked": 208 | uctypes.UINT32,
        "rest": 212 | uctypes.UINT32,
    },
)
STATION = 64  # the SDK's own copy of the last credentials: length byte + 32, length byte + 64
RTC = 256
LEVEL_IN = 2560  # one byte a pin: 0 not driven, 1 low, 2 high
LEVEL_OUT = 2624
AIR = 4096  # u32 length, JSON text

_INTERRUPT = 52
shut = bytearray(1)  # a scheduled callback runs: Ctrl-C waits until it has ended


def check():
    # Ctrl-C strikes where device code calls the simulator. The interpreter's own handler of SIGINT
    # jumps out of whatever runs, a garbage collection too, and would leave the heap locked.
    if memory[_INTERRUPT] and not shut[0]:
        memory[_INTERRUPT] = 0
        raise KeyboardInterrupt


def interrupt():
    memory[_INTERRUPT] = 1


# prctl(PR_SET_PDEATHSIG, SIGKILL): no board outlives the tool that started it.
libc.func("i", "prctl", "iiiii")(1, 9, 0, 0, 0)
if libc.func("i", "getppid", "")() != int(uos.getenv("SIM_PARENT")):
    _exit(1)


def die(code):
    # No clean-up of any kind: open files are lost, as on a chip.
    _exit(code)
