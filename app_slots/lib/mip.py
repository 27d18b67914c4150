"""In the place of the firmware's mip: a slot holds what its release lists, and nothing else."""


def install(package, *_, **__):
    """Say what to do instead: what mip writes here would be gone at the next start."""
    print("on the computer: mipy mip install %s, then mipy release" % package)
