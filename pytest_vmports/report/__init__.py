"""What people are told of the VMs: on tests' reports, while tests run, and at the run's end."""
