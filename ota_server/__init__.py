"""The server: boards poll it, people publish to it. It holds no private key.

`policy` decides what a board should run, `store` remembers, `device_api` and `people_api` speak
HTTP, `app` puts them together.
"""
