"""Input pipelines side by side: two views of real JPEGs, images per second.

    pip install -e . -r benchmarks/requirements.txt
    python benchmarks/input.py [--images=DIR] [--rounds=5] [--seconds=8]
        [--only=NAME,...] [--json=FILE]

Each contender has a process of its own, and they take turns; medians over the
rounds count. All do the whole recipe of Table 6, at 224 pixels, batch 64, on
as many threads or worker processes as there are cores, and yield float32, but
for `decode`, which decodes each JPEG once and does nothing else, and `device`,
which leaves colours, blur and solarization to the accelerator and yields bytes.
Without --images it makes 256 pictures of 500x375 at quality 92 out of
scikit-image's photographs.
"""

import argparse
from collections.abc import Iterator
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

BATCH_SIZE, SIZE = 64, 224
THREADS = os.cpu_count()
# Probabilities of blur and solarization, by view.
VIEWS = ((1.0, 0.0), (0.1, 0.2))


def write_photographs(folder: pathlib.Path) -> None:
  """Random parts of photographs, 256 files."""
  import numpy as np
  from PIL import Image
  from skimage import data
  names = ('astronaut', 'chelsea', 'coffee', 'rocket', 'hubble_deep_field')
  photographs = [Image.fromarray(getattr(data, name)()) for name in names]
  rng = np.random.default_rng(0)
  for number in range(256):
    image = photographs[number % len(photographs)]
    width = min(image.width, image.height * 4 / 3) * rng.uniform(0.6, 1.0)
    left = rng.uniform(0, image.width - width)
    top = rng.uniform(0, image.height - width * 3 / 4)
    part = (left, top, left + width, top + width * 3 / 4)
    image.resize((500, 375), Image.Resampling.LANCZOS, part).save(
        folder / f'{number:03}.jpg', quality=92)


def _config(folder: str, **fields: Any) -> Any:
  from byol_jax import config as config_lib
  config = config_lib.get_base_config()
  config.update(
      data=f'folder:{folder}', test_split='', image_size=SIZE,
      batch_size=BATCH_SIZE, cache_bytes=0, **fields)
  return config


def ours(folder: str, on_device: bool = False) -> Iterator[Any]:
  """The project's pipeline."""
  from byol_jax.data import pipeline
  from byol_jax.data import sources
  config = _config(folder)
  source = sources.create_source(config, 'train')
  return pipeline.create_train_dataset(
      source, config, total_steps=10**6,
      on_device=on_device).as_numpy_iterator()


def device(folder: str) -> Iterator[Any]:
  """The same, with `config.augment.device`."""
  return ours(folder, on_device=True)


def decode(folder: str) -> Iterator[Any]:
  """TensorFlow decodes whole JPEGs."""
  from byol_jax.quiet_tensorflow import tf
  files = tf.data.Dataset.list_files(f'{folder}/*', shuffle=False).repeat()
  pixels = files.map(
      lambda path: tf.io.decode_jpeg(tf.io.read_file(path), channels=3)[0, 0],
      tf.data.AUTOTUNE)
  options = tf.data.Options()
  options.threading.max_intra_op_parallelism = 1
  return pixels.batch(BATCH_SIZE).prefetch(
      tf.data.AUTOTUNE).with_options(options).as_numpy_iterator()


def _torch_recipe(transforms: Any, blur: float, solarize: float) -> list[Any]:
  bicubic = transforms.InterpolationMode.BICUBIC
  return [
      transforms.RandomResizedCrop(SIZE, (0.08, 1.0), interpolation=bicubic),
      transforms.RandomHorizontalFlip(),
      transforms.RandomApply(
          [transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
      transforms.RandomGrayscale(0.2),
      transforms.RandomApply(
          [transforms.GaussianBlur(23, (0.1, 2.0))], p=blur)]


def _torch_batches(folder: str, read: Any, views: list[Any]) -> Iterator[Any]:
  import torch

  class Files(torch.utils.data.Dataset):
    """Both views of each file."""

    def __init__(self):
      self._files = sorted(map(str, pathlib.Path(folder).iterdir()))

    def __len__(self) -> int:
      return 10**6

    def __getitem__(self, index: int) -> Any:
      image = read(self._files[index % len(self._files)])
      return tuple(view(image) for view in views)

  torch.set_num_threads(1)
  return iter(torch.utils.data.DataLoader(
      Files(), BATCH_SIZE, num_workers=THREADS))


def torchvision(folder: str) -> Iterator[Any]:
  """torchvision on PIL images."""
  from PIL import Image
  from torchvision import transforms
  return _torch_batches(
      folder, lambda path: Image.open(path).convert('RGB'),
      [transforms.Compose([
          *_torch_recipe(transforms, blur, solarize),
          transforms.RandomSolarize(128, solarize), transforms.ToTensor()])
       for blur, solarize in VIEWS])


def torchvision_tensors(folder: str) -> Iterator[Any]:
  """torchvision's transforms v2 on uint8 tensors."""
  import torch
  from torchvision import io
  from torchvision.transforms import v2
  return _torch_batches(
      folder, lambda path: io.decode_image(path, io.ImageReadMode.RGB),
      [v2.Compose([
          *_torch_recipe(v2, blur, solarize),
          v2.RandomSolarize(128, solarize),
          v2.ToDtype(torch.float32, scale=True)])
       for blur, solarize in VIEWS])


def dali(folder: str) -> Iterator[Any]:
  """DALI's CPU operators."""
  from nvidia.dali import fn
  from nvidia.dali import pipeline_def
  from nvidia.dali import types

  def happens(prob: float) -> Any:
    return fn.random.coin_flip(probability=prob, dtype=types.BOOL)

  def between(low: float, high: float) -> Any:
    return fn.random.uniform(range=(low, high))

  @pipeline_def(batch_size=BATCH_SIZE, num_threads=THREADS, device_id=None,
                enable_conditionals=True)
  def pipeline() -> Any:
    files = [str(path) for path in sorted(pathlib.Path(folder).iterdir())]
    encoded, _ = fn.readers.file(files=files)
    image = fn.decoders.image(encoded)
    views = []
    for blur, solarize in VIEWS:
      view = fn.random_resized_crop(
          image, size=(SIZE, SIZE), random_area=(0.08, 1.0),
          interp_type=types.INTERP_CUBIC, antialias=False)
      view = fn.flip(view, horizontal=fn.random.coin_flip())
      if happens(0.8):
        view = fn.color_twist(
            view, brightness=between(0.6, 1.4), contrast=between(0.6, 1.4),
            saturation=between(0.8, 1.2), hue=between(-36.0, 36.0))
      if happens(0.2):
        view = fn.saturation(view, saturation=0.0)
      if happens(blur):
        view = fn.gaussian_blur(
            view, window_size=23, sigma=between(0.1, 2.0))
      view = fn.cast(view, dtype=types.FLOAT) / 255.0
      if solarize:
        if happens(solarize):
          inverted = view >= 0.5
          view = inverted * (1.0 - view) + (1 - inverted) * view
      views.append(view)
    return tuple(views)

  built = pipeline()
  built.build()
  while True:
    yield [view.as_array() for view in built.run()]


CONTENDERS = {fn.__name__: fn for fn in (
    ours, device, decode, torchvision, torchvision_tensors, dali)}


def _measure(name: str, folder: str, seconds: float) -> float:
  """In this process: images per second, after as long a time to warm up in.

  Ours compiles a program for each of a dozen sizes of crops, as they come. All
  have large pages and keep their memory, as our jobs do.
  """
  from byol_jax import host_memory
  host_memory.start_with_large_pages()
  host_memory.keep()
  batches = CONTENDERS[name](folder)
  begin = time.perf_counter()
  while time.perf_counter() - begin < seconds:
    next(batches)
  begin, count = time.perf_counter(), 0
  while time.perf_counter() - begin < seconds:
    next(batches)
    count += BATCH_SIZE
  return count / (time.perf_counter() - begin)


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--images', help='folder of JPEGs')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--seconds', type=float, default=8.0)
  parser.add_argument('--only', default=','.join(CONTENDERS))
  parser.add_argument('--json', type=pathlib.Path)
  parser.add_argument('--alone', help=argparse.SUPPRESS)
  options = parser.parse_args()
  images = options.images and pathlib.Path(options.images)
  if images and not (images.is_dir() and any(images.iterdir())):
    parser.error(f'--images={images}: expected a folder of JPEGs')
  if unknown := set(options.only.split(',')) - set(CONTENDERS):
    parser.error(
        f'--only: no {", ".join(sorted(unknown))}; expected some of '
        f'{",".join(CONTENDERS)}')
  return options


def main() -> None:
  """The command."""
  options = _parse()
  if options.alone:
    print(_measure(options.alone, options.images, options.seconds))
    return
  with tempfile.TemporaryDirectory() as made:
    if not options.images:
      write_photographs(pathlib.Path(made))
    rates = {name: [] for name in options.only.split(',')}
    for _ in range(options.rounds):
      for name, found in rates.items():
        done = subprocess.run(
            [sys.executable, __file__, f'--alone={name}',
             f'--images={options.images or made}',
             f'--seconds={options.seconds}'],
            check=True, stdout=subprocess.PIPE, text=True,
            env=os.environ | {'JAX_PLATFORMS': 'cpu'})
        found.append(float(done.stdout.split()[-1]))
        print(f'{name}: {found[-1]:.0f} images/s', flush=True)
  medians = {name: statistics.median(found) for name, found in rates.items()}
  for name, median in medians.items():
    print(f'{name:>20} {median:8.0f} images/s')
  if options.json:
    options.json.write_text(json.dumps(
        {'medians': medians, 'rounds': rates, 'cores': THREADS}, indent=2)
        + '\n')


if __name__ == '__main__':
  main()
