"""How the CPU kernels are compiled, and what numba lacks for them: the bits of a number, the largest of a block."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, overload

from quantctl.kernels.cpu.geometry import CACHE_LINE
from quantctl.kernels.cpu.kept import Kept

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_INLINE: dict[str, Any] = {**_OPTIONS, "forceinline": True, "no_cpython_wrapper": True}


class Kernel:
    """A function that Python calls: compiled at its first call for each kind of arguments, and kept on disk."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.dispatcher = numba.njit(function, **_OPTIONS)
        self.dispatcher._cache = Kept(function)
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, kind: Hashable, *arguments: Any) -> Any:
        """kind: says all of the arguments' types, so that numba need not look at them, which takes ten times as long
        as the call itself."""
        compiled = self._compiled.get(kind)
        if compiled is None:
            compiled = self._compiled[kind] = self.dispatcher.compile(tuple(map(numba.typeof, arguments)))
        return compiled(*arguments)


def part(function: Callable[..., Any]) -> Any:
    """A piece of kernels that goes into each of its callers, so that their loops are vectorized as one."""
    return numba.njit(function, **_INLINE)


@intrinsic
def as_float(typing_context: Any, bits: Any) -> Any:
    """The fp32 number with these int32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def as_bits(typing_context: Any, value: Any) -> Any:
    """The int32 bits of an fp32 number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


def place_of(context: Any, builder: Any, kind: Any, array: Any, words: Any, at: Any) -> Any:
    """For an intrinsic: a pointer to what words[at] begins, as one of an LLVM type `kind`. array: the type of words."""
    data = context.make_array(array)(context, builder, words).data
    return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())


def _fetch(to_write: int) -> Any:
    @intrinsic
    def fetch(typing_context: Any, words: Any, at: Any) -> Any:
        """Ask for the line of memory of words[at], which need not exist."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            where = place_of(context, builder, ir.IntType(8), words, *arguments)
            number = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [where.type, number, number, number])
            prefetch = builder.module.declare_intrinsic("llvm.prefetch", [where.type], kind)
            # into the nearest cache, of data
            builder.call(prefetch, [where, number(to_write), number(3), number(1)])
            return context.get_dummy_value()

        return types.none(words, types.uint64), generate

    return fetch


fetch_to_read, fetch_to_write = _fetch(0), _fetch(1)


@intrinsic
def stream_line(typing_context: Any, words: Any, at: Any, out: Any, to: Any) -> Any:
    """A line's worth of words from words[at] on into the line of memory that begins at out[to], past the caches: it
    need not be read before. Others see it once `fence` has been called."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds, width = signature.args, words.dtype.bitwidth
        line = ir.VectorType(context.get_value_type(words.dtype), CACHE_LINE * 8 // width)
        value = builder.load(place_of(context, builder, line, kinds[0], *arguments[:2]), align=width // 8)
        stored = builder.store(value, place_of(context, builder, line, kinds[2], *arguments[2:]), align=CACHE_LINE)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.none(words, types.uint64, out, types.uint64), generate


def wide_vectors(*kinds: type) -> Any:
    """For the loops of the function that calls it with numbers of these kinds, named tuples.

    LLVM takes half of AVX-512's width, with which the first CPUs that have it are faster, and twice the instructions.
    """

    @intrinsic
    def take(typing_context: Any, e: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if _is_of(e, list(kinds)):
                set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite names none with values
            return context.get_dummy_value()

        return types.none(e), generate

    return take


@intrinsic
def fence(typing_context: Any) -> Any:
    """All that was stored before is seen before what is stored behind this."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), generate


def implements(declared: Callable[..., Any], **kinds: Any) -> Callable[[Callable[..., Any]], None]:
    """Above what `declared` does in kernels where these arguments are of these kinds: numba types or named tuples, or
    one of several."""
    names = list(inspect.signature(declared).parameters)

    def register(implementation: Callable[..., Any]) -> None:
        def choose(*given: Any) -> Any:
            fits = all(_is_of(given[names.index(name)], kind) for name, kind in kinds.items())
            return implementation if fits else None

        choose.__signature__ = inspect.signature(implementation)  # type: ignore[attr-defined]
        overload(declared, jit_options=_INLINE)(choose)

    return register


def _is_of(given: Any, kind: Any) -> bool:
    if isinstance(kind, list):
        return any(_is_of(given, one) for one in kind)
    return bool(given == kind if isinstance(kind, types.Type) else getattr(given, "instance_class", None) is kind)


def _largest(size: int) -> Any:
    @intrinsic
    def largest(typing_context: Any, words: Any, start: Any) -> Any:
        """The largest of `size` words from words[start] on, without their signs: one number for the whole block.

        A loop over so few is unrolled before it can be vectorized.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            width = words.dtype.bitwidth
            block = ir.VectorType(context.get_value_type(words.dtype), size)
            first = place_of(context, builder, block, words, *arguments)
            masked = builder.and_(
                builder.load(first, align=width // 8), ir.Constant(block, [(1 << (width - 1)) - 1] * size)
            )
            kind = ir.FunctionType(block.element, [block])
            reduce = get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.umax.v{size}i{width}")
            return builder.call(reduce, [masked])

        return words.dtype(words, types.uint64), generate

    return largest


LARGEST = {size: _largest(size) for size in (16, 32)}
