"""Formats and signatures: manifests, trust files, board files, RSA. Pure functions, no I/O."""
