"""Which platforms JAX looks for devices on, and how a CPU's XLA works."""

from collections.abc import Callable
import importlib.metadata
import importlib.util
import os
import pathlib
import re
from typing import Any

# Where JAX takes the number of a CPU's devices from.
_CPU_DEVICES = re.compile(r'--xla_force_host_platform_device_count=(\d+)')

# Which kinds of operations XLA leaves to YNNPACK, and jaxlibs that know the
# flag: XLA ends a process that has others.
_YNNPACK_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
JAXLIBS = ('0.10.',)

_OPTIMIZATION_LEVEL = 'xla_backend_optimization_level'


def leave_out_absent_tpu(devices: pathlib.Path = pathlib.Path('/dev')) -> None:
  """Keeps libtpu quiet on a machine that has it to plan with, and no TPU.

  It would print its search at the start of every job. To be called before JAX
  is imported. Nothing is done where the user names platforms (JAX_PLATFORMS),
  or where other plugins of JAX's are installed, such as CUDA's.

  Args:
    devices: where the system lists them.
  """
  if (os.environ.get('JAX_PLATFORMS')
      or importlib.util.find_spec('libtpu') is None
      or importlib.util.find_spec('jax_plugins') is not None
      or any(devices.glob('accel*')) or any(devices.glob('vfio/*'))):
    return
  os.environ['JAX_PLATFORMS'] = 'cpu'


def keep_convolutions_from_ynnpack() -> None:
  """Leaves convolutions on a CPU to XLA's other library, Eigen.

  YNNPACK takes up to 20 times as long for a kernel's gradient, and one core for
  few channels: with it a ResNet's whole step takes 1.1 to 1.7 times as long. To
  be called before JAX is asked for its devices. Nothing is done where the user
  has set this flag, or where jaxlib may not know it; TPUs and GPUs do not care.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if _YNNPACK_FLAG not in flags and importlib.metadata.version(
      'jaxlib').startswith(JAXLIBS):
    os.environ['XLA_FLAGS'] = (
        f'{flags} {_YNNPACK_FLAG}=-individual_convolution'.strip())


def have_threads_of_one_process(num_processes: int) -> None:
  """Gives the CPU's XLA as many threads as if one process had all devices.

  XLA has one for each core, or for each device of the process if those are
  more, and how many there are decides how a matrix product is split and in what
  order its parts are added up. So it decides the last bits of a result, which
  should not depend on how devices are spread over processes. To be called
  before JAX is asked for its devices. A number that is set already stays; TPUs
  and GPUs do not care.

  Args:
    num_processes: of the job, with as many devices each as this one.
  """
  found = _CPU_DEVICES.findall(os.environ.get('XLA_FLAGS', ''))
  of_this_one = os.environ.get('JAX_NUM_CPU_DEVICES') or (found or ['1'])[-1]
  os.environ.setdefault(
      'PJRT_NPROC', str(max(num_processes * int(of_this_one), cores())))


def jit_to_run_once(
    fn: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
  """`jax.jit` of what runs once, such as `init`: for a CPU it optimises less.

  To optimise takes longer there than to draw a network's random parameters. A
  level in XLA_FLAGS stays.
  """
  import jax  # which nothing else here has to wait for
  import jax.numpy as jnp
  optimised = jax.jit(fn, **kwargs)
  quick = jax.jit(fn, compiler_options={_OPTIMIZATION_LEVEL: 1}, **kwargs)

  def call(*args: Any) -> Any:
    # As a part of another program it can have no options of its own.
    is_traced = isinstance(jnp.zeros(()), jax.core.Tracer)
    is_set = _OPTIMIZATION_LEVEL in os.environ.get('XLA_FLAGS', '')
    is_quick = jax.default_backend() == 'cpu' and not is_traced and not is_set
    return (quick if is_quick else optimised)(*args)

  return call


def cores() -> int:
  """Those that the system lets this process run on, where it says so."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
