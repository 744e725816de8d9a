"""`aap train`: one model, or all of them, beside their baselines."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.console import console, counted, table
from settings.config import load_settings

__all__ = ["print_outcome", "train"]


def train(model: Annotated[str, typer.Argument(help="A model's name, or all; `aap models list` shows them.")]) -> None:
    """Train one model or all; each becomes the champion if the gate lets it through."""
    from consent.choices import open_ledger
    from feature_repo.retrieval import open_retrieval
    from models.registry import open_registry
    from models.roster import MODELS, model_class
    from pipelines.promotion import describe, train_and_decide, training_settings

    settings = load_settings()
    names = list(MODELS) if model == "all" else [model_class(model).name]
    as_of = settings.now()
    training = training_settings(settings)
    outcomes = []
    with counted("Training") as report:
        for done, name in enumerate(names):
            report(done, len(names))
            outcome = train_and_decide(
                name,
                retrieval=open_retrieval(settings),
                registry=open_registry(settings),
                ledger=open_ledger(settings),
                settings=training,
                as_of=as_of,
            )
            outcomes.append(describe(outcome))
        report(len(names), len(names))
    for outcome_ in outcomes:
        print_outcome(outcome_)


def print_outcome(outcome: dict[str, Any]) -> None:
    """One model beside its baselines, and what was decided."""
    if "version" not in outcome:
        console.print(f"{outcome['model']}: {' '.join(outcome['reasons'])}\n", soft_wrap=True, highlight=False)
        return
    headline = outcome["headline"]
    shown = [k for k in outcome["metrics"] if any(k in b for b in outcome["baselines"].values())] or [headline]
    shown = [headline, *(k for k in shown if k != headline)][:5]
    rows = [[f"{outcome['model']} (version {outcome['version']})", *(_figure(outcome["metrics"], k) for k in shown)]]
    rows += [[f"  baseline: {n}", *(_figure(found, k) for k in shown)] for n, found in outcome["baselines"].items()]
    table("model", *shown, rows=rows, numbers=shown)
    decided = "Promoted" if outcome["promoted"] else "Not promoted"
    console.print(f"{decided}: {' '.join(outcome['reasons'])}\n", soft_wrap=True, highlight=False)


def _figure(found: dict[str, float], name: str) -> str:
    return f"{found[name]:.4f}" if name in found else "–"
