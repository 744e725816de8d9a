"""What this platform refuses to know: topics that no event field, feature, label or output may be about.

A name is read word by word. That is no proof against somebody who hides what a number means, and no reason to make it
easy: whoever names a thing for what it is gets a sentence instead of a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

__all__ = ["ABOUT_PEOPLE", "Topic", "forbidden_topic"]


class Topic(StrEnum):
    """A topic, as a sentence calls it."""

    PSYCHOLOGICAL = "a psychological or vulnerability profile"
    SPECIAL = "a special category of personal data (GDPR article 9)"
    DEMOGRAPHIC = "an inferred demographic"
    MESSAGES = "the feelings in somebody's private messages"
    TRACKING = "precise location, typing, pointing or the fingerprint of a device"


_TEXT: dict[Topic, str] = {
    Topic.PSYCHOLOGICAL: """
        psychology psychological psychographic psychographics personality neurotic neuroticism introvert introversion
        extrovert extraversion agreeableness conscientiousness vulnerable vulnerability susceptible susceptibility
        persuadable persuadability gullible gullibility addiction addicted addictive impulsive impulsivity depression
        depressed depressive anxiety anxious lonely loneliness grief bereavement bereaved distress distressed
        desperate desperation""",
    Topic.SPECIAL: """
        health illness disease diagnosis medical medication disability disabled pregnancy pregnant fertility ethnicity
        ethnic race racial religion religious faith political politics philosophical sexuality sexual orientation
        biometric genetic genome faceprint voiceprint unionized""",
    Topic.DEMOGRAPHIC: """
        age gender sex income salary wealth wealthy poverty marital nationality citizenship immigrant household
        parenthood divorced""",
    Topic.MESSAGES: "sentiment emotion emotional mood message chat inbox",
    Topic.TRACKING: """
        latitude longitude gps geolocation geohash keystroke keypress keylog cursor mouse fingerprint canvas webgl imei
        idfa gaid""",
}
_WORDS = {topic: frozenset(text.split()) for topic, text in _TEXT.items()}

ABOUT_PEOPLE = (Topic.PSYCHOLOGICAL, Topic.SPECIAL, Topic.DEMOGRAPHIC, Topic.MESSAGES, Topic.TRACKING)
"""All topics: what a model may neither learn to tell nor answer with."""


def forbidden_topic(text: str, *, topics: Iterable[Topic] = ABOUT_PEOPLE) -> tuple[Topic, str] | None:
    """The first of `topics` that a word of `text` is about, and that word; None when there is none."""
    words = set(re.split(r"[^a-z]+", text.lower()))
    words |= {word.removesuffix("s") for word in words}
    for topic in topics:
        if found := words & _WORDS[topic]:
            return topic, min(found)
    return None
