"""What the host is made of, and what runs on it beside the guests."""
