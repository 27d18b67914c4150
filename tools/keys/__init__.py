"""A fleet's signing keys, and what they sign."""
