"""Ways into a guest, and what differs between kinds of guests."""
