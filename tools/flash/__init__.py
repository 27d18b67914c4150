"""The first flash over USB: firmware and file system in one go (docs/first-flash.md).

esptool is only ever started as a program of its own: its licence (GPL) is not this project's.
"""
