"""The jobs as they are typed: their help, and how they end on a slip."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Found, not listed, so that none is forgotten.
JOBS = sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in (ROOT / 'byol_jax').rglob('*.py')
    if '\n  jobs.run(' in path.read_text())
# Each of them takes longer to import than help may.
HEAVY = {
    'flax', 'jax', 'matplotlib', 'optax', 'orbax', 'scipy', 'sklearn',
    'tensorflow'}


def _run(*args):
  return subprocess.run(
      [sys.executable, '-m', *args], cwd=ROOT, capture_output=True, text=True,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'}, timeout=120, check=False)


def _assert_one_line(done, message):
  assert done.returncode == 1, done.stderr
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith('error: ')
  assert message in line


def test_jobs_are_found():
  assert {'byol_jax.pretrain', 'byol_jax.evaluate'} <= set(JOBS)


def _assert_light(code, *argv, heavy=HEAVY):
  """Runs code in a new process; returns what it says.

  Raises:
    AssertionError: it imported something heavy.
  """
  report = (
      'import atexit, sys\n'
      'atexit.register(lambda: print("heavy:", '
      f'*({heavy!r} & sys.modules.keys()), file=sys.stderr))\n')
  done = subprocess.run(
      [sys.executable, '-c', report + code, *argv], cwd=ROOT,
      capture_output=True, text=True, timeout=120, check=False)
  *lines, last = done.stderr.strip().splitlines()
  assert last == 'heavy:', done.stderr
  return done.stdout + '\n'.join(lines)


def _assert_job_is_light(job, *argv, heavy=HEAVY):
  return _assert_light(
      'import runpy\n'
      f'runpy.run_module({job!r}, run_name="__main__", alter_sys=True)', *argv,
      heavy=heavy)


@pytest.mark.parametrize('job', JOBS)
def test_help(job):
  """The docstring and the flags, without what takes seconds to import."""
  text = _assert_job_is_light(job, '--help')
  assert f'python -m {job}' in text
  assert '--' in text
  assert 'Traceback' not in text


@pytest.mark.parametrize('job', JOBS)
def test_a_mistyped_flag_is_found_at_once(job):
  assert 'nonsense' in _assert_job_is_light(job, '--nonsense=3')


@pytest.mark.parametrize(
    'job', ['pretrain', 'evaluate', 'benchmark', 'preview', 'plan'])
def test_a_wrong_config_path_is_found_at_once(job):
  text = _assert_job_is_light(
      f'byol_jax.{job}', '--config=configs/nowhere.py')
  assert text.count('\n') == 0 and 'there is no such file' in text


@pytest.mark.parametrize('slip', [
    'encoder=vgg', 'data=what:ever', 'batch_size=0'])
def test_a_wrong_field_is_found_before_most_is_imported(slip, tmp_path):
  text = _assert_job_is_light(
      'byol_jax.pretrain', '--config=configs/quickstart.py',
      f'--workdir={tmp_path}/run', f'--config.{slip}', heavy=HEAVY - {'jax'})
  assert f'error: config.{slip.split("=")[0]} is' in text


@pytest.mark.parametrize('job, arguments, message', [
    ('pretrain', ['--config=configs/folder.py:/no/where', '--workdir=unmade'],
     'folder:/no/where: there is no such folder'),
    ('pretrain', ['--config=configs/quickstart.py', '--workdir=unmade',
                  '--config.data=arrays:/no/where.npz'],
     'arrays:/no/where.npz: there is no such file'),
    ('preview', ['--config=configs/folder.py:/no/where'],
     'folder:/no/where: there is no such folder'),
    ('pack', ['--data=folder:/no/where', '--output=unmade'],
     'folder:/no/where: there is no such folder'),
    ('evaluate', ['--checkpoint=/no/where'], 'no checkpoint in /no/where'),
    ('evaluate', ['--checkpoint=/no/where', '--data=birdsnap'],
     'TFDS does not hold birdsnap'),
    ('evaluate', ['--checkpoint=/no/where', '--data=aircraft:/no/images'],
     'folder:/no/images: there is no such folder'),
    ('evaluate', ['--checkpoint=/no/where', '--data=aircraft:/no/images',
                  '--config.data=voc:/no/maps'],
     'voc:/no/maps: there is no such folder'),
    ('evaluate', ['--checkpoint=random'], 'needs --config=configs/NAME.py'),
    ('export', ['--checkpoint=/no/where', '--output=unmade'],
     'no checkpoint in /no/where'),
    ('report', ['--workdir=/no/where'], 'no config.json in /no/where'),
    ('import_deepmind', ['--input=/no/where.pkl', '--output=unmade'],
     '/no/where.pkl: there is no such file'),
])
def test_what_is_not_there_is_missed_before_most_is_imported(
    job, arguments, message):
  text = _assert_job_is_light(
      f'byol_jax.{job}', *arguments, heavy=HEAVY - {'jax'})
  assert text.startswith('error: ') and message in text
  assert '\n' not in text


def test_tensorflow_is_quiet_also_where_a_bucket_is_asked_for():
  """As it is from the start; what opens gs:// would import it by itself."""
  done = _run_code(
      'import sys\n'
      'from byol_jax import places\n'
      'assert "tensorflow" not in sys.modules\n'
      'places._open("gs://bucket/run", "config.json")\n'
      'assert "byol_jax.quiet_tensorflow" in sys.modules\n')
  assert (done.returncode, done.stderr) == (0, '')


def test_importing_the_package_is_cheap():
  _assert_light('import byol_jax')


@pytest.mark.parametrize('arguments, message', [
    (['--config=configs/nowhere.py'], 'there is no such file'),
    (['--config', 'configs/nowhere.py'], 'there is no such file'),
    (['--config=configs/quickstart.py', '--config.batchsize=3'],
     'Did you mean "batch_size"'),
    (['--config=configs/quickstart.py', '--config.batch_size=many'],
     'batch_size'),
    (['--config=configs/imagenet_resnet50.py:200'],
     'error: --config: no preset'),
    (['--config=configs/ablations.py:tau_scheduled_99'],
     'did you mean tau_scheduled_0.9'),
    (['--config=configs/quickstart.py', '--stepz=3'], 'stepz'),
    (['--config=configs/quickstart.py', 'stray'], "'stray'"),
    ([], 'config'),
    (['--config=configs/quickstart.py', '--config.data=fake',
      '--config.encoder=vgg'], 'expected one of resnet10'),
    (['--config=configs/quickstart.py', '--config.data=folder:/no/where'],
     '/no/where'),
    (['--config=configs/quickstart.py', '--config.data=what:ever'],
     'expected tfds:NAME'),
])
def test_slips_end_in_one_line(arguments, message, tmp_path):
  done = _run('byol_jax.pretrain', f'--workdir={tmp_path}/run', *arguments)
  _assert_one_line(done, message)
  assert not (tmp_path / 'run' / 'checkpoints').exists()


@pytest.mark.parametrize('code, message', [
    ('import not_a_module', "No module named 'not_a_module'"),
    ('def get_config(:', 'line 1'),
    ('def get_config():\n  return confg', "'confg' is not defined"),
])
def test_broken_config_files_end_in_one_line(code, message, tmp_path):
  (tmp_path / 'broken.py').write_text(code)
  done = _run('byol_jax.preview', f'--config={tmp_path}/broken.py')
  _assert_one_line(done, message)


def test_a_file_in_the_place_of_the_workdir(tmp_path):
  (tmp_path / 'file').touch()
  done = _run(
      'byol_jax.pretrain', '--config=configs/quickstart.py',
      '--config.data=fake', f'--workdir={tmp_path}/file')
  _assert_one_line(done, f'{tmp_path}/file')


@pytest.mark.parametrize('argument, message', [
    ('--windows=0', 'windows'), ('--steps=0', 'steps'),
    ('--json=/no/where.json', '--json=/no/where.json cannot be written'),
    ('--json=/', '--json=/ cannot be written'),
])
def test_slips_of_a_benchmark(argument, message):
  _assert_one_line(_run('byol_jax.benchmark', argument), message)


def test_slips_of_a_comparison(tmp_path):
  _assert_one_line(_run(
      'byol_jax.compare', f'--runs={tmp_path}', f'--output={tmp_path}/a'),
                   f'no runs in {tmp_path}')
  assert not list(tmp_path.iterdir())


def test_exports_go_to_a_disk():
  done = _run(
      'byol_jax.export', '--checkpoint=runs/none', '--format=torch',
      '--output=gs://bucket/export')
  _assert_one_line(done, '--output=gs://bucket/export: exports are written')
  assert not (ROOT / 'gs:').exists()


def test_remote_files_that_cannot_be_used_are_a_users_slip():
  code = (
      'from byol_jax import jobs\n'
      'from byol_jax.quiet_tensorflow import tf\n'
      'def main(argv):\n'
      '  raise tf.errors.PermissionDeniedError(None, None, {!r})\n'
      'jobs.run(main)\n')
  done = _run_code(code.format('no access to gs://bucket/run'))
  _assert_one_line(done, 'no access to gs://bucket/run')
  done = _run_code(code.format('shapes differ'))
  assert done.returncode == 1 and 'Traceback' in done.stderr


def test_a_device_that_failed_is_a_reason_to_start_again():
  code = (
      'import jax\n'
      'from byol_jax import jobs\n'
      'def main(argv):\n'
      '  raise jax.errors.JaxRuntimeError({!r})\n'
      'jobs.run(main)\n')
  done = _run_code(code.format('INTERNAL: core halted\nits registers'))
  assert done.returncode == 75 and 'Traceback' in done.stderr
  assert done.stderr.splitlines()[-1] == (
      'error: a device failed (INTERNAL: core halted its registers): run the '
      'same command again to go on from the last checkpoint')
  done = _run_code(code.format('RESOURCE_EXHAUSTED: 17 GB of 16 GB'))
  assert done.returncode == 1 and 'a device failed' not in done.stderr


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_bucket_out_of_reach_is_a_reason_to_start_again(wrapped):
  code = (
      'from byol_jax import jobs\n'
      'def main(argv):\n'
      '  error = ValueError({!r})\n'
      f'  if {wrapped}: raise Exception("restoring failed") from error\n'
      '  raise error\n'
      'jobs.run(main)\n')
  done = _run_code(code.format('UNAVAILABLE: could not resolve host'))
  assert done.returncode == 75
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: a checkpoint is out of reach (')
  done = _run_code(code.format('NOT_FOUND: no such array'))
  assert done.returncode == 1 and 'out of reach' not in done.stderr


@pytest.mark.parametrize('where', ['main', 'join'])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_job_listens_itself_is_a_line(where, number):
  code = (
      'import time\n'
      'from byol_jax import jobs\n'
      'def wait(*_):\n'
      '  print("ready", flush=True)\n'
      '  time.sleep(100)\n'
      f'jobs.run(**{{"main": lambda _: 0, "{where}": wait}})\n')
  with subprocess.Popen(
      [sys.executable, '-c', code], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
    assert job.stdout.readline() == 'ready\n'
    job.send_signal(number)
    out, err = job.communicate(timeout=20)
  assert job.returncode == 75
  assert (out, err) == (f'{number.name}: there was nothing to save\n', '')


def test_a_signal_while_jax_compiles_is_a_line_too():
  """The compilation goes on beside Python, which crashed as it ended."""
  done = _run_code("""
import os, signal, threading
from byol_jax import jobs
def main(_):
  import jax
  import jax.numpy as jnp
  def slow(x):
    for i in range(300):
      x = jnp.sort(x * i) + jnp.cumsum(x)
    return x
  lowered = jax.jit(slow).lower(jnp.ones(1000))
  # Not kept from a run before.
  jax.config.update('jax_enable_compilation_cache', False)
  threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
  lowered.compile()
  print('compiled')
jobs.run(main)
""")
  assert (done.returncode, done.stdout, done.stderr) == (
      75, 'SIGTERM: there was nothing to save\n', '')


def test_convolutions_of_a_job_are_kept_from_ynnpack():
  """XLA, which ends a process at a flag that it does not know, goes on."""
  done = _run_code(
      'import os\n'
      'del os.environ["XLA_FLAGS"]\n'
      'from byol_jax import jobs\n'
      'def main(_):\n'
      '  import jax\n'
      '  print(jax.device_count(), os.environ["XLA_FLAGS"])\n'
      'jobs.run(main)\n')
  assert done.stdout == (
      '1 --xla_cpu_experimental_ynn_fusion_type=-individual_convolution\n'
  ), done.stderr


def _run_code(code):
  return subprocess.run(
      [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'}, timeout=120, check=False)
