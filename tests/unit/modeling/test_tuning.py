"""Tuning: it looks at earlier days only, goes on where it was, never ends below where it began, and writes values alone."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from aap.modeling import tuning
from aap.modeling.catalog import model_classes
from aap.modeling.errors import BadParameters
from aap.modeling.registry.registry import Registry
from aap.modeling.training_config import TrainingSettings, parse_training_settings
from aap.modeling.tuning import SPACES, Tuned, tune
from aap.modeling.yaml_update import rewrite, write_settings
from tests.unit.modeling.conftest import AS_OF
from tests.unit.modeling.shop import Shop

FILE = Path(__file__).parents[3] / "conf" / "training.yaml"


@dataclasses.dataclass(frozen=True, slots=True)
class Watched(Shop):
    """A shop that remembers up to when it was asked."""

    asked: list[datetime] = dataclasses.field(default_factory=list)

    def interactions(self, service, *, as_of, since=None, until=None):
        self.asked.append(until or as_of)
        return Shop.interactions(self, service, as_of=as_of, since=since, until=until)


def search(name: str, shop: Shop, registry: Registry, settings: TrainingSettings, folder: Path, **more) -> Tuned:
    given = {"trials": 4, "cuts": 2, **more}
    return tune(name, retrieval=shop, registry=registry, settings=settings, as_of=AS_OF, folder=folder, **given)


def test_no_trial_sees_the_days_that_versions_are_judged_on(shop, registry, settings, tmp_path) -> None:
    watched = Watched(shop.lines)
    found = search("popularity", watched, registry, settings, tmp_path)
    judged_from = AS_OF - timedelta(days=settings.models["popularity"].horizon_days)
    assert watched.asked
    assert max(watched.asked) <= judged_from
    assert len(found.cuts) == 2


def test_the_winner_is_never_below_the_settings_as_they_are_and_every_trial_is_in_mlflow(
    shop, registry, settings, tmp_path
) -> None:
    found = search("popularity", shop, registry, settings, tmp_path, trials=6)
    assert sum(found.after) >= sum(found.before)
    assert found.finished + found.pruned == 6
    assert set(found.best) == set(SPACES["popularity"])
    client = MlflowClient(registry.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("aap").experiment_id])
    trials = [r for r in runs if r.data.tags["mlflow.runName"].startswith("trial ")]
    assert len(trials) == 6
    assert all(r.data.params["weeks"] and r.data.metrics for r in trials)
    (parent,) = {r.data.tags["mlflow.parentRunId"] for r in trials}
    assert client.get_run(parent).data.metrics["after"] == pytest.approx(sum(found.after) / 2)


def test_a_search_that_was_broken_off_within_a_trial_goes_on_in_the_same_study(
    shop, registry, settings, tmp_path, monkeypatch
) -> None:
    asked, judge = [], tuning._Judge.score

    def broken_off(self, values, *, at):
        asked.append(at)
        if len(asked) == 4:  # the second trial's second cut
            raise KeyboardInterrupt
        return judge(self, values, at=at)

    monkeypatch.setattr(tuning._Judge, "score", broken_off)
    with pytest.raises(KeyboardInterrupt):
        search("popularity", shop, registry, settings, tmp_path)

    def counted(self, values, *, at):
        asked.append(at)
        return judge(self, values, at=at)

    monkeypatch.setattr(tuning._Judge, "score", counted)
    asked.clear()
    found = search("popularity", shop, registry, settings, tmp_path)
    assert len(asked) == 6, "the first trial was not done again"
    assert found.finished + found.pruned == 4
    asked.clear()
    assert search("popularity", shop, registry, settings, tmp_path) == found
    assert not asked, "all trials are done"


def test_other_data_is_another_study(shop, registry, settings, tmp_path) -> None:
    one = search("popularity", shop, registry, settings, tmp_path, trials=1)
    gone = shop.lines["user_key"].value_counts().index[0]  # somebody who is there to the end
    fewer = Shop(shop.lines[shop.lines["user_key"] != gone])
    assert search("popularity", fewer, registry, settings, tmp_path, trials=1).study != one.study


def test_what_falls_behind_is_given_up_after_its_first_cut(shop, registry, settings, tmp_path, monkeypatch) -> None:
    def worse_and_worse(self, values, *, at):
        self.headline = "ndcg_at_10"
        return 1.0 if values["weeks"] == settings.models["popularity"].weeks else 0.5 - values["weeks"] / 100

    monkeypatch.setattr(tuning._Judge, "score", worse_and_worse)
    found = search("popularity", shop, registry, settings, tmp_path, trials=16)
    assert found.pruned > 0
    assert found.changed == {}, "the settings as they are were the best"


@pytest.mark.parametrize("name", sorted(SPACES))
def test_every_span_is_of_a_setting_that_exists_and_holds_the_one_in_use(name: str, settings: TrainingSettings) -> None:
    for setting, span in SPACES[name].items():
        now = getattr(settings.models[name], setting)
        assert span.low <= now <= span.high, setting
        assert isinstance(now, int) == isinstance(span.low, int), setting


def test_a_model_with_nothing_to_search_is_refused(shop, registry, settings, tmp_path) -> None:
    with pytest.raises(BadParameters, match=r"segments has nothing to search; choose one of: .*churn"):
        search("segments", shop, registry, settings, tmp_path)


def test_writing_changes_the_values_and_not_one_other_byte(tmp_path) -> None:
    before = FILE.read_text()
    copy = tmp_path / "training.yaml"
    copy.write_text(before)
    write_settings(copy, model="churn", values={"max_depth": 11, "learning_rate": 0.0345678})
    changed = [(a, b) for a, b in zip(before.splitlines(), copy.read_text().splitlines(), strict=True) if a != b]
    assert [b.split() for _, b in changed] == [["max_depth:", "11"], ["learning_rate:", "0.03457"]]
    assert parse_training_settings(yaml.safe_load(copy.read_text())).models["churn"].max_depth == 11
    were = yaml.safe_load(before)["models"]["churn"]
    back = rewrite(copy.read_text(), model="churn", values={k: were[k] for k in ("max_depth", "learning_rate")})
    assert back == before


def test_a_comment_keeps_its_column_and_the_same_name_in_another_section_its_value() -> None:
    before = FILE.read_text()
    made = rewrite(before, model="popularity", values={"weeks": 12})
    (line,) = (x for x in made.splitlines() if x.strip().startswith("weeks:"))
    (old,) = (x for x in before.splitlines() if x.strip().startswith("weeks:"))
    assert line.index("#") == old.index("#")
    after = yaml.safe_load(rewrite(before, model="anomaly", values={"trees": 99}))
    assert (after["models"]["anomaly"]["trees"], after["models"]["recommendation"]["trees"]) == (99, 200)


def test_every_model_can_be_written_to_and_what_is_not_there_is_refused() -> None:
    for name in model_classes():
        assert yaml.safe_load(rewrite(FILE.read_text(), model=name, values={"horizon_days": 21}))
    with pytest.raises(BadParameters, match="no line for depth"):
        rewrite(FILE.read_text(), model="churn", values={"depth": 3})
    with pytest.raises(BadParameters, match="must not be negative"):
        rewrite(FILE.read_text(), model="churn", values={"max_depth": -3})
