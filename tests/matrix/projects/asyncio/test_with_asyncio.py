import asyncio

import pytest
import pytest_asyncio

SETUP = "nc -lk -p 8080 -e cat &"
pytestmark = pytest.mark.vmports(8080, setup=SETUP)


@pytest_asyncio.fixture
async def connection(vm_with_ports):
    reader, writer = await asyncio.open_connection(*vm_with_ports[8080].address)
    yield reader, writer
    writer.close()
    await writer.wait_closed()


@pytest.mark.asyncio
async def test_an_async_fixture_uses_a_vm(connection):
    reader, writer = connection
    writer.write(b"word")
    assert await reader.readexactly(4) == b"word"


@pytest.mark.asyncio
async def test_commands_beside_the_loop(vm_with_ports):
    done = await asyncio.gather(
        asyncio.to_thread(vm_with_ports.run, "echo one"), asyncio.sleep(0, "slept")
    )
    assert (done[0].stdout, done[1]) == ("one\n", "slept")


@pytest.mark.asyncio
async def test_a_vm_is_made_while_a_loop_runs(vm_factory):
    with vm_factory(ports=[8080], setup=SETUP) as vm:
        _, writer = await asyncio.open_connection(*vm[8080].address)
        writer.close()
        await writer.wait_closed()
        assert vm.run("echo one").stdout == "one\n"
