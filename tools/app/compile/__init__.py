"""From source to what lies on a board: bytecode, with names that every firmware has."""
