"""What both servers do for those who come by the network, and after a failure."""

import httpx
import psycopg
import pytest

pytestmark = pytest.mark.vmports


def stock(database):
    return dict(database.execute("SELECT name, stock FROM item").fetchall())


def test_nginx_serves_the_page(vm_with_ports):
    answer = httpx.get(vm_with_ports[80].url)
    assert answer.status_code == 200
    assert answer.headers["server"].startswith("nginx")
    assert "It is served" in answer.text


def test_nginx_hands_out_what_is_put_there(vm_with_ports, tmp_path):
    (tmp_path / "list.csv").write_text("apple;3\n")
    vm_with_ports.put(tmp_path / "list.csv", "/srv/www/files/")
    assert httpx.get(f"{vm_with_ports[80].url}/files/list.csv").text == "apple;3\n"
    assert "list.csv" in httpx.get(f"{vm_with_ports[80].url}/files/").text


def test_a_stock_that_would_be_negative_is_refused(database):
    database.execute("UPDATE item SET stock = stock - 1 WHERE name = 'apple'")
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("UPDATE item SET stock = stock - 1 WHERE name = 'pear'")
    assert stock(database) == {"apple": 2, "pear": 0}


def test_each_test_has_the_database_as_it_was_installed(database):
    assert stock(database) == {"apple": 3, "pear": 0}
    database.execute("DROP TABLE item")


def test_nobody_comes_in_with_a_wrong_password(vm_with_ports):
    port = vm_with_ports[5432]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(
            host=port.host, port=port.external, dbname="shop", user="shop", password="guessed"
        )


def test_what_was_written_outlives_a_crash_of_postgresql(vm_with_ports, database):
    database.execute("UPDATE item SET stock = 5 WHERE name = 'pear'")
    vm_with_ports.run(
        "systemctl kill --signal KILL 'postgresql@*'; systemctl restart postgresql", timeout=120
    )
    with pytest.raises(psycopg.OperationalError):
        stock(database)
    query = "SELECT stock FROM item WHERE name = 'pear'"
    ask = f'su postgres -c "psql -d shop -Atc \\"{query}\\""'
    assert vm_with_ports.run(ask).stdout == "5\n"
    assert httpx.get(vm_with_ports[80].url).status_code == 200
