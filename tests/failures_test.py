"""What is to be said of a failure, and whether to try again."""

import errno

import jax
import pytest

from byol_jax import failures


@pytest.mark.parametrize('error, reason', [
    (OSError(errno.ENOSPC, 'No space left on device', 'a'),
     'No space left on device'),
    (ValueError('Error writing "a/b": [OS error 30: EROFS Read-only file '
                'system]\nand pages more'), 'Read-only file system'),
    (ValueError('some\n  other thing'), 'some other thing'),
    (ValueError('long ' * 100), ('long ' * 40))])
def test_reason(error, reason):
  assert failures.reason(error) == reason


@pytest.mark.parametrize('message, again', [
    ('INTERNAL: core halted', True), ('ABORTED: a peer', True),
    ('UNAVAILABLE: socket closed', True), ('DATA_LOSS: ECC', True),
    ('RESOURCE_EXHAUSTED: out of HBM; INTERNAL', False),
    ('INVALID_ARGUMENT: shapes', False)])
def test_whether_a_device_failed(message, again):
  assert failures.is_of_a_device(jax.errors.JaxRuntimeError(message)) == again
  assert not failures.is_of_a_device(RuntimeError(message))
