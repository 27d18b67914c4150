"""Taking a board that runs MicroPython into the fleet, and giving it back."""
