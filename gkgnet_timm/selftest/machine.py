"""What the machine is: versions, processor, compilers, GPU; and whether its kernels are in use."""

import os
import platform
import re
import shlex
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, Optional, Set

import torch

from ..benchmark.tables import describe_machine
from ..graph import cpu, gpu
from ..version import __version__
from .finding import NOTE, OK, Finding, without_paths

__all__ = ['check_compiled', 'describe']

PACKAGES = ('timm', 'torchvision', 'numpy', 'huggingface_hub')
TRITON = ('triton', 'pytorch-triton', 'pytorch-triton-rocm', 'pytorch-triton-xpu', 'triton-windows')
INSTRUCTIONS = {  # as PyTorch and /proc/cpuinfo call them
    'AVX2': {'avx2'},
    'AVX-512': {'avx512_f', 'avx512f'},
    'AVX-512 VNNI': {'avx512_vnni'},
    'AVX-512 bf16': {'avx512_bf16'},
    'AVX-512 fp16': {'avx512_fp16'},
    'AMX bf16': {'amx_bf16'},
    'AMX int8': {'amx_int8'},
    'NEON': {'neon', 'asimd'},
    'SVE': {'sve'},
    'SVE2': {'sve2'},
    'bf16': {'bf16'},
}


def _version(*names: str) -> Optional[str]:
    """Version of the first package that is installed."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _system() -> str:
    """The operating system, without the parts of its name that its owner chose."""
    mac = platform.mac_ver()[0]
    name = f'macOS {mac}' if mac else f'{platform.system()} {re.match(r"[0-9.]*", platform.release())[0]}'
    return ', '.join(filter(str.strip, (name, platform.machine(), ' '.join(platform.libc_ver()))))


def _abilities() -> Set[str]:
    """Instruction sets of the processor, by all names that are told."""
    query = getattr(torch.cpu, 'get_capabilities', dict)  # not in older versions
    found = {name for name, has_it in query().items() if has_it is True}
    info = Path('/proc/cpuinfo')
    if info.is_file():
        flags = re.search(r'^(?:flags|Features)\s*:(.*)$', info.read_text(encoding='utf-8', errors='replace'), re.M)
        found |= set(flags[1].split()) if flags else set()
    return found


def _compiler() -> str:
    """What the C compiler calls itself."""
    command = cpu.find_compiler()
    if command is None:
        return 'none'
    try:
        asked = subprocess.run([*shlex.split(command), '--version'], capture_output=True, text=True, timeout=20)
    except (OSError, ValueError, subprocess.SubprocessError):
        return without_paths(f'{command}, which does not start')
    return without_paths(next(iter(asked.stdout.splitlines()), command))


def describe(device: torch.device) -> Dict[str, Any]:
    """Describe the machine in words, without names that tell of its owner."""
    known = describe_machine(str(device))
    abilities = _abilities()
    versions = dict(gkgnet_timm=__version__, Python=platform.python_version(), torch=known['torch'])
    versions |= {name: _version(name) for name in PACKAGES}
    versions['triton'] = _version(*TRITON) or 'none'
    machine = dict(versions=versions, system=_system(), processor=known['cpu'])
    names = [name for name, flags in INSTRUCTIONS.items() if flags & abilities]
    machine['instruction sets'] = f'{", ".join(names) or "?"}; PyTorch uses {known["cpu_capability"]}'
    machine['threads'] = f'{known["threads"]} of {os.cpu_count()}'
    machine['C compiler'] = _compiler()
    machine['device'] = device.type
    if device.type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        memory = f'{properties.total_memory / 1e9:.0f} GB'
        capability = f'capability {properties.major}.{properties.minor}'
        count = f'{properties.multi_processor_count} multiprocessors'
        machine['device'] = ', '.join((known['gpu'], capability, memory, count))
        versions['CUDA'] = known['cuda'] or f'HIP {torch.version.hip}'
        versions['cuDNN'] = torch.backends.cudnn.version()
    return machine


def check_compiled(device: torch.device) -> Finding:
    """Tell whether kernels are in use on a device on which the graph operations have run."""
    if device.type not in ('cpu', 'cuda'):
        return Finding('kernels', NOTE, f'there are none for {device.type}, PyTorch does the work')
    name, reason = ('C', cpu.unused_because()) if device.type == 'cpu' else ('Triton', gpu.unused_because())
    text = f'not in use, PyTorch does the work more slowly: {reason}' if reason else 'compiled and in use'
    return Finding(f'{name} kernels', NOTE if reason else OK, without_paths(text))
