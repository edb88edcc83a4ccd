"""Fetch a file over HTTP. Whatever the server does, it ends: bytes, seconds and redirects are bounded."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp

SILENCE = 30.0  # seconds without an answer or a byte
REDIRECTS = 5
CHUNK = 2**16  # bytes


class NotFetched(Exception):
    """A file did not come.

    Args:
        reason: why, in words.
        again: whether another attempt may have another end.
    """

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason, again)
        self.reason, self.again = reason, again

    def __str__(self) -> str:
        return self.reason


def fetch(
    url: str,
    path: Path,
    *,
    most: int,
    seconds: float,
    on_bytes: Callable[[int, int | None], None] = lambda count, total: None,
) -> None:
    """Write what is at the URL to a file, as it is sent: nothing is decompressed.

    Args:
        url: http or https. A proxy that the environment names is used.
        path: of the file.
        most: bytes that it may have.
        seconds: that the transfer may take, from the first attempt to connect to the last byte.
        on_bytes: told how many bytes came, and of how many in all, where the server says so.

    Raises:
        NotFetched: there is no answer, it is no file, or it exceeds a bound. The file may be there in part.
    """
    try:
        asyncio.run(_fetch(url, path, most, seconds, on_bytes))
    except aiohttp.TooManyRedirects:
        raise NotFetched(f"redirects more than {REDIRECTS} times", again=False) from None
    except aiohttp.ClientResponseError as error:
        raise NotFetched(f"HTTP {error.status}", again=error.status >= 500) from None
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
        raise NotFetched("no http(s) URL", again=False) from None
    except aiohttp.ServerTimeoutError:
        raise NotFetched(f"no answer or no byte for {SILENCE:g} s", again=True) from None
    except TimeoutError:
        raise NotFetched(f"not whole after {seconds:,.0f} s", again=False) from None
    except aiohttp.ClientPayloadError:
        raise NotFetched(f"broke off after {path.stat().st_size:,} bytes", again=True) from None
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or error.os_error
        raise NotFetched(f"cannot connect to {error.host}:{error.port}: {reason}", again=True) from None
    except aiohttp.ClientError as error:
        raise NotFetched(" ".join(str(error).split()) or type(error).__name__, again=True) from None


async def _fetch(url: str, path: Path, most: int, seconds: float, on_bytes: Callable[[int, int | None], None]) -> None:
    bounds = aiohttp.ClientTimeout(total=seconds, sock_connect=SILENCE, sock_read=SILENCE)
    with path.open("wb") as file:
        async with (
            aiohttp.ClientSession(timeout=bounds, trust_env=True, auto_decompress=False) as session,
            session.get(url, max_redirects=REDIRECTS, raise_for_status=True) as response,
        ):
            received = 0
            async for chunk in response.content.iter_chunked(CHUNK):
                received += len(chunk)
                if received > most:
                    raise NotFetched(f"more than the {most:,} bytes that it may have", again=False)
                file.write(chunk)
                on_bytes(len(chunk), response.content_length)
