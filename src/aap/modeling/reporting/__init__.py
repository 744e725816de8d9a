"""Reports over all models, and what consent costs them in accuracy."""
