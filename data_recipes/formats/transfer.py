"""One file, or a range of its bytes, over HTTP(S) or from S3: time-outs, retries, and a length that is checked.

fsspec keeps the sessions and finds the credentials; the requests are made here, because what decides whether bytes
can be trusted (the status, Content-Length and Content-Range of the answer) does not come through fsspec's own calls.
Everything is made inside the process that reads, on fsspec's own thread: after a fork the child connects anew.

Set in the environment, and read at each request:
    INKZOO_REMOTE_TIMEOUT  seconds to wait for a connection, and for each next piece of an answer (30); a whole answer
                           may take ten times as long
    INKZOO_REMOTE_TRIES    how often a file is asked for before it is an error (5)
    INKZOO_REMOTE_PAUSE    seconds before the second try (0.5), doubled with each further one, with jitter
S3 takes its endpoint, region and credentials from where every AWS tool does (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_PROFILE, ~/.aws …); without credentials it is read anonymously. HTTP takes proxies from the environment and
passwords from ~/.netrc.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import re
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from fsspec.asyn import get_loop
from fsspec.implementations.http import HTTPFileSystem

if TYPE_CHECKING:
    from s3fs import S3FileSystem

Span = tuple[int, int | None]
"""Bytes from the first to before the second; (-n, None) the last n, (n, None) all from n on."""

WHOLE_ANSWER = 10  # times the time-out
LONGEST_PAUSE = 30.0  # s
_NO_RANGES = "the server ignores byte ranges"
_NO_NAME = "no network address is known for the name"
_NOBODY = "nobody answers at"
_NO_PROXY = "no answer from the proxy"
_AGAIN = (408, 425, 429)  # and all of 5xx


class RemoteError(OSError):
    """A file that could not be fetched; the message names it."""


class RemoteRefused(RemoteError, PermissionError):
    """The server wants to know who asks (401), or does not let them (403)."""


@dataclass(frozen=True)
class Limits:
    """How long a server is waited for: `timeout` and `pause` in seconds, `tries` requests in all."""

    timeout: float
    tries: int
    pause: float

    @classmethod
    def from_environment(cls) -> Limits:
        """ValueError where one is no positive number."""
        return cls(
            timeout=number("INKZOO_REMOTE_TIMEOUT", 30.0),
            tries=max(1, int(number("INKZOO_REMOTE_TRIES", 5))),
            pause=number("INKZOO_REMOTE_PAUSE", 0.5),
        )

    def before(self, attempt: int) -> float:
        """Seconds to wait before the given try (1 is the second): doubled each time, with jitter so that many readers
        that failed together do not come back together."""
        return min(LONGEST_PAUSE, self.pause * 2 ** (attempt - 1)) * random.SystemRandom().uniform(0.5, 1.5)


def number(variable: str, default: float) -> float:
    """A positive number from the environment."""
    given = os.environ.get(variable)
    try:
        value = float(given) if given else default
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{variable}={given}: expected a number above 0, such as {default:g}")
    return value


def fetch(url: str, span: Span | None = None) -> Future[bytes | None]:
    """Ask for a file or a span of it; the future holds its bytes, or None where the server has no such file.

    Raises (from the future):
        RemoteRefused: 401 or 403.
        RemoteError: no right answer after all tries.
        ValueError: a setting in the environment that is no number.
    """
    return asyncio.run_coroutine_threadsafe(_fetch(url, span), get_loop())


def told(url: str, span: Span | None) -> str:
    """A file and the bytes of it that were asked for, for messages."""
    if span is None:
        return url
    start, stop = span
    if start < 0:
        return f"{url} (its last {-start} bytes)"
    return f"{url} (bytes {start} to {stop - 1 if stop is not None else 'the end'})"


class _Fault(Exception):
    """An answer that another try may better, or not (`again`)."""

    def __init__(self, reason: str, again: bool = True, wait: float = 0.0):
        super().__init__(reason)
        self.again, self.wait = again, wait


@dataclass
class _Answer:
    status: int
    body: bytes = b""
    length: int | None = None  # what its header promised
    range: str | None = None
    retry_after: str | None = None
    code: str = ""  # S3's own word for an error


async def _fetch(url: str, span: Span | None) -> bytes | None:
    limits = Limits.from_environment()
    read = _read_s3 if url.startswith("s3://") else _read_http
    reason, tried, wait = "", 0, 0.0
    while tried < limits.tries:
        if tried:
            await asyncio.sleep(max(limits.before(tried), wait))
        tried += 1
        try:
            async with asyncio.timeout(WHOLE_ANSWER * limits.timeout):
                answer = await read(url, span, limits)
            return _judge(url, answer, span)
        except _Fault as fault:
            reason, wait = str(fault), fault.wait
            if not fault.again:
                break
        except TimeoutError:
            reason, wait = f"no answer within {limits.timeout:g} s (INKZOO_REMOTE_TIMEOUT waits longer)", 0.0
        except RemoteError:  # refused: no use in asking again
            raise
        except aiohttp.ClientPayloadError:
            reason, wait = "the answer broke off before its end", 0.0
        except aiohttp.ClientSSLError as error:
            why = getattr(error.os_error, "verify_message", None) or error.os_error.strerror or "no reason given"
            why = re.sub(r"^\[.*?\] | \(_ssl.*\)$", "", why)  # OpenSSL's own names for it
            raise RemoteError(
                f"{url}: no trusted connection ({why}); is its certificate valid, and does it speak https at all?"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            reason, wait = _unconnected(error), 0.0
    tries = "1 try" if tried == 1 else f"{tried} tries"
    raise RemoteError(f"{told(url, span)}: not read: {reason} ({tries}){_advice(reason)}")


def _unconnected(error: BaseException) -> str:
    """Why there was no connection, in words of our own: the libraries' hold addresses, types and errors in errors."""
    if isinstance(error, aiohttp.ClientConnectorError):
        at = f"{error.host}:{error.port}"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"{_NO_NAME} {error.host}"
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            return f"{_NO_PROXY} {at}"
        return f"{_NOBODY} {at} ({_refusal(error.os_error)})"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "the server broke the connection off"
    return " ".join(str(error).split()) or type(error).__name__


def _refusal(error: OSError) -> str:
    """What the system said; asyncio hides it in a text of its own."""
    if error.errno is None:
        return "no connection to any of its addresses"
    return os.strerror(error.errno).lower()


def _advice(reason: str) -> str:
    """What to do about it, as the end of a message."""
    if _NO_RANGES in reason:
        return ""
    if reason.startswith(_NO_NAME):
        return "; is it spelled right, and is this machine on the network?"
    if reason.startswith(_NO_PROXY):
        return "; is it up, and HTTP_PROXY or HTTPS_PROXY right?"
    if reason.startswith(_NOBODY):
        return "; is the server up, and the port right? try again later"
    return "; is the server up, and the upload complete? try again later"


def _judge(url: str, answer: _Answer, span: Span | None) -> bytes | None:
    """The body of an answer, if it is what was asked for; None for a file that is not there."""
    status, what = answer.status, f"HTTP {answer.status} {answer.code}".rstrip()
    if status in (404, 410):
        return None
    if status in (401, 403):
        help = "in ~/.netrc" if not url.startswith("s3:") else "in AWS_ACCESS_KEY_ID … or AWS_PROFILE"
        bucket = url.startswith("s3:") or ".amazonaws.com/" in url
        raise RemoteRefused(
            f"{url}: the server refuses access ({what}); give the right credentials {help}, or ask whose data it is"
            + (" (where a bucket may not be listed, S3 answers so for a file that is not there)" if bucket else "")
        )
    if status in _AGAIN or status >= 500:
        wait = answer.retry_after or ""
        raise _Fault(f"the server answered {what}", wait=min(float(wait), LONGEST_PAUSE) if wait.isdecimal() else 0.0)
    if status == 416:
        raise _Fault("the file ends before these bytes, so it is cut short or its index is damaged")
    if span is not None and status == 200:
        raise _Fault(f"{_NO_RANGES}, which a sharded zarr needs; serve it from one that knows them")
    if status != (200 if span is None else 206):
        raise _Fault(f"the server answered {what}", again=False)
    got = len(answer.body)
    if answer.length is not None and got != answer.length:
        raise _Fault(f"{got} bytes arrived, its header promised {answer.length}")
    if span is not None:
        _check_range(answer.range, got, span)
    return answer.body


def _check_range(stated: str | None, got: int, span: Span) -> None:
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", stated or "")
    if match is None:
        raise _Fault(f"a part without a valid Content-Range ({stated})")
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    start, stop = span
    if start < 0:
        right = last - first + 1 == -start and total in (None, last + 1)
    else:
        right = first == start and (last + 1 == stop if stop is not None else total in (None, last + 1))
    if not right or got != last - first + 1:
        raise _Fault(f"another part arrived: {got} bytes said to be {stated}")


def _header(span: Span) -> str:
    start, stop = span
    return f"bytes={start}" if start < 0 else f"bytes={start}-{'' if stop is None else stop - 1}"


_clients: dict[str, Any] = {}
_inherited: list[dict[str, Any]] = []


async def _read_http(url: str, span: Span | None, limits: Limits) -> _Answer:
    session = await _http().set_session()
    headers = {"Accept-Encoding": "identity"} | ({"Range": _header(span)} if span is not None else {})
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.timeout, sock_read=limits.timeout)
    async with session.get(_http().encode_url(url), headers=headers, timeout=timeout) as got:
        wanted = got.status == (200 if span is None else 206)
        encoded = got.headers.get("Content-Encoding", "identity") != "identity"
        if wanted and encoded and span is not None:
            raise _Fault("the server compresses what it sends, so that a range of bytes means something else")
        return _Answer(
            got.status,
            await got.read() if wanted else b"",
            None if encoded else got.content_length,
            got.headers.get("Content-Range"),
            got.headers.get("Retry-After"),
        )


async def _read_s3(url: str, span: Span | None, limits: Limits) -> _Answer:
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        EndpointConnectionError,
        FlexibleChecksumError,
        HTTPClientError,
        ReadTimeoutError,
    )

    bucket, _, key = url.removeprefix("s3://").partition("/")
    client = await _s3(limits).set_session()
    try:
        got = await client.get_object(Bucket=bucket, Key=key, **({} if span is None else {"Range": _header(span)}))
        status = got["ResponseMetadata"]["HTTPStatusCode"]
        async with got["Body"] as stream:
            body = await stream.read() if status == (200 if span is None else 206) else b""
    except ClientError as error:
        meta = error.response.get("ResponseMetadata", {})
        retry_after = meta.get("HTTPHeaders", {}).get("retry-after")
        code = str(error.response.get("Error", {}).get("Code", ""))
        return _Answer(meta.get("HTTPStatusCode", 0), retry_after=retry_after, code="" if code.isdecimal() else code)
    except (ConnectTimeoutError, ReadTimeoutError):
        raise TimeoutError from None
    except EndpointConnectionError as error:
        raise _Fault(f"{_NOBODY} {_endpoint(str(error))}") from error
    except (HTTPClientError, FlexibleChecksumError) as error:
        raise _Fault(" ".join(str(error).split())) from error
    except BotoCoreError as error:
        raise _Fault(" ".join(str(error).split()), again=False) from error
    return _Answer(status, body, got.get("ContentLength"), got.get("ContentRange"))


def _endpoint(message: str) -> str:
    """Scheme and host of the URL that botocore names in its message."""
    found = re.search(r"https?://[^/\"]+", message)
    return found[0] if found else "S3's endpoint (AWS_ENDPOINT_URL)"


def _http() -> HTTPFileSystem:
    if "http" not in _clients:
        # asynchronous: without it fsspec closes the session in a forked child too, and with it the parent's sockets
        settings = {"trust_env": True}
        _clients["http"] = HTTPFileSystem(asynchronous=True, skip_instance_cache=True, client_kwargs=settings)
        _close_at_exit()
    return _clients["http"]


def _s3(limits: Limits) -> S3FileSystem:
    key = f"s3 {limits.timeout:g}"
    if key not in _clients:
        import botocore.session
        from s3fs import S3FileSystem

        config = {
            "connect_timeout": limits.timeout,
            "read_timeout": limits.timeout,
            "max_pool_connections": 32,
            "retries": {"total_max_attempts": 1},  # `_fetch` repeats, or each try would be several
        }
        anonymous = botocore.session.Session().get_credentials() is None
        _clients[key] = S3FileSystem(anon=anonymous, config_kwargs=config, asynchronous=True, skip_instance_cache=True)
        _close_at_exit()
    return _clients[key]


def is_anonymous() -> bool:
    """Whether S3 is read without credentials because none were found; known once something was asked for."""
    return any(getattr(client, "anon", False) for client in _clients.values())


def close() -> None:
    """Close all connections of this process; the next request opens new ones. Runs by itself at exit."""
    clients = list(_clients.values())
    _clients.clear()
    if clients:
        asyncio.run_coroutine_threadsafe(_close(clients), get_loop()).result(5)


async def _close(clients: list[Any]) -> None:
    for client in clients:
        await (await client.set_session()).close()
    await asyncio.sleep(0)  # the transports' own last callbacks


def _close_at_exit() -> None:
    atexit.unregister(close)
    atexit.register(close)


def _after_fork() -> None:
    """A child leaves its parent's sockets alone: they are kept here, neither used nor closed."""
    _inherited.append(dict(_clients))
    session = getattr(_clients.get("http"), "_session", None)
    if session is not None:
        _inherited.append({"connector": session.connector})  # or its end would take the parent's sockets with it
        session.detach()  # or its end would complain that it was not closed
    _clients.clear()


os.register_at_fork(after_in_child=_after_fork)
