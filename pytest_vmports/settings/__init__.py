"""Settings: one table, and the way of each from its homes to a value."""
