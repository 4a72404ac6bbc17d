"""Which platforms JAX looks for devices on."""

import importlib.util
import os
import pathlib


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
