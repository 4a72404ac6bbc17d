"""What two real processes agree on, and what is said where they cannot."""

import json
import textwrap

import numpy as np
from PIL import Image
import pytest

from byol_jax.training import agreement
from tests import processes

# Each line of output is one thing that a process has found.
CODE = '''
    import json, sys
    from absl import flags
    import jax
    from byol_jax import config as config_lib
    from byol_jax import processes
    import numpy as np

    flags.FLAGS(sys.argv)
    processes.join()
    from byol_jax.evaluation import progress
    from byol_jax.evaluation import selection
    from byol_jax.training import agreement
    from byol_jax.training import devices
    me, folder = jax.process_index(), {folder!r}

    def say(found):  # not on stdout: Gloo's threads write into its lines
      with open(f'{{folder}}/said{{me}}', 'a') as file:
        print(json.dumps(found), file=file)

    def slip(check, *args):
      try:
        check(*args)
      except config_lib.ConfigError as error:
        return str(error)

    big = np.array([2**40 + me, me])
    say(agreement.gather(big).tolist())
    say(agreement.total(np.float64([0.1, me])).tolist())
    say(agreement.of_first({{'a': [me, None], 'b': 'x' * (1 + 9 * me)}}))
    say(slip(agreement.check_same, 'the sum', [1, 2.5]))
    say(slip(agreement.check_same, 'the sum', {{'me': me}}))
    say(slip(agreement.check_shared, folder, '--output'))
    say(slip(agreement.check_shared, f'{{folder}}/of{{me}}', '--output'))

    # The first process has two of three figures, the second none.
    job = progress.Progress(folder)
    made = []
    if not me:
      for number in 0, 1:
        job.put(f'choice{{number}}', {{'figure': [0.5, 0.7][number]}})
    devices.sync('put')
    def measure(choice):
      made.append(choice)
      return 0.6 + me  # as if machines rounded differently
    say([selection.choose('abc', measure, job), made])
    say(job.keep('new', lambda: [('x', 3)]))

    # Of the second one's device, which has a copy for itself.
    tree = {{'count': jax.numpy.zeros(()), 'sum': jax.jit(
        lambda: jax.numpy.ones(3), out_shardings=devices.everywhere())()}}
    local = devices.localize(tree)
    say([len(x.addressable_shards) for x in jax.tree.leaves(local)] + [
        x.is_fully_addressable for x in jax.tree.leaves(local)])

    from byol_jax.evaluation import subject
    config = config_lib.get_base_config()
    config.train_split, config.test_split = 'train', ''
    for name in 'copies', 'others':
      config.data = f'folder:{{folder}}/of{{me}}/{{name}}'
      say(slip(subject.open_sources, config))
    say([agreement.union([]), agreement.union([9, 2**40, 3][:2 * me]),
         agreement.union([5, 7 - me])])
'''


def _write_images(folder, names):
  folder.mkdir(parents=True)
  for name in names:
    Image.new('RGB', (8, 8)).save(folder / name)


@pytest.fixture(scope='module')
def found(tmp_path_factory):
  """Of each process, what it said."""
  folder = tmp_path_factory.mktemp('shared')
  (folder / 'of0').mkdir()
  for me, second in enumerate('bc'):
    _write_images(folder / f'of{me}' / 'copies', ['a.png', 'b.png'])
    _write_images(folder / f'of{me}' / 'others', ['a.png', f'{second}.png'])
  code = textwrap.dedent(CODE).format(folder=str(folder))
  done = processes.run(['-c', code], folder / 'output', timeout=100)
  assert [p.code for p in done] == [0, 0], done
  assert not list(folder.rglob('.shared*'))
  return [list(map(json.loads, (folder / f'said{me}').read_text().splitlines()))
          for me in range(2)]


def test_numbers_of_64_bits_arrive(found):
  for said in found:
    assert said[0] == [[2**40, 0], [2**40 + 1, 1]]
    assert said[1] == [0.2, 1.0]


def test_the_first_process_decides(found):
  assert [said[2] for said in found] == [{'a': [0, None], 'b': 'x'}] * 2


def test_what_differs_is_said_in_all(found):
  first, second = (said[3:5] for said in found)
  assert first[0] is None and second[0] is None
  assert first[1] == (
      'the sum of process 1 differs from that of process 0: {"me": 0}; '
      'expected the same command, code and data for all')
  assert '{"me": 0}; here: {"me": 1}; expected' in second[1]


def test_a_folder_that_is_not_shared_is_said_in_all(found):
  for me, said in enumerate(found):
    assert said[5] is None
    assert said[6].startswith('--output=')
    assert f'of{me} of process 1 is not the folder of process 0' in said[6]


def test_what_is_left_of_a_sweep_is_what_the_first_process_lacks(found):
  # Its own figure counts, too: 0.6 is not the best of them.
  assert [said[7] for said in found] == [['b', ['c']]] * 2
  assert [said[8] for said in found] == [{'x': 3.0}] * 2


def test_counters_of_a_state_made_by_all_are_copied_to_all_devices(found):
  assert [said[9] for said in found] == [[2, 2, True, True]] * 2


def test_a_host_that_holds_other_images_is_named(found):
  """Copies of the same ones will do, whenever they were made."""
  for said in found:
    assert said[10] is None
    assert 'others (train) (how many; their names and sizes)' in said[11]
    assert 'of process 1 differs from that of process 0: [2, "' in said[11]


def test_what_several_found_counts_once(found):
  assert [said[12] for said in found] == [[[], [9, 2**40], [5, 6, 7]]] * 2


def test_alone_nothing_is_asked():
  np.testing.assert_array_equal(agreement.gather(np.arange(3)), [[0, 1, 2]])
  assert agreement.total(np.array(7)) == 7
  assert agreement.union({5, 3}) == [3, 5]
  value = object()
  assert agreement.of_first(value) is value
  agreement.check_same('it', value)
  agreement.check_shared('/nowhere', '--output')
