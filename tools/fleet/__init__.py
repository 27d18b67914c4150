"""The fleet: its server, its boards, its releases."""
