"""What an app stands on (docs/runtime.md).

Nothing is imported here: the boot stage loads `runtime.installer` alone, without the rest.
"""


def run(setup):
    """Call `setup(app)`, then run its jobs and drivers until Ctrl-C (see runtime.loop)."""
    from runtime import loop

    loop.run(setup)
