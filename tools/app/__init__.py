"""App projects: app.toml, configuration, bytecode, releases, third-party modules."""
