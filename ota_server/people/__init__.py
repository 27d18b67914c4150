"""The people's side: who may do what, the API, and the terminal in the browser."""
