import httpx
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
pytestmark = pytest.mark.vmports(8080, setup=ANSWER, wait_for="8080/")


def test_client(vm_with_ports):
    with httpx.Client(base_url=vm_with_ports[8080].url, timeout=60) as client:
        assert client.get("/").text == "hello"


@pytest.mark.asyncio
async def test_async_client(vm_with_ports):
    async with httpx.AsyncClient(base_url=vm_with_ports[8080].url, timeout=60) as client:
        assert (await client.get("/")).text == "hello"
