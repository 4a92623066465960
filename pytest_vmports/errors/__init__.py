"""Every error this project raises on purpose.

Their tree stands at the top of ``errors.md``, which has a section on each.

Each holds its facts as keyword fields, keeps them through ``pickle`` (xdist sends errors between
processes), says what was tried, what was found and what to do, and ends with the command that
shows its section of ``errors.md``.
"""

from __future__ import annotations

from pytest_vmports.errors.base import VmPortsError as VmPortsError
from pytest_vmports.errors.base import rebuild as rebuild
from pytest_vmports.errors.host import BootFileError as BootFileError
from pytest_vmports.errors.host import ContainerError as ContainerError
from pytest_vmports.errors.host import FetchError as FetchError
from pytest_vmports.errors.host import FirmwareNotFoundError as FirmwareNotFoundError
from pytest_vmports.errors.host import GuestNotFoundError as GuestNotFoundError
from pytest_vmports.errors.host import GvproxyNotFoundError as GvproxyNotFoundError
from pytest_vmports.errors.host import HostError as HostError
from pytest_vmports.errors.host import ImageError as ImageError
from pytest_vmports.errors.host import MissingWallError as MissingWallError
from pytest_vmports.errors.host import NetworkListError as NetworkListError
from pytest_vmports.errors.host import NotEnteredError as NotEnteredError
from pytest_vmports.errors.host import NotExposedError as NotExposedError
from pytest_vmports.errors.host import OpenHostError as OpenHostError
from pytest_vmports.errors.host import PasstNotFoundError as PasstNotFoundError
from pytest_vmports.errors.host import PortError as PortError
from pytest_vmports.errors.host import PortInUseError as PortInUseError
from pytest_vmports.errors.host import PortsExhaustedError as PortsExhaustedError
from pytest_vmports.errors.host import ProgramStoppedError as ProgramStoppedError
from pytest_vmports.errors.host import QemuNotFoundError as QemuNotFoundError
from pytest_vmports.errors.host import SeedError as SeedError
from pytest_vmports.errors.host import SettingError as SettingError
from pytest_vmports.errors.host import StateDirError as StateDirError
from pytest_vmports.errors.host import SwtpmNotFoundError as SwtpmNotFoundError
from pytest_vmports.errors.machine import BootTimeoutError as BootTimeoutError
from pytest_vmports.errors.machine import CloudInitError as CloudInitError
from pytest_vmports.errors.machine import CommandFailedError as CommandFailedError
from pytest_vmports.errors.machine import CommandOutputError as CommandOutputError
from pytest_vmports.errors.machine import CommandTimeoutError as CommandTimeoutError
from pytest_vmports.errors.machine import CopyTimeoutError as CopyTimeoutError
from pytest_vmports.errors.machine import DiskFullError as DiskFullError
from pytest_vmports.errors.machine import ForkedProcessError as ForkedProcessError
from pytest_vmports.errors.machine import ForwardError as ForwardError
from pytest_vmports.errors.machine import GuestCrashError as GuestCrashError
from pytest_vmports.errors.machine import GuestFileError as GuestFileError
from pytest_vmports.errors.machine import GuestForwardError as GuestForwardError
from pytest_vmports.errors.machine import GuestPanicError as GuestPanicError
from pytest_vmports.errors.machine import GuestRebootError as GuestRebootError
from pytest_vmports.errors.machine import GuestSaidError as GuestSaidError
from pytest_vmports.errors.machine import GuestShellError as GuestShellError
from pytest_vmports.errors.machine import GuestStuckError as GuestStuckError
from pytest_vmports.errors.machine import LaunchError as LaunchError
from pytest_vmports.errors.machine import MachineDiedError as MachineDiedError
from pytest_vmports.errors.machine import MachineError as MachineError
from pytest_vmports.errors.machine import MonitorError as MonitorError
from pytest_vmports.errors.machine import NetworkUnseenError as NetworkUnseenError
from pytest_vmports.errors.machine import NoShellError as NoShellError
from pytest_vmports.errors.machine import SetupError as SetupError
from pytest_vmports.errors.machine import ShareError as ShareError
from pytest_vmports.errors.machine import ShutdownTimeoutError as ShutdownTimeoutError
from pytest_vmports.errors.machine import TemplateBusyError as TemplateBusyError
from pytest_vmports.errors.warned import CloudInitWarning as CloudInitWarning
from pytest_vmports.errors.warned import GuestFileWarning as GuestFileWarning
from pytest_vmports.errors.warned import GuestKernelWarning as GuestKernelWarning
from pytest_vmports.errors.warned import GuestRebootWarning as GuestRebootWarning
from pytest_vmports.errors.warned import LostEvidenceWarning as LostEvidenceWarning
from pytest_vmports.errors.warned import NotEnteredWarning as NotEnteredWarning
from pytest_vmports.errors.warned import SharedCopyWarning as SharedCopyWarning
