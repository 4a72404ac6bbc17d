"""What is compiled for the host runs on one thread."""

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
