"""What is to be seen of a feature: made of whom it may be made of, fresh, and drawn."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest
from typer.testing import CliRunner

from aap.cli.commands.features import app
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.features.declarations import Entity
from aap.features.online import reader
from aap.features.online.materialize import latest_items
from aap.features.quality.profile import ViewProfile, brought_online, profile
from aap.features.views import view_for
from aap.infra.object_store import features_folder
from aap.infra.redis.connection import connect
from aap.jobs.reports.feature_card import Source, card, declared, sources
from tests.unit.features.store_room import AS_OF, CUSTOMERS, REPORTING, RETENTION, StoreRoom

HOUR = timedelta(hours=1)


def profiled(room: StoreRoom, entity: Entity = Entity.USER, purpose: Purpose = RETENTION) -> ViewProfile:
    standing = open_ledger(room.settings).standing()
    return profile(
        view_for(entity, purpose), folder=features_folder(room.settings), standing=standing, now=AS_OF + HOUR
    )


def told(*words: str) -> tuple[str, dict[str, object]]:
    """What the command prints, and the object on its last line."""
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def test_values_are_counted_drawn_and_summed_up_as_they_are_at_the_build(room: StoreRoom) -> None:
    found = profiled(room)
    stored = room.offline(RETENTION, *CUSTOMERS, "no-training", at=AS_OF)
    place = found.view.names.index("amount_sum_90d")
    np.testing.assert_allclose(np.sort(found.values[:, place]), np.sort(stored[:, place]))
    days = found.view.names.index("tenure_days")
    np.testing.assert_allclose(np.sort(found.values[:, days]), np.sort(stored[:, days]))
    spread = found.spread("amount_sum_90d")
    assert spread is not None
    assert (spread.values, sum(bar.count for bar in spread.bars), spread.missing_share) == (9, 9, 0.0)
    assert (spread.smallest, spread.largest) == (stored[:, place].min(), stored[:, place].max())
    assert spread.bars[0].low == spread.smallest
    assert found.missing_share("days_since_last_coupon") == pytest.approx(1 / 9), "no-training redeemed none"


def test_who_withdrew_since_the_build_is_in_no_picture(room: StoreRoom) -> None:
    room.say("customer-0", RETENTION, Status.WITHDRAWN, at=AS_OF)
    room.say("customer-1", RETENTION, Status.WITHDRAWN, at=AS_OF)
    room.say("customer-1", RETENTION, Status.GIVEN, at=AS_OF + timedelta(seconds=1))
    found = profiled(room)
    assert not {room.key("customer-0"), room.key("customer-1")} & set(found.entities)
    assert len(found.values) == 7
    assert len(profiled(room, purpose=REPORTING).values) == 9, "no other purpose is touched"


def test_freshness_is_that_of_the_newest_row_online(room: StoreRoom) -> None:
    client = connect(room.settings)
    assert brought_online(client, profiled(room), now=AS_OF + HOUR) is None
    room.put_online(RETENTION)
    assert brought_online(client, profiled(room), now=AS_OF + HOUR) == AS_OF
    items = view_for(Entity.ITEM, Purpose.PERSONALIZE_PROFILING)
    assert brought_online(client, profiled(room, Entity.ITEM, items.purpose), now=AS_OF + HOUR) is None
    reader.write_items(client, items, latest_items(items, folder=features_folder(room.settings), as_of=AS_OF))
    assert brought_online(client, profiled(room, Entity.ITEM, items.purpose), now=AS_OF + HOUR) == AS_OF


def test_a_feature_is_followed_back_to_the_columns_of_its_events_through_what_it_is_made_of() -> None:
    assert sources(declared("weekend_basket_share_90d")) == [Source("product_purchased", ("basket_id", "weekday"))]
    assert sources(declared("amount_sum_28d__grocery")) == [Source("product_purchased", ("amount", "department"))]
    assert sources(declared("basket_against_usual_28d")) == [Source("product_purchased", ("amount", "basket_id"))]
    assert sources(declared("days_since_last_coupon")) == [Source("coupon_redeemed", ())]


def test_a_card_names_views_services_and_models_of_each_purpose(room: StoreRoom) -> None:
    room.put_online(RETENTION)
    found = card(room.settings, "tenure_days", now=AS_OF + HOUR)
    assert [(r.service, r.purpose, r.models) for r in found.readers] == [
        ("churn", "marketing.retention", ("churn",)),
        ("segments", "analytics.reporting", ("segments",)),
    ]
    assert [(v.view, v.built_as_of, v.online_as_of, v.problem) for v in found.values] == [
        ("user__analytics_reporting", AS_OF, None, "Nothing of it is online."),
        ("user__marketing_retention", AS_OF, AS_OF, ""),
    ]


def test_the_commands_show_it_and_end_with_one_object(room: StoreRoom) -> None:
    shown, found = told("show", "amount_sum_90d")
    assert "product_purchased (amount) → user__marketing_retention → service churn → churn" in shown
    assert "█" in shown
    assert found["name"] == "amount_sum_90d"
    assert not any(room.key(user) in shown for user in CUSTOMERS)
    _, every = told("list")
    by_name = {f["name"]: f for f in every["features"]}  # type: ignore[attr-defined]
    assert by_name["days_since_last_coupon"]["missing_share"] == pytest.approx(1 / 9)
    assert by_name["product_last_1000"]["missing_share"] is None


def test_what_is_not_built_is_said(room: StoreRoom) -> None:
    (features_folder(room.settings) / view_for(Entity.USER, RETENTION).name).clear()
    assert "The features of user__marketing_retention are not built yet" in told("show", "tenure_days")[0]
