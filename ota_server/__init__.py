"""The server: boards poll it, people publish to it. It holds no private key.

`policy` decides what a board should run, `storage` remembers (`sqlite_storage`, `model`,
`statements`, `queries`, `migrate`, `content`), `device_api` and `people_api` speak HTTP, `app` puts
them together.
"""
