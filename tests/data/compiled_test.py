"""What is compiled for the host: on one thread, with no flags of JAX's XLA."""

import os
import subprocess
import sys

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


def test_flags_of_another_xla_do_not_end_the_process():
  code = (
      'import os\n'
      'from byol_jax import quiet_tensorflow\n'
      'quiet_tensorflow.start_compiler()\n'
      'add = quiet_tensorflow.tf.function(lambda x: x + 1, jit_compile=True)\n'
      'print(add(1).numpy())\n'
      'print(os.environ["XLA_FLAGS"])\n')
  done = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True,
      env=os.environ | {'XLA_FLAGS': '--xla_not_known_to_any=1'})
  assert done.stdout.split() == ['2', '--xla_not_known_to_any=1']
