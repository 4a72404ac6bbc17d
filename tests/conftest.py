"""Every test runs on four CPU devices with strict numerics."""

import gc
import importlib.metadata
import os
import pathlib
import sys
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'
# As jobs do, which this saves from starting anew for it.
if 'glibc.malloc.hugetlb' not in os.environ.get('GLIBC_TUNABLES', ''):
  os.environ['GLIBC_TUNABLES'] = ':'.join(filter(None, (
      os.environ.get('GLIBC_TUNABLES'), 'glibc.malloc.hugetlb=1')))
# Compiling is most of the suite's time; what is compiled runs for moments.
_QUICK_TO_COMPILE = (
    '--xla_llvm_disable_expensive_passes=true '
    '--xla_backend_optimization_level=0')
# Likewise; XLA ends a process that has a flag it does not know.
_WITHOUT_EMITTERS = '--xla_cpu_use_fusion_emitters=false'
os.environ['XLA_FLAGS'] = (
    f'{os.environ.get("XLA_FLAGS", "")} {_QUICK_TO_COMPILE}')
# What two tests, or two workers, compile alike is compiled once.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', tempfile.mkdtemp(prefix='byol_jax_tests_'))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

# PyTorch's compiler for GPUs brings an LLVM of its own, which crashes a process
# that has loaded TensorFlow's and XLA's. Without it PyTorch does not compile.
sys.modules['triton'] = None

from byol_jax import platforms  # noqa: E402

platforms.keep_convolutions_from_ynnpack()  # as jobs do
if importlib.metadata.version('jaxlib').startswith(platforms.JAXLIBS):
  os.environ['XLA_FLAGS'] += f' {_WITHOUT_EMITTERS}'

from flax import linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import pytest  # noqa: E402

from byol_jax import all_reduce  # noqa: E402
from byol_jax import config as config_lib  # noqa: E402
from byol_jax import host_memory  # noqa: E402

host_memory.keep()  # as jobs do
gc.set_threshold(50_000, 20, 20)  # as jobs do, too
jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')


class TinyEncoder(nn.Module):
  """Compiles in a moment; made by a user who thought of one device."""

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    x = nn.Conv(8, (3, 3), strides=(2, 2), use_bias=False)(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return jnp.mean(nn.relu(x), axis=(1, 2))


def pytest_collection_finish():
  """Once modules are imported: who needs no TensorFlow need not wait for it."""
  if 'tensorflow' in sys.modules:
    have_tensorflow_compile_quickly()
    # Pipelines run for moments, too: to improve their graphs takes longer.
    sys.modules['tensorflow'].config.optimizer.set_experimental_options(
        {'disable_meta_optimizer': True})


def have_tensorflow_compile_quickly():
  """Before `quiet_tensorflow.start_compiler`, which keeps JAX's flags from it.
  """
  from byol_jax import quiet_tensorflow
  tf = quiet_tensorflow.tf
  is_known = tf.__version__.startswith(quiet_tensorflow.TENSORFLOWS)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XLA_FLAGS', ' '.join(
        [_QUICK_TO_COMPILE, *([_WITHOUT_EMITTERS] if is_known else [])]))
    tf.function(lambda x: x + 1, jit_compile=True)(0)


def pytest_collection_modifyitems(items):
  """The longest first: else one worker has them last, and the other none."""
  longest = ('chaos_test', 'layouts_test', 'processes_test', 'step_golden_test')
  items.sort(key=lambda item: item.path.stem not in longest)


@pytest.fixture(scope='module', autouse=True)
def _give_memory_back():
  """Else all that is compiled stays: 12 GB, in the end, of one worker."""
  yield
  statm = pathlib.Path('/proc/self/statm')  # of Linux
  pages = int(statm.read_text().split()[1]) if statm.exists() else 0
  if pages * os.sysconf('SC_PAGE_SIZE') > 4 * 2**30:
    jax.clear_caches()
    gc.collect()
    host_memory.give_back()


@pytest.fixture
def sums_of_accelerators(monkeypatch):
  """XLA's own sums over devices, which it merges where it can."""
  jax.clear_caches()  # what was traced before, layers among it, holds others
  def psum(tree, *, axis_name):
    return jax.lax.psum(tree, axis_name)
  monkeypatch.setattr(all_reduce, '_psum_in_turn', psum)
  monkeypatch.setattr(
      all_reduce, 'psum_after',
      lambda x, _, axis_name: jax.lax.psum(x, axis_name))
  yield
  jax.clear_caches()


@pytest.fixture
def tiny_encoder():
  """A user's encoder f32[B, H, W, 3] to f32[B, 8]."""
  return TinyEncoder()


@pytest.fixture
def tiny_config():
  """The smallest network with everything in it, on fake images."""
  config = config_lib.get_base_config()
  config.data = 'fake:64'
  config.train_split, config.test_split = 'train', 'test'
  config.image_size = 8
  config.test_crop_ratio = 1.0
  config.encoder = 'resnet10'
  config.resnet.update(width=1 / 16, stem='cifar')
  config.projector.update(hidden_size=16, output_size=8)
  config.predictor.hidden_size = 16
  config.batch_size = 16
  config.total_steps = 8
  config.warmup_steps = 2
  config.base_learning_rate = 4.0
  config.log_every_steps = 2
  config.checkpoint_every_steps = 4
  config.evaluate_every_steps = 4
  config.evaluate_batch_size = 32
  config.knn.k = 5
  config.final_protocols = ()
  return config
