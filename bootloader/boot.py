# Runs first on every power-on; compiled on the chip each time, hence a few lines.
# Nothing may leave this file: an exception here, or Ctrl-C, would keep main.py from running.
try:
    import sys

    try:
        import vfs

        # The firmware has mounted what lies there without a look: nothing is imported before this,
        # which would search it. Ours is mounted when it is, by its hash, what the board has made.
        vfs.umount("/rom")
        from hashlib import sha256

        with open("/bootloader/image", "rb") as f:
            n = int.from_bytes(f.read(4), "little")
            rom = vfs.rom_ioctl(2, 0)[:n]
            if sha256(rom).digest() == f.read():
                vfs.mount(vfs.VfsRom(rom), "/boot")  # pyright: ignore
                sys.path.insert(0, "/boot")
        del f, n, rom
    except (ImportError, OSError, OverflowError, MemoryError) as e:
        del e  # no such firmware, or no image yet: LittleFS has the boot stage as well
    from bootloader import pins

    pins.hold()
    del pins
except BaseException as e:
    print("boot.py:", repr(e))
