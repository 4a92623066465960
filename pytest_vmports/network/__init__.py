"""How a guest is connected: one protocol, one file per strategy."""
