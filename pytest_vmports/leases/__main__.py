"""``python -m pytest_vmports.leases``."""

from __future__ import annotations

import sys

from pytest_vmports.leases.cli import main

if __name__ == "__main__":
    sys.exit(main())
