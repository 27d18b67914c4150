"""The `mipy` command: one module a verb, and the virtual board."""
