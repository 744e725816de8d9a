"""What can go wrong with features.

FeatureError
├── UnusableDeclaration      a feature or service declared wrongly
├── UnknownFeature           a feature or service nobody declared
├── NoPurposeInForce         a store was read without saying for which purpose
├── FeaturesNotBuilt         a view has no values yet, or was built by other declarations
│   └── DamagedValues        files of a build are gone or not what was written
├── UnusableLabels           a label frame that can't be joined
│   └── RequestIncomplete    a value of the request that a request-time feature needs isn't there
├── OnlineStoreUnavailable   Redis can't be reached
├── EngineUnavailable        a batch engine that this machine can't run
├── NothingToVerify          features can't be compared: too few engines, nobody to compare, or nothing served
└── SampleDamaged            a file of the sample of served vectors that can't be read
"""

from __future__ import annotations

__all__ = [
    "DamagedValues",
    "EngineUnavailable",
    "FeatureError",
    "FeaturesNotBuilt",
    "NoPurposeInForce",
    "NothingToVerify",
    "OnlineStoreUnavailable",
    "RequestIncomplete",
    "SampleDamaged",
    "UnknownFeature",
    "UnusableDeclaration",
    "UnusableLabels",
]


class FeatureError(Exception):
    """Anything that goes wrong with features; the message is one sentence for a person."""


class UnusableDeclaration(FeatureError):
    """A feature or service declared wrongly."""


class UnknownFeature(FeatureError):
    """A feature or service nobody declared."""


class NoPurposeInForce(FeatureError):
    """A store was read without saying for which purpose."""


class FeaturesNotBuilt(FeatureError):
    """A view has no values yet, or was built by other declarations."""


class DamagedValues(FeaturesNotBuilt):
    """Files of a build are gone, or not what was written."""


class UnusableLabels(FeatureError):
    """A label frame that can't be joined."""


class RequestIncomplete(UnusableLabels):
    """A value of the request that a request-time feature needs isn't there."""


class OnlineStoreUnavailable(FeatureError):
    """Redis can't be reached; nothing can be said of anybody until it is back."""


class EngineUnavailable(FeatureError):
    """A batch engine that this machine can't run; the message says what to install."""


class NothingToVerify(FeatureError):
    """Features can't be compared: too few engines, nobody to compare, or nothing served."""


class SampleDamaged(FeatureError):
    """A file of the sample of served vectors that can't be read."""
