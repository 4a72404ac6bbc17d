"""libtpu: the compiler for TPUs, which needs no TPU.

It comes with `pip install -e '.[plan]'`, or with `.[tpu]`.
"""

import importlib.metadata
import importlib.util
import os

# Of a machine without TPU: JAX computes on the CPU, nothing asks the cloud's
# metadata server which TPU this is, and no lock keeps out a run that uses one.
_ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v4-8',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
# Of the compiler's threads; as they are by default, a ResNet-50 for v6e:16x16
# overflows them.
_LARGE_STACKS = (
    '--xla_internal_thread_stack_size_bytes=1073741824 '
    '--fibers_default_thread_stack_size=1073741824')


def prepare() -> None:
  """Sets what libtpu and JAX read when they are loaded: call it first."""
  os.environ.update(_ENVIRONMENT)
  os.environ.setdefault('LIBTPU_INIT_ARGS', _LARGE_STACKS)


def version() -> str | None:
  """The installed version, or None; loads nothing."""
  if importlib.util.find_spec('libtpu') is None:
    return None
  try:
    return importlib.metadata.version('libtpu')
  except importlib.metadata.PackageNotFoundError:
    return 'unknown'
