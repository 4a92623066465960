"""Tests that need a real virtual machine, with host ports that nobody else has.

Names are loaded when they are first used: a pytest session that uses none of them pays nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_vmports.errors import (
        BootFileError as BootFileError,
    )
    from pytest_vmports.errors import (
        BootTimeoutError as BootTimeoutError,
    )
    from pytest_vmports.errors import (
        CloudInitError as CloudInitError,
    )
    from pytest_vmports.errors import (
        CloudInitWarning as CloudInitWarning,
    )
    from pytest_vmports.errors import (
        CommandFailedError as CommandFailedError,
    )
    from pytest_vmports.errors import (
        CommandOutputError as CommandOutputError,
    )
    from pytest_vmports.errors import (
        CommandTimeoutError as CommandTimeoutError,
    )
    from pytest_vmports.errors import (
        ContainerError as ContainerError,
    )
    from pytest_vmports.errors import (
        CopyTimeoutError as CopyTimeoutError,
    )
    from pytest_vmports.errors import (
        DiskFullError as DiskFullError,
    )
    from pytest_vmports.errors import (
        FetchError as FetchError,
    )
    from pytest_vmports.errors import (
        FirmwareNotFoundError as FirmwareNotFoundError,
    )
    from pytest_vmports.errors import (
        ForkedProcessError as ForkedProcessError,
    )
    from pytest_vmports.errors import (
        ForwardError as ForwardError,
    )
    from pytest_vmports.errors import (
        GuestCrashError as GuestCrashError,
    )
    from pytest_vmports.errors import (
        GuestFileError as GuestFileError,
    )
    from pytest_vmports.errors import (
        GuestFileWarning as GuestFileWarning,
    )
    from pytest_vmports.errors import (
        GuestForwardError as GuestForwardError,
    )
    from pytest_vmports.errors import (
        GuestKernelWarning as GuestKernelWarning,
    )
    from pytest_vmports.errors import (
        GuestNotFoundError as GuestNotFoundError,
    )
    from pytest_vmports.errors import (
        GuestPanicError as GuestPanicError,
    )
    from pytest_vmports.errors import (
        GuestRebootError as GuestRebootError,
    )
    from pytest_vmports.errors import (
        GuestRebootWarning as GuestRebootWarning,
    )
    from pytest_vmports.errors import (
        GuestSaidError as GuestSaidError,
    )
    from pytest_vmports.errors import (
        GuestShellError as GuestShellError,
    )
    from pytest_vmports.errors import (
        GuestStuckError as GuestStuckError,
    )
    from pytest_vmports.errors import (
        GvproxyNotFoundError as GvproxyNotFoundError,
    )
    from pytest_vmports.errors import (
        HostError as HostError,
    )
    from pytest_vmports.errors import (
        ImageError as ImageError,
    )
    from pytest_vmports.errors import (
        LaunchError as LaunchError,
    )
    from pytest_vmports.errors import (
        LostEvidenceWarning as LostEvidenceWarning,
    )
    from pytest_vmports.errors import (
        MachineDiedError as MachineDiedError,
    )
    from pytest_vmports.errors import (
        MachineError as MachineError,
    )
    from pytest_vmports.errors import (
        MissingWallError as MissingWallError,
    )
    from pytest_vmports.errors import (
        MonitorError as MonitorError,
    )
    from pytest_vmports.errors import (
        NetworkListError as NetworkListError,
    )
    from pytest_vmports.errors import (
        NetworkUnseenError as NetworkUnseenError,
    )
    from pytest_vmports.errors import (
        NoShellError as NoShellError,
    )
    from pytest_vmports.errors import (
        NotEnteredError as NotEnteredError,
    )
    from pytest_vmports.errors import (
        NotEnteredWarning as NotEnteredWarning,
    )
    from pytest_vmports.errors import (
        NotExposedError as NotExposedError,
    )
    from pytest_vmports.errors import (
        OpenHostError as OpenHostError,
    )
    from pytest_vmports.errors import (
        PasstNotFoundError as PasstNotFoundError,
    )
    from pytest_vmports.errors import (
        PortError as PortError,
    )
    from pytest_vmports.errors import (
        PortInUseError as PortInUseError,
    )
    from pytest_vmports.errors import (
        PortsExhaustedError as PortsExhaustedError,
    )
    from pytest_vmports.errors import (
        ProgramStoppedError as ProgramStoppedError,
    )
    from pytest_vmports.errors import (
        QemuNotFoundError as QemuNotFoundError,
    )
    from pytest_vmports.errors import (
        SeedError as SeedError,
    )
    from pytest_vmports.errors import (
        SettingError as SettingError,
    )
    from pytest_vmports.errors import (
        SetupError as SetupError,
    )
    from pytest_vmports.errors import (
        SharedCopyWarning as SharedCopyWarning,
    )
    from pytest_vmports.errors import (
        ShareError as ShareError,
    )
    from pytest_vmports.errors import (
        ShutdownTimeoutError as ShutdownTimeoutError,
    )
    from pytest_vmports.errors import (
        StateDirError as StateDirError,
    )
    from pytest_vmports.errors import (
        SwtpmNotFoundError as SwtpmNotFoundError,
    )
    from pytest_vmports.errors import (
        TemplateBusyError as TemplateBusyError,
    )
    from pytest_vmports.errors import (
        VmPortsError as VmPortsError,
    )
    from pytest_vmports.guests.guest import (
        Guest as Guest,
    )
    from pytest_vmports.leases import (
        FreePortFactory as FreePortFactory,
    )
    from pytest_vmports.leases import (
        LeaseInfo as LeaseInfo,
    )
    from pytest_vmports.leases import (
        PortAllocator as PortAllocator,
    )
    from pytest_vmports.leases import (
        PortLease as PortLease,
    )
    from pytest_vmports.leases import (
        free_port as free_port,
    )
    from pytest_vmports.leases import (
        leased_ports as leased_ports,
    )
    from pytest_vmports.leases.lease import (
        LeaseTamperedWarning as LeaseTamperedWarning,
    )
    from pytest_vmports.models import (
        ExposedPort as ExposedPort,
    )
    from pytest_vmports.models import (
        PortMapping as PortMapping,
    )
    from pytest_vmports.network.exposed import (
        ExposedPorts as ExposedPorts,
    )
    from pytest_vmports.network.log import (
        NetworkEntries as NetworkEntries,
    )
    from pytest_vmports.network.log import (
        NetworkEntry as NetworkEntry,
    )
    from pytest_vmports.pool.factory import (
        VmFactory as VmFactory,
    )
    from pytest_vmports.pool.handle import (
        VM as VM,
    )
    from pytest_vmports.port_forward import (
        allocate_ephemeral_port as allocate_ephemeral_port,
    )
    from pytest_vmports.port_forward import (
        normalize_port_mappings as normalize_port_mappings,
    )
    from pytest_vmports.port_forward import (
        resolve_port_mappings as resolve_port_mappings,
    )
    from pytest_vmports.settings.keywords import (
        SettingKeywords as SettingKeywords,
    )
    from pytest_vmports.settings.options import (
        Settings as Settings,
    )
    from pytest_vmports.vm.inside.shell import (
        CommandRunner as CommandRunner,
    )
    from pytest_vmports.vm.inside.shell import (
        Completed as Completed,
    )
    from pytest_vmports.vm.saved import (
        Snapshot as Snapshot,
    )

__version__ = "0.1.0"

__all__ = (  # noqa: RUF022 - most important first
    "PortMapping",
    "ExposedPort",
    "VM",
    "VmFactory",
    "Guest",
    "ExposedPorts",
    "Completed",
    "Snapshot",
    "NetworkEntry",
    "NetworkEntries",
    "CommandRunner",
    "Settings",
    "SettingKeywords",
    "PortAllocator",
    "PortLease",
    "LeaseInfo",
    "FreePortFactory",
    "free_port",
    "leased_ports",
    "allocate_ephemeral_port",
    "normalize_port_mappings",
    "resolve_port_mappings",
    "VmPortsError",
    "BootFileError",
    "BootTimeoutError",
    "CloudInitError",
    "CommandFailedError",
    "CommandOutputError",
    "CommandTimeoutError",
    "ContainerError",
    "CopyTimeoutError",
    "DiskFullError",
    "FetchError",
    "FirmwareNotFoundError",
    "ForkedProcessError",
    "ForwardError",
    "GuestCrashError",
    "GuestFileError",
    "GuestForwardError",
    "GuestNotFoundError",
    "GuestPanicError",
    "GuestRebootError",
    "GuestSaidError",
    "GuestShellError",
    "GuestStuckError",
    "GvproxyNotFoundError",
    "HostError",
    "ImageError",
    "LaunchError",
    "MachineDiedError",
    "MachineError",
    "MissingWallError",
    "MonitorError",
    "NetworkListError",
    "NetworkUnseenError",
    "NoShellError",
    "NotEnteredError",
    "NotExposedError",
    "OpenHostError",
    "PasstNotFoundError",
    "PortError",
    "PortInUseError",
    "PortsExhaustedError",
    "ProgramStoppedError",
    "QemuNotFoundError",
    "SeedError",
    "SettingError",
    "SetupError",
    "ShareError",
    "ShutdownTimeoutError",
    "StateDirError",
    "SwtpmNotFoundError",
    "TemplateBusyError",
    "CloudInitWarning",
    "GuestFileWarning",
    "GuestKernelWarning",
    "GuestRebootWarning",
    "LeaseTamperedWarning",
    "LostEvidenceWarning",
    "NotEnteredWarning",
    "SharedCopyWarning",
)
# Where those stand that stand in no file of errors.
_HOMES = {
    "PortMapping": "models",
    "ExposedPort": "models",
    "VM": "pool.handle",
    "VmFactory": "pool.factory",
    "Guest": "guests.guest",
    "ExposedPorts": "network.exposed",
    "Completed": "vm.inside.shell",
    "Snapshot": "vm.saved",
    "NetworkEntry": "network.log",
    "NetworkEntries": "network.log",
    "CommandRunner": "vm.inside.shell",
    "Settings": "settings.options",
    "SettingKeywords": "settings.keywords",
    "PortAllocator": "leases",
    "PortLease": "leases",
    "LeaseInfo": "leases",
    "FreePortFactory": "leases",
    "free_port": "leases",
    "leased_ports": "leases",
    "allocate_ephemeral_port": "port_forward",
    "normalize_port_mappings": "port_forward",
    "resolve_port_mappings": "port_forward",
    "LeaseTamperedWarning": "leases.lease",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "errors")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
