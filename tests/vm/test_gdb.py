"""What has QEMU wait for gdb."""

from pathlib import Path

from pytest_vmports.vm import gdb


def test_qemu_begins_paused_and_listens_in_the_vms_own_folder_without_waiting():
    command = gdb.arguments(Path("/run/a,b"))
    assert command[0] == "-S"
    assert "socket,id=gdb,path=/run/a,,b/gdb.sock,server=on,wait=off" in command
    assert command[-2:] == ["-gdb", "chardev:gdb"]
