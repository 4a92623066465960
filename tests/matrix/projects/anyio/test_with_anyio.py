import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &"),
]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
async def stream(vm_with_ports):
    async with await anyio.connect_tcp(*vm_with_ports[8080].address) as connected:
        yield connected


async def test_an_async_fixture_uses_a_vm(stream):
    await stream.send(b"word")
    assert await stream.receive(4) == b"word"


async def test_commands_beside_the_loop(vm_with_ports):
    async def run():
        said.append((await anyio.to_thread.run_sync(vm_with_ports.run, "echo one")).stdout)

    said = []
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.lowlevel.checkpoint()
    assert said == ["one\n"]
