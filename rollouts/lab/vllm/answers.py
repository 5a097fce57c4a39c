"""Answers of the completion endpoints: plain JSON, or server-sent events as vLLM sends them.

Stream: a role chunk with the first output (chat only), content chunks of which the last says why it ended,
usage when it was asked for, ``[DONE]``. The head of a stream goes out before any token, so its 200 says nothing.
"""

from __future__ import annotations

import random
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from rollouts.lab.vllm.api_paths import DOCUMENTS
from rollouts.lab.vllm.engine import Finish
from rollouts.lab.vllm.errors import ApiError, compact_json, error_body
from rollouts.lab.vllm.http_server import HttpExchange
from rollouts.lab.vllm.knobs import Knobs
from rollouts.lab.vllm.requests import Completion

__all__ = ["CompletionAnswer", "PlainAnswer", "StreamedAnswer"]

_TEXT = """the train leaves at nine from platform two and you can change in Basel or take the night
coach with breakfast while the museum opens late on Friday near the old bridge"""
_WORDS = tuple(_TEXT.split())


class CompletionAnswer(ABC):
    """Collects the tokens of one generation and writes them. ``done(status, bytes)`` is called once."""

    chat_kind: ClassVar[str]

    def __init__(
        self,
        exchange: HttpExchange,
        completion: Completion,
        *,
        model: str,
        content: str,
        request_id: str,
        headers: bytes,
        done: Callable[[int, int], None],
    ) -> None:
        self._exchange, self._completion, self._model = exchange, completion, model
        self._headers, self._done = headers, done
        prefix = "chatcmpl" if completion.chat else "cmpl"
        kind = "text_completion" if not completion.chat else self.chat_kind
        self._head: dict[str, object] = {"id": f"{prefix}-{request_id}", "object": kind}
        self._head |= {"created": int(time.time()), "model": model}
        # The same weights answer the same request alike under whatever name, others answer differently.
        self._random = random.Random(zlib.crc32(f"{content}/{completion.prompt_tokens}".encode()))
        self._tokens = 0

    @abstractmethod
    def token(self, count: int, last: bool) -> None:
        """``count`` more tokens, with the ``last`` one among them or not."""

    @abstractmethod
    def end(self, finish: Finish) -> None:
        """The generation is over."""

    def _word(self) -> str:
        return self._random.choice(_WORDS)

    def _usage(self) -> dict[str, int]:
        prompt = self._completion.prompt_tokens
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + self._tokens,
            "completion_tokens": self._tokens,
        }

    def _failure(self) -> ApiError:
        return ApiError(500, "InternalServerError", "Internal server error")


class PlainAnswer(CompletionAnswer):
    """One JSON document at the end."""

    chat_kind = "chat.completion"

    def token(self, count: int, last: bool) -> None:
        """Count them; the text is made at the end."""
        self._tokens += count

    def end(self, finish: Finish) -> None:
        """Write the document, or the error."""
        if finish is Finish.ERROR:
            body = compact_json(error_body(self._failure()))
            self._exchange.reply(500, body, "application/json", self._headers)
            self._done(500, len(body))
            return
        text = " ".join(self._word() for _ in range(self._tokens))
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": finish.value}
        if self._completion.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        document = {**self._head, "choices": [choice], "usage": self._usage()}
        shaped = DOCUMENTS.get(self._exchange.request.path)
        body = compact_json(document if shaped is None else shaped(document))
        self._exchange.reply(200, body, "application/json", self._headers)
        self._done(200, len(body))


class StreamedAnswer(CompletionAnswer):
    """Server-sent events: one per token, unless tokens are merged, as under load."""

    chat_kind = "chat.completion.chunk"

    def begin(self, knobs: Knobs) -> None:
        """Send the head, before there is any token."""
        self._merge, self._empty = knobs.merge, knobs.empty_text
        self._unsent: str | None = None
        self._half = ""
        self._exchange.start("text/event-stream; charset=utf-8", self._headers)
        self._event_head = b"data: " + compact_json(self._head)[:-1] + b","

    def token(self, count: int, last: bool) -> None:
        """Send one event per token, after the role; the last one waits for the reason of the end."""
        if not self._tokens and self._completion.chat:
            self._send({"role": "assistant", "content": ""}, None)
        for _ in range(count):
            text = self._half + (self._word() if not self._tokens else f" {self._word()}")
            self._tokens += 1
            if self._empty and not self._half and self._random.random() < self._empty:
                # Half of a character: the text comes with the token that completes it.
                self._half, text = text, ""
            else:
                self._half = ""
            self._unsent = text if self._unsent is None else self._unsent + text
            if not last and not (self._merge and self._random.random() < self._merge):
                self._flush()

    def end(self, finish: Finish) -> None:
        """Send the end, or the error inside a stream that a proxy takes for a success."""
        if finish is Finish.ERROR:
            self.fail(self._failure())
            return
        self._send({"content": (self._unsent or "") + self._half}, finish.value)
        if self._completion.include_usage:
            usage = compact_json({"choices": [], "usage": self._usage()})
            self._exchange.send(self._event_head + usage[1:] + b"\n\n")
        self._close()

    def fail(self, error: ApiError) -> None:
        """Send the error inside the stream."""
        self._exchange.send(b"data: " + compact_json(error_body(error)) + b"\n\n")
        self._close()

    def _close(self) -> None:
        self._exchange.send(b"data: [DONE]\n\n")
        self._exchange.finish()
        self._done(200, 0)

    def _flush(self) -> None:
        if self._unsent is not None:
            self._send({"content": self._unsent}, None)
            self._unsent = None

    def _send(self, delta: dict[str, str], finish: str | None) -> None:
        choice: dict[str, object] = {"index": 0}
        choice |= {"delta": delta} if self._completion.chat else {"text": delta.get("content", "")}
        choice |= {"logprobs": None, "finish_reason": finish}
        self._exchange.send(self._event_head + b'"choices":[' + compact_json(choice) + b"]}\n\n")
