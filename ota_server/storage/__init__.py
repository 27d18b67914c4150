"""What the server remembers: the contract (`base`), and SQLite, which fulfils it."""
