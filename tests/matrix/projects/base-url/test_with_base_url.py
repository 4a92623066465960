import urllib.request

import pytest

ANSWER = """
cat >/answer <<'END'
#!/bin/sh
read -r request
while read -r line && [ "$line" != "$(printf '\\r')" ]; do :; done
printf 'HTTP/1.0 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello'
END
chmod +x /answer
nc -lk -p 8080 -e /answer &
"""


@pytest.fixture(scope="session")
def base_url(vm_factory):
    with vm_factory(ports=[8080], setup=ANSWER, wait_for="8080/") as vm:
        yield vm[8080].url


@pytest.mark.parametrize("number", [1, 2])
def test_page(base_url, number):
    with urllib.request.urlopen(base_url, timeout=60) as page:
        assert page.read() == b"hello"
