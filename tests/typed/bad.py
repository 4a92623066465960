"""What a type checker is to refuse, line by line; `scripts/check-package` asks one.

An ignored line in which nothing is wrong is an error there.
"""

from pytest_vmports import VM, VmFactory


def test_mistakes(vm_factory: VmFactory, vm_with_ports: VM) -> None:
    vm_factory(memroy=3)  # pyright: ignore[reportCallIssue]
    vm_factory(memory=None)  # pyright: ignore[reportArgumentType]
    vm_factory(on_reboot="alow")  # pyright: ignore[reportArgumentType]
    vm_factory(cache_size="4G")  # pyright: ignore[reportCallIssue]
    vm_factory(ports={80})  # pyright: ignore[reportArgumentType]
    vm_with_ports.run(8)  # pyright: ignore[reportArgumentType]
    vm_with_ports.snapshto()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
