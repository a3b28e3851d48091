"""OpenAI's dialect: `/v1/chat/completions` with a picture in the message, and `response_format`."""

import time
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

from providers.local import fields
from providers.local.engine import Engine
from providers.local.errors import BadRequestError

_NOT_HERE = {"stream": (False, None), "n": (1, None), "tools": ([], None), "logprobs": (False, None), "audio": (None,)}
"""Parameters of the dialect that are not spoken here, and the values with which they change nothing."""


async def complete(engine: Engine, body: Mapping[str, Any], model: str) -> dict[str, Any]:
    for name, harmless in _NOT_HERE.items():
        if name in body and body[name] not in harmless:
            raise BadRequestError(f"{name}: this server has no {name}={body[name]!r}")
    question, picture = _asked_about(body)
    limit = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    asked = fields.asked(body, body, limit)
    if schema := _schema(body):
        filled = await engine.fill(picture, question, schema, asked)
        content, tokens, stop = filled.text, filled.tokens, "stop"
    else:
        answer = await engine.query(picture, question, asked)
        content, tokens, stop = answer.text.strip(), len(answer.tokens), answer.stop
    read = asked.used.input_tokens
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": stop, "logprobs": None}
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": tokens, "total_tokens": read + tokens},
    }


def _asked_about(body: Mapping[str, Any]) -> tuple[str, bytes | None]:
    """One question and at most one picture: the texts of system and user, one below the other. These models have no
    memory of what was said before."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, Mapping) for one in messages):
        raise BadRequestError("messages: must be a list of messages")
    texts: list[str] = []
    pictures: list[bytes] = []
    for number, message in enumerate(messages):
        if (role := message.get("role")) not in ("system", "developer", "user"):
            raise BadRequestError(f"messages.{number}.role: must be system or user, not {role!r}: no answers are kept")
        for part in _parts(message.get("content"), f"messages.{number}.content"):
            if part.get("type") == "text":
                texts.append(fields.text(part, "text"))
            elif part.get("type") == "image_url":
                pictures.append(fields.needed_picture(part))
            else:
                raise BadRequestError(f"messages.{number}.content: a part of type {part.get('type')!r} can't be read")
    if len(pictures) > 1:
        raise BadRequestError(f"messages: {len(pictures)} pictures; one at a time")
    if not texts:
        raise BadRequestError("messages: there is no question in them")
    return "\n".join(texts), pictures[0] if pictures else None


def _parts(content: Any, where: str) -> Iterator[Mapping[str, Any]]:
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    elif isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        yield from content
    else:
        raise BadRequestError(f"{where}: must be a text or a list of parts")


def _schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Of `response_format`; None for plain text."""
    wanted = fields.table(body, "response_format")
    match wanted.get("type", "text"):
        case "text":
            return None
        case "json_schema":
            schema = fields.table(wanted, "json_schema").get("schema")
            if not isinstance(schema, Mapping):
                raise BadRequestError("response_format.json_schema.schema: must be an object")
            return schema
        case kind:
            raise BadRequestError(f"response_format.type: must be text or json_schema, not {kind!r}")
