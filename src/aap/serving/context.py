"""What one serving process holds: keys, flags, models, logs, and its connections to the stores.

Nothing here waits for Redis or the registry when the process starts. The stores are opened at the first call that needs
them, and again at the next call if that failed; from then on their clients reconnect by themselves.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import redis

from aap.config import Settings
from aap.consent.ledger.signing import signing_key_file
from aap.consent.purposes import Purpose
from aap.consent.service import ConsentDesk, open_desk
from aap.events.dead_letter import RejectedLog
from aap.events.streaming.collector import Collector
from aap.events.streaming.event_log import RedisStreamLog
from aap.experiments.assignment.assigner import Assigner
from aap.experiments.assignment.exposures import Exposures
from aap.experiments.assignment.service_metrics import Vitals
from aap.experiments.flags.definition import VERSION
from aap.experiments.flags.store import Flags
from aap.features.offline.build import built_moments
from aap.infra.code_version import code_revision
from aap.infra.object_store import features_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect, connect_async
from aap.project.loader import current_project
from aap.security.api_keys import ApiKeys
from aap.security.audit_log import Audit
from aap.security.id_map import open_id_map
from aap.security.pseudonyms import Pseudonyms, load_pseudonyms, pseudonym_key_file
from aap.serving.inference.async_predictor import AtHand
from aap.serving.inference.catalog_filter import Shelves, catalogue_stamp
from aap.serving.inference.consent_monitor import ConsentWatch
from aap.serving.inference.item_names import ItemNames
from aap.serving.inference.predictor import Predictor
from aap.serving.inference.worker_pool import BackRoom
from aap.serving.logging.feature_sampling import SampledFeatures, ServedSample
from aap.serving.logging.prediction_log import PredictionRecords
from aap.serving.model_cache import ModelsInUse, ModelSource
from aap.serving.observability import prometheus
from aap.serving.observability.tracing import Traces
from aap.serving.rollout.canary import Canary
from aap.serving.rollout.segment_targeting import SegmentsOf
from aap.serving.rollout.shadow import Challengers, Shadow

__all__ = ["Platform", "Stores"]

_log = logging.getLogger("aap.serving")
_EVERY_S = 2.0
_LOOKED_UP = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Stores:
    """What needs Redis."""

    client: redis.Redis
    desk: ConsentDesk
    collector: Collector
    names: ItemNames
    predictor: Predictor
    at_hand: AtHand[Predictor]
    """The same predictor, for the event loop."""


class Platform:
    """One process's hold on everything; `start` and `stop` bracket its life.

    `open_features` and `open_registry` open what answers are made from; `complete` is called once everything is opened and
    loaded. Raises `FlagsUnusable` or a `StorageError` when
    made, for mistakes that a person must correct first.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        open_features: Callable[[Settings], Any] | None = None,
        open_registry: Callable[[Settings], ModelSource] | None = None,
        complete: Callable[[], None] = lambda: None,
    ) -> None:
        self._open_features = open_features or _open_retrieval
        self.settings, self.layout = settings, Layout(settings.home)
        self.keys = ApiKeys(self.layout.api_keys)
        self.pseudonyms: Pseudonyms = load_pseudonyms(self.layout)
        self.consent = ConsentWatch(signing_key_file(self.layout), pseudonym_key_file(self.layout))
        self.flags = Flags(
            settings.settings_dir / "flags.json", checked=self.layout.run / "flags.json", flagd=settings.flagd_url
        )
        self.exposures = Exposures(self.layout.exposures)
        self.vitals = Vitals(self.layout.vitals)
        self.records = PredictionRecords(self.layout.predictions, code_revision=code_revision(current_project().root))
        self.traces = Traces(settings.traces_url, share=settings.traces_share)
        self.served = ServedSample(self.layout.served, rate=settings.served_sample_rate)
        self.audit = Audit(self.layout.audit, user_keys=self.pseudonyms.user_keys)
        self.models = ModelsInUse(lambda: (open_registry or _open_registry)(settings), told=prometheus.count_swap)
        self.challengers = ModelsInUse(lambda: Challengers((open_registry or _open_registry)(settings)))
        self.shadow = Shadow(self.challengers, folder=self.layout.shadow, share=settings.shadow)
        self.impatient = connect_async(settings)
        """Redis for the event loop: what it doesn't answer at once fails."""
        self.choices, self.collecting = BackRoom("choices", threads=16), BackRoom("collecting", threads=16)
        self.rights = BackRoom("rights", threads=8)
        self._stores: Stores | None = None
        self._complete = complete
        self._built: tuple[datetime, dict[str, datetime]] | None = None
        self._opening = threading.Lock()
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="platform-keeper", daemon=True)

    def start(self) -> None:
        """Begin to load models, and to keep flags and consent up to date."""
        self.models.start()
        self._want_challengers()
        self._keeper.start()

    def stop(self) -> None:
        """Write what is waiting and let go of everything."""
        self._stopping.set()
        for room in (self.choices, self.collecting, self.rights):
            room.close()
        self.models.stop()
        self.challengers.stop()
        self.exposures.close()
        self.vitals.close(now=self.settings.now())
        self.shadow.close(now=self.settings.now())
        self.records.close()
        self.served.close()
        self.audit.flush()
        self.flags.close()
        self.keys.close()
        self.traces.stop()

    def stores(self) -> Stores:
        """The stores, opened now if they are not. Raises what says that Redis is down, until it is back."""
        if self._stores is None:
            with self._opening:
                if self._stores is None:
                    self._stores = self._open_stores()
        return self._stores

    @property
    def opened(self) -> Stores | None:
        """The stores, where they are open."""
        return self._stores

    def _open_stores(self) -> Stores:
        client = connect(self.settings, start=False)
        client.ping()
        features = self._open_features(self.settings)
        stamp = partial(catalogue_stamp, self.layout)
        names, shelves = ItemNames(features.item_names, stamp=stamp), Shelves(features.catalogue, stamp=stamp)

        def predictor(over: redis.Redis) -> Predictor:
            read = features.over(over)
            segments_of = SegmentsOf(read, self.models, note=self._note_read)
            assigner = Assigner(over, flags=self.flags, exposures=self.exposures, segments_of=segments_of)
            return Predictor(
                SampledFeatures(read, self.served),
                self.models,
                assigner,
                names,
                shelves,
                keep=self.records.add,
                measured=self.vitals.measured,
                shadow=self.shadow.offer,
                canary=Canary(self.challengers, assigner, declared=self.flags.names),
            )

        desk = open_desk(self.settings)
        collector = Collector(
            client,
            RedisStreamLog(client),
            desk,
            RejectedLog(self.layout.rejected),
            self.pseudonyms,
            open_id_map(self.settings),
        )
        self.consent.look(desk, now=self.settings.now())
        return Stores(client, desk, collector, names, predictor(client), AtHand(self.impatient, predictor))

    def _note_read(self, purpose: Purpose, user_keys: Sequence[str], at: datetime) -> None:
        what = f"read to target an experiment, {purpose}"
        self.audit.note(what, by="the service", outcome="answered", at=at, times=len(user_keys), keys=user_keys)

    def _keep(self) -> None:
        told = False
        while not self._stopping.wait(_EVERY_S):
            self._keep_up()
            if not told and self._stores is not None and not self.models.missing():
                self._complete()
                told = True

    def _keep_up(self) -> None:
        """Every two seconds: take up edited flags, look whether consent is in order, learn the names of new items."""
        self.flags.refresh()
        self._want_challengers()
        self.audit.flush()
        self.vitals.write(now=self.settings.now())
        self.shadow.write(now=self.settings.now())
        prometheus.count_dropped("exposures", self.exposures.dropped)
        prometheus.count_dropped("predictions", self.records.dropped)
        prometheus.count_dropped("served", self.served.dropped)
        self._tell_ages()
        try:
            stores = self.stores()
            self.consent.look(stores.desk, now=self.settings.now())
            stores.names.warm(self.models.item_ids())
        except Exception as error:  # calls say so themselves, with the reason
            _log.debug("The stores can't be opened, or items named, now: %s", error)

    def _want_challengers(self) -> None:
        """Load challengers, each a second model in memory, once one may answer somebody or be asked in the shadow."""
        if self.settings.shadow or any(name.endswith(VERSION) for name in self.flags.names()):
            self.challengers.start()

    def _tell_ages(self) -> None:
        """Seconds since the moment that each view is as of; what was built is looked up once a minute."""
        now = self.settings.now()
        if self._built is None or now - self._built[0] > _LOOKED_UP:
            self._built = now, built_moments(features_folder(self.settings))
        for view, moment in self._built[1].items():
            prometheus.tell_age(view, (now - moment).total_seconds())


def _open_retrieval(settings: Settings) -> Any:
    from aap.features.retrieval import open_retrieval  # slow to import, so not before the process is up

    return open_retrieval(settings, audited=False)


def _open_registry(settings: Settings) -> ModelSource:
    from aap.modeling.registry.provenance import open_provenance  # slow to import, so not before the process is up

    return open_provenance(settings)
