"""Reads a pickle of arrays without running anything that it names.

A pickle is a program: it names functions of any module, and the standard
unpickler imports and calls them. The machine here is another. It knows the
opcodes that build plain data, of protocols 0 to 5, and `_CALLS` and
`_RECORDS`, the names that a checkpoint of arrays needs. Each of these stands
for a function of this file that returns inert data. Any other name is refused
by name, any other opcode too. Nothing is imported, and no attribute or method
is ever looked up by what the file says.

A hostile file cannot ask for much memory or time either: what it claims to
hold is compared with its size before anything is allocated, arrays are views
of it where they can be, and its opcodes are counted.

| in the file | here |
|---|---|
| dict, Haiku's FlatMapping and frozendict | dict, with keys of str or int |
| list, tuple, str, bytes, int, float, bool, None | the same |
| named tuple | `Record` |
| NumPy and JAX arrays of numbers, NumPy scalars | `Array` |

Text and bytes of more than 4096, and bytes as protocols 0 to 2 write them,
stay in the file: only an `Array` reads them, elsewhere they are opaque.
"""

from collections.abc import Callable
import dataclasses
import math
import mmap
import pickle
import pickletools
import struct
from typing import Any

import numpy as np

from byol_jax import config as config_lib
from byol_jax import places

# A checkpoint of a ResNet-200 has about 300 000.
_MAX_OPCODES = 5_000_000
# Of names and of numbers that are written out, in bytes.
_MAX_LINE = 1024
_MAX_INTEGER_BYTES = 255  # longer ones cannot be printed, and count nothing
# Text and bytes that are longer stay in the file until an array wants them.
_MAX_SHORT = 4096
_MAX_DIMENSIONS = 32
# Of a named tuple, and of a dtype's state. The same tuple may be given to
# every call, so the time and memory of a call must not grow with the file.
_MAX_FIELDS = 64
_NUMBERS = frozenset(
    ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8'))


class _Refused(Exception):
  """Says what is wrong with a file; `load` adds which file it is."""


@dataclasses.dataclass
class Array:
  """An array of the file.

  Attributes:
    value: of numbers, perhaps read-only; None where the file never gave it.
  """

  value: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Record:
  """A named tuple of the file, whose class is not needed.

  Attributes:
    name: of the class, without its module.
    fields: by name.
  """

  name: str
  fields: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _RecordType:
  name: str
  fields: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Text:
  """Text that is long, as the file has it: in UTF-8."""

  utf8: memoryview


@dataclasses.dataclass(frozen=True)
class _Latin1:
  """Bytes as protocols 0 to 2 write them: text to be encoded."""

  text: str | _Text


@dataclasses.dataclass
class _DType:
  code: str
  order: str = '='


@dataclasses.dataclass(frozen=True)
class _Name:
  """An allowed name of the file; `call` is None where it is only referred to.
  """

  name: str
  call: Callable[..., Any] | None = None


def load(path: str) -> Any:
  """Reads `path`, which may come from anyone.

  Args:
    path: of a pickle, uncompressed.

  Returns:
    What it holds, see the table above. Lists and dictionaries may hold
    themselves, so do not descend without a bound.

  Raises:
    ConfigError: if there is no such file, or it is cut short, malformed, or
      refers to anything that is not in the table; then with its name.
  """
  places.check_file(path, path)
  try:
    with open(path, 'rb') as file:
      if not file.read(1):
        raise _Refused('it is empty')
      return _Machine(
          mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).run()
  except _Refused as error:
    reason = str(error)
  except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError,
          struct.error) as error:
    reason = f'it is no well-formed pickle ({type(error).__name__})'
  raise config_lib.ConfigError(
      f'{path} is refused: {reason}. Nothing in it was run')


def _show(text: object) -> str:
  """What may be printed of what a stranger has written."""
  shown = str(text)[:100]
  return shown if shown.isprintable() else ascii(shown)


def _kind(value: Any) -> str:
  """What to call a value: its own text may be endless."""
  if isinstance(value, _Name):
    return _show(value.name)
  return type(value).__name__.strip('_')


def _expect(condition: bool, message: str) -> None:
  if not condition:
    raise _Refused(message)


class _Machine:
  """Runs one pickle. Lengths are compared with the file before any use."""

  def __init__(self, data: mmap.mmap):
    self._data = data
    self._view = memoryview(data)
    self._position = 0
    self._stack = []
    self._marks = []
    self._memo = {}
    self._array_bytes = 0

  def run(self) -> Any:
    """Returns what the program leaves behind."""
    for _ in range(_MAX_OPCODES):
      code = bytes(self._take(1))
      if code == pickle.STOP:
        _expect(
            len(self._stack) == 1 and not self._marks,
            'it is no well-formed pickle: it ends with '
            f'{len(self._stack)} values, expected one')
        return self._stack.pop()
      step = _OPCODES.get(code)
      if step is None:
        self._refuse(code)
      step(self)
    raise _Refused(f'it has more than {_MAX_OPCODES} opcodes')

  def _refuse(self, code: bytes) -> None:
    """Raises, saying which opcode it is, and of which name."""
    known = {op.code.encode('latin-1'): op.name for op in pickletools.opcodes}
    _expect(code in known, (
        f'byte {self._position - 1} is {code!r}, which is no opcode of a '
        'pickle'))
    if code == pickle.INST:
      self.find(self._line(), self._line())
    raise _Refused(
        f'it has the opcode {known[code]}, which a checkpoint does not need')

  # What the file gives.

  def _take(self, count: int) -> memoryview:
    left = len(self._view) - self._position
    if not 0 <= count <= left:
      raise _Refused(
          f'it is cut short: byte {self._position} begins {count} bytes, and '
          f'{left} are left')
    self._position += count
    return self._view[self._position - count:self._position]

  def _number(self, layout: str) -> Any:
    return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

  def _line(self, limit: int = _MAX_LINE) -> str:
    """Text up to the end of the line."""
    begin = self._position
    end = self._data.find(b'\n', begin, begin + limit)
    _expect(end >= 0, (
        f'it is cut short, or malformed: byte {begin} begins a line that does '
        'not end'))
    line = bytes(self._take(end - begin))
    self._take(1)
    return line.decode('utf-8')

  # What the program does with its stack.

  def push(self, value: Any) -> None:
    self._stack.append(value)

  def pop(self) -> Any:
    if len(self._stack) <= (self._marks[-1] if self._marks else 0):
      raise _Refused('it is no well-formed pickle: a value is missing')
    return self._stack.pop()

  def top(self) -> Any:
    value = self.pop()
    self.push(value)
    return value

  def mark(self) -> None:
    self._marks.append(len(self._stack))

  def pop_to_mark(self) -> list[Any]:
    begin = self._marks.pop()
    values = self._stack[begin:]
    del self._stack[begin:]
    return values

  def pop_or_unmark(self) -> None:
    """POP, which takes a mark where that is on top."""
    if self._marks and self._marks[-1] == len(self._stack):
      self._marks.pop()
    else:
      self.pop()

  def take_tuple(self, count: int) -> None:
    values = [self.pop() for _ in range(count)]
    self.push(tuple(reversed(values)))

  def put(self, index: int) -> None:
    self._memo[index] = self.top()

  def put_next(self) -> None:
    self.put(len(self._memo))

  def get(self, index: int) -> None:
    self.push(self._memo[index])

  def append(self, values: list[Any]) -> None:
    target = self.top()
    _expect(type(target) is list, f'it appends to a {_kind(target)}')
    target.extend(values)

  def set_items(self, values: list[Any]) -> None:
    target = self.top()
    _expect(type(target) is dict, f'it sets an item of a {_kind(target)}')
    _expect(len(values) % 2 == 0, 'it is no well-formed pickle: an odd dict')
    for key, value in zip(values[::2], values[1::2], strict=True):
      # The hash of a nested tuple would descend as far as the file likes.
      _expect(type(key) in (str, int), f'it has a {_kind(key)} as a key')
      target[key] = value

  # Values.

  def push_text(self, count: int) -> None:
    utf8 = self._take(count)
    self.push(
        bytes(utf8).decode('utf-8') if count <= _MAX_SHORT else _Text(utf8))

  def push_text_line(self) -> None:
    begin = self._position
    end = self._data.find(b'\n', begin)
    _expect(end >= 0, f'it is cut short: byte {begin} begins endless text')
    self.push(bytes(self._take(end - begin)).decode('raw-unicode-escape'))
    self._take(1)

  def push_bytes(self, count: int) -> None:
    data = self._take(count)
    self.push(bytes(data) if count <= _MAX_SHORT else data)

  def push_integer(self, count: int) -> None:
    _expect(count <= _MAX_INTEGER_BYTES, (
        f'it has an integer of {count} bytes, which a checkpoint does not '
        'need'))
    self.push(int.from_bytes(self._take(count), 'little', signed=True))

  def push_integer_line(self) -> None:
    line = self._line()
    # Protocol 0 has no other way to write booleans.
    self.push({'00': False, '01': True}.get(line) if line in ('00', '01')
              else int(line.removesuffix('L')))

  # Names, and what is made of them.

  def find(self, module: Any, name: Any) -> None:
    """Pushes what an allowed name stands for."""
    _expect(
        type(module) is str and type(name) is str,
        'it refers to something whose name is no text')
    full = f'{module}.{name}'
    if full in _RECORDS:
      self.push(_RecordType(name, _RECORDS[full]))
      return
    _expect(full in _CALLS, (
        f'it refers to {_show(full)}, which a checkpoint does not need'))
    self.push(_Name(full, _CALLS[full]))

  def find_on_stack(self) -> None:
    name, module = self.pop(), self.pop()
    self.find(module, name)

  def reduce(self) -> None:
    """Makes what an allowed call would have made."""
    arguments, function = self.pop(), self.pop()
    _expect(
        type(function) is _Name and function.call is not None,
        f'it calls a {_kind(function)}')
    _expect(
        type(arguments) is tuple and len(arguments) <= _MAX_FIELDS,
        f'it calls {_kind(function)} wrongly')
    self.push(function.call(self, *arguments))

  def new_record(self) -> None:
    values, of_type = self.pop(), self.pop()
    _expect(
        type(of_type) is _RecordType, f'it makes a new {_kind(of_type)}')
    _expect(
        type(values) is tuple and len(values) == len(of_type.fields),
        f'{_show(of_type.name)} has {len(of_type.fields)} fields, and other '
        'values are given')
    self.push(Record(
        of_type.name, dict(zip(of_type.fields, values, strict=True))))

  def build(self) -> None:
    """Gives a state to an array or a dtype; nothing else has any."""
    state, target = self.pop(), self.top()
    _expect(
        type(target) in (Array, _DType),
        f'it sets the attributes of a {_kind(target)}')
    _expect(
        type(state) is tuple and len(state) <= _MAX_FIELDS,
        f'the state of a {_kind(target)} is wrong')
    if type(target) is _DType:
      target.order = _byte_order(target.code, *state)
    else:
      _expect(target.value is None, 'an array is given twice')
      target.value = self._array(*state[-4:])

  def _array(
      self, shape: Any, dtype: Any, is_fortran: Any, data: Any) -> np.ndarray:
    """Checks that the bytes are there, then reads them."""
    _expect(type(dtype) is _DType, 'an array has no dtype')
    _expect(
        type(shape) is tuple and len(shape) <= _MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n <= len(self._view) for n in shape),
        'an array has a wrong shape')
    type_ = np.dtype(dtype.code).newbyteorder(dtype.order)
    size = math.prod(shape) * type_.itemsize
    self._array_bytes += size
    _expect(
        self._array_bytes <= len(self._view),
        'its arrays claim more bytes than it has')
    data = _bytes(data, size)
    _expect(len(data) == size, (
        f'an array of {size} bytes is given {len(data)}'))
    flat = np.frombuffer(data, type_) if size else np.zeros((0,), type_)
    return flat.astype(type_.newbyteorder('='), copy=False).reshape(
        shape, order='F' if is_fortran is True else 'C')

  # What the allowed names do. Each is called with what the file gives it.

  def encode(self, text: Any, encoding: Any) -> _Latin1:
    _expect(
        type(text) in (str, _Text) and encoding in ('latin1', 'latin-1'),
        'it encodes something other than bytes')
    return _Latin1(text)

  def empty_bytes(self) -> bytes:
    return b''

  def dtype(
      self, code: Any, align: Any = False, copy: Any = True) -> _DType:
    del align, copy
    _expect(type(code) is str, 'an array has no dtype')
    _expect(code in _NUMBERS, (
        f'it has an array of type {_show(code)}, expected numbers'))
    return _DType(code)

  def empty_array(self, of_type: Any, shape: Any, typecode: Any) -> Array:
    del shape, typecode  # Its state gives both.
    _expect(
        type(of_type) is _Name and of_type.name == 'numpy.ndarray',
        f'it has an array that is a {_kind(of_type)}')
    return Array()

  def array(
      self, make: Any, arguments: Any, state: Any, attributes: Any = None,
  ) -> Array:
    """As dill and JAX write arrays, all at once."""
    _expect(
        type(make) is _Name
        and make.call is _Machine.empty_array,
        f'it makes an array by a {_kind(make)}')
    _expect(type(arguments) is tuple and type(state) is tuple, (
        'the state of an array is wrong'))
    del attributes  # JAX's `weak_type`.
    array = self.empty_array(*arguments)
    array.value = self._array(*state[-4:])
    return array

  def buffer_array(
      self, data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """As NumPy writes arrays in protocol 5."""
    return Array(self._array(shape, dtype, order == 'F', data))

  def scalar(self, dtype: Any, data: Any) -> Array:
    return Array(self._array((), dtype, False, data))

  def record_type(
      self, name: Any, fields: Any, module: Any, defaults: Any = None
  ) -> _RecordType:
    """As dill writes the class of a named tuple."""
    del module, defaults
    _expect(
        type(name) is str and type(fields) is tuple
        and len(fields) <= _MAX_FIELDS
        and all(type(field) is str for field in fields),
        'a named tuple has wrong or too many names')
    return _RecordType(name, fields)

  def mapping(self, items: Any) -> dict[Any, Any]:
    _expect(type(items) is dict, f'it makes a mapping of a {_kind(items)}')
    return items


def _byte_order(code: str, *state: Any) -> str:
  """The order in a dtype's state, which must say nothing else."""
  _expect(
      len(state) >= 5 and state[1] in ('<', '>', '|', '=')
      and all(part is None for part in state[2:5]),
      f'it has an array of type {code} with fields, expected numbers')
  return state[1]


def _bytes(data: Any, size: int) -> Any:
  """The bytes of an array; refuses what cannot be `size` of them."""
  if type(data) is not _Latin1:
    _expect(
        type(data) in (bytes, memoryview),
        f'the bytes of an array are a {_kind(data)}')
    return data
  text = data.text
  given = len(text.utf8) if type(text) is _Text else len(text)
  # A byte of an array is one or two of UTF-8.
  most = 2 * size if type(text) is _Text else size
  _expect(
      size <= given <= most, f'an array of {size} bytes is given {given}')
  if type(text) is _Text:
    text = bytes(text.utf8).decode('utf-8')
  return text.encode('latin-1')


# The classes of the original and of its libraries, where a file refers to
# them and does not describe them.
_RECORDS = {
    'byol.byol_experiment._ByolExperimentState': (
        'online_params', 'target_params', 'online_state', 'target_state',
        'opt_state'),
    'byol.utils.optimizers.AddWeightDecayState': (),
    'byol.utils.optimizers.ScaleByLarsState': ('mu',),
    'optax._src.base.EmptyState': (),
    'optax._src.transform.EmptyState': (),
    'optax._src.transform.ScaleState': (),
}

_CALLS = {
    '__builtin__.bytes': _Machine.empty_bytes,
    'builtins.bytes': _Machine.empty_bytes,
    '_codecs.encode': _Machine.encode,
    'dill._dill._create_array': _Machine.array,
    'dill._dill._create_namedtuple': _Machine.record_type,
    'haiku._src.data_structures.FlatMap': _Machine.mapping,
    'haiku._src.data_structures.FlatMapping': _Machine.mapping,
    'haiku._src.data_structures.frozendict': _Machine.mapping,
    'jax._src.array._reconstruct_array': _Machine.array,
    'jax._src.device_array.reconstruct_device_array': _Machine.array,
    'numpy.dtype': _Machine.dtype,
    'numpy.ndarray': None,
    **{f'numpy.{core}.multiarray.{name}': call for core in ('core', '_core')
       for name, call in (('_reconstruct', _Machine.empty_array),
                          ('scalar', _Machine.scalar))},
    **{f'numpy.{core}.numeric._frombuffer': _Machine.buffer_array
       for core in ('core', '_core')},
}


def _check_protocol(machine: _Machine) -> None:
  version = machine._number('<B')
  _expect(version <= pickle.HIGHEST_PROTOCOL, (
      f'it is of protocol {version}, expected at most '
      f'{pickle.HIGHEST_PROTOCOL}'))


def _check_frame(machine: _Machine) -> None:
  """A frame only says how much to read ahead."""
  length, begin = machine._number('<Q'), machine._position
  machine._take(length)
  machine._position = begin


def _pair(machine: _Machine) -> list[Any]:
  value, key = machine.pop(), machine.pop()
  return [key, value]


def _push_dict(machine: _Machine) -> None:
  items = machine.pop_to_mark()
  machine.push({})
  machine.set_items(items)


_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: _check_protocol,
    pickle.FRAME: _check_frame,
    pickle.MARK: _Machine.mark,
    pickle.POP: _Machine.pop_or_unmark,
    pickle.POP_MARK: _Machine.pop_to_mark,
    pickle.DUP: lambda m: m.push(m.top()),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.INT: _Machine.push_integer_line,
    pickle.LONG: _Machine.push_integer_line,
    pickle.BININT: lambda m: m.push(m._number('<i')),
    pickle.BININT1: lambda m: m.push(m._number('<B')),
    pickle.BININT2: lambda m: m.push(m._number('<H')),
    pickle.LONG1: lambda m: m.push_integer(m._number('<B')),
    pickle.LONG4: lambda m: m.push_integer(m._number('<i')),
    pickle.FLOAT: lambda m: m.push(float(m._line())),
    pickle.BINFLOAT: lambda m: m.push(m._number('>d')),
    pickle.UNICODE: _Machine.push_text_line,
    pickle.SHORT_BINUNICODE: lambda m: m.push_text(m._number('<B')),
    pickle.BINUNICODE: lambda m: m.push_text(m._number('<I')),
    pickle.BINUNICODE8: lambda m: m.push_text(m._number('<Q')),
    pickle.SHORT_BINBYTES: lambda m: m.push_bytes(m._number('<B')),
    pickle.BINBYTES: lambda m: m.push_bytes(m._number('<I')),
    pickle.BINBYTES8: lambda m: m.push_bytes(m._number('<Q')),
    pickle.BYTEARRAY8: lambda m: m.push_bytes(m._number('<Q')),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE: lambda m: m.push(tuple(m.pop_to_mark())),
    pickle.TUPLE1: lambda m: m.take_tuple(1),
    pickle.TUPLE2: lambda m: m.take_tuple(2),
    pickle.TUPLE3: lambda m: m.take_tuple(3),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: lambda m: m.push(m.pop_to_mark()),
    pickle.APPEND: lambda m: m.append([m.pop()]),
    pickle.APPENDS: lambda m: m.append(m.pop_to_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: _push_dict,
    pickle.SETITEM: lambda m: m.set_items(_pair(m)),
    pickle.SETITEMS: lambda m: m.set_items(m.pop_to_mark()),
    pickle.PUT: lambda m: m.put(int(m._line())),
    pickle.BINPUT: lambda m: m.put(m._number('<B')),
    pickle.LONG_BINPUT: lambda m: m.put(m._number('<I')),
    pickle.MEMOIZE: _Machine.put_next,
    pickle.GET: lambda m: m.get(int(m._line())),
    pickle.BINGET: lambda m: m.get(m._number('<B')),
    pickle.LONG_BINGET: lambda m: m.get(m._number('<I')),
    pickle.GLOBAL: lambda m: m.find(m._line(), m._line()),
    pickle.STACK_GLOBAL: _Machine.find_on_stack,
    pickle.REDUCE: _Machine.reduce,
    pickle.NEWOBJ: _Machine.new_record,
    pickle.BUILD: _Machine.build,
}
