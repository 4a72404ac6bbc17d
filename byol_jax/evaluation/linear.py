"""Linear classification of a frozen encoder's embeddings.

The paper's protocol (appendix C.1): a fresh linear layer, SGD with Nesterov
momentum, a cosine learning rate without warm-up, no weight decay. Several base
learning rates are tried at once, each with its own head on the same batches;
which head counts is decided on a held-out share of the train split, never on
the test split.

There are two ways to the embeddings. `train_on_features` takes them as given,
extracted once; they are standardised (each dimension to mean 0 and standard
deviation 1 over the train split), which one learning rate for any encoder
asks for. `ImageTrainer` is the paper's: every batch of randomly cropped and
flipped images goes through the encoder, and embeddings are used as they are.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import functools
from typing import Any

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from byol_jax import all_reduce
from byol_jax import peers
from byol_jax.evaluation import accuracy
from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import resumable
from byol_jax.networks import initializers
from byol_jax.training import devices
from byol_jax.training import schedules

# Images whose logits are computed at once.
_BLOCK = 8192


@struct.dataclass
class Heads:
  """Linear classifiers, one for each learning rate, and their optimizer.

  Attributes:
    step: i32[], updates so far.
    params: `kernel` f32[R, D, C] and `bias` f32[R, C].
    opt_state: of the momentum.
  """

  step: jax.Array
  params: dict[str, jax.Array]
  opt_state: Any


def create_heads(
    key: jax.Array, *, embedding_size: int, num_classes: int, count: int,
    momentum: float,
) -> Heads:
  """All heads start from the same weights, with the original's initializer."""
  kernel = jax.jit(
      initializers.truncated_fan_in, static_argnums=1)(
          key, (embedding_size, num_classes))
  params = {
      'kernel': jnp.broadcast_to(kernel, (count, *kernel.shape)),
      'bias': jnp.zeros((count, num_classes))}
  return Heads(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=_momentum(momentum).init(params))


def _momentum(momentum: float) -> optax.GradientTransformation:
  return optax.trace(decay=momentum, nesterov=True)


def compute_logits(
    params: dict[str, jax.Array], embedding: jax.Array) -> jax.Array:
  """Maps embeddings f32[B, D] to logits f32[R, B, C], one set for each head."""
  logits = jnp.einsum('bd,rdc->rbc', embedding, params['kernel'])
  return logits + params['bias'][:, None]


def update_heads(
    heads: Heads,
    embedding: jax.Array,
    label: jax.Array,
    weight: jax.Array,
    *,
    base_learning_rates: Sequence[float],
    learning_rate_fn: schedules.Schedule,
    momentum: float,
    axis_name: str | None = None,
) -> tuple[Heads, jax.Array]:
  """One step of SGD with Nesterov momentum on the mean cross-entropy.

  Args:
    heads: R of them.
    embedding: f32[B, D].
    label: i32[B].
    weight: f32[B], 1, or 0 for examples that are held out.
    base_learning_rates: R, each times `learning_rate_fn(step)`.
    learning_rate_fn: of the 0-based step, for a base learning rate of 1.
    momentum: of Nesterov's kind, with the learning rate outside it.
    axis_name: mapped axis over which the batch is spread, or None.

  Returns:
    The next heads, and the losses before the step, f32[R].
  """
  def loss_fn(
      params: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    loss = optax.softmax_cross_entropy_with_integer_labels(
        compute_logits(params, embedding),
        jnp.broadcast_to(label, (len(base_learning_rates), *label.shape)))
    losses = jnp.sum(loss * weight[None], axis=1)
    return jnp.sum(losses), losses  # heads do not touch each other

  grads, losses = jax.grad(loss_fn, has_aux=True)(heads.params)
  total = jnp.sum(weight)
  if axis_name is not None:
    grads, losses, total = all_reduce.psum(
        (grads, losses, total), axis_name)
  grads, losses = jax.tree.map(
      lambda x: x / jnp.maximum(total, 1), (grads, losses))
  updates, opt_state = _momentum(momentum).update(grads, heads.opt_state)
  rates = learning_rate_fn(heads.step) * jnp.asarray(base_learning_rates)

  def descend(param: jax.Array, update: jax.Array) -> jax.Array:
    return param - rates.reshape(-1, *(1,) * (param.ndim - 1)) * update

  return Heads(
      step=heads.step + 1,
      params=jax.tree.map(descend, heads.params, updates),
      opt_state=opt_state), losses


def train_on_features(
    embedding: np.ndarray, label: np.ndarray, weight: np.ndarray, *,
    num_classes: int, base_learning_rates: Sequence[float], num_epochs: int,
    batch_size: int, momentum: float, seed: int,
) -> Heads:
  """Trains heads on embeddings that stay on the device.

  Each epoch has its own order and leaves out what does not fill a batch.

  Args:
    embedding: f32[N, D].
    label: i32[N].
    weight: f32[N], 0 for examples that are held out.
    num_classes: C.
    base_learning_rates: for a batch of 256, one for each head.
    num_epochs: passes over the N examples.
    batch_size: N if that is less.
    momentum: of Nesterov's kind.
    seed: of the initial weights and of the order.

  Returns:
    The heads after the last step.
  """
  count, embedding_size = embedding.shape
  batch_size = min(batch_size, count)
  init_key, order_key = jax.random.split(jax.random.key(seed))
  heads = create_heads(
      init_key, embedding_size=embedding_size, num_classes=num_classes,
      count=len(base_learning_rates), momentum=momentum)
  data = jax.device_put((embedding, label, weight))
  for epoch in range(num_epochs):
    peers.advance(f'linear, epoch {epoch + 1}')
    heads = _train_epoch(
        heads, jax.random.fold_in(order_key, epoch), data,
        base_learning_rates=tuple(base_learning_rates),
        num_epochs=num_epochs, batch_size=batch_size, momentum=momentum)
  return heads


@functools.partial(
    jax.jit, donate_argnums=(0,), static_argnames=(
        'base_learning_rates', 'num_epochs', 'batch_size', 'momentum'))
def _train_epoch(
    heads: Heads, key: jax.Array, data: tuple[jax.Array, ...], *,
    base_learning_rates: tuple[float, ...], num_epochs: int, batch_size: int,
    momentum: float,
) -> Heads:
  """One pass over `data` in an order of its own; compiles once for all."""
  count = data[0].shape[0]
  steps = count // batch_size
  order = jax.random.permutation(key, count)[:steps * batch_size]

  def body(heads: Heads, rows: jax.Array) -> tuple[Heads, None]:
    heads, _ = update_heads(
        heads, *(x[rows] for x in data),
        base_learning_rates=base_learning_rates,
        learning_rate_fn=_make_rate_fn(batch_size, steps * num_epochs),
        momentum=momentum)
    return heads, None

  return lax.scan(body, heads, order.reshape(steps, batch_size))[0]


def _make_rate_fn(batch_size: int, total_steps: int) -> schedules.Schedule:
  return schedules.make_learning_rate_fn(
      base_learning_rate=1.0, batch_size=batch_size, warmup_steps=0,
      total_steps=total_steps)


class ImageTrainer:
  """Trains heads on a stream of augmented images through a frozen encoder."""

  def __init__(
      self, encode: Callable[[Any, jax.Array], jax.Array], *,
      total_steps: int, base_learning_rates: Sequence[float],
      batch_size: int, momentum: float):
    """Compiles when it is first used.

    Args:
      encode: maps variables and images to embeddings, with running statistics.
      total_steps: updates.
      base_learning_rates: for a batch of 256, one for each head.
      batch_size: over all devices and processes.
      momentum: of Nesterov's kind.
    """
    update = functools.partial(
        update_heads, base_learning_rates=tuple(base_learning_rates),
        learning_rate_fn=_make_rate_fn(batch_size, total_steps),
        momentum=momentum, axis_name=devices.AXIS_NAME)

    def step(
        heads: Heads, batch: Any, variables: Any) -> tuple[Heads, jax.Array]:
      heads, losses = update(
          heads, encode(variables, batch['image']), batch['label'],
          batch['weight'])
      return heads, jnp.min(losses)

    self._p_step = devices.pmap_train_step(step, constant_axes=(None,))
    self._total_steps = total_steps
    self._count = len(base_learning_rates)
    self._momentum = momentum

  def train(
      self, variables: Any, make_batches: resumable.MakeBatches, *,
      held_out: np.ndarray, embedding_size: int, num_classes: int, seed: int,
      directory: str | None = None, save_every_steps: int = 1000,
  ) -> Heads:
    """Trains from fresh heads.

    Args:
      variables: `params` and `batch_stats`.
      make_batches: of batches with `image`, `label` and `index`.
      held_out: i32[M], values of `index` that must not be trained on.
      embedding_size: D.
      num_classes: C.
      seed: of the initial weights.
      directory: see `resumable.run_steps`; the heads are saved, the encoder
        is not.
      save_every_steps: there.

    Returns:
      The heads after the last step, on the host.
    """
    heads = create_heads(
        jax.random.key(seed), embedding_size=embedding_size,
        num_classes=num_classes, count=self._count, momentum=self._momentum)
    variables = devices.replicate(variables)
    return resumable.run_steps(
        lambda heads, batch: self._p_step(heads, batch, variables), heads,
        lambda first: _weighted(make_batches(first), held_out),
        total_steps=self._total_steps, what='linear', directory=directory,
        save_every_steps=save_every_steps)


def _weighted(
    batches: Iterable[dict[str, np.ndarray]], held_out: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
  for batch in batches:
    weight = ~np.isin(batch['index'], held_out)
    yield {
        'image': batch['image'], 'label': batch['label'],
        'weight': weight.astype(np.float32)}


def standardize(
    train: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
  """Shifts and scales each dimension by `train`'s mean and deviation.

  A dimension that does not vary becomes zero everywhere.
  """
  mean = train.mean(axis=0, keepdims=True, dtype=np.float64)
  std = train.std(axis=0, keepdims=True, dtype=np.float64)
  dead = std <= 1e-6 * np.abs(mean)
  scale = np.where(dead, 0.0, 1.0 / np.where(dead, 1.0, std))
  return tuple(
      ((x - mean) * scale).astype(np.float32) for x in (train, *others))


def measure(
    heads: Heads, embedding: np.ndarray, label: np.ndarray, *, count: int = 1,
) -> np.ndarray:
  """Top-`count` accuracy f64[R] of each head."""
  hits = 0
  for start in range(0, len(label), _BLOCK):
    block = slice(start, start + _BLOCK)
    logits = compute_logits(heads.params, jnp.asarray(embedding[block]))
    hits += np.asarray(accuracy.count_hits(logits, label[block], count=count))
  return hits / len(label)


def choose(heads: Heads, valid: features_lib.Features | None) -> int:
  """The head that is best on `valid`; of equals, or without, the first."""
  if valid is None:
    return 0
  return int(np.argmax(measure(heads, valid.embedding, valid.label)))


def report(
    heads: Heads, chosen: int, test: features_lib.Features, *,
    base_learning_rates: Sequence[float], num_classes: int,
) -> Iterator[tuple[str, float]]:
  """Measures the chosen head on the test split.

  Yields:
    `linear/test_top1`, of more than five classes `linear/test_top5`, and
    `linear/base_learning_rate`, the chosen one.
  """
  for count in accuracy.top_counts(num_classes):
    top = measure(heads, test.embedding, test.label, count=count)
    yield f'linear/test_top{count}', float(top[chosen])
  yield 'linear/base_learning_rate', float(base_learning_rates[chosen])
