"""What runs in a VM."""
