"""The boards' side: what a poll may say, what is answered, and how a board finds its server."""
