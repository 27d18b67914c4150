"""One board at hand: over serial, over WebREPL, through the server."""
