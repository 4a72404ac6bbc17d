"""What is compiled for the host: on one thread, with no flags of JAX's XLA."""

import os
import subprocess
import sys

import pytest

# In a process of its own, as others may have set this. Where there is one core
# alone, nothing is ever split.
_CODE = """
from byol_jax.quiet_tensorflow import tf
import jax.numpy as jnp
from byol_jax.data import compiled
fn = compiled.for_host(lambda x: jnp.sin(x) * 2 + jnp.cos(x))
text = fn.experimental_get_compiler_ir(tf.zeros([512, 1024]))(
    stage='optimized_hlo')
print('fusion' in text, 'outer_dimension_partitions' in text)
print(tf.config.threading.get_intra_op_parallelism_threads())
"""


def test_programs_are_not_split_over_threads():
  """Pipelines make images in parallel; to split one costs more than it saves.
  """
  done = subprocess.run(
      [sys.executable, '-c', _CODE], capture_output=True, text=True, check=True)
  assert done.stdout.split() == ['True', 'False', '1']


_WITH_FLAGS = """
import os
from byol_jax import quiet_tensorflow
from byol_jax.quiet_tensorflow import tf
def add(x):
  quiet_tensorflow.start_compiler()
  return tf.function(lambda x: x + 1, jit_compile=True)(x)
print(int({result}))
print(os.environ["XLA_FLAGS"])
"""


@pytest.mark.parametrize('result', [
    'add(1)', 'next(iter(tf.data.Dataset.range(1, 2).map(add)))'])
def test_flags_of_another_xla_do_not_end_the_process(result):
  """Nor where the first program is compiled as a pipeline is traced."""
  done = subprocess.run(
      [sys.executable, '-c', _WITH_FLAGS.format(result=result)],
      capture_output=True, text=True, check=False,
      env=os.environ | {'XLA_FLAGS': '--xla_not_known_to_any=1'})
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == ['2', '--xla_not_known_to_any=1']
