"""What we expect: the contract of models, training, the promotion gate, and tuning."""

import aap.config  # noqa: F401  # its import tells MLflow not to report usage, which must happen before MLflow's
