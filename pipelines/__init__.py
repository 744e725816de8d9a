"""The jobs of the shop: retrain, daily, monthly, backfill, anomaly scoring, and the demo."""
