"""Backups of a whole fleet."""
