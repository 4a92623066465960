"""A Debian with nginx and PostgreSQL, and a connection to each test's own database."""

from pathlib import Path

import psycopg
import pytest

from pytest_vmports import Guest


@pytest.fixture(scope="session")
def vmports_guest():
    """Return the image, and what cloud-init makes of it."""
    return Guest.image("debian-13", memory=768, user_data=Path(__file__).parent / "cloud-init.yaml")


@pytest.fixture
def database(vm_with_ports):
    """Return a connection; each statement is a transaction of its own."""
    port = vm_with_ports[5432]
    with psycopg.connect(
        host=port.host, port=port.external, dbname="shop", user="shop", password="only for tests",
        autocommit=True,
    ) as connection:  # fmt: skip
        yield connection
