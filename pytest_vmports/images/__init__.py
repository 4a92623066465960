"""Images that are fetched, unpacked, converted and kept."""
