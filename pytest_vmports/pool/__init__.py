"""The VMs of one process: from settings and leased ports to a VM, and back."""
