"""A whole BYOL step side by side on the CPU: images per second.

    pip install -e . -r benchmarks/requirements.txt
    python benchmarks/step.py [--rounds=5] [--seconds=8] [--networks=NAME,...]
        [--only=NAME,...] [--beside=NAME=COMMAND] [--json=FILE]

Each contender has a process of its own with all cores, and they take turns;
medians over the rounds count. A step is two views of 64 images through online
network and target, backward, SGD with momentum, and the target's average;
heads 1024-128, float32, batch normalisation by view. A second figure, images
per second of CPU time, counts the work of all threads: it suffers less from
what else the machine does, and counts threads that wait for work in a loop.

`xla` is the project with XLA's convolutions alone, by the library that XLA
chooses itself: what any plain Flax network would run. `torch` and `torch_last`
are torchvision's blocks, channels first and channels last.

--beside adds a contender that this project does not hold, such as the
original: a command which, given a network's name and the seconds to measure
for, prints images per second and images per second of CPU time last. It must
not count its first steps.
"""

import argparse
from collections.abc import Callable
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time
from typing import Any

BATCH_SIZE, HIDDEN_SIZE, OUTPUT_SIZE = 64, 1024, 128
# Depth, stem, width, pixels.
NETWORKS = {
    'resnet18_imagenet_32': (18, 'imagenet', 1.0, 32),
    'resnet18_cifar_w16_32': (18, 'cifar', 0.25, 32),
    'resnet50_imagenet_64': (50, 'imagenet', 1.0, 64)}
Step = Callable[[], None]


def ours(network: str) -> Step:
  """The project's step, as the loop runs it."""
  from byol_jax import platforms
  platforms.keep_convolutions_from_ynnpack()
  return _make_step(network)


def _make_step(network: str) -> Step:
  import jax

  from byol_jax import config as config_lib
  from byol_jax.training import setup as setup_lib
  from byol_jax.training import throughput
  depth, stem, width, size = NETWORKS[network]
  config = config_lib.get_base_config()
  config.update(
      data='fake:256', image_size=size, encoder=f'resnet{depth}',
      batch_size=BATCH_SIZE, total_steps=10**6, warmup_steps=1,
      optimizer='sgd', weight_decay=5e-4, base_tau=0.99, online_probe=False)
  config.resnet.update(stem=stem, width=width)
  config.projector.update(hidden_size=HIDDEN_SIZE, output_size=OUTPUT_SIZE)
  config.predictor.hidden_size = HIDDEN_SIZE
  if jax.device_count() != 1:
    raise SystemExit('expected one device: unset XLA_FLAGS')
  return throughput.make_step_runner(setup_lib.set_up(config), 1)


def xla(network: str) -> Step:
  """The same, traced as for other platforms; XLA's own choice of library."""
  from byol_jax.networks import convolution
  with convolution.for_any_platform():
    step = _make_step(network)
    step()  # traced here
  return step


def _torch_networks(network: str) -> tuple[Any, Any, Any]:
  """An online network, its predictor, and a target."""
  import torch
  from torch import nn
  from torchvision.models import resnet
  depth, stem, width, _ = NETWORKS[network]
  block = resnet.BasicBlock if depth == 18 else resnet.Bottleneck
  depths = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]

  def encoder() -> Any:
    base = round(64 * width)
    kernel, stride = {'imagenet': (7, 2), 'cifar': (3, 1)}[stem]
    layers = [
        nn.Conv2d(3, base, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(base), nn.ReLU(inplace=True)]
    if stem == 'imagenet':
      layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = base
    for group, count in enumerate(depths):
      planes = base * 2**group
      for number in range(count):
        stride = 2 if group and not number else 1
        outputs = planes * block.expansion
        shortcut = None
        if stride != 1 or inputs != outputs:
          shortcut = nn.Sequential(
              nn.Conv2d(inputs, outputs, 1, stride, bias=False),
              nn.BatchNorm2d(outputs))
        layers.append(block(inputs, planes, stride, shortcut))
        inputs = outputs
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inputs

  def head(inputs: int) -> Any:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN_SIZE), nn.BatchNorm1d(HIDDEN_SIZE),
        nn.ReLU(inplace=True), nn.Linear(HIDDEN_SIZE, OUTPUT_SIZE, bias=False))

  def side() -> Any:
    body, outputs = encoder()
    return nn.Sequential(body, head(outputs))

  torch.manual_seed(0)
  return side(), head(OUTPUT_SIZE), side()


def torch(network: str, channels_last: bool = False) -> Step:
  """PyTorch, eager."""
  import torch
  from torch.nn import functional
  torch.set_num_threads(os.cpu_count())
  online, predictor, target = _torch_networks(network)
  size = NETWORKS[network][-1]
  views = [torch.rand(BATCH_SIZE, 3, size, size) for _ in range(2)]
  if channels_last:
    layout = torch.channels_last
    online, target = (x.to(memory_format=layout) for x in (online, target))
    views = [view.contiguous(memory_format=layout) for view in views]
  params = [*online.parameters(), *predictor.parameters()]
  optimizer = torch.optim.SGD(params, 0.05, momentum=0.9, weight_decay=5e-4)
  followed, followers = (
      [p.detach() for p in x.parameters()] for x in (online, target))

  def step() -> None:
    with torch.no_grad():
      aims = [target(view) for view in views]
    predictions = [predictor(online(view)) for view in views]
    loss = sum(
        (2 - 2 * functional.cosine_similarity(prediction, aim)).mean()
        for prediction, aim in zip(predictions, reversed(aims), strict=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
      torch._foreach_lerp_(followers, followed, 0.01)
    loss.item()

  return step


def torch_last(network: str) -> Step:
  """The same with channels last."""
  return torch(network, channels_last=True)


CONTENDERS = {fn.__name__: fn for fn in (ours, xla, torch, torch_last)}


def _measure(name: str, network: str, seconds: float) -> tuple[float, float]:
  """In this process: images per second of the clock and of CPU time.

  All have large pages and keep their memory, as our jobs do.
  """
  from byol_jax import host_memory
  host_memory.start_with_large_pages()
  host_memory.keep()
  step = CONTENDERS[name](network)
  for _ in range(3):
    step()
  begin, cpu_begin, count = time.perf_counter(), time.process_time(), 0
  while time.perf_counter() - begin < seconds:
    step()
    count += BATCH_SIZE
  return (count / (time.perf_counter() - begin),
          count / (time.process_time() - cpu_begin))


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--seconds', type=float, default=8.0)
  parser.add_argument('--networks', default=','.join(NETWORKS))
  parser.add_argument('--only', default=','.join(CONTENDERS))
  parser.add_argument('--beside', action='append', default=[])
  parser.add_argument('--json', type=pathlib.Path)
  parser.add_argument('--alone', help=argparse.SUPPRESS)
  options = parser.parse_args()
  for flag, known in (('networks', NETWORKS), ('only', CONTENDERS)):
    if unknown := set(getattr(options, flag).split(',')) - set(known):
      parser.error(
          f'--{flag}: no {", ".join(sorted(unknown))}; expected some of '
          f'{",".join(known)}')
  return options


def main() -> None:
  """The command."""
  options = _parse()
  if options.alone:
    print(*_measure(options.alone, options.networks, options.seconds))
    return
  commands = {
      name: [sys.executable, __file__, f'--alone={name}']
      for name in options.only.split(',')}
  others = dict(beside.split('=', 1) for beside in options.beside)
  result = {'cores': os.cpu_count(), 'batch_size': BATCH_SIZE}
  for network in options.networks.split(','):
    rounds = {name: [] for name in (*commands, *others)}
    for _ in range(options.rounds):
      for name, found in rounds.items():
        if name in commands:
          command = [
              *commands[name], f'--networks={network}',
              f'--seconds={options.seconds}']
        else:
          command = [
              *shlex.split(others[name]), network, str(options.seconds)]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True,
            env=os.environ | {'JAX_PLATFORMS': 'cpu'})
        found.append([float(x) for x in done.stdout.split()[-2:]])
        print(network, name, *(f'{x:.0f}' for x in found[-1]), flush=True)
    result[network] = {
        name: {
            'images_per_second': statistics.median(x[0] for x in found),
            'images_per_cpu_second': statistics.median(x[1] for x in found),
            'rounds': found}
        for name, found in rounds.items()}
    for name, row in result[network].items():
      print(f'{network:>24} {name:>12}'
            f' {row["images_per_second"]:8.1f} images/s'
            f' {row["images_per_cpu_second"]:8.1f} images/CPU s')
  if options.json:
    options.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  main()
