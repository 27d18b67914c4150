"""The server: boards poll it, people publish to it. It holds no private key.

`policy` and `rollout` decide what a board should run. `storage` remembers, `device` speaks with
boards, `people` with people, `web` serves pages and holds clients to limits. `app` puts them
together.
"""
