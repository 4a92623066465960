"""What the server promises to those who visit it."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytestmark = pytest.mark.vmports


@pytest.fixture
def client(vm_with_ports):
    """Return a client of this test's own server."""
    with httpx.Client(base_url=vm_with_ports[8080].url) as client:
        yield client


def test_a_visitor_is_greeted(client):
    answer = client.post("/visits/Ada")
    assert answer.status_code == 200
    assert answer.json() == {"greeting": "Hello, Ada", "visit": 1}


def test_visits_are_counted(client):
    # The test before may have visited too; that was another VM.
    assert [client.post("/visits/Ada").json()["visit"] for _ in range(3)] == [1, 2, 3]


def test_visits_at_the_same_time_are_counted_once_each(client):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/visits/Ada").json()["visit"], range(40)))
    assert sorted(answers) == list(range(1, 41))


def test_a_server_that_was_killed_counts_on(vm_with_ports, client):
    client.post("/visits/Ada")
    vm_with_ports.run("""
        killall -9 visits
        visits /etc/server.json >/dev/console 2>&1 &
        until wget -qO /dev/null http://127.0.0.1:8080/health; do :; done
    """)
    assert client.post("/visits/Ada").json()["visit"] == 2


def test_what_cannot_be_counted_is_the_server_s_fault(vm_with_ports, client):
    vm_with_ports.run("echo many >/var/lib/visits")
    assert client.post("/visits/Ada").status_code == 500
    assert 'parsing "many": invalid syntax' in vm_with_ports.console


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/visits/Ada", 405), ("POST", "/visits/", 404), ("GET", "/health", 200)],
)
def test_other_requests(client, method, path, status):
    assert client.request(method, path).status_code == status
