"""Encoders of vectors: from (d,) float32 to a few small tensors, and back. Functions of their arguments alone.

What a decoder needs besides the tensors, such as d, both sides know. A vector with a number that is not finite decodes
to one that has such a number too, so that whoever checks what arrives still sees it.
"""

import zlib
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedpipe.federated.messages import State
from fedpipe.system.records import DTYPES

Norm = Literal["max", "l2"]


def name_of(dtype: torch.dtype) -> str:
    """Return what people call a type of numbers, such as float32."""
    return str(dtype).removeprefix("torch.")


KINDS = {name_of(dtype): dtype for dtype in DTYPES if dtype != torch.bool}


def encode_top_k(vector: Tensor, k: int) -> State:
    """Keep the k numbers that are largest in absolute value, of equal ones those of lower indices: 8 bytes each.

    Args:
        vector: (d,) float32.
        k: 1 to d.

    Returns:
        ``indices``, (k,) int32 ascending, and ``values``, (k,) float32.

    References:
        Aji and Heafield 2017, arXiv:1704.05021; Stich et al. 2018, arXiv:1809.07599, definition 2.2.
    """
    x = vector.numpy()
    # Without its sign, a float32 is the larger the larger its bits are as a whole number; those of NaN are the largest.
    size = x.view(np.int32) & 0x7FFFFFFF
    least = np.partition(size, len(x) - k)[len(x) - k]
    above = np.flatnonzero(size > least)
    equal = np.flatnonzero(size == least)[: k - len(above)]
    indices = np.sort(np.concatenate([above, equal]))
    return {"indices": torch.from_numpy(indices.astype(np.int32)), "values": torch.from_numpy(x[indices])}


def decode_top_k(tensors: State, d: int) -> Tensor:
    """Return the (d,) float32 vector, 0 where nothing was kept.

    Raises:
        ValueError: an index is not below d, or stands twice or out of order.
    """
    indices = tensors["indices"].numpy()
    if not ((indices >= 0) & (indices < d)).all() or not (indices[1:] > indices[:-1]).all():
        raise ValueError(f"its indices are not ascending numbers below {d}")
    return _scattered(tensors["values"], indices, d)


def random_indices(d: int, k: int, generator: np.random.Generator) -> np.ndarray:
    """Return k of the numbers below d, ascending; each subset is equally likely."""
    return np.sort(generator.choice(d, size=k, replace=False, shuffle=False))


def encode_random_k(vector: Tensor, indices: np.ndarray, *, unbiased: bool) -> State:
    """Keep the numbers at indices that the receiver knows too: 4 bytes each.

    Args:
        vector: (d,) float32.
        indices: (k,) as `random_indices` draws them.
        unbiased: whether the numbers are multiplied by d/k, so that the expectation is the vector. With error feedback
            they must not be, else the error grows.

    Returns:
        ``values``, (k,) float32.

    References:
        Stich et al. 2018, arXiv:1809.07599, definition 2.2; as an unbiased "random mask" Konečný et al. 2016,
        arXiv:1610.05492, section 2.
    """
    x = vector.numpy()
    with np.errstate(over="ignore"):
        values = x[indices] * np.float32(len(x) / len(indices) if unbiased else 1)
    if not np.isfinite(x).all():  # though perhaps none of these
        values = np.full_like(values, np.nan)
    return {"values": torch.from_numpy(values)}


def decode_random_k(tensors: State, indices: np.ndarray, d: int) -> Tensor:
    """Return the (d,) float32 vector, 0 where nothing was kept.

    Raises:
        ValueError: there are not as many numbers as indices.
    """
    return _scattered(tensors["values"], indices, d)


def encode_qsgd(vector: Tensor, bits: int, bucket: int, norm: Norm, generator: np.random.Generator) -> State:
    """Round each number at random to one of a few levels: b bits, its sign among them, and a norm for each bucket.

    A number x of a bucket with the norm N becomes a neighbouring level, with such probabilities that its expectation is
    x. With b ≥ 2 bits the levels are ±N j/s for j = 0 ... s, where s = 2^(b-1) - 1: that is QSGD with s levels. With
    1 bit they are -N and N, a stochastic sign: N with the probability (1 + x/N) / 2.

    N is the Euclidean norm, as in the paper's theorems, or the largest absolute value, as in its experiments. For
    b ≥ 2 the variance is at most min(n/s², √n/s) ‖x‖² for a bucket of n numbers (lemma 3.1) with either, and much less
    with the largest; for 1 bit it is n N² - ‖x‖².

    Args:
        vector: (d,) float32.
        bits: b, 1 to 8.
        bucket: how many numbers share a norm.
        norm: which.
        generator: makes d draws.

    Returns:
        ``codes``, (⌈b d / 8⌉,) uint8, and ``norms``, (⌈d / bucket⌉,) float32.

    References:
        Alistarh et al. 2017, arXiv:1610.02132, section 3.1; for 1 bit Jin et al. 2020, arXiv:2002.10940, where it is
        called sto-sign.
    """
    x = vector.numpy()
    buckets = _buckets(x, bucket)  # float64, so that squares of small numbers do not vanish
    norms = np.abs(buckets).max(axis=1) if norm == "max" else np.sqrt(np.einsum("ij,ij->i", buckets, buckets))
    with np.errstate(over="ignore"):
        norms = norms.astype(np.float32)  # no smaller than any number of its bucket, as these are float32
    usable = np.isfinite(norms) & (norms > 0)
    buckets[~usable] = 0
    buckets /= np.where(usable, norms, 1)[:, None]
    position = buckets.reshape(-1)[: len(x)]  # -1 to 1
    position += 1
    position *= _steps(bits) / 2  # 0 to the number of steps
    below = np.floor(position)
    codes = below.astype(np.uint8) + (generator.random(len(x)) < position - below)
    return {"codes": torch.from_numpy(packed(codes, bits)), "norms": torch.from_numpy(norms)}


def decode_qsgd(tensors: State, d: int, bits: int, bucket: int) -> Tensor:
    """Return the (d,) float32 vector of levels.

    Raises:
        ValueError: there are not as many codes or norms as d asks for.
    """
    codes, norms = unpacked(tensors["codes"].numpy(), bits, d), tensors["norms"].numpy()
    if len(norms) != -(-d // bucket):
        raise ValueError(f"it has {len(norms)} norms and not {-(-d // bucket)}")
    steps = _steps(bits)
    levels = (np.arange(2**bits, dtype=np.float32) * 2 - steps) / steps  # -1 to 1, by code
    with np.errstate(invalid="ignore"):  # a norm may be infinite
        return torch.from_numpy(levels[codes] * np.repeat(norms, min(bucket, d))[:d])


def encode_sign(vector: Tensor) -> State:
    """Keep the sign of each number and their mean size, (‖x‖₁ / d) sign(x): a bit each; 0 counts as positive.

    Returns:
        ``signs``, (⌈d / 8⌉,) uint8, and ``scale``, (1,) float32.

    References:
        Karimireddy et al. 2019, arXiv:1901.09847, section 4: the scaled sign.
    """
    x = vector.numpy()
    scale = np.abs(x).mean(dtype=np.float64, keepdims=True).astype(np.float32)
    return {"signs": torch.from_numpy(packed((x >= 0).astype(np.uint8), 1)), "scale": torch.from_numpy(scale)}


def decode_sign(tensors: State, d: int) -> Tensor:
    """Return the (d,) float32 vector of plus and minus the scale.

    Raises:
        ValueError: there are not as many signs as d asks for.
    """
    scale = tensors["scale"].numpy()
    return torch.from_numpy(np.where(unpacked(tensors["signs"].numpy(), 1, d), scale, -scale))


def encode_float(vector: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to the nearest float16 or bfloat16: 2 bytes each. What is too large becomes the largest finite number."""
    largest = torch.finfo(dtype).max
    return torch.where(vector.isinf(), vector, vector.clamp(-largest, largest)).to(dtype)


def deflate(tensors: State) -> State:
    """Shrink one-dimensional tensors without loss: each becomes a stream of zlib, (bytes,) uint8.

    Of ascending indices the differences are taken, which are small. The first bytes of a tensor's numbers come first,
    then the second ones and so on: in the vectors of a network, exponents resemble each other and digits do not.

    Returns:
        Streams, under names such as ``values.float32``.
    """
    streams = {}
    for name, tensor in tensors.items():
        numbers = torch.diff(tensor, prepend=tensor.new_zeros(1)) if name == "indices" else tensor
        planes = numbers.view(torch.uint8).reshape(-1, numbers.element_size()).T
        stream = bytearray(zlib.compress(planes.numpy().tobytes()))
        streams[f"{name}.{name_of(tensor.dtype)}"] = torch.frombuffer(stream, dtype=torch.uint8)
    return streams


def inflate(streams: State) -> State:
    """Undo `deflate`.

    Raises:
        ValueError: a tensor is no stream of zlib, or not of such numbers as its name says.
    """
    tensors = {}
    for key, stream in streams.items():
        name, _, kind = key.rpartition(".")
        if kind not in KINDS:
            raise ValueError(f"{key} names no type of numbers")
        try:
            data = zlib.decompress(stream.numpy().tobytes())
        except zlib.error as error:
            raise ValueError(f"its {name} cannot be inflated: {error}") from None
        planes = np.frombuffer(data, dtype=np.uint8).reshape(KINDS[kind].itemsize, -1)
        numbers = torch.from_numpy(planes.T.copy()).reshape(-1).view(KINDS[kind])
        tensors[name] = numbers.cumsum(0, dtype=numbers.dtype) if name == "indices" else numbers
    return tensors


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return numbers of a few bits each, uint8, one after the other without gaps: ⌈bits · n / 8⌉ bytes, uint8."""
    groups = np.zeros((-(-len(codes) // 8), 8), dtype=np.uint8)  # eight numbers make `bits` bytes
    groups.reshape(-1)[: len(codes)] = codes
    words = np.zeros(len(groups), dtype="<u8")
    for place in range(8):
        words |= groups[:, place].astype(np.uint64) << np.uint64(bits * place)
    return words.view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)[: -(-bits * len(codes) // 8)].copy()


def unpacked(data: np.ndarray, bits: int, n: int) -> np.ndarray:
    """Undo `packed`.

    Raises:
        ValueError: the data do not have the length of n numbers.
    """
    if len(data) != -(-bits * n // 8):
        raise ValueError(f"it has {len(data)} bytes for {n} numbers of {bits} bits")
    whole = np.zeros(-(-n // 8) * bits, dtype=np.uint8)
    whole[: len(data)] = data
    groups = np.zeros((-(-n // 8), 8), dtype=np.uint8)
    groups[:, :bits] = whole.reshape(-1, bits)
    words = groups.view("<u8")
    shifts = np.arange(8, dtype=np.uint64) * np.uint64(bits)
    return ((words >> shifts) & np.uint64(2**bits - 1)).astype(np.uint8).reshape(-1)[:n]


def _scattered(values: Tensor, indices: np.ndarray, d: int) -> Tensor:
    if len(values) != len(indices):
        raise ValueError(f"it has {len(values)} numbers for {len(indices)} indices")
    vector = np.zeros(d, dtype=np.float32)
    vector[indices] = values.numpy()
    return torch.from_numpy(vector)


def _buckets(x: np.ndarray, bucket: int) -> np.ndarray:
    """Return the numbers in rows, float64; zeros, which change no norm, fill the last one."""
    rows = np.zeros((-(-len(x) // bucket), min(bucket, max(len(x), 1))))
    rows.reshape(-1)[: len(x)] = x
    return rows


def _steps(bits: int) -> int:
    """Return how many steps there are from the lowest level to the highest."""
    return 1 if bits == 1 else 2**bits - 2
