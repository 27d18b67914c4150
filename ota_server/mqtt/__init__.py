"""The broker's side: boards are nudged to poll at once, and Home Assistant sees their updates.

Off unless `mipy serve` is given a broker. Nothing here decides what a board runs: a nudge only
makes it poll, and a poll is answered as any other.
"""
