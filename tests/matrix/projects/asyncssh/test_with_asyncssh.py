import asyncio

import asyncssh
import pytest


@pytest.mark.asyncio
@pytest.mark.vmports(80)
async def test_connection(vm_with_ports, tmp_path):
    config = vm_with_ports.ssh_config(tmp_path / "ssh_config")
    async with asyncssh.connect("vm", config=str(config), known_hosts=None) as connection:
        done = await connection.run("systemctl is-active nginx", check=True)
        assert done.stdout == "active\n"
        listener = await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", 80)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.get_port())
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
