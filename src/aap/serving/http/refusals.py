"""Refusals: the reply to a call that can't be answered, and what the log says of one that failed unforeseen."""

from __future__ import annotations

import logging

from aap.serving.errors import Overloaded, TooManyWrongKeys, status_and_sentence
from aap.serving.http.responses import Reply, json_reply
from aap_client.responses import Problem

__all__ = ["logged_status_and_sentence", "refusal"]

_log = logging.getLogger("aap.serving")


def refusal(error: Exception) -> Reply:
    """The reply that says `error`, with what its status asks for in the headers."""
    status, sentence = logged_status_and_sentence(error)
    reply = json_reply(Problem(sentence), status=status)
    if status == 401:
        reply.add([("www-authenticate", "Bearer")])
    if isinstance(error, TooManyWrongKeys):
        reply.add([("retry-after", str(error.retry_s))])
    if status == 503:
        reply.add([("retry-after", "1" if isinstance(error, Overloaded) else "2")])
    return reply


def logged_status_and_sentence(error: Exception) -> tuple[int, str]:
    """As `status_and_sentence`; what nobody foresaw is logged."""
    status, sentence = status_and_sentence(error)
    if status == 500:
        # Only where it happened: an exception's own text could repeat what the caller sent.
        _log.error("A call failed unforeseen, as %s at %s.", type(error).__name__, _place(error))
    return status, sentence


def _place(error: Exception) -> str:
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(places[-6:])
