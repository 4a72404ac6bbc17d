"""What comes from outside is read as data, or refused, and never run."""

import collections
import copyreg
import functools
import io
import os
import pickle
import random
import re
import struct
import sys
import tracemalloc
import types

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.interchange import restricted_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def _load(tmp_path, data):
  path = tmp_path / 'file.pkl'
  path.write_bytes(data)
  return restricted_pickle.load(str(path))


def _refusal(tmp_path, data):
  """The one line that says why `data` is refused."""
  with pytest.raises(config_lib.ConfigError) as caught:
    _load(tmp_path, data)
  message = str(caught.value)
  assert '\n' not in message
  assert len(message) < 600
  assert message.startswith(str(tmp_path / 'file.pkl'))
  return message


class _Reduced:
  """Pickles as a call of anything."""

  def __init__(self, *value):
    self.value = value

  def __reduce__(self):
    return self.value


# What it reads.


ARRAYS = {
    'floats': np.arange(6, dtype=np.float32).reshape(2, 3),
    'large': np.random.default_rng(0).normal(size=(40, 50)),
    'half': np.float16([1.5, -2]),
    'fortran': np.asfortranarray(np.arange(12, dtype=np.int64).reshape(3, 4)),
    'big_endian': np.arange(5, dtype='>f4'),
    'booleans': np.array([True, False]),
    'bytes': np.arange(256, dtype=np.uint8),
    'of_no_axis': np.array(7, dtype=np.int32),
    'empty': np.zeros((3, 0, 2), np.float32),
    'scalar': np.float32(2.5),
}


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_arrays_of_every_protocol(tmp_path, protocol):
  read = _load(tmp_path, pickle.dumps(ARRAYS, protocol))
  assert list(read) == list(ARRAYS)
  for name, expected in ARRAYS.items():
    value = read[name].value
    assert value.dtype == expected.dtype.newbyteorder('=')
    np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_plain_data_of_every_protocol(tmp_path, protocol):
  shared = ['text', 'töxt\n', 'x' * 300]
  if protocol > 2:
    shared += [b'', b'\x00\xff', b'y' * 300]
  value = {
      'integers': [0, 1, 255, 65535, -1, -2**31, 2**31, 2**70, -2**70],
      'others': (None, True, False, 1.5, -0.0, float('inf')),
      'twice': [shared, shared], 3: (), 'tuples': ((1,), (1, 2), (1, 2, 3))}
  read = _load(tmp_path, pickle.dumps(value, protocol))
  assert read == value
  assert read['twice'][0] is read['twice'][1]


def _original(monkeypatch):
  """A named tuple in a module of the original's name."""
  module = types.ModuleType('byol.utils.optimizers')
  kind = collections.namedtuple('ScaleByLarsState', 'mu')
  kind.__module__ = module.__name__
  module.ScaleByLarsState = kind
  for name in ('byol', 'byol.utils'):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  monkeypatch.setitem(sys.modules, module.__name__, module)
  return kind


@pytest.mark.parametrize('protocol', [p for p in PROTOCOLS if p >= 2])
def test_named_tuples(tmp_path, monkeypatch, protocol):
  kind = _original(monkeypatch)
  read = _load(tmp_path, pickle.dumps([kind({'a': 1})], protocol))
  assert read == [
      restricted_pickle.Record('ScaleByLarsState', {'mu': {'a': 1}})]


# What it refuses.


def _hostile(canary):
  """By name, pickles that would make the file `canary`, and what they name."""
  command = f'touch {canary}'
  code = f'open({canary!r}, "w").close()'
  run = _Reduced(os.system, (command,))
  yield 'os.system', pickle.dumps(run), r'posix\.system'
  yield 'eval', pickle.dumps(_Reduced(eval, (code,))), r'builtins\.eval'
  yield 'exec', pickle.dumps(_Reduced(exec, (code,)), 0), r'__builtin__\.exec'
  yield 'getattr', (
      b'c__builtin__\ngetattr\n(c__builtin__\n__import__\n(Vos\ntRVsystem\ntR('
      b'V' + command.encode() + b'\ntR.'), r'__builtin__\.getattr'
  yield 'partial', pickle.dumps(_Reduced(
      functools.partial(os.system, command), ())), r'functools\.partial'
  yield 'nested', pickle.dumps({'step': [1, (2, run)]}), r'posix\.system'
  yield 'as an argument', (
      b'c_codecs\nencode\n(cposix\nsystem\n(V' + command.encode()
      + b'\ntRtR.'), r'posix\.system'
  yield 'reconstructor', pickle.dumps(_Reduced(
      copyreg._reconstructor, (dict, dict, {}))), r'copyreg\._reconstructor'
  yield 'memo', (
      b'\x80\x04\x8c\x05posix\x940\x8c\x06system\x940h\x00h\x01\x93\x8c'
      + bytes([len(command)]) + command.encode() + b'\x85R.'), r'posix\.system'
  yield 'attribute of a module', (
      b'\x80\x04\x8c\x05numpy\x8c\x0bf2py.os.sys\x93.'), r'numpy\.f2py\.os'
  yield 'INST', b'(V' + command.encode() + b'\niposix\nsystem\n.', (
      r'posix\.system')
  yield 'OBJ', b'(cposix\nsystem\nV' + command.encode() + b'\no.', (
      r'posix\.system')
  for name in ('_create_type', '_create_function', '_load_type',
               '_import_module', '_eval_repr', '_get_attr'):
    yield name, b'cdill._dill\n' + name.encode() + b'\n(tR.', (
        rf'dill\._dill\.{name}')
  yield 'NumPy loads', b'cnumpy\nload\n(V/x\ntR.', r'numpy\.load'


@pytest.mark.parametrize('case', [case for case, *_ in _hostile('')])
def test_nothing_of_a_hostile_file_runs(tmp_path, case):
  canary = tmp_path / 'canary'
  data, named = next(rest for name, *rest in _hostile(str(canary))
                     if name == case)
  message = _refusal(tmp_path, data)
  assert re.search(named, message), message
  assert not canary.exists()


@pytest.mark.parametrize('case', [
    'os.system', 'eval', 'exec', 'getattr', 'partial', 'memo', 'INST', 'OBJ'])
def test_the_hostile_files_are_hostile(tmp_path, case):
  """The standard unpickler runs what the test above finds refused."""
  canary = tmp_path / 'canary'
  data, _ = next(rest for name, *rest in _hostile(str(canary))
                 if name == case)
  pickle.loads(data)
  assert canary.exists()


def test_a_named_module_is_not_imported(tmp_path):
  assert 'this' not in sys.modules
  assert 'this.s' in _refusal(tmp_path, b'cthis\ns\n.')
  assert 'this' not in sys.modules


NDARRAY = b'cnumpy\nndarray\n'
MAKE = b'cnumpy.core.multiarray\n_reconstruct\n'
EMPTY = MAKE + b'(' + NDARRAY + b'(I0\ntVb\ntR'
F4 = b'cnumpy\ndtype\n(Vf4\nI00\nI01\ntR'
RECORD = b'cdill._dill\n_create_namedtuple\n(VA\n(Va\ntVm\ntR'


@pytest.mark.parametrize('data, message', [
    # Attributes, of anything that could have some.
    (NDARRAY + b'}Vx\nI1\nsb.', 'sets the attributes of a numpy.ndarray'),
    (RECORD + b'}b.', 'sets the attributes of a RecordType'),
    (RECORD + b'(I1\nt\x81}b.', 'sets the attributes of a Record'),
    (b'}}b.', 'sets the attributes of a dict'),
    (EMPTY + b'}b.', 'state of a Array'),
    # Calls of what is no function, or of one in another's place.
    (NDARRAY + b'(tR.', 'calls a numpy.ndarray'),
    (RECORD + b'(I1\ntR.', 'calls a RecordType'),
    (b'Vos.system\n(tR.', 'calls a str'),
    (MAKE + b'(' + MAKE + b'(I0\ntVb\ntR.', 'is a numpy.core.multiarray'),
    (b'cdill._dill\n_create_array\n(cnumpy\ndtype\n(t(tNtR.',
     'makes an array by a numpy.dtype'),
    (b'c_codecs\nencode\n(Vx\nVrot13\ntR.', 'other than bytes'),
    (b'chaiku._src.data_structures\nFlatMapping\n(](tR.', None),
    (b'chaiku._src.data_structures\nFlatMapping\n(]tR.', 'mapping of a list'),
    (b'cnumpy\ndtype\n\x81.', None),
    (NDARRAY + b')\x81.', 'makes a new numpy.ndarray'),
    (RECORD + b')\x81.', '1 fields'),
    # Types of arrays.
    (b'cnumpy\ndtype\n(VO8\nI00\nI01\ntR.', 'type O8'),
    (b'cnumpy\ndtype\n(VV8\nI00\nI01\ntR.', 'type V8'),
    (F4 + b'(I3\nV<\nN(Vx\nt}I-1\nI-1\nI0\ntb.', 'with fields'),
    (EMPTY + b'(I1\n(I-1\nt' + F4 + b'I00\nVx\ntb.', 'wrong shape'),
    (EMPTY + b'(I1\n(I2\nt' + F4 + b'I00\nVx\ntb.', 'of an array are a str'),
    # Opcodes.
    (b'Pid\n.', 'PERSID'), (b'N\x51.', 'BINPERSID'), (b'\x82\x01.', 'EXT1'),
    (b'\x83\x01\x00.', 'EXT2'), (b'\x84\x01\x00\x00\x00.', 'EXT4'),
    (b'NN}\x92.', 'NEWOBJ_EX'), (b'\x8f.', 'EMPTY_SET'),
    (b'\x97.', 'NEXT_BUFFER'), (b"S'x'\n.", 'STRING'),
    (b'\x80\x63.', 'protocol 99'), (b'\x00', 'no opcode'),
    # Shapes of programs.
    (b'.', 'with 0 values'), (b'', 'empty'), (b'NN.', 'with 2 values'),
    (b'(.', 'with 0 values'), (b'(N.', 'with 1 values'), (b'N', 'cut short'),
    (b't.', 'IndexError'), (b'h\x07.', 'KeyError'), (b'}(Ku.', None),
    (b'}(NNu.', 'NoneType as a key'), (b'})Ns.', 'tuple as a key'),
    (b'NNa.', 'appends to a NoneType'), (b'NVa\nNs.', 'item of a NoneType'),
    (b'\x93.', 'value is missing'), (b'NN\x93.', 'no text'),
    (b'cposix', 'does not end'), (b'Vposix', 'endless text'),
    (b'X\x01\x00\x00\x00\xff.', 'UnicodeDecodeError'),
    (b'Inan\n.', 'ValueError')])
def test_refused(tmp_path, data, message):
  assert (message or 'refused') in _refusal(tmp_path, data)


def test_names_are_shown_without_control_characters(tmp_path):
  message = _refusal(tmp_path, b'cm\x1b[31m' + b'x' * 300 + b'\nf\r\n.')
  assert message.isprintable()


def test_numpy_objects(tmp_path):
  for protocol in PROTOCOLS:
    array = np.array([{}, 'x'], dtype=object)
    assert 'type O8' in _refusal(tmp_path, pickle.dumps(array, protocol))


# What it costs.


@pytest.fixture
def _few_bytes():
  tracemalloc.start()
  yield
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2**20


@pytest.mark.usefixtures('_few_bytes')
@pytest.mark.parametrize('opcode, layout', [
    (pickle.BINUNICODE8, '<Q'), (pickle.BINBYTES8, '<Q'),
    (pickle.BYTEARRAY8, '<Q'), (pickle.FRAME, '<Q'),
    (pickle.BINUNICODE, '<I'), (pickle.BINBYTES, '<I')])
def test_claimed_lengths(tmp_path, opcode, layout):
  bits = 8 * struct.calcsize(layout)
  for length in (10, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1):
    if length < 2**bits:
      data = opcode + struct.pack(layout, length) + b'x.'
      assert 'cut short' in _refusal(tmp_path, data)


def test_integers_that_cannot_be_printed(tmp_path):
  """A line that says what was found could not be made of such a key."""
  data = pickle.LONG4 + struct.pack('<i', 5000) + b'x' * 5000 + b'.'
  assert 'an integer of 5000 bytes' in _refusal(tmp_path, data)
  for length in (-1, 10, 2**31 - 1):
    assert _refusal(tmp_path, pickle.LONG4 + struct.pack('<i', length))
  data = pickle.LONG1 + b'\xff' + b'x' * 255 + b'.'
  assert str(_load(tmp_path, data))


@pytest.mark.usefixtures('_few_bytes')
def test_huge_memo_index(tmp_path):
  data = b'N' + pickle.LONG_BINPUT + b'\xff' * 4 + b'p' + b'9' * 30 + b'\n.'
  assert _load(tmp_path, data) is None


@pytest.mark.usefixtures('_few_bytes')
def test_arrays_larger_than_their_bytes(tmp_path):
  of_shape = lambda shape: EMPTY + b'(I1\n(' + shape + b't' + F4 + (
      b'I00\nc_codecs\nencode\n(Vabcd\nVlatin1\ntRtb')
  assert 'given 4' in _refusal(tmp_path, of_shape(b'I2\n') + b'.')
  assert 'claim more' in _refusal(tmp_path, of_shape(b'I90\n') + b'.')
  for shape in (b'I1000000000\n', b'I200\nI200\nI200\nI200\n', b'I1\n' * 33,
                b'I0\nI99999999999999\n', b'I1' + b'0' * 500 + b'\n'):
    assert 'refused' in _refusal(tmp_path, of_shape(shape) + b'.')


@pytest.mark.usefixtures('_few_bytes')
def test_one_text_for_many_arrays(tmp_path):
  """A few bytes each for an array of all that the text has."""
  text = b'V' + b'a' * 40_000 + b'\np0\n0'
  each = EMPTY + b'(I1\n(I10000\nt' + F4 + (
      b'I00\nc_codecs\nencode\n(g0\nVlatin1\ntRtb')
  assert 'claim more' in _refusal(
      tmp_path, text + b'(' + each * 50 + b't.')


def test_one_tuple_for_many_records(tmp_path):
  """Named tuples of thousands of fields, for a few bytes each."""
  data = (b'cdill._dill\n_create_namedtuple\n(VA\n(' + b'Va\n' * 65
          + b'tVm\ntR.')
  assert 'too many' in _refusal(tmp_path, data)
  assert 'wrongly' in _refusal(
      tmp_path, b'cnumpy\ndtype\n(' + b'N' * 65 + b'tR.')


def test_too_many_opcodes(tmp_path, monkeypatch):
  monkeypatch.setattr(restricted_pickle, '_MAX_OPCODES', 1000)
  assert 'more than 1000' in _refusal(tmp_path, b']0' * 501 + b'N.')
  assert _load(tmp_path, b']0' * 499 + b'N.') is None


def test_deep_nesting(tmp_path):
  for data in (b')' + b'\x85' * 50_000 + b'.',
               b'(' * 50_000 + b'l' * 50_000 + b'.'):
    assert len(_load(tmp_path, data)) == 1
  assert 'tuple as a key' in _refusal(
      tmp_path, b'})' + b'\x85' * 50_000 + b'Ns.')


def test_cyclic_data(tmp_path):
  cycle = []
  cycle.append(cycle)
  read = _load(tmp_path, pickle.dumps(cycle))
  assert read[0] is read


# Chance.


def _small():
  buffer = io.BytesIO()
  pickle.Pickler(buffer, 2).dump(
      {'step': 3, 'state': [{'w': ARRAYS['floats']}, ARRAYS['half'], b'abc']})
  return buffer.getvalue()


def test_cut_anywhere(tmp_path):
  data = _small()
  for length in range(len(data)):
    _refusal(tmp_path, data[:length])


def test_any_bytes_changed(tmp_path):
  """Either data, or one clear line: no other exception, and no crash."""
  rng, data = random.Random(0), _small()
  refused = 0
  for _ in range(1500):
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
      changed[rng.randrange(len(data))] = rng.randrange(256)
    try:
      _load(tmp_path, bytes(changed))
    except config_lib.ConfigError:
      refused += 1
  assert 100 < refused < 1500
